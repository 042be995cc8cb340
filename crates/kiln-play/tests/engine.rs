//! The engine, asked as a page asks it, with the digits model of the repository.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_data::{ImageDataset, ImageShape};
use kiln_pipeline::pictures::Images;
use kiln_pipeline::{Pipeline, Precision, SampleOptions};
use kiln_play::protocol::{
    Answer, Answered, Ask, Drawing, ModelName, Question, RunFacts, Sheet, Watch, from_message,
    to_message,
};
use kiln_play::{Engine, Listener, Shelf};

/// The digits, and a folder without a model.
struct Repository;

const DIGITS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../pretrained/mnist-many-steps"
);

impl Shelf for Repository {
    fn models(&self) -> Vec<ModelName> {
        vec![ModelName {
            model: "digits".to_owned(),
            title: "Digits".to_owned(),
        }]
    }

    fn load(&self, model: &str, device: &Device) -> Option<Result<Pipeline, String>> {
        let folder = match model {
            "digits" => Path::new(DIGITS),
            "nothing" => Path::new(env!("CARGO_MANIFEST_DIR")),
            _ => return None,
        };
        Some(Pipeline::load(folder, device).map_err(|error| error.to_string()))
    }

    /// Three gray images.
    fn training_images(&self, _: &str, shape: ImageShape) -> Result<ImageDataset, String> {
        let pixels = [200, 20, 100].map(|gray| vec![gray; shape.height * shape.width]);
        let images = ImageDataset::from_pixels("grays", shape, pixels.concat(), None);
        images.map_err(|error| error.to_string())
    }
}

fn engine() -> Engine<Repository> {
    Engine::new(Repository, Device::flex())
}

/// All answers to a question, with the bytes behind them. The last one, which must be `Done`, is left out.
fn asked(engine: &Engine<impl Shelf>, ask: Ask, bytes: &[u8]) -> VecDeque<(Answer, Vec<u8>)> {
    let mut answers = all_answers(engine, ask, bytes);
    let last = answers.pop_back().map(|(answer, _)| answer);
    assert_eq!(last, Some(Answer::Done), "{answers:?}");
    answers
}

fn all_answers(engine: &Engine<impl Shelf>, ask: Ask, bytes: &[u8]) -> VecDeque<(Answer, Vec<u8>)> {
    let question = to_message(&Question { id: 3, ask }, bytes).unwrap();
    let mut answers = VecDeque::new();
    let mut send = |message: Vec<u8>| {
        let (Answered { id, answer }, bytes) = from_message(&message).unwrap();
        assert_eq!(id, 3);
        answers.push_back((answer, bytes.to_vec()));
        true
    };
    engine.answer(&question, &mut send).unwrap();
    answers
}

fn refused(ask: Ask, bytes: &[u8]) -> String {
    let mut answers = all_answers(&engine(), ask, bytes);
    match answers.pop_back() {
        Some((Answer::Refused { sentence }, _)) => sentence,
        answer => panic!("{answer:?}"),
    }
}

fn digits() -> String {
    "digits".to_owned()
}

fn few(steps: u32, count: u32) -> Drawing {
    Drawing {
        seed: 5,
        steps: Some(steps),
        count: Some(count),
        ..Drawing::default()
    }
}

/// The pixels of a sheet, gray.
fn pixels(sheet: &Sheet, bytes: &[u8]) -> Vec<u8> {
    let len = (sheet.count * sheet.width * sheet.height) as usize * 4;
    let bytes = &bytes[sheet.at as usize..sheet.at as usize + len];
    bytes.iter().step_by(4).copied().collect()
}

fn pixels_of(images: &Images) -> Vec<u8> {
    let to_byte = |value: &f32| ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    images.values().iter().map(to_byte).collect()
}

/// A digit behind a question.
const DIGIT: Sheet = Sheet {
    at: 0,
    count: 1,
    width: 28,
    height: 28,
};

/// Gray images as a question has them.
fn rgba(images: &Images) -> Vec<u8> {
    let pixels = pixels_of(images).into_iter();
    pixels.flat_map(|gray| [gray, gray, gray, 255]).collect()
}

/// What the native program draws.
fn drawn(steps: usize, count: usize) -> Images {
    let pipeline = Pipeline::load(Path::new(DIGITS), &Device::flex()).unwrap();
    let options = SampleOptions {
        steps,
        count,
        seed: 5,
        precision: Precision::F32,
        ..pipeline.default_options()
    };
    pipeline.sample(&options).unwrap()
}

#[test]
fn the_page_draws_what_the_program_draws_and_sees_the_steps() {
    for (watch, moments) in [(Watch::Nothing, 1), (Watch::Noisy, 4), (Watch::Clean, 4)] {
        let ask = Ask::Draw {
            model: digits(),
            drawing: few(3, 2),
            watch,
        };
        let answers = asked(&engine(), ask, &[]);
        assert_eq!(answers.len(), moments, "{watch:?}");
        for (place, (answer, bytes)) in (4 - moments as u32..).zip(&answers) {
            let Answer::Moment {
                step,
                steps,
                first,
                images,
                ..
            } = answer
            else {
                panic!("{answer:?}");
            };
            assert_eq!((*step, *steps, *first), (place, 3, 0));
            assert_eq!((images.count, images.width, images.height), (2, 28, 28));
            assert_eq!(bytes.len(), 2 * 28 * 28 * 4);
            if step == steps {
                assert_eq!(pixels(images, bytes), pixels_of(&drawn(3, 2)));
            }
        }
    }
}

#[test]
fn parts_of_a_drawing_make_the_whole() {
    let engine = engine();
    let draw = |first, count| {
        let drawing = Drawing {
            first: Some(first),
            ..few(2, count)
        };
        let ask = Ask::Draw {
            model: digits(),
            drawing,
            watch: Watch::Nothing,
        };
        match asked(&engine, ask, &[]).pop_front() {
            Some((Answer::Moment { images, .. }, bytes)) => pixels(&images, &bytes),
            answer => panic!("{answer:?}"),
        }
    };
    let whole = draw(0, 5);
    assert_eq!(whole, pixels_of(&drawn(2, 5)));
    assert_eq!(whole, [draw(0, 2), draw(2, 3)].concat());
}

#[test]
fn the_nearest_training_images_are_told() {
    let digit = drawn(2, 1);
    let ask = |count| Ask::Nearest {
        model: digits(),
        given: DIGIT,
        count,
    };
    let mut answers = asked(&engine(), ask(2), &rgba(&digit));
    let Some((
        Answer::Nearest {
            images,
            distances,
            of,
            data,
        },
        bytes,
    )) = answers.pop_front()
    else {
        panic!("{answers:?}");
    };
    assert_eq!((images.count, of, &*data), (2, 3, "grays"));
    // Digits are dark.
    assert_eq!(pixels(&images, &bytes)[0], 20);
    assert!(0.0 < distances[0] && distances[0] < distances[1]);
    for (count, word) in [(0, "1 to 64"), (65, "1 to 64")] {
        assert!(refused(ask(count), &rgba(&digit)).contains(word));
    }
}

#[test]
fn a_page_that_leaves_ends_the_drawing() {
    let ask = Ask::Draw {
        model: digits(),
        drawing: few(50, 4),
        watch: Watch::Clean,
    };
    let question = to_message(&Question { id: 1, ask }, &[]).unwrap();
    let mut messages = 0;
    let mut send = |_| {
        messages += 1;
        messages < 2
    };
    engine().answer(&question, &mut send).unwrap();
    assert_eq!(messages, 2);
}

/// A page that has left, which no message has reached yet.
struct Left;

impl Listener for Left {
    fn hear(&mut self, message: Vec<u8>) -> bool {
        panic!("told to nobody: {:?}", from_message::<Answered>(&message));
    }

    fn is_there(&self) -> bool {
        false
    }
}

#[test]
fn work_ends_with_its_next_step_when_the_page_leaves() {
    let engine = engine();
    // Each of them would take minutes.
    let drawing = few(1000, 64);
    let (model, class) = (digits(), None);
    let digit = rgba(&drawn(1, 1));
    for (ask, bytes) in [
        (
            Ask::Draw {
                model: model.clone(),
                drawing: drawing.clone(),
                watch: Watch::Nothing,
            },
            Vec::new(),
        ),
        (
            Ask::Inpaint {
                model: model.clone(),
                drawing: drawing.clone(),
                given: DIGIT,
            },
            [digit.clone(), digit.clone()].concat(),
        ),
        (
            Ask::Invert {
                model: model.clone(),
                drawing: drawing.clone(),
                given: DIGIT,
                refinements: 16,
            },
            digit.clone(),
        ),
        (
            Ask::Between {
                model: model.clone(),
                drawing,
                corners: [1, 2, 3, 4],
                places: vec![[0.5; 2]; 256],
            },
            Vec::new(),
        ),
        (
            Ask::Push {
                model: model.clone(),
                drawing: few(200, 1),
                image: 0,
                class,
            },
            Vec::new(),
        ),
        (
            Ask::Losses {
                model,
                given: DIGIT,
                classes: Vec::new(),
                levels: 100,
            },
            digit,
        ),
    ] {
        let question = to_message(&Question { id: 1, ask }, &bytes).unwrap();
        engine.answer(&question, &mut Left).unwrap();
    }
}

#[test]
fn a_walk_ends_in_the_image_and_guidance_pushes() {
    let engine = engine();
    let drawing = few(4, 1);
    let ask = Ask::Walk {
        model: digits(),
        drawing: drawing.clone(),
        image: 1,
        class: None,
    };
    let (answer, bytes) = asked(&engine, ask, &[]).pop_front().unwrap();
    let Answer::Walk {
        levels,
        noisy,
        clean,
        noisy_latents,
        clean_latents,
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(levels.len(), 5);
    assert!(levels[0].noise_rate > 0.99 && levels[4].noise_rate == 0.0);
    let (noisy_latents, clean_latents) = (noisy_latents.unwrap(), clean_latents.unwrap());
    for sheet in [&noisy, &clean] {
        assert_eq!((sheet.count, sheet.width, sheet.height), (5, 28, 28));
    }
    for sheet in [&noisy_latents, &clean_latents] {
        assert_eq!((sheet.count, sheet.width, sheet.height), (5, 4 * 8, 8));
    }
    let image = pixels_of(&drawn(4, 2));
    assert_eq!(pixels(&noisy, &bytes)[4 * 784..], image[784..]);
    assert_eq!(pixels(&clean, &bytes)[4 * 784..], image[784..]);
    assert_ne!(pixels(&noisy, &bytes)[..784], pixels(&clean, &bytes)[..784]);

    for (guidance, pushes) in [(1.0, false), (3.0, true)] {
        let ask = Ask::Push {
            model: digits(),
            drawing: Drawing {
                guidance: Some(guidance),
                ..drawing.clone()
            },
            image: 1,
            class: None,
        };
        let mut answers = all_answers(&engine, ask, &[]);
        let Some((Answer::Push { push, levels, .. }, bytes)) = answers.pop_front() else {
            // A model without a guide cannot be pushed.
            assert!(guidance > 1.0);
            continue;
        };
        assert_eq!((levels.len(), push.count), (4, 4));
        let is_gray = pixels(&push, &bytes).iter().all(|&pixel| pixel == 128);
        assert_eq!(is_gray, !pushes, "{guidance}");
    }
}

#[test]
fn codes_say_what_the_first_stage_keeps() {
    let engine = engine();
    let bytes = rgba(&drawn(10, 1));
    let model = digits();
    let ask = Ask::Encode {
        model,
        given: DIGIT,
    };
    let (answer, encoded) = asked(&engine, ask, &bytes).pop_front().unwrap();
    let Answer::Encoded {
        latents,
        codes,
        colours,
        codebook,
        reconstruction,
        psnr,
        ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!((latents.width, latents.height), (32, 8));
    assert_eq!((codes.len(), codebook), (64, 512));
    assert_eq!(
        colours.map(|sheet| (sheet.width, sheet.height)),
        Some((64, 8))
    );
    assert!(psnr > 20.0, "{psnr}");

    let decoded = |codes: Vec<u32>| {
        let model = digits();
        asked(&engine, Ask::DecodeCodes { model, codes }, &[])
            .pop_front()
            .unwrap()
    };
    let (Answer::Pictures { images }, back) = decoded(codes.clone()) else {
        panic!()
    };
    assert_eq!(pixels(&images, &back), pixels(&reconstruction, &encoded));
    let mut others = codes.clone();
    others[30] = (others[30] + 100) % 512;
    let (Answer::Pictures { images }, changed) = decoded(others) else {
        panic!()
    };
    assert_ne!(pixels(&images, &changed), pixels(&reconstruction, &encoded));

    for (codes, words) in [
        (vec![512; 64], "no code 512: the codebook has 0 to 511"),
        (vec![0; 63], "takes 64"),
    ] {
        let model = digits();
        let sentence = refused(Ask::DecodeCodes { model, codes }, &[]);
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
fn pictures_are_drawn_again_filled_in_and_between() {
    let engine = engine();
    let bytes = rgba(&drawn(5, 1));
    let ask = Ask::Redraw {
        model: digits(),
        drawing: few(4, 3),
        watch: Watch::Nothing,
        given: DIGIT,
        strength: 0.5,
    };
    let (answer, _) = asked(&engine, ask, &bytes).pop_front().unwrap();
    assert!(
        matches!(answer, Answer::Moment { step: 2, steps: 2, images, .. } if images.count == 3)
    );

    // The lower half is a hole.
    let hole = (0..28 * 28).flat_map(|pixel| [if pixel < 14 * 28 { 0 } else { 255 }; 4]);
    let both: Vec<u8> = bytes.iter().copied().chain(hole).collect();
    let ask = Ask::Inpaint {
        model: digits(),
        drawing: few(4, 2),
        given: DIGIT,
    };
    let (answer, filled) = asked(&engine, ask, &both).pop_front().unwrap();
    let Answer::Pictures { images } = answer else {
        panic!("{answer:?}")
    };
    let filled = pixels(&images, &filled);
    let original: Vec<u8> = bytes.iter().step_by(4).copied().collect();
    for image in filled.chunks(784) {
        assert_eq!(image[..14 * 28], original[..14 * 28]);
        assert_ne!(image[14 * 28..], original[14 * 28..]);
    }

    let ask = Ask::Between {
        model: digits(),
        drawing: few(3, 1),
        corners: [5, 6, 7, 8],
        places: [[0.0, 0.0], [0.5, 0.0], [1.0, 1.0], [0.5, 0.5]].to_vec(),
    };
    let (answer, grid) = asked(&engine, ask, &[]).pop_front().unwrap();
    let Answer::Pictures { images } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(images.count, 4);
    let grid = pixels(&images, &grid);
    assert_eq!(grid[..784], pixels_of(&drawn(3, 1)));
    assert_ne!(grid[..784], grid[784..2 * 784]);
}

#[test]
fn a_picture_goes_back_to_its_noise() {
    let original = drawn(20, 1);
    let ask = Ask::Invert {
        model: digits(),
        drawing: few(20, 1),
        given: DIGIT,
        refinements: 3,
    };
    let (answer, bytes) = asked(&engine(), ask, &rgba(&original)).pop_front().unwrap();
    let Answer::Inverted {
        noise,
        deviation,
        again,
        psnr,
        psnr_of_first_stage,
    } = answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!((noise.width, noise.height), (32, 8));
    assert!((deviation - 1.0).abs() < 0.3, "{deviation}");
    let without_diffusion = psnr_of_first_stage.unwrap();
    assert!(
        psnr > without_diffusion - 6.0,
        "{psnr} of {without_diffusion} dB"
    );
    let squares = pixels(&again, &bytes).into_iter().zip(pixels_of(&original));
    let squares = squares.map(|(one, other)| (f64::from(one) - f64::from(other)).powi(2));
    let own = 10.0 * (255.0_f64.powi(2) / (squares.sum::<f64>() / 784.0)).log10();
    // These pixels have 8 bits.
    assert!((psnr - own).abs() < 0.5, "{psnr} and {own} dB");
}

/// A disk with one run.
struct Training;

impl Shelf for Training {
    fn models(&self) -> Vec<ModelName> {
        Vec::new()
    }

    fn load(&self, _: &str, _: &Device) -> Option<Result<Pipeline, String>> {
        None
    }

    fn run(&self, run: &str) -> Option<Result<RunFacts, String>> {
        let facts = RunFacts {
            run: run.to_owned(),
            config: String::new(),
            stages: Vec::new(),
        };
        (run == "one").then_some(Ok(facts))
    }

    fn run_picture(&self, _: &str, _: &str, step: u32) -> Option<Result<Vec<u8>, String>> {
        Some(match step {
            10 => Ok(vec![1, 2, 3]),
            _ => Err("no picture".to_owned()),
        })
    }
}

#[test]
fn a_training_is_followed_until_the_page_leaves() {
    let engine = Engine::new(Training, Device::flex());
    let told = |ask: Ask, stay: usize| {
        let question = to_message(&Question { id: 1, ask }, &[]).unwrap();
        let mut answers = Vec::new();
        let mut send = |message: Vec<u8>| {
            let (Answered { answer, .. }, bytes) = from_message(&message).unwrap();
            answers.push((answer, bytes.to_vec()));
            answers.len() < stay
        };
        engine.answer(&question, &mut send).unwrap();
        answers
    };
    let run = "one".to_owned();
    let seen = told(Ask::Run { run: run.clone() }, 2);
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|(answer, _)| matches!(answer, Answer::Run(_)))
    );

    let stage = "stage 2".to_owned();
    let picture = |step| Ask::RunPicture {
        run: run.clone(),
        stage: stage.clone(),
        step,
    };
    let [(file, bytes), _] = &told(picture(10), 9)[..] else {
        panic!("a file and an end")
    };
    assert!(matches!(file, Answer::File { kind } if kind == "image/png"));
    assert_eq!(bytes, &[1, 2, 3]);
    for ask in [
        picture(11),
        Ask::Run {
            run: "two".to_owned(),
        },
        Ask::Examine { run: run.clone() },
    ] {
        let answers = told(ask, 9);
        assert!(matches!(&answers[..], [(Answer::Refused { .. }, _)]));
    }
}

#[test]
fn schedules_noise_and_losses_are_told() {
    let engine = engine();
    let ask = Ask::Schedule {
        schedule: serde_json::from_str(r#"{ "kind": "cosine" }"#).unwrap(),
        steps: 4,
        spacing: serde_json::from_str("\"trailing\"").unwrap(),
    };
    let (answer, _) = asked(&engine, ask, &[]).pop_front().unwrap();
    let Answer::Schedule {
        curve,
        visited,
        warning,
    } = answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!((curve.len(), visited.len(), warning), (201, 5, None));
    assert_eq!(visited[0].timestep, 999.0);

    // The kinds that the page offers need no settings.
    let page = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../web/src/views/schedule.tsx"
    );
    let page = std::fs::read_to_string(page).unwrap();
    let kinds = page.split("const KINDS = [").nth(1).unwrap();
    let kinds: Vec<&str> = kinds
        .split(']')
        .next()
        .unwrap()
        .split('"')
        .skip(1)
        .step_by(2)
        .collect();
    assert!(kinds.contains(&"cosine") && kinds.len() > 10, "{kinds:?}");
    for kind in kinds {
        let ask = Ask::Schedule {
            schedule: serde_json::from_str(&format!("{{ \"kind\": \"{kind}\" }}")).unwrap(),
            steps: 10,
            spacing: serde_json::from_str("\"trailing\"").unwrap(),
        };
        assert_eq!(asked(&engine, ask, &[]).len(), 1, "{kind}");
    }

    let gray = [128, 128, 128, 255].repeat(784);
    let noised = |noise_rate: f64| {
        let ask = Ask::Noised {
            given: DIGIT,
            signal_rate: 1.0,
            noise_rate,
            seed: 1,
        };
        asked(&engine, ask, &gray).pop_front().unwrap().1
    };
    assert_eq!(noised(0.0), gray);
    assert_ne!(noised(0.5), gray);
    let is_gray = |pixel: &[u8]| pixel[0] == pixel[1] && pixel[1] == pixel[2];
    assert!(noised(0.5).chunks_exact(4).all(is_gray));

    let ask = Ask::Losses {
        model: digits(),
        given: DIGIT,
        classes: Vec::new(),
        levels: 5,
    };
    let bytes = rgba(&drawn(10, 1));
    let (answer, _) = asked(&engine, ask, &bytes).pop_front().unwrap();
    let Answer::Losses {
        levels,
        noise,
        signal,
    } = answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!([levels.len(), noise.len(), signal.len()], [5; 3]);
    // Noise is easy to see where there is much of it, and the image where there is little.
    assert!(
        noise[0] > noise[4] && signal[0] < signal[4],
        "{noise:?} {signal:?}"
    );
}

#[test]
fn what_cannot_be_is_refused_in_a_sentence() {
    let draw = |model: &str, drawing: Drawing| Ask::Draw {
        model: model.to_owned(),
        drawing,
        watch: Watch::Nothing,
    };
    for (ask, words) in [
        (draw("nowhere", few(1, 1)), "no model `nowhere`"),
        (draw("nothing", few(1, 1)), "model_index.json"),
        (draw("digits", few(0, 1)), "steps"),
        (draw("digits", few(1, 1_000_000)), "1000000 images"),
        (
            draw(
                "digits",
                Drawing {
                    classes: Some(vec![3]),
                    ..few(1, 1)
                },
            ),
            "class",
        ),
        (
            Ask::Encode {
                model: digits(),
                given: DIGIT,
            },
            "not behind it",
        ),
        (
            Ask::Encode {
                model: digits(),
                given: Sheet { width: 5, ..DIGIT },
            },
            "takes 28x28",
        ),
        (
            Ask::Between {
                model: digits(),
                drawing: few(1, 1),
                corners: [0; 4],
                places: vec![[0.5, 1.5]],
            },
            "from 0 to 1",
        ),
    ] {
        let sentence = refused(ask.clone(), &[]);
        assert!(sentence.contains(words), "{ask:?}: {sentence}");
    }
    let no_question = engine().answer(b"hello", &mut |_| true);
    assert!(no_question.is_err());
}

/// One folder.
struct Folder(PathBuf);

impl Shelf for Folder {
    fn models(&self) -> Vec<ModelName> {
        Vec::new()
    }

    fn load(&self, _: &str, device: &Device) -> Option<Result<Pipeline, String>> {
        Some(Pipeline::load(&self.0, device).map_err(|error| error.to_string()))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

#[test]
#[cfg(unix)]
fn a_model_that_changes_in_its_place_is_loaded_again() {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("digits");
    copy(Path::new(DIGITS), &folder);
    let engine = Engine::new(Folder(folder.clone()), Device::flex());
    let model = "digits".to_owned();
    asked(
        &engine,
        Ask::Model {
            model: model.clone(),
        },
        &[],
    );

    // As `cp` does it: the file stays, and has other contents.
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    let mut contents = fs::read(&weights).unwrap();
    let numbers = contents.len() / 2;
    contents[numbers..].fill(0);
    fs::write(&weights, &contents).unwrap();
    let draw = Ask::Draw {
        model,
        drawing: few(2, 1),
        watch: Watch::Nothing,
    };
    let answers = all_answers(&engine, draw.clone(), &[]);
    let Some((Answer::Refused { sentence }, _)) = answers.back() else {
        panic!("{answers:?}")
    };
    let words = [
        "the model cannot be used any more",
        "not what it was",
        "ask again",
    ];
    assert!(
        words.iter().all(|words| sentence.contains(words)),
        "{sentence}"
    );
    asked(&engine, draw, &[]);
}
