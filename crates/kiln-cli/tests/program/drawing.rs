//! Drawing never shows an output that is not an image, never rejects a run as a model, and never loses a picture.

use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::{Workplace, gray, tiny};

/// Makes every weight so large that a network's output is infinite.
struct Exploding;

impl ModuleMapper for Exploding {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weights| weights * 0.0 + 1e30)
    }
}

#[test]
fn a_network_that_answers_no_numbers_is_an_error_with_the_step() {
    let workplace = Workplace::new();
    let mut broken = tiny::model();
    broken.unet = broken.unet.map(&mut Exploding);
    broken
        .save(&workplace.path("broken"), Default::default())
        .unwrap();
    image::GrayImage::new(6, 6)
        .save(workplace.path("image.png"))
        .unwrap();
    for arguments in [
        "sample --gif --strip 3",
        "sample --files",
        "sample --sampler heun --clip 1",
        "interpolate --seeds 1,2",
        "inpaint image.png --mask image.png",
        "invert image.png",
    ] {
        let steps = "--model broken --steps 4";
        let sentence = workplace.fail(&format!("{arguments} {steps}"));
        assert!(
            sentence.contains("in step 1") && sentence.contains("not finite"),
            "kiln {arguments}: {sentence}"
        );
        let mut left = fs::read_dir(workplace.path("")).unwrap();
        let is_old = |name: &str| ["model", "broken", "image.png", "cache"].contains(&name);
        assert!(
            left.all(|entry| is_old(&entry.unwrap().file_name().to_string_lossy())),
            "kiln {arguments} leaves a folder behind"
        );
    }
    let output = workplace.run("doctor broken");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("BROKEN") && said.contains("in step 1 of"),
        "{said}"
    );
}

#[test]
fn a_decoder_that_answers_no_numbers_is_an_error() {
    let workplace = Workplace::new();
    let mut broken = tiny::model();
    if let Some(stage) = &mut broken.first_stage {
        stage.network = stage.network.clone().map(&mut Exploding);
    }
    broken
        .save(&workplace.path("broken"), Default::default())
        .unwrap();
    let sentence = workplace.fail("sample --model broken --steps 2");
    assert!(sentence.contains("decoder"), "{sentence}");
    fs::create_dir(workplace.path("photos")).unwrap();
    for name in ["photos/one.png", "photos/two.png"] {
        image::GrayImage::new(8, 8)
            .save(workplace.path(name))
            .unwrap();
    }
    let sentence = workplace.fail("reconstruct --model broken --data photos --out new/shown");
    assert!(sentence.contains("not finite"), "{sentence}");
    assert!(!workplace.path("new").exists());
}

#[test]
fn files_are_as_many_as_are_asked_for() {
    let workplace = Workplace::new();
    tiny::conditional()
        .save(&workplace.path("shapes"), Default::default())
        .unwrap();
    let sentence = workplace.fail("sample --model model --steps 1 --count 4097");
    assert!(sentence.contains("--files"), "{sentence}");

    let asked = "sample --model shapes --steps 2 --count 5 --batch 4 --scale 2 --files --json";
    let outcome = workplace.json(asked);
    let folder = outcome["grids"][0]["folder"].as_str().unwrap();
    assert_eq!(folder, "samples/steps-0002");
    let grid = workplace.draw("--model shapes --steps 2 --count 5 --batch 4");
    for (class, name) in (0..).zip(tiny::CLASSES) {
        for image in 0..5 {
            let number = class * 5 + image;
            let file = format!("{folder}/{number:06}-{name}.png");
            let file = gray(&workplace.path(&file));
            assert_eq!(file.dimensions(), (12, 12));
            let place = image::imageops::crop_imm(&grid, image * 8 + 2, class * 8 + 2, 6, 6);
            let half = image::imageops::resize(&file, 6, 6, image::imageops::FilterType::Nearest);
            assert_eq!(half, place.to_image());
        }
    }
    assert_eq!(fs::read_dir(workplace.path(folder)).unwrap().count(), 15);
    // The pictures of another drawing get other names.
    let again = workplace.json(asked);
    assert_eq!(again["grids"][0]["folder"], "samples/steps-0002-2");
}

#[test]
fn pictures_of_another_drawing_stay() {
    let workplace = Workplace::new();
    let picture = |seed: u32| {
        let asked = format!("sample --model model --steps 2 --count 4 --seed {seed} --json");
        let outcome = workplace.json(&asked);
        outcome["grids"][0]["picture"].as_str().unwrap().to_owned()
    };
    assert_eq!(picture(1), "samples/steps-0002.png");
    let first = fs::read(workplace.path("samples/steps-0002.png")).unwrap();
    assert_eq!(picture(2), "samples/steps-0002-2.png");
    assert_eq!(picture(1), "samples/steps-0002.png");
    assert_eq!(
        fs::read(workplace.path("samples/steps-0002.png")).unwrap(),
        first
    );
    for command in [
        "interpolate --seeds",
        "interpolate --loop --frames 3 --seeds",
    ] {
        let outcome = workplace.json(&format!("{command} 1,2 --model model --steps 2 --json"));
        assert!(workplace.path(outcome["gif"].as_str().unwrap()).is_file());
    }
    assert!(
        workplace
            .path("interpolation/interpolation-2.gif")
            .is_file()
    );
}

#[test]
fn a_strip_shows_every_class_and_what_is_predicted() {
    let workplace = Workplace::new();
    tiny::conditional()
        .save(&workplace.path("shapes"), Default::default())
        .unwrap();
    let drawn = "sample --model shapes --steps 4 --count 2 --strip 3";
    workplace.succeed(drawn);
    workplace.succeed(&format!("{drawn} --predicted --gif --out both"));
    let alone = gray(&workplace.path("samples/steps-0004-strip.png"));
    let both = gray(&workplace.path("both/steps-0004-strip.png"));
    assert_eq!(alone.height() % 8, both.height() % 8);
    assert_eq!(both.height() - alone.height(), 3 * 8);
    assert!(alone.width() > 3 * 8 + 2 + 20, "words at the left");
    let grid = gray(&workplace.path("samples/steps-0004.png"));
    let (left, top) = (alone.width() - 26, alone.height() - 26);
    for class in 0..3 {
        let last = image::imageops::crop_imm(&alone, left + 18, top + 2 + class * 8, 6, 6);
        let first = image::imageops::crop_imm(&grid, 2, 2 + class * 8, 6, 6);
        assert_eq!(last.to_image(), first.to_image(), "class {class}");
    }
}

#[test]
fn a_black_pen_on_white_paper_is_noticed() {
    let workplace = Workplace::new();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/images");
    let sketch = images.join("sketch.png");
    let asked = format!("sample --from {} --count 1", sketch.display());
    let output = workplace.run(&asked);
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success());
    assert!(
        note.contains("add --negate") && note.lines().count() == 1,
        "{note}"
    );
    workplace.succeed(&format!("{asked} --negate"));
    let digit = images.join("digit.png");
    let teacher = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../pretrained/mnist-many-steps"
    );
    let invert = format!("invert {} --model {teacher} --steps 2", digit.display());
    workplace.succeed(&invert);
    let output = workplace.run(&format!("{invert} --negate"));
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(note.contains("leave out --negate"), "{note}");
}

/// The README's lines, but with two steps where they ask for a hundred.
#[test]
fn the_readmes_examples_of_changing_images_run_as_written() {
    let workplace = Workplace::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = workplace.path("examples/images");
    fs::create_dir_all(&folder).unwrap();
    for file in ["sketch.png", "digit.png", "hole.png"] {
        fs::copy(root.join("examples/images").join(file), folder.join(file)).unwrap();
    }
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, section) = readme.split_once("## Change images").unwrap();
    let block = section.split("```").nth(1).unwrap();
    let commands = block.lines().filter_map(|line| line.strip_prefix("kiln "));
    let commands: Vec<&str> = commands
        .map(|line| line.split(" #").next().unwrap_or(line).trim())
        .collect();
    assert!(commands.len() >= 4);
    for command in commands {
        let command = command.replace("--steps 100", "--steps 2");
        let models = format!("{}/pretrained", root.display());
        workplace.succeed(&command.replace("pretrained", &models));
    }
}

#[test]
fn help_is_grouped() {
    let workplace = Workplace::new();
    for (command, groups) in [
        (
            "sample --help",
            [
                "Model:",
                "Images:",
                "Classes and guidance:",
                "Sampling:",
                "Pictures:",
                "Computing:",
            ]
            .as_slice(),
        ),
        (
            "inpaint --help",
            &["Model:", "Images:", "Sampling:", "Pictures:"],
        ),
        (
            "evaluate --help",
            &["Model:", "Data:", "Sampling:", "Measures:", "Computing:"],
        ),
        ("reconstruct --help", &["Model:", "Data:", "Computing:"]),
        (
            "train-latent-diffusion --help",
            &["Experiment:", "Run:", "Model:", "Computing:"],
        ),
    ] {
        let help = workplace.succeed(command);
        for group in groups {
            let times = help.lines().filter(|line| line == group).count();
            assert_eq!(times, 1, "{group} in {command}");
        }
    }
}
