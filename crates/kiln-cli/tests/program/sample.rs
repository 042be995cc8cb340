//! `kiln sample`.

use std::{
    fs,
    io::BufReader,
    process::{Command, Stdio},
};

use image::{AnimationDecoder, GrayImage, codecs::gif::GifDecoder};

use crate::{Workplace, gray, program};

/// The cell of a grid with images of 6x6 pixels and gaps of 2.
fn cell(grid: &GrayImage, row: u32, column: u32) -> Vec<u8> {
    image::imageops::crop_imm(grid, column * 8 + 2, row * 8 + 2, 6, 6)
        .to_image()
        .into_raw()
}

/// Images from batches of another size may differ by rounding, at most by 1 in a byte.
fn assert_same_picture(one: &[u8], other: &[u8]) {
    assert_eq!(one.len(), other.len());
    let largest = one
        .iter()
        .zip(other)
        .map(|(one, other)| one.abs_diff(*other))
        .max();
    assert!(largest <= Some(1), "pixels differ by {largest:?}");
}

#[test]
fn every_number_of_steps_gives_a_grid_and_several_a_comparison() {
    let workplace = Workplace::new();
    let said = workplace.succeed("sample --model model --steps 2/3 --count 5 --out new/pictures");
    let mut files: Vec<String> = fs::read_dir(workplace.path("new/pictures"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["comparison.png", "steps-0002.png", "steps-0003.png"]
    );
    assert!(files.iter().all(|file| said.contains(file)), "{said}");

    // Five images, three in a row, without their padding.
    let grids =
        [2, 3].map(|steps| gray(&workplace.path(&format!("new/pictures/steps-000{steps}.png"))));
    assert!(
        grids
            .iter()
            .all(|grid| grid.dimensions() == (3 * 8 + 2, 2 * 8 + 2))
    );
    let comparison = gray(&workplace.path("new/pictures/comparison.png"));
    // The rows have words beside them and above.
    let (width, height) = (5 * 8 + 2, 2 * 8 + 2);
    let (left, top) = (comparison.width() - width, comparison.height() - height);
    assert!(left > 20 && top > 10);
    let comparison = image::imageops::crop_imm(&comparison, left, top, width, height).to_image();
    for (row, grid) in (0..).zip(&grids) {
        assert_eq!(cell(&comparison, row, 0), cell(grid, 0, 0));
        assert_eq!(cell(&comparison, row, 4), cell(grid, 1, 1));
    }
    assert_ne!(
        cell(&grids[0], 0, 0),
        cell(&grids[0], 0, 1),
        "different noise, different image"
    );
}

#[test]
fn an_image_depends_on_its_seed_and_number_alone() {
    let workplace = Workplace::new();
    for sampler in ["ddim --eta 0", "ddim --eta 0.7", "ddpm"] {
        let draw = |options: &str| {
            workplace.draw(&format!(
                "--model model --steps 4 --sampler {sampler} {options}"
            ))
        };
        let nine = draw("--count 9");
        assert_eq!(draw("--count 9").as_raw(), nine.as_raw(), "{sampler}");
        assert_same_picture(draw("--count 9 --batch 1").as_raw(), nine.as_raw());
        assert_same_picture(draw("--count 9 --batch 4").as_raw(), nine.as_raw());
        // Two images: a row of two, which are the first of the nine.
        let two = draw("--count 2");
        assert_same_picture(&cell(&two, 0, 1), &cell(&nine, 0, 1));
        assert_ne!(
            draw("--count 9 --seed 1").as_raw(),
            nine.as_raw(),
            "{sampler}"
        );
    }
}

/// f32 replaces bf16 if that would be slower, and a message says so.
#[test]
fn the_fastest_precision_is_the_default() {
    let workplace = Workplace::new();
    // With as many channels as bf16 needs to pay.
    let model = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../pretrained/mnist-few-steps"
    );
    let draw = |precision: &str| {
        let options = format!("--steps 4 --count 64 --precision {precision} --out {precision}");
        let output = workplace.run(&format!("sample --model {model} {options}"));
        assert!(output.status.success());
        let picture = gray(&workplace.path(&format!("{precision}/steps-0004.png")));
        (picture.into_raw(), output.stderr.is_empty())
    };
    let (plain, rounded) = (draw("f32"), draw("bf16"));
    let pays = kiln_kernels::bf16_instructions().is_some();
    assert_eq!((rounded.0 != plain.0, rounded.1), (pays, pays));
    let fastest = if pays { rounded } else { plain };
    let default = workplace.draw(&format!("--model {model} --steps 4 --count 64"));
    assert!(default.into_raw() == fastest.0);
}

#[test]
fn samplers_and_spacings_give_different_images() {
    let workplace = Workplace::new();
    let draw = |options: &str| {
        let grid = workplace.draw(&format!("--model model --steps 4 --count 16 {options}"));
        grid.into_raw()
    };
    let mut pictures: Vec<Vec<u8>> = Vec::new();
    for options in [
        "--spacing leading",
        "--spacing trailing",
        "--spacing quadratic",
        "--spacing karras",
        "--eta 1",
        "--eta 1 --variance large",
    ] {
        let picture = draw(options);
        assert!(!pictures.contains(&picture), "{options}");
        pictures.push(picture);
    }
    // Other tests check the samplers' results. Two good ones may give the same image here, because latents snap to the
    // nearest code.
    for options in [
        "--sampler heun",
        "--sampler second-order",
        "--sampler adams-bashforth --order 3",
        "--sampler pndm",
        "--sampler dpm-solver",
        "--sampler dpm-solver --eta 1",
        "--sampler unipc",
    ] {
        assert_eq!(draw(options).len(), pictures[0].len(), "{options}");
    }
    assert_same_picture(&draw("--sampler ddpm"), &draw("--eta 1"));
    assert_same_picture(&draw("--sampler euler"), &draw("--sampler ddim"));
}

#[test]
fn timesteps_can_be_listed() {
    let workplace = Workplace::new();
    let draw = |options: &str| {
        let grid = workplace.draw(&format!("--model model --count 16 {options}"));
        grid.into_raw()
    };
    let spread = draw("--steps 4 --spacing trailing --out spread");
    assert_same_picture(&draw("--timesteps 19,14,9,4 --out listed"), &spread);
    assert_ne!(draw("--timesteps 19,16.5,9,4 --out other"), spread);
    let outcome = workplace.json("sample --model model --count 4 --timesteps 19,1 --json");
    assert_eq!(outcome["timesteps"], serde_json::json!([19.0, 1.0]));
    assert_eq!(
        (&outcome["spacing"], &outcome["grids"][0]["steps"]),
        (&serde_json::Value::Null, &2.into())
    );

    let sentence = workplace.fail("sample --model model --timesteps 9,19");
    assert!(sentence.contains("from 19 down to 0"), "{sentence}");
    for flags in [
        "--timesteps 19,x",
        "--timesteps 19 --steps 1",
        "--timesteps 19 --spacing karras",
    ] {
        let said = workplace.refuse(&format!("sample --model model {flags}"));
        assert!(said.contains("--timesteps"), "{said}");
    }
}

#[test]
fn json_says_what_was_written_and_nothing_else() {
    let workplace = Workplace::new();
    let outcome = workplace.json("sample --model model --steps 2,3 --count 4 --seed 7 --json");
    assert_eq!(
        (&outcome["seed"], &outcome["count"]),
        (&7.into(), &4.into())
    );
    assert_eq!(outcome["sampler"]["kind"], "ddim");
    assert_eq!(outcome["comparison"], "samples/comparison.png");
    let steps: Vec<_> = outcome["grids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grid| grid["steps"].as_u64())
        .collect();
    assert_eq!(steps, [Some(2), Some(3)]);
    for grid in outcome["grids"].as_array().unwrap() {
        assert!(workplace.path(grid["picture"].as_str().unwrap()).is_file());
        assert!(grid["gif"].is_null());
    }
}

#[test]
fn the_gif_ends_with_the_grid() {
    let workplace = Workplace::new();
    workplace.succeed("sample --model model --steps 6 --count 4 --batch 3 --gif --gif-frames 4");
    let file = fs::File::open(workplace.path("samples/steps-0006.gif")).unwrap();
    let frames = GifDecoder::new(BufReader::new(file))
        .unwrap()
        .into_frames()
        .collect_frames()
        .unwrap();
    assert_eq!(frames.len(), 4);
    let bytes = |frame: &image::Frame| {
        image::DynamicImage::from(frame.buffer().clone())
            .into_luma8()
            .into_raw()
    };
    // Such a small picture is enlarged, pixel by pixel.
    let grid = gray(&workplace.path("samples/steps-0006.png"));
    let (width, height) = (grid.width() * 15, grid.height() * 15);
    let nearest = image::imageops::FilterType::Nearest;
    let enlarged = image::imageops::resize(&grid, width, height, nearest);
    assert_eq!(bytes(&frames[3]), enlarged.into_raw());
    assert_ne!(bytes(&frames[0]), bytes(&frames[3]));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let workplace = Workplace::new();
    let mut command = program(
        &workplace.path(""),
        "sample --model model --steps 1 --count 1",
    );
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// `script` gives a program its own terminal.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_a_preview() {
    let workplace = Workplace::new();
    let shown = |options: &str| {
        let arguments = format!("sample --model model --steps 1 --count 8 {options}");
        let command = program(&workplace.path(""), &arguments);
        let words = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        let output = Command::new("script")
            .args([
                "--quiet",
                "--return",
                "--command",
                &words.join(" "),
                "/dev/null",
            ])
            .current_dir(workplace.path(""))
            .env("TERM", "xterm-256color")
            .env_remove("KITTY_WINDOW_ID")
            .env_remove("TERM_PROGRAM")
            .stdin(Stdio::null())
            .output()
            .expect("the program `script`, a part of util-linux");
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let preview = shown("");
    let rows = preview.lines().filter(|line| line.contains('▄'));
    assert!(rows.count() > 5, "{preview}");
    assert!(preview.contains("steps-0001.png"));
    assert!(!shown("--no-preview").contains('▄'));
    assert!(!shown("--json").contains('▄'));
}
