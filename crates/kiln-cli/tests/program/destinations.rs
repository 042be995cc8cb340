//! No command writes into an existing model or run.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{Workplace, tiny, training};

/// All files below a folder, including hidden ones.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents.extend(self::contents(&path));
        } else {
            contents.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    contents
}

#[test]
fn a_part_of_a_model_or_of_a_run_is_no_destination() {
    let workplace = training::workplace();
    fs::write(workplace.path("pixels.toml"), training::PIXELS).unwrap();
    let trained = workplace.run("train-diffusion --config pixels.toml --out run");
    assert!(trained.status.success());
    tiny::worse()
        .save(&workplace.path("worse"), Default::default())
        .unwrap();
    let mut inside = vec![
        "model/unet",
        "model/new",
        "model/new/deeper",
        "model/../model/vqvae",
        "run",
        "run/model",
        "run/new",
        "run/diffusion/start",
        "run/diffusion/checkpoints/step-0000009",
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("model/unet", workplace.path("link")).unwrap();
        inside.extend(["link", "link/new"]);
    }
    let before = contents(&workplace.path(""));
    let checkpoint = "worse/unet/diffusion_pytorch_model.safetensors";
    for place in inside {
        for arguments in [
            format!("model guide model --by worse --to {place}"),
            format!("push model ada/digits --dry-run {place}"),
            format!("convert {checkpoint} --to {place}"),
            format!("train-diffusion --config pixels.toml --out {place}"),
        ] {
            // For the run folder itself, the message advises --resume.
            let is_run = place == "run" && arguments.starts_with("train");
            let words = if is_run { "--resume" } else { "outside of it" };
            let sentence = workplace.fail(&arguments);
            assert!(sentence.contains(words), "kiln {arguments}: {sentence}");
        }
    }
    for (arguments, words) in [
        ("push model/vqvae ada/digits --dry-run model", "model/vqvae"),
        (
            "push run ada/digits --dry-run run/model",
            "belongs to the run",
        ),
        (
            "train-vqvae --config experiment.toml --out model",
            "part of the model",
        ),
        (
            "train-diffusion --config pixels.toml --out model",
            "part of the model",
        ),
        ("model guide model --by worse --to worse", "worse is worse"),
        (
            "model guide worse --by worse --to ./worse",
            "worse is worse",
        ),
    ] {
        let sentence = workplace.fail(arguments);
        assert!(sentence.contains(words), "kiln {arguments}: {sentence}");
    }
    assert!(contents(&workplace.path("")) == before);

    // A shared model may be shared again in place, and a model may get its guide in place.
    workplace.succeed("push model ada/digits --dry-run shared");
    workplace.succeed("push shared ada/digits --dry-run shared");
    workplace.succeed("model guide model --by worse --to model");
}

#[test]
fn pictures_in_a_model_do_it_no_harm() {
    let workplace = Workplace::new();
    let before = contents(&workplace.path("model"));
    workplace.succeed("sample --model model --steps 2 --count 1 --out model");
    workplace.succeed("schedule --model model --plot model/schedule.svg");
    let after = contents(&workplace.path("model"));
    assert!(after.len() > before.len());
    for (name, bytes) in before {
        assert!(after[&name] == bytes, "{name}");
    }
    let said = workplace.succeed("doctor model");
    assert!(
        said.lines()
            .any(|line| line.trim().starts_with("files") && line.ends_with("ok")),
        "{said}"
    );
}
