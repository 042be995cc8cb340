//! `kiln train-vqvae` and `kiln train-latent-diffusion`.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use image::{GrayImage, Luma};

use crate::{Workplace, gray, program};

/// Both stages on 8x8 images, as small as they can be.
const EXPERIMENT: &str = r#"
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

/// A workplace with `experiment.toml` and 24 gray squares in `photos/`.
fn workplace() -> Workplace {
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

#[test]
fn both_stages_lead_to_a_model_that_samples() {
    let workplace = workplace();
    let said = workplace.succeed("train-vqvae --config experiment.toml");
    assert!(said.contains("step 4/4"), "{said}");
    assert!(
        workplace
            .path("runs/experiment/vqvae/metrics.csv")
            .is_file(),
        "the config's name is the run's"
    );

    let measured = workplace.json(
        "reconstruct --model runs/experiment/vqvae/model --config experiment.toml --data photos --count 2 --json",
    );
    assert_eq!(
        (&measured["count"], &measured["codes"]),
        (&2.into(), &8.into())
    );

    let report = workplace.json("train-latent-diffusion --config experiment.toml --json");
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
    workplace.succeed("train-latent-diffusion --config experiment.toml --vqvae runs/experiment/model --out second");
    assert!(workplace.path("second/model/unet/config.json").is_file());
}

#[test]
fn a_killed_training_goes_on_from_its_checkpoint() {
    let workplace = workplace();
    let long =
        "train-vqvae --config experiment.toml --out run --set stage_1.training.steps=1000000";
    let mut child = program(&workplace.path(""), long)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = workplace.path("run/vqvae/metrics.csv");
    let patience = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(&metrics).is_ok_and(|rows| rows.lines().count() > 3) {
        assert!(
            Instant::now() < patience && child.try_wait().unwrap().is_none(),
            "the training got nowhere"
        );
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let last_step = |rows: &str| -> u64 {
        rows.lines()
            .last()
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let killed_at = last_step(&fs::read_to_string(&metrics).unwrap());
    let goal = killed_at + 4;
    let resumed = format!(
        "train-vqvae --config experiment.toml --out run --resume --set stage_1.training.steps={goal} --json"
    );
    let report = workplace.json(&resumed);
    assert_eq!(report["steps"], goal);
    let rows = fs::read_to_string(&metrics).unwrap();
    assert_eq!(last_step(&rows), goal);
    assert_eq!(
        rows.lines().count() as u64,
        1 + goal / 2,
        "one row a round, none lost, none twice"
    );
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
