//! Every failure gives one sentence and a non-zero exit, and loses nothing.

use std::fs;

use crate::{Workplace, tiny};

const WEIGHTS: &str = "model/unet/diffusion_pytorch_model.safetensors";

#[test]
fn sampling_says_what_is_wrong_and_what_to_do() {
    let workplace = Workplace::new();
    fs::write(workplace.path("file"), "not a folder").unwrap();
    let too_many = format!("sample --model model --steps {}", tiny::TIMESTEPS + 1);
    for (arguments, words) in [
        ("sample --model nowhere", "nowhere"),
        ("sample --model file", "file"),
        ("sample --model model/vqvae", "model_index.json"),
        (too_many.as_str(), "from 1 to 20"),
        (
            "sample --model model --steps 2/21 --out half",
            "from 1 to 20",
        ),
        (
            "sample --model model --sampler ddpm --eta 0.5",
            "--eta belongs to `--sampler ddim`",
        ),
        (
            "sample --model model --steps 2 --out file/pictures",
            "file/pictures",
        ),
        (
            "sample --model model --devices gpu",
            "`gpu` is not a device",
        ),
        (
            "sample --model model --devices cdua:1",
            "did you mean `cuda:1`?",
        ),
        (
            "sample --model model --devices cpu:2",
            "only training uses several devices",
        ),
        ("model info nowhere", "nowhere"),
    ] {
        let sentence = workplace.fail(arguments);
        assert!(sentence.contains(words), "kiln {arguments}: {sentence}");
    }
    assert!(
        !workplace.path("half").exists(),
        "every number of steps is checked before the first is drawn"
    );
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_compiled_in_names_its_feature() {
    let sentence = Workplace::new().fail("sample --model model --devices cuda:0");
    assert!(
        sentence.contains("--features cuda") && sentence.contains("only cpu"),
        "{sentence}"
    );
}

#[test]
fn flags_that_cannot_be_are_refused_by_name() {
    let workplace = Workplace::new();
    for (arguments, words) in [
        ("sample --steps 0", "--steps"),
        ("sample --steps 5/5", "5 is there twice"),
        ("sample --steps ten", "--steps"),
        ("sample --sampler eular", "ddim"),
        ("sample --spacing wide", "trailing"),
        ("sample --eta 2", "--eta"),
        ("evaluate --count 50", "at least 65"),
        ("evaluate --real -3", "at least 65"),
        ("sample --count -1", "--count"),
        ("sample --steps -5", "--steps"),
        ("sample --eta -0.5", "from 0 to 1, such as 0.5"),
        ("sample --seed -1", "from 0 to 18446744073709551615"),
        ("evaluate --samplers ddmi,heun", "'ddim'"),
        ("sample --precision f16", "f32, bf16 or auto"),
        ("sample --count 0", "--count"),
        ("sample --batch 0", "--batch"),
        ("sample --gif-frames 5", "--gif"),
        ("sample --stepz 5", "--steps"),
        ("train-vqvae", "--config"),
        ("reconstruct --set seed=1", "--config"),
        ("paint", "paint"),
    ] {
        let output = workplace.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "kiln {arguments}: {stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains(words),
            "kiln {arguments}: {stderr}"
        );
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_waited_for() {
    let workplace = Workplace::new();
    let made = std::process::Command::new("mkfifo")
        .arg(workplace.path("pipe"))
        .status();
    assert!(made.unwrap().success());
    // A sparse file: it takes no space on the disk, but would need all of the memory.
    let digits = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../configs/mnist-quick.toml"
    );
    let hole = fs::File::create(workplace.path("hole")).unwrap();
    hole.set_len(20 << 30).unwrap();
    for file in ["pipe", "/dev/zero", "hole"] {
        for arguments in [
            "train-diffusion --out run --config FILE",
            "train-classifier --out run --config FILE",
            "train-diffusion --out run --config FILE --resume",
            "schedule --config FILE",
            "bench --config FILE",
            "doctor --config FILE",
            "doctor FILE",
            "sample --from FILE",
            "sample --model FILE",
            "inpaint FILE --mask FILE",
            "invert FILE",
            "interpolate --images FILE FILE",
            "reconstruct --data FILE",
            "convert FILE --to converted",
            "push model ada/digits --dry-run dry --grid FILE",
            "push model ada/digits --dry-run dry --evaluation FILE",
            "evaluate --config DIGITS --count 100 --classifier FILE",
            "evaluate --config DIGITS --count 3000 --features 2048 --feature-weights FILE",
        ] {
            let arguments = arguments.replace("FILE", file).replace("DIGITS", digits);
            let sentence = workplace.fail(&arguments);
            assert!(sentence.contains(file), "kiln {arguments}: {sentence}");
        }
    }
}

#[test]
fn damaged_files_are_named() {
    let workplace = Workplace::new();
    let weights = fs::read(workplace.path(WEIGHTS)).unwrap();
    let flipped: Vec<u8> = weights.iter().map(|byte| !byte).collect();
    for damaged in [&weights[..weights.len() / 2], &weights[..3], &[], &flipped] {
        fs::write(workplace.path(WEIGHTS), damaged).unwrap();
        assert!(workplace.fail("sample --model model").contains(WEIGHTS));
        assert!(workplace.fail("model info model").contains(WEIGHTS));
    }
    fs::write(workplace.path(WEIGHTS), &weights).unwrap();

    for file in [
        "model_index.json",
        "unet/config.json",
        "vqvae/config.json",
        "scheduler/scheduler_config.json",
    ] {
        let path = workplace.path("model").join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(workplace.fail("sample --model model").contains(file));
        fs::remove_file(&path).unwrap();
        assert!(workplace.fail("sample --model model").contains(file));
        fs::write(&path, whole).unwrap();
    }
    workplace.succeed("sample --model model --steps 1 --count 1");
}

#[test]
fn a_full_disk_is_a_sentence_and_leaves_the_old_picture() {
    let workplace = Workplace::new();
    workplace.succeed("sample --model model --steps 1 --count 1");
    let picture = workplace.path("samples/steps-0001.png");
    let before = fs::read(&picture).unwrap();
    // A folder with the temporary file's name simulates a full disk.
    fs::create_dir(workplace.path("samples/steps-0001-2.png.partial")).unwrap();
    assert!(
        workplace
            .fail("sample --model model --steps 1 --count 1 --seed 5")
            .contains("samples/steps-0001-2.png")
    );
    assert_eq!(fs::read(&picture).unwrap(), before);
}
