//! The program fetches and pushes models with a Hub on this machine.

#[path = "../../../kiln-hub/tests/hub/server.rs"]
mod server;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Workplace, program, tiny,
    training::{self, PIXELS},
};
use server::{Fault, Files, Hub};

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// A Hub that has the tiny model as `ada/tiny`, and a user with access.
struct Scene {
    hub: Hub,
    workplace: Workplace,
    commit: String,
}

impl Scene {
    fn new() -> Self {
        let hub = Hub::start();
        hub.know("hf_ada");
        let workplace = Workplace::new();
        let commit = hub.publish("ada/tiny", &files(&workplace.path("model")));
        Self {
            hub,
            workplace,
            commit,
        }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = program(&self.workplace.path(""), arguments);
        command
            .env("HF_ENDPOINT", &self.hub.url)
            .env("HF_TOKEN", "hf_ada");
        command
    }

    fn succeed(&self, arguments: &str) -> String {
        text(self.command(arguments).output().unwrap(), arguments)
    }

    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.succeed(arguments)).expect("JSON")
    }

    fn fail(&self, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), stderr.lines().count()),
            (Some(1), 1),
            "kiln {arguments}: {stderr}"
        );
        stderr
    }
}

fn text(output: Output, arguments: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kiln {arguments}: {stderr}");
    assert_eq!(stderr, "", "kiln {arguments}");
    String::from_utf8(output.stdout).expect("text")
}

/// All files in a folder.
fn files(folder: &Path) -> Files {
    let names = kiln_hub::files_in(folder).unwrap().into_iter();
    names
        .map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()))
        .collect()
}

#[test]
fn a_repository_serves_wherever_a_model_does() {
    let scene = Scene::new();
    let outcome = scene.json("pull ada/tiny --json");
    let folder = Path::new(outcome["folder"].as_str().unwrap());
    assert!(folder.ends_with(format!(
        "huggingface/hub/models--ada--tiny/snapshots/{}",
        scene.commit
    )));
    assert!(files(folder) == files(&scene.workplace.path("model")));
    let words = scene.succeed("pull ada/tiny");
    assert!(
        words.contains("6 files") && words.contains("verified"),
        "{words}"
    );

    scene.succeed("sample --model model --steps 2 --count 1 --out from-folder");
    let pinned = format!(
        "sample --model ada/tiny@{} --steps 2 --count 1 --out from-hub",
        scene.commit
    );
    scene.succeed(&pinned);
    let picture =
        |folder: &str| fs::read(scene.workplace.path(folder).join("steps-0002.png")).unwrap();
    assert_eq!(picture("from-hub"), picture("from-folder"));

    scene.hub.requests();
    for arguments in [
        "model info ada/tiny --offline",
        "schedule --model ada/tiny --offline --json",
        "interpolate --model ada/tiny --offline --seeds 0,1 --steps 2 --frames 2",
        "reconstruct --model ada/tiny --offline --data samples --count 1",
    ] {
        fs::create_dir_all(scene.workplace.path("samples")).unwrap();
        for name in ["a.png", "b.png"] {
            fs::copy(
                scene.workplace.path("from-hub/steps-0002.png"),
                scene.workplace.path("samples").join(name),
            )
            .unwrap();
        }
        scene.succeed(arguments);
    }
    assert_eq!(scene.hub.requests(), [""; 0]);
}

#[test]
fn a_data_set_of_the_hub_serves_wherever_a_folder_does() {
    let scene = Scene::new();
    scene.hub.publish("datasets/ada/grays", &grays());
    fs::write(scene.workplace.path("pixels.toml"), PIXELS).unwrap();

    let training = "train-diffusion --config pixels.toml --data hf:ada/grays --out";
    let run = |arguments: &str| {
        let output = scene.command(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kiln {arguments}: {stderr}");
    };
    run(&format!("{training} fetched"));
    scene.hub.requests();
    run(&format!("{training} cached --offline"));
    assert_eq!(scene.hub.requests(), [""; 0]);
    let weights = |run: &str| fs::read(scene.workplace.path(run).join("model").join(WEIGHTS));
    assert!(weights("fetched").unwrap() == weights("cached").unwrap());
    let config = fs::read_to_string(scene.workplace.path("fetched/config.toml")).unwrap();
    assert!(config.contains("hf:ada/grays"), "{config}");

    for arguments in [
        "reconstruct --model model --data hf:ada/grays:test --count 4 --offline --json",
        "reconstruct --model model --data hf:ada/grays --count 4 --json",
    ] {
        let outcome = scene.json(arguments);
        assert_eq!(
            (&outcome["count"], &outcome["data"]),
            (&4.into(), &"ada/grays".into())
        );
    }
    let sentence = scene.fail("reconstruct --model model --data hf:ada/nothing");
    assert!(sentence.contains("no repository ada/nothing"), "{sentence}");
}

#[test]
fn a_folder_of_that_name_comes_first() {
    let scene = Scene::new();
    fs::create_dir(scene.workplace.path("ada")).unwrap();
    fs::rename(
        scene.workplace.path("model"),
        scene.workplace.path("ada/tiny"),
    )
    .unwrap();
    scene.succeed("sample --model ada/tiny --steps 1 --count 1");
    assert_eq!(scene.hub.requests(), [""; 0]);
}

#[test]
fn nothing_is_downloaded_offline() {
    let workplace = training::workplace();
    let digits = training::EXPERIMENT.replace(
        "dataset = \"folder\"\npath = \"photos\"",
        "dataset = \"mnist\"",
    );
    let larger = |text: String, size: usize| {
        text.replace("size = 8", &format!("size = {size}"))
            .replace("size = 4", &format!("size = {}", size / 2))
    };
    fs::write(workplace.path("digits.toml"), larger(digits, 28)).unwrap();
    let colourful = training::EXPERIMENT.replace("channels = 1", "channels = 3");
    fs::write(workplace.path("colourful.toml"), larger(colourful, 64)).unwrap();
    for split in ["train", "validation"] {
        fs::create_dir_all(workplace.path(&format!("many/{split}"))).unwrap();
        for number in 0..65 {
            let path = workplace.path(&format!("many/{split}/{number}.png"));
            image::RgbImage::new(32, 32).save(path).unwrap();
        }
    }
    let training = "train-vqvae --offline --config";
    let judged = "evaluate --first-stage --perceptual";
    for (arguments, file) in [
        (
            &*format!("{training} digits.toml"),
            "train-images-idx3-ubyte.gz",
        ),
        (
            &format!(
                "{training} colourful.toml --set stage_1.perceptual.network=lpips-alexnet --set stage_1.perceptual.weight=1"
            ),
            "alexnet-owt-7be5be79.pth",
        ),
        (
            &format!("{judged} lpips-squeezenet --offline --data many"),
            "squeezenet1_1-b8a52dc0.pth",
        ),
        (
            "evaluate --features 2048 --offline --data many",
            "pt_inception-2015-12-05-6726825d.pth",
        ),
    ] {
        let sentence = workplace.fail(arguments);
        let words = format!("{file} is not in the cache, and nothing may be downloaded offline");
        assert!(sentence.contains(&words), "{arguments}: {sentence}");
    }
}

#[test]
fn what_is_neither_here_nor_on_the_hub_is_one_sentence() {
    let scene = Scene::new();
    for (arguments, words) in [
        (
            "pull ada/nothing",
            "no repository ada/nothing that your token may see",
        ),
        (
            "sample --model ada/nothing",
            "there is no folder ada/nothing, so kiln looked for it on the Hub",
        ),
        ("model info ada/tiny@v9", "ada/tiny has no revision `v9`"),
        (
            "pull ada/tiny --offline",
            "does not have anything of ada/tiny",
        ),
    ] {
        let sentence = scene.fail(arguments);
        assert!(sentence.contains(words), "{arguments}: {sentence}");
    }
    let sentence = scene.workplace.fail("pull ada/tiny");
    assert!(
        sentence.contains("cannot reach http://127.0.0.1:1"),
        "{sentence}"
    );
}

#[test]
fn a_download_that_is_killed_goes_on_where_it_was() {
    let scene = Scene::new();
    scene.hub.misbehave("GET /cdn/", Fault::StallAfter(4096), 1);
    let mut first = scene.command("pull ada/tiny");
    let mut first = first
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let contents = scene
        .workplace
        .path("huggingface/hub/models--ada--tiny/blobs");
    let has_some = || {
        let entries = fs::read_dir(&contents).into_iter().flatten().flatten();
        let mut partial = entries.filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "incomplete")
        });
        partial.any(|entry| {
            entry
                .metadata()
                .is_ok_and(|metadata| metadata.len() == 4096)
        })
    };
    while !has_some() {
        assert!(first.try_wait().unwrap().is_none(), "it waits for the rest");
        thread::sleep(Duration::from_millis(5));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let snapshot = format!(
        "huggingface/hub/models--ada--tiny/snapshots/{}/{WEIGHTS}",
        scene.commit
    );
    assert!(!scene.workplace.path(&snapshot).exists());
    scene.hub.requests();
    scene.succeed("pull ada/tiny");
    assert!(
        scene
            .hub
            .requests()
            .iter()
            .any(|line| line.ends_with("from 4096"))
    );
    let model = scene.workplace.path("model").join(WEIGHTS);
    assert!(fs::read(scene.workplace.path(&snapshot)).unwrap() == fs::read(model).unwrap());
}

#[test]
fn a_model_is_pushed_with_a_page_made_of_its_run() {
    let scene = Scene::new();
    let run = scene.workplace.path("run");
    for folder in ["", "diffusion/samples", "vqvae/reconstructions"] {
        fs::create_dir_all(run.join(folder)).unwrap();
    }
    fs::rename(scene.workplace.path("model"), run.join("model")).unwrap();
    // As written by a training with --data.
    let place = scene.workplace.path("photos").display().to_string();
    let config = PIXELS.replace("\"photos\"", &format!("{place:?}"));
    let header = "# Written by kiln 0.1.0.\n";
    fs::write(
        run.join("config.toml"),
        format!("{header}overrides = ['data.path={place:?}']\n{config}"),
    )
    .unwrap();
    fs::write(run.join("diffusion/curves.svg"), "<svg/>").unwrap();
    let picture = |shade| {
        let path = scene.workplace.path("picture.png");
        let image = image::GrayImage::from_pixel(8, 8, image::Luma([shade]));
        image.save(&path).unwrap();
        fs::read(path).unwrap()
    };
    for (name, shade) in [
        ("diffusion/samples/step-0000001.png", 1),
        ("diffusion/samples/step-0000002.png", 2),
        ("vqvae/reconstructions/step-0000001.png", 3),
    ] {
        fs::write(run.join(name), picture(shade)).unwrap();
    }
    fs::write(
        scene.workplace.path("evaluation.json"),
        r#"{"rows": [{"images": "ddim", "count": 8, "figures": {"kid": {"value": 0.5}}}]}"#,
    )
    .unwrap();

    let arguments = "push run/model ada/shared --license mit --evaluation evaluation.json";
    let would = scene.json(&format!("{arguments} --dry-run dry --json"));
    assert_eq!(would["url"], Value::Null);
    assert!(scene.hub.files("ada/shared", "main").is_none());
    let pushed = scene.json(&format!("{arguments} --private --json"));
    assert_eq!(pushed["files"], would["files"]);

    let mut found = scene.hub.files("ada/shared", "main").unwrap();
    assert!(scene.hub.is_private("ada/shared"));
    found.remove(".gitattributes");
    assert!(found == files(&scene.workplace.path("dry")));
    assert_eq!(found["samples.png"], picture(2));
    assert_eq!(found["loss-of-stage-2.svg"], b"<svg/>");
    let around = scene.workplace.path("").display().to_string();
    for (name, bytes) in &found {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains(&around), "{name} tells of {around}");
    }
    let shared = String::from_utf8(found["config.toml"].clone()).unwrap();
    assert!(shared.starts_with(header), "{shared}");
    let experiment = kiln_train::Experiment::parse(&shared, "shared", &[]).unwrap();
    assert_eq!(experiment.data.path, None);
    for (name, bytes) in files(&run.join("model")) {
        assert!(found[&name] == bytes, "{name}");
    }
    let page = String::from_utf8(found["README.md"].clone()).unwrap();
    for part in [
        "license: \"mit\"",
        "from_pretrained(\"ada/shared\")",
        "- \"kid\"",
        "(samples.png)",
        "(loss-of-stage-2.svg)",
        "seed = 0",
    ] {
        assert!(page.contains(part), "{part:?} in {page}");
    }
    let words = scene.succeed("sample --model ada/shared --steps 1 --count 1");
    assert!(words.contains("steps-0001.png"), "{words}");
    scene.succeed("push run/model/vqvae ada/vqvae --revision draft");
    let found = scene.hub.files("ada/vqvae", "draft").unwrap();
    assert!(found.contains_key("config.json"));
    assert_eq!(found["samples.png"], picture(3));
    let page = String::from_utf8(found["README.md"].clone()).unwrap();
    assert!(
        page.contains("![Images and their reconstructions](samples.png)"),
        "{page}"
    );
    assert!(!page.contains("loss-of-stage-2"), "{page}");
    // A dry run may replace an older dry run, but nothing else.
    scene.succeed("push run/model ada/shared --dry-run dry");
    assert!(
        scene
            .fail("push run/model ada/shared --dry-run run")
            .contains("choose a folder outside of it")
    );
}

#[test]
fn the_page_of_a_vqvae_alone_shows_reconstructions_and_claims_no_scale() {
    let workplace = training::workplace();
    training::train(&workplace, "train-vqvae");
    workplace.succeed("push runs/experiment/vqvae/model ada/codes --dry-run dry");
    let page = fs::read_to_string(workplace.path("dry/README.md")).unwrap();
    assert!(page.contains("| scaling factor | not measured |"), "{page}");
    assert!(page.contains("Images and their reconstructions"), "{page}");
    let newest = workplace.path("runs/experiment/vqvae/reconstructions/step-0000004.png");
    let shown = fs::read(workplace.path("dry/samples.png")).unwrap();
    assert!(fs::read(newest).unwrap() == shown);
}

#[test]
fn what_is_shown_on_a_page_is_an_image() {
    let scene = Scene::new();
    fs::write(scene.workplace.path("notes.png"), "no image").unwrap();
    for grid in ["notes.png", "nowhere.png", "model", "/dev/zero"] {
        let sentence = scene.fail(&format!(
            "push model ada/shared --dry-run dry --grid {grid}"
        ));
        assert!(
            sentence.contains(grid)
                && (sentence.contains("cannot be read as an image")
                    || grid == "nowhere.png" && sentence.contains("there is no file")),
            "{sentence}"
        );
        assert!(!scene.workplace.path("dry").exists());
    }
    // The content counts, and not the name.
    scene.succeed("sample --model model --steps 1 --count 1");
    fs::rename(
        scene.workplace.path("samples/steps-0001.png"),
        scene.workplace.path("grid.txt"),
    )
    .unwrap();
    scene.succeed("push model ada/shared --dry-run dry --grid grid.txt");
    assert!(scene.workplace.path("dry/samples.png").is_file());
}

#[test]
fn parts_that_do_not_belong_together_are_not_pushed() {
    let scene = Scene::new();
    let mut other = tiny::model();
    let first_stage = other.first_stage.as_mut().unwrap();
    let config = first_stage.network.config().clone();
    let network = config.init(&burn::tensor::Device::flex(), 9).unwrap();
    first_stage.network = network;
    first_stage
        .save(&scene.workplace.path("other"), Default::default())
        .unwrap();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(
            scene.workplace.path("other").join(name),
            scene.workplace.path("model/vqvae").join(name),
        )
        .unwrap();
    }
    let sentence = scene.fail("push model ada/shared");
    assert!(
        sentence.contains("trained with another VQ-VAE"),
        "{sentence}"
    );
    assert!(scene.hub.files("ada/shared", "main").is_none());
}

#[test]
fn pushing_without_a_token_or_a_name_says_how_to_get_one() {
    let scene = Scene::new();
    let mut command = scene.command("push model ada/shared");
    let output = command.env_remove("HF_TOKEN").output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("set HF_TOKEN, or run `hf auth login`")
    );
    let output = scene.command("push model shared").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write ORG/REPO"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_sentence() {
    let scene = Scene::new();
    fs::create_dir(scene.workplace.path("huggingface")).unwrap();
    scene.hub.publish("datasets/ada/grays", &grays());
    fs::write(scene.workplace.path("pixels.toml"), PIXELS).unwrap();
    // The messages of `kiln` with a cache on a disk of its own, in its own name space.
    let on_disk = |size: &str, arguments: &str| {
        let script = format!(
            "mount -t tmpfs -o size={size} none huggingface || exit 77; exec \"$0\" \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", &script]);
        let kiln = scene.command(arguments);
        command.arg(kiln.get_program()).args(kiln.get_args());
        command.current_dir(scene.workplace.path(""));
        for (name, value) in kiln.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command.output().ok()?;
        (output.status.code() == Some(1)).then(|| String::from_utf8(output.stderr).unwrap())
    };
    let Some(refused) = on_disk("8k", "pull ada/tiny") else {
        eprintln!("skipped: no disk can be made here");
        return;
    };
    assert!(
        refused.contains("whose disk has 0.0 MiB left") && refused.contains("HF_HUB_CACHE"),
        "{refused}"
    );
    assert_eq!(refused.lines().count(), 1, "{refused}");
    // A data set that is streamed has room by `data.cache`, and not on the disk.
    let arguments = "train-diffusion --config pixels.toml --data hf:ada/grays --out run --set data.stream=true --set data.cache=1";
    let full = on_disk("4k", arguments).expect("a sentence");
    assert!(
        full.contains("No space left") && full.contains("HF_HUB_CACHE"),
        "{full}"
    );
}

/// The tables that Python wrote.
fn grays() -> Files {
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tables");
    let tables = files(&tables).into_iter();
    let tables = tables.filter(|(name, _)| name.ends_with(".parquet"));
    tables.collect()
}
