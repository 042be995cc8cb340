//! `kiln train-vqvae`, `kiln train-latent-diffusion` and `kiln train-diffusion`.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use image::{GrayImage, Luma};
use serde_json::Value;

use crate::{Workplace, gray, program, wait_until};

/// Both stages on 8x8 images, as small as possible.
pub const EXPERIMENT: &str = r#"
[data]
dataset = "folder"
path = "photos"
size = 8
channels = 1

[vqvae]
in_channels = 1
out_channels = 1
sample_size = 8
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
block_out_channels = [8, 8]
latent_channels = 2
num_vq_embeddings = 8
norm_num_groups = 4
mid_block_add_attention = false

[stage_1.training]
steps = 4
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 2

[unet]
in_channels = 2
out_channels = 2
sample_size = 4
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
block_out_channels = [8]
layers_per_block = 1
norm_num_groups = 4

[schedule]

[stage_2.training]
steps = 4
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 2

[sampling]
steps = 2
count = 4
"#;

/// Pixel space: the same images without a first stage.
pub const PIXELS: &str = r#"
[data]
dataset = "folder"
path = "photos"
size = 8
channels = 1

[unet]
in_channels = 1
out_channels = 1
sample_size = 8
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
block_out_channels = [8]
layers_per_block = 1
norm_num_groups = 4

[schedule]

[stage_2.training]
steps = 4
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 2

[sampling]
steps = 2
count = 4
clip = 1.0
"#;

/// A workplace with `experiment.toml` and 24 gray squares in `photos/`.
pub fn workplace() -> Workplace {
    let workplace = Workplace::new();
    fs::write(workplace.path("experiment.toml"), EXPERIMENT).unwrap();
    fs::create_dir(workplace.path("photos")).unwrap();
    for number in 0..24u8 {
        let square = GrayImage::from_fn(8, 8, |x, y| Luma([number * 10 * u8::from(x + y < 8)]));
        square
            .save(workplace.path(&format!("photos/{number:02}.png")))
            .unwrap();
    }
    workplace
}

/// Runs a training to its end and returns its JSON. Progress goes to stderr, so stdout is only the JSON.
pub fn train(workplace: &Workplace, arguments: &str) -> Value {
    let output = workplace.run(&format!("{arguments} --config experiment.toml --json"));
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kiln {arguments}: {progress}");
    assert!(progress.contains("loss"), "kiln {arguments}: {progress}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&stdout)
        .unwrap_or_else(|error| panic!("kiln {arguments}: {error} in {stdout}"))
}

/// Begins an endless stage 1, and waits until it has written some checkpoints.
fn begin_long_training(workplace: &Workplace) -> Child {
    let arguments = "train-vqvae --config experiment.toml --json --out run --set stage_1.training.steps=1000000";
    let mut command = program(&workplace.path(""), arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut child, || metrics(workplace).len() >= 3);
    child
}

/// The steps in the rows of stage 1's `metrics.csv`.
fn metrics(workplace: &Workplace) -> Vec<u64> {
    let table = fs::read_to_string(workplace.path("run/vqvae/metrics.csv")).unwrap_or_default();
    let rows = table.lines().skip(1);
    rows.filter_map(|row| row.split(',').next()?.parse().ok())
        .collect()
}

/// Resumes a stopped training for a few more steps, and checks that no round is lost or repeated.
fn resume(workplace: &Workplace) {
    let goal = metrics(workplace).last().copied().unwrap() + 6;
    let report = train(
        workplace,
        &format!("train-vqvae --out run --resume --set stage_1.training.steps={goal}"),
    );
    assert_eq!(
        (&report["steps"], &report["interrupted"]),
        (&goal.into(), &false.into())
    );
    let steps = metrics(workplace);
    assert!(
        steps.is_sorted_by(|one, next| one < next) && steps.last() == Some(&goal),
        "{steps:?}"
    );
    assert!(
        (2..=goal).step_by(2).all(|step| steps.contains(&step)),
        "{steps:?}"
    );
}

#[test]
fn both_stages_lead_to_a_model_that_samples() {
    let workplace = workplace();
    let report = train(&workplace, "train-vqvae");
    assert_eq!(
        report["model"], "runs/experiment/vqvae/model",
        "the config's name is the run's"
    );
    let quality = "reconstruct --model runs/experiment/vqvae/model --config experiment.toml --data photos --count 2";
    let measured = workplace.json(&format!("{quality} --json"));
    assert_eq!(
        (&measured["count"], &measured["codes"]),
        (&2.into(), &8.into())
    );

    let report = train(&workplace, "train-latent-diffusion");
    assert_eq!(
        (&report["steps"], &report["interrupted"]),
        (&4.into(), &false.into())
    );
    assert_eq!(report["model"], "runs/experiment/model");
    workplace.succeed("sample --model runs/experiment/model --steps 3 --count 4");
    assert_eq!(
        gray(&workplace.path("samples/steps-0003.png")).dimensions(),
        (22, 22)
    );
    assert!(
        workplace
            .succeed("model info runs/experiment/model")
            .contains("photos")
    );

    // Another run can use the same first stage.
    train(
        &workplace,
        "train-latent-diffusion --vqvae runs/experiment/model --out second",
    );
    assert!(workplace.path("second/model/unet/config.json").is_file());

    // Another run can continue from the end of this one.
    train(
        &workplace,
        "train-latent-diffusion --initial-weights runs/experiment/model --out third",
    );
    let info = workplace.succeed("model info third/model");
    assert!(info.contains("earlier_steps"), "{info}");
    let sentence = workplace.fail(
        "train-latent-diffusion --config experiment.toml --initial-weights photos --out fourth",
    );
    assert!(sentence.contains("photos"), "{sentence}");
}

#[test]
fn pixel_space_training_leads_to_a_model_that_samples() {
    let workplace = workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    let report = train(&workplace, "train-diffusion");
    assert_eq!(
        (&report["stage"], &report["model"]),
        (&"diffusion".into(), &"runs/experiment/model".into())
    );
    // The run's path names its model, and the config determines how it is drawn.
    let by_default = workplace.json("sample --model runs/experiment --out by-default --json");
    assert_eq!(by_default["model"], "runs/experiment/model");
    let sampling = toml::from_str::<toml::Table>(PIXELS).unwrap()["sampling"].clone();
    let asked = |key: &str| sampling[key].as_integer();
    assert_eq!(by_default["count"].as_i64(), asked("count"));
    assert_eq!(by_default["grids"][0]["steps"].as_i64(), asked("steps"));
    let checkpoints =
        fs::read_dir(workplace.path("runs/experiment/diffusion/checkpoints")).unwrap();
    let newest = checkpoints
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap();
    let of_checkpoint = format!("--model {} --out of-checkpoint", newest.display());
    let of_model = "--model runs/experiment/model --out of-model";
    assert_eq!(workplace.draw(&of_checkpoint), workplace.draw(of_model));
    fs::rename(
        workplace.path("runs/experiment/model"),
        workplace.path("runs/experiment/set-aside"),
    )
    .unwrap();
    let sentence = workplace.fail("sample --model runs/experiment");
    assert!(
        sentence.contains("diffusion/checkpoints/step-"),
        "{sentence}"
    );
    fs::rename(
        workplace.path("runs/experiment/set-aside"),
        workplace.path("runs/experiment/model"),
    )
    .unwrap();

    let sampled = "sample --model runs/experiment/model --steps 3 --count 4";
    workplace.succeed(&format!("{sampled} --gif --gif-frames 4"));
    let grid = gray(&workplace.path("samples/steps-0003.png"));
    assert_eq!(grid.dimensions(), (22, 22));
    let info = workplace.succeed("model info runs/experiment/model");
    assert!(
        info.contains("1 x 8 x 8") && !info.contains("VQ-VAE"),
        "{info}"
    );

    for other in ["train-vqvae", "train-latent-diffusion"] {
        let sentence = workplace.fail(&format!("{other} --config experiment.toml --out other"));
        assert!(sentence.contains("`kiln train-diffusion`"), "{sentence}");
    }
    fs::write(workplace.path("experiment.toml"), EXPERIMENT).unwrap();
    let sentence = workplace.fail("train-diffusion --config experiment.toml --out other");
    assert!(sentence.contains("`kiln train-vqvae`"), "{sentence}");
    assert!(!workplace.path("other").exists());
}

#[test]
fn a_killed_training_goes_on_from_its_checkpoint() {
    let workplace = workplace();
    let mut child = begin_long_training(&workplace);
    child.kill().unwrap();
    child.wait().unwrap();
    resume(&workplace);
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_so() {
    let workplace = workplace();
    let child = begin_long_training(&workplace);
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["interrupted"], &report["model"]),
        (&true.into(), &Value::Null)
    );
    resume(&workplace);
}

#[test]
fn configs_that_cannot_work_are_refused_with_the_key() {
    let workplace = workplace();
    fs::write(workplace.path("broken.toml"), "[data\nsize").unwrap();
    fs::write(workplace.path("file"), "").unwrap();
    for (arguments, words) in [
        ("--config nowhere.toml", "nowhere.toml"),
        ("--config broken.toml", "broken.toml"),
        ("--config experiment.toml --set data.sise=8", "sise"),
        ("--config experiment.toml --set data.size=9", "size"),
        ("--config experiment.toml --set data.channels=3", "channels"),
        (
            "--config experiment.toml --set vqvae.norm_num_groups=3",
            "norm_num_groups",
        ),
        (
            "--config experiment.toml --set stage_1.training.steps=0",
            "stage_1.training.steps",
        ),
        (
            "--config experiment.toml --set stage_1.training.learning_rate=-1",
            "learning_rate",
        ),
        (
            "--config experiment.toml --set unet.sample_size=8",
            "unet.sample_size",
        ),
        ("--config experiment.toml --set seed", "--set seed"),
        ("--config experiment.toml --data nowhere", "nowhere"),
        (
            "--config experiment.toml --devices tpu",
            "`tpu` is not a device",
        ),
        ("--config experiment.toml --out file/run", "file"),
    ] {
        let sentence = workplace.fail(&format!("train-vqvae {arguments}"));
        assert!(
            sentence.contains(words),
            "train-vqvae {arguments}: {sentence}"
        );
    }
    let sentence = workplace.fail("train-latent-diffusion --config experiment.toml");
    assert!(
        sentence.contains("train-vqvae") || sentence.contains("--vqvae"),
        "{sentence}"
    );
}

#[cfg(not(feature = "mpi"))]
#[test]
fn processes_that_are_started_together_need_a_kiln_with_mpi() {
    let workplace = workplace();
    let arguments = "train-vqvae --config experiment.toml --out run";
    let mut command = program(&workplace.path(""), arguments);
    let output = command.env("OMPI_COMM_WORLD_SIZE", "2").output().unwrap();
    assert!(!output.status.success());
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert!(sentence.contains("--features mpi"), "{sentence}");
    assert!(!workplace.path("run").exists());
}

#[test]
fn warnings_have_no_colours_off_a_terminal_and_a_batch_beyond_the_data_is_one() {
    let workplace = workplace();
    fs::write(workplace.path("photos/\u{1b}[31mbroken.png"), "no image").unwrap();
    let output = workplace.run(
        "train-vqvae --config experiment.toml --set data.max_undecodable=0.5 --set stage_1.training.batch_size=50",
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("broken.png") && !said.contains('\u{1b}'),
        "{said}"
    );
    assert!(
        said.contains("a step sees 50 images") && said.contains("batch_size = 2"),
        "{said}"
    );
    for picture in ["vqvae/curves.svg", "vqvae/curves.png"] {
        let path = workplace.path("runs/experiment").join(picture);
        assert!(fs::metadata(&path).unwrap().len() > 1000, "{picture}");
    }
}
