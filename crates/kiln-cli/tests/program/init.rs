//! `kiln init`, on small folders of images.

use std::fs;

use image::{GrayImage, Luma, Rgb, RgbImage};
use serde_json::Value;

use crate::Workplace;

/// Few steps, and small pictures: the trainings of what was written shall end.
const SHORT: &str = "--set sampling.steps=2 --set sampling.count=4 --set stage_2.training.steps=2";

/// Gray images of `side` pixels in a folder per class, `count` each, stored as RGB like many scans.
fn gray_classes(workplace: &Workplace, side: u32, count: u8) {
    for class in ["cat", "dog"] {
        let folder = workplace.path("gray").join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in 0..count {
            let pixel = |x: u32, y: u32| (x * 7 + y * 3) as u8 ^ number;
            let image = RgbImage::from_fn(side, side, |x, y| Rgb([pixel(x, y); 3]));
            image.save(folder.join(format!("{number:02}.png"))).unwrap();
        }
    }
}

/// Images in colour, wider than high.
fn colours(workplace: &Workplace, count: u8) {
    fs::create_dir_all(workplace.path("my photos")).unwrap();
    for number in 0..count {
        let image = RgbImage::from_fn(60, 40, |x, y| Rgb([x as u8 * 4, y as u8 * 6, number * 9]));
        let path = workplace.path(&format!("my photos/{number:02}.jpg"));
        image.save(path).unwrap();
    }
}

/// Runs a command that kiln printed, with more arguments, and without the `kiln` in front.
fn run_printed(workplace: &Workplace, command: &Value, more: &str) {
    let command = command.as_str().unwrap().strip_prefix("kiln ").unwrap();
    let output = workplace.run(&format!("{command} {more}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {more}: {stderr}");
}

#[test]
fn gray_class_folders_become_a_pixel_model_with_classes_that_trains() {
    let workplace = Workplace::new();
    gray_classes(&workplace, 14, 20);
    let outcome = workplace.json("init gray --json");
    assert_eq!(outcome["kind"], "diffusion");
    assert_eq!(
        (&outcome["size"], &outcome["channels"]),
        (&16.into(), &1.into())
    );
    let classes = &outcome["images"]["classes"];
    assert_eq!(classes, &serde_json::json!(["cat", "dog"]));
    assert_eq!(outcome["images"]["train"], 36);
    assert!(outcome["stages"][0]["seconds"].as_f64().unwrap() > 0.0);

    let text = fs::read_to_string(workplace.path("gray.toml")).unwrap();
    for part in [
        "dataset = \"folder\"",
        "path = \"gray\"",
        "size = 16",
        "channels = 1",
        "horizontal_flip = false",
        "num_class_embeds = 3",
        "label_dropout = 0.1",
        "dropout = 0.1",
        "batch_size = 32",
        "# 2 classes (cat, dog), and one more",
        "measured: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let commands = outcome["commands"].as_array().unwrap();
    assert_eq!(commands.len(), 3);
    assert_eq!(commands[0], "kiln check gray.toml");
    run_printed(&workplace, &commands[0], "--quick");
    run_printed(&workplace, &commands[1], SHORT);
    run_printed(&workplace, &commands[2], "--count 2 --steps 2");

    // The file stays, unless it may go.
    let sentence = workplace.fail("init gray");
    assert!(sentence.contains("gray.toml exists already"), "{sentence}");
    assert!(sentence.contains("--force"), "{sentence}");
    assert_eq!(
        fs::read_to_string(workplace.path("gray.toml")).unwrap(),
        text
    );
    fs::write(workplace.path("gray.toml"), "mine").unwrap();
    let latent = workplace.run("init gray --size 32 --space latent --force");
    let stderr = String::from_utf8_lossy(&latent.stderr);
    assert!(latent.status.success(), "{stderr}");
    let text = fs::read_to_string(workplace.path("gray.toml")).unwrap();
    assert!(text.contains("[autoencoder_kl]"), "{text}");
    assert!(
        text.contains("`kiln init gray --space latent --size 32`"),
        "{text}"
    );
    let stdout = String::from_utf8_lossy(&latent.stdout);
    assert!(
        stdout.contains("kiln train-vqvae --config gray.toml"),
        "{stdout}"
    );
    run_printed(
        &workplace,
        &"kiln train-vqvae --config gray.toml --out two".into(),
        "--set stage_1.training.steps=2",
    );
    let second = "kiln train-latent-diffusion --config gray.toml --out two".into();
    run_printed(&workplace, &second, SHORT);
}

#[test]
fn a_folder_in_colour_is_known_and_its_name_is_written_as_a_shell_reads_it() {
    let workplace = Workplace::new();
    colours(&workplace, 24);
    let mut command = crate::program(&workplace.path(""), "init --size 16 --json");
    let output = command.arg("my photos").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&outcome["channels"], &outcome["config"]),
        (&3.into(), &"my-photos.toml".into())
    );
    let text = fs::read_to_string(workplace.path("my-photos.toml")).unwrap();
    for part in [
        "`kiln init 'my photos' --size 16`",
        "path = \"my photos\"",
        "horizontal_flip = true",
        "with sides of 40 to 60 pixels",
        "no classes",
        "batch_size = 16",
        "there are only 22",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("num_class_embeds"), "{text}");
}

#[test]
fn what_cannot_be_trained_on_is_one_sentence_and_no_file() {
    let workplace = Workplace::new();
    fs::create_dir(workplace.path("empty")).unwrap();
    fs::create_dir(workplace.path("texts")).unwrap();
    fs::write(workplace.path("texts/notes.txt"), "no image").unwrap();
    fs::create_dir(workplace.path("one")).unwrap();
    let square = GrayImage::from_pixel(9, 9, Luma([7]));
    square.save(workplace.path("one/a.png")).unwrap();
    fs::create_dir(workplace.path("torn")).unwrap();
    gray_classes(&workplace, 9, 4);
    for number in 0..4 {
        let source = workplace.path(&format!("gray/cat/{number:02}.png"));
        fs::copy(source, workplace.path(&format!("torn/{number}.png"))).unwrap();
    }
    let png = fs::read(workplace.path("torn/0.png")).unwrap();
    fs::write(workplace.path("torn/damaged.png"), &png[..40]).unwrap();
    fs::create_dir(workplace.path("broken")).unwrap();
    for name in ["a.png", "b.png"] {
        fs::write(workplace.path("broken").join(name), &png[..40]).unwrap();
    }
    fs::create_dir(workplace.path("dots")).unwrap();
    for name in ["a.png", "b.png", "c.png"] {
        let dot = GrayImage::from_pixel(1, 1, Luma([7]));
        dot.save(workplace.path("dots").join(name)).unwrap();
    }
    for (arguments, words) in [
        ("nowhere", "there is nothing at nowhere: name the path"),
        ("empty", "no usable image"),
        ("texts", "1 not an image (notes.txt)"),
        ("one", "one usable image"),
        ("dots", "1 pixel wide or high"),
        ("gray --data gray", "leave out --data"),
        ("cifar-10", "pass --data PATH"),
        ("gray --out nowhere/a.toml", "there is no folder nowhere"),
        ("gray --out gray", "gray is a folder"),
        (
            "gray --size 40 --space latent",
            "--size that is a multiple of 16",
        ),
        ("gray --devices tpu", "tpu"),
    ] {
        let sentence = workplace.fail(&format!("init {arguments}"));
        assert!(sentence.contains(words), "{arguments}: {sentence}");
    }
    for (folder, words) in [("torn", "1 of 5 images"), ("broken", "2 of 2 images")] {
        let output = workplace.run(&format!("init {folder}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let (warnings, sentence) = stderr.split_once("error: ").unwrap();
        let sentence = sentence.strip_prefix(words).unwrap_or_default();
        assert!(sentence.starts_with(" could not be decoded"), "{stderr}");
        // Each damaged file is named once.
        let count: usize = words[..1].parse().unwrap();
        assert_eq!(warnings.lines().count(), count);
    }
    for value in ["7", "257", "large", "-8"] {
        let message = workplace.refuse(&format!("init gray --size {value}"));
        assert!(message.contains("from 8 to 256"), "{message}");
    }
    let written = fs::read_dir(workplace.path("")).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().contains("toml") || name.to_string_lossy().contains("partial")
    });
    assert!(!written);
}
