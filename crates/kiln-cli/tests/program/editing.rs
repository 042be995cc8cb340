//! Changes of images: `kiln sample --from`, `interpolate`, `invert` and `inpaint`, mostly with a model of digits that draws in
//! many steps.

use std::fs;

use image::{GrayImage, Luma, RgbImage};

use crate::{Workplace, gray};

const DIGITS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../pretrained/mnist-many-steps"
);

/// The digit at a position in a grid of 28x28 digits.
fn digit(grid: &GrayImage, row: u32, column: u32) -> GrayImage {
    image::imageops::crop_imm(grid, column * 30 + 2, row * 30 + 2, 28, 28).to_image()
}

/// The grid of digits in the corner of a picture with words.
fn lower_right(picture: &GrayImage, columns: u32, rows: u32) -> GrayImage {
    let (width, height) = (columns * 30 + 2, rows * 30 + 2);
    let (left, top) = (picture.width() - width, picture.height() - height);
    image::imageops::crop_imm(picture, left, top, width, height).to_image()
}

/// Draws a digit with the program and saves it alone.
fn draw_digit(workplace: &Workplace, seed: u32, name: &str) -> GrayImage {
    let grid = workplace.draw(&format!(
        "--model {DIGITS} --steps 10 --count 1 --seed {seed}"
    ));
    let drawn = digit(&grid, 0, 0);
    drawn.save(workplace.path(name)).unwrap();
    drawn
}

#[test]
fn the_ends_of_an_interpolation_are_the_samples_of_its_seeds() {
    let workplace = Workplace::new();
    let ends = [7, 4].map(|seed| draw_digit(&workplace, seed, "digit.png"));
    let outcome = workplace.json(&format!(
        "interpolate --model {DIGITS} --seeds 7,4 --steps 10 --frames 5 --out way --json"
    ));
    assert_eq!(
        (&outcome["count"], &outcome["steps"]),
        (&5.into(), &10.into())
    );
    let strip = gray(&workplace.path("way/interpolation.png"));
    assert_eq!(strip.dimensions(), (5 * 30 + 2, 30 + 2));
    assert_eq!([digit(&strip, 0, 0), digit(&strip, 0, 4)], ends);
    assert!(workplace.path("way/interpolation.gif").is_file());
}

#[test]
fn a_loop_comes_back_to_its_first_seed() {
    let workplace = Workplace::new();
    let outcome = workplace
        .json("interpolate --model model --steps 3 --seeds 1,2,3 --loop --frames 4 --json");
    assert_eq!(outcome["count"], 9);
    let rows = gray(&workplace.path("interpolation/interpolation.png"));
    assert_eq!(rows.dimensions(), (4 * 8 + 2, 3 * 8 + 2));
    let cell = |row: u32, column: u32| {
        image::imageops::crop_imm(&rows, column * 8 + 2, row * 8 + 2, 6, 6).to_image()
    };
    assert_eq!(cell(2, 3), cell(0, 0));
    assert_eq!(cell(0, 3), cell(1, 0));
}

#[test]
fn given_images_are_interpolated_by_way_of_their_noises() {
    let workplace = Workplace::new();
    for (seed, name) in [(1, "one.png"), (2, "two.png")] {
        draw_digit(&workplace, seed, name);
    }
    let outcome = workplace.json(&format!(
        "interpolate --model {DIGITS} --images one.png two.png --steps 10 --frames 3 --json"
    ));
    assert_eq!(outcome["count"], 3);
    let psnr = outcome["psnr"].as_f64().unwrap();
    assert!(psnr > 12.0, "{psnr} dB");
}

#[test]
fn an_inverted_digit_is_measured_and_its_noise_kept() {
    let workplace = Workplace::new();
    draw_digit(&workplace, 3, "digit.png");
    let outcome = workplace.json(&format!(
        "invert digit.png digit.png --model {DIGITS} --steps 20 --out noises --json"
    ));
    let images = outcome["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    for image in images {
        let decibels = |name: &str| image[name].as_f64().unwrap();
        assert!(decibels("psnr") > 15.0, "{image}");
        assert!(decibels("psnr_to_reconstruction") > 15.0, "{image}");
    }
    let file = fs::read(workplace.path("noises/noise.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("noise").unwrap().shape(), [2, 4, 8, 8]);
    let picture = gray(&workplace.path("noises/inversion.png"));
    assert_eq!(picture.dimensions(), (3 * 30 + 2, 2 * 30 + 2));
    let said = workplace.succeed(&format!(
        "invert digit.png --model {DIGITS} --steps 2 --refinements 0"
    ));
    assert!(said.contains("VQ-VAE alone"), "{said}");
    let refused = workplace.fail("invert digit.png");
    assert!(refused.contains("in few long steps"), "{refused}");
}

#[test]
fn images_of_any_size_and_colour_are_fitted() {
    let workplace = Workplace::new();
    let photo = RgbImage::from_fn(40, 20, |x, y| [x as u8 * 5, y as u8 * 9, 77].into());
    photo.save(workplace.path("photo.jpg")).unwrap();
    for command in [
        "invert photo.jpg --model model --steps 2",
        "sample --from photo.jpg --model model --steps 2 --count 2",
    ] {
        workplace.succeed(command);
    }
}

#[test]
fn strength_says_how_much_is_drawn_anew() {
    let workplace = Workplace::new();
    draw_digit(&workplace, 3, "digit.png");
    let draw = |options: &str| {
        workplace.draw(&format!(
            "--model {DIGITS} --steps 10 --count 2 --seed 9 {options}"
        ))
    };
    let kept = draw("--from digit.png --strength 0");
    assert_eq!(digit(&kept, 0, 0), digit(&kept, 0, 1), "nothing is random");
    let anew = draw("--from digit.png --strength 1");
    assert_eq!(anew, draw(""));
    let between = draw("--from digit.png --strength 0.5");
    assert!(between != kept && between != anew);
    let outcome = workplace.json(
        &format!("sample --model {DIGITS} --steps 4/8 --count 2 --from digit.png --strength 0.5 --gif --strip 3 --json"),
    );
    assert_eq!(
        (&outcome["from"], &outcome["strength"]),
        (&"digit.png".into(), &0.5.into())
    );
    let strip = gray(&workplace.path("samples/steps-0008-strip.png"));
    // There are words above it.
    let strip = lower_right(&strip, 3, 2);
    assert_eq!(
        digit(&strip, 1, 2),
        digit(&gray(&workplace.path("samples/steps-0008.png")), 0, 1)
    );
}

#[test]
fn inpainting_keeps_what_is_black_in_the_mask() {
    let workplace = Workplace::new();
    let original = draw_digit(&workplace, 3, "digit.png");
    let mask = GrayImage::from_fn(28, 28, |_, y| Luma([if y < 14 { 0 } else { 255 }]));
    mask.save(workplace.path("mask.png")).unwrap();
    let outcome = workplace.json(
        &format!("inpaint --model {DIGITS} digit.png --mask mask.png --steps 10 --resamplings 1 --jump 3 --count 2 --seed 4 --gif --strip 4 --json"),
    );
    let images = outcome["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert!(workplace.path(outcome["gif"].as_str().unwrap()).is_file());
    let strip = gray(&workplace.path("inpainting/inpainting-strip.png"));
    let strip = lower_right(&strip, 4, 2);
    for (row, image) in (0..).zip(images) {
        let filled = gray(&workplace.path(image.as_str().unwrap()));
        assert_eq!(filled.dimensions(), (28, 28));
        let upper = 14 * 28;
        assert_eq!(filled.as_raw()[..upper], original.as_raw()[..upper]);
        assert_ne!(filled.as_raw()[upper..], original.as_raw()[upper..]);
        // The strip ends with the model's drawing, and the mask uses its lower half.
        let drawn = digit(&strip, row, 3);
        assert_eq!(filled.as_raw()[upper..], drawn.as_raw()[upper..]);
    }
    let picture = gray(&workplace.path("inpainting/inpainting.png"));
    assert_eq!(picture.dimensions(), (4 * 30 + 2, 30 + 2));
    assert_eq!(digit(&picture, 0, 0), original);
}

#[test]
fn what_cannot_be_done_is_said_in_a_sentence() {
    let workplace = Workplace::new();
    fs::write(workplace.path("notes.png"), "no image").unwrap();
    GrayImage::new(6, 6)
        .save(workplace.path("image.png"))
        .unwrap();
    GrayImage::new(6, 7)
        .save(workplace.path("mask.png"))
        .unwrap();
    for (arguments, words) in [
        ("invert nowhere.png", "nowhere.png"),
        ("invert notes.png", "notes.png"),
        ("invert image.png --steps 21", "from 1 to 20"),
        ("invert image.png --model nowhere", "nowhere"),
        ("invert image.png --out notes.png/noises", "notes.png"),
        ("sample --from notes.png", "notes.png"),
        ("interpolate --seeds 1", "--seeds 0,1"),
        ("interpolate --images image.png nowhere.png", "nowhere.png"),
        ("inpaint image.png --mask mask.png", "6x7"),
        ("inpaint image.png --mask nowhere.png", "nowhere.png"),
        (
            "inpaint image.png --mask image.png --class 1",
            "without class labels",
        ),
        ("invert image.png --guidance 2", "cannot be guided"),
    ] {
        let arguments = match arguments.contains("--model") {
            true => arguments.to_owned(),
            false => format!("{arguments} --model model"),
        };
        let arguments = match arguments.contains("--steps") {
            true => arguments,
            false => format!("{arguments} --steps 2"),
        };
        let sentence = workplace.fail(&arguments);
        assert!(sentence.contains(words), "kiln {arguments}: {sentence}");
    }
    for (arguments, words) in [
        (
            "sample --from image.png --strength 1.5",
            "from 0 to 1, such as 0.6",
        ),
        ("inpaint image.png --mask image.png --eta 2", "from 0 to 1"),
        // Flags without effect.
        ("sample --negate", "--from"),
        ("sample --strength 0.5", "--from"),
        ("interpolate --seeds 0,1 --negate", "--seeds"),
        (
            "inpaint image.png --mask image.png --jump 5",
            "--resamplings",
        ),
        ("sample --scale 2", "--files"),
        ("sample --gif-frames 5", "--gif"),
        ("sample --predicted", "--gif"),
    ] {
        let said = workplace.refuse(&format!("{arguments} --model model"));
        assert!(said.contains(words), "kiln {arguments}: {said}");
    }
}
