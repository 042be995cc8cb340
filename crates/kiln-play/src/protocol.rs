//! What the page asks, and what it is told.
//!
//! Both go as messages of one form: the length of the JSON in bytes (u32, little-endian), the JSON, and then the pictures
//! that it speaks of, 4 bytes a pixel (red, green, blue, opacity), which a canvas takes as they are. One question has one
//! or more answers with its `id`; the last one is [`Answer::Done`] or [`Answer::Refused`].
//!
//! A test writes these types as TypeScript to `web/src/protocol/`.

use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{ScheduleConfig, Spacing};
use serde::{Deserialize, Serialize};

/// A question with its number, which the answers repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Question {
    /// Chosen by the page.
    pub id: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What the page asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Ask {
    /// The models in reach: one [`Answer::Models`].
    Models,
    /// The runs in reach: one [`Answer::Runs`].
    Runs,
    /// How a training goes: an [`Answer::Run`] every two seconds, until the page leaves.
    Run {
        /// One of the names in [`Answer::Runs`].
        run: String,
    },
    /// A picture of a training: one [`Answer::File`].
    RunPicture {
        /// The run.
        run: String,
        /// The name of the stage.
        stage: String,
        /// After so many training steps.
        step: u32,
    },
    /// What is wrong with a run, if anything is: one [`Answer::Findings`].
    Examine {
        /// The run.
        run: String,
    },
    /// What a model is: one [`Answer::Model`].
    Model {
        /// One of the names in [`Answer::Models`].
        model: String,
    },
    /// Images, as they are denoised: an [`Answer::Moment`] for each step that is shown.
    Draw {
        /// The model that draws.
        model: String,
        /// How.
        drawing: Drawing,
        /// What to show of the steps before the last one.
        watch: Watch,
    },
    /// The whole walk of one image from noise: one [`Answer::Walk`].
    Walk {
        /// The model that draws.
        model: String,
        /// How; its `count` and `classes` do not matter.
        drawing: Drawing,
        /// The number of the image under the seed.
        image: u32,
        /// Its class.
        class: Option<u32>,
    },
    /// The curve of a schedule, and the levels that a drawing visits: one [`Answer::Schedule`].
    Schedule {
        /// The schedule, as in a config's `[schedule]`.
        #[cfg_attr(test, ts(type = "Record<string, unknown>"))]
        schedule: ScheduleConfig,
        /// The number of steps.
        steps: u32,
        /// Which timesteps they visit.
        #[cfg_attr(test, ts(type = "string"))]
        spacing: Spacing,
    },
    /// The picture behind the question with noise on it: one [`Answer::Pictures`] with one picture.
    Noised {
        /// Of the picture behind the question.
        given: Sheet,
        /// The share of the image, from 0 to 1.
        signal_rate: f64,
        /// The amount of noise, from 0 to 1.
        noise_rate: f64,
        /// Of the noise.
        seed: u32,
    },
    /// The way of the picture behind the question through the first stage: one [`Answer::Encoded`].
    Encode {
        /// The model whose first stage it is.
        model: String,
        /// Of the picture behind the question.
        given: Sheet,
    },
    /// What the decoder makes of codes: one [`Answer::Pictures`] with one picture.
    DecodeCodes {
        /// The model whose first stage it is.
        model: String,
        /// As in [`Answer::Encoded`].
        codes: Vec<u32>,
    },
    /// The picture behind the question, drawn again: image to image. As [`Ask::Draw`].
    Redraw {
        /// The model that draws.
        model: String,
        /// How.
        drawing: Drawing,
        /// What to show of the steps before the last one.
        watch: Watch,
        /// Of the picture behind the question.
        given: Sheet,
        /// How much of the walk is done again, from 0 to 1.
        strength: f64,
    },
    /// A hole in a picture, filled in. Behind the question lie the picture and its mask, which is white where it is filled
    /// in. As [`Ask::Draw`], without the steps.
    Inpaint {
        /// The model that draws.
        model: String,
        /// How.
        drawing: Drawing,
        /// Of the two pictures behind the question.
        given: Sheet,
    },
    /// The noise from which DDIM draws the picture behind the question: one [`Answer::Inverted`].
    Invert {
        /// The model that draws.
        model: String,
        /// How; without guidance unless it has some, because few images come back from a guided walk.
        drawing: Drawing,
        /// Of the picture behind the question.
        given: Sheet,
        /// How often each step is mended, from 0 to 16.
        refinements: u32,
    },
    /// Images between four noises: one [`Answer::Pictures`].
    Between {
        /// The model that draws.
        model: String,
        /// How; its `seed` and `count` do not matter.
        drawing: Drawing,
        /// The seeds of the noises at the corners: top left, top right, bottom left, bottom right.
        corners: [u32; 4],
        /// Where the images are: how far across and how far down, from 0 to 1.
        places: Vec<[f64; 2]>,
    },
    /// How the guidance changes what the network sees: one [`Answer::Push`].
    Push {
        /// The model that draws.
        model: String,
        /// How.
        drawing: Drawing,
        /// The number of the image under the seed.
        image: u32,
        /// Its class.
        class: Option<u32>,
    },
    /// The errors of the network at levels of noise: one [`Answer::Losses`].
    Losses {
        /// The model.
        model: String,
        /// Of the pictures behind the question.
        given: Sheet,
        /// The class of each picture, for a model with classes.
        classes: Vec<u32>,
        /// How many levels, evenly over the timesteps.
        levels: u32,
    },
    /// The training images that are nearest to a picture: one [`Answer::Nearest`].
    Nearest {
        /// The model that was trained on them.
        model: String,
        /// Of the picture behind the question.
        given: Sheet,
        /// How many.
        count: u32,
    },
}

/// How to draw. What is absent is as the model says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[cfg_attr(test, ts(optional_fields))]
#[serde(default, deny_unknown_fields)]
pub struct Drawing {
    /// The seed of the noise.
    pub seed: u32,
    /// The number of images, of each class where there are classes.
    pub count: Option<u32>,
    /// The number of the first image under the seed, if not 0.
    pub first: Option<u32>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// The sampler with its settings, as in a config's `sampling.sampler`.
    #[cfg_attr(
        test,
        ts(type = "{ kind: string } & Record<string, unknown>", optional)
    )]
    pub sampler: Option<Sampler>,
    /// Which timesteps are visited.
    #[cfg_attr(test, ts(type = "string", optional))]
    pub spacing: Option<Spacing>,
    /// The scale of the guidance: 1 is none.
    pub guidance: Option<f64>,
    /// The noise rates with guidance.
    pub guidance_interval: Option<[f64; 2]>,
    /// The classes to draw, by number.
    pub classes: Option<Vec<u32>>,
}

/// What to show of a drawing's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// Nothing but the images in the end.
    Nothing,
    /// The images with the noise that they still have.
    Noisy,
    /// The clean images that the network sees in them.
    Clean,
}

/// Pictures of one size, one after the other in the bytes behind a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// Where the first picture begins, in bytes.
    pub at: u32,
    /// How many there are.
    pub count: u32,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

/// An answer with the number of its question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Answered {
    /// That of the question.
    pub id: u32,
    /// What is told.
    pub answer: Answer,
}

/// What the page is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "what", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Answer {
    /// The models in reach.
    Models {
        /// The best one to begin with comes first.
        models: Vec<ModelName>,
    },
    /// The runs in reach.
    Runs {
        /// The best one to begin with comes first.
        runs: Vec<RunName>,
    },
    /// How a training goes.
    Run(RunFacts),
    /// The bytes behind the answer are a file.
    File {
        /// As in `image/png`.
        kind: String,
    },
    /// What is wrong with a run.
    Findings {
        /// Nothing, or some sentences: what is wrong, and what to do.
        findings: Vec<[String; 2]>,
    },
    /// What a model is.
    Model(Box<ModelFacts>),
    /// Images after a step.
    Moment {
        /// Steps done.
        step: u32,
        /// All steps.
        steps: u32,
        /// How often all these steps call a network, with the calls of a guide.
        calls: u32,
        /// The number of the first of these images among all of the drawing.
        first: u32,
        /// The images.
        images: Sheet,
    },
    /// The walk of one image.
    Walk {
        /// The levels from noise on, one more than steps; the last one has no noise.
        levels: Vec<LevelAt>,
        /// The noisy image at each level.
        noisy: Sheet,
        /// The clean image that the network sees there; from the second level on, what it saw at the level before.
        clean: Sheet,
        /// The channels of the noisy latents side by side, at each level; absent for a model of pixels.
        noisy_latents: Option<Sheet>,
        /// The same of the clean ones.
        clean_latents: Option<Sheet>,
    },
    /// A schedule.
    Schedule {
        /// Its levels from clean to noise, some hundred of them.
        curve: Vec<LevelAt>,
        /// Those that the drawing visits.
        visited: Vec<LevelAt>,
        /// What is wrong with it, if anything is.
        warning: Option<String>,
    },
    /// Pictures.
    Pictures {
        /// The pictures.
        images: Sheet,
    },
    /// The way of a picture through the first stage.
    Encoded {
        /// The channels of its latents side by side.
        latents: Sheet,
        /// The codes that stand in for them, row by row, if there is a codebook with one code for each latent.
        codes: Vec<u32>,
        /// A colour for each code of the codebook, row by row: near codes have near colours.
        colours: Option<Sheet>,
        /// The number of codes in the codebook; 0 without one.
        codebook: u32,
        /// What the decoder makes of them.
        reconstruction: Sheet,
        /// How far it is from the picture at each pixel, amplified.
        difference: Sheet,
        /// How much the difference is amplified.
        amplified: f64,
        /// The peak signal-to-noise ratio of the reconstruction, in dB.
        psnr: f64,
    },
    /// What guidance changes.
    Push {
        /// The levels of the walk, from noise on.
        levels: Vec<LevelAt>,
        /// The clean image that the network sees at each without guidance.
        alone: Sheet,
        /// The clean image that it sees with guidance.
        guided: Sheet,
        /// Their difference, amplified; middle gray is none.
        push: Sheet,
        /// How much the difference is amplified.
        amplified: f64,
    },
    /// A picture's noise.
    Inverted {
        /// The channels of the noise side by side.
        noise: Sheet,
        /// The standard deviation of its values: 1 for noise as the model knows it.
        deviation: f64,
        /// What is drawn from the noise.
        again: Sheet,
        /// Its peak signal-to-noise ratio, in dB.
        psnr: f64,
        /// The same of what the first stage alone makes of the picture; absent for a model of pixels.
        psnr_of_first_stage: Option<f64>,
    },
    /// The errors of the network.
    Losses {
        /// At which levels.
        levels: Vec<LevelAt>,
        /// Mean squared error of the noise that it sees, at each level.
        noise: Vec<f64>,
        /// Mean squared error of the clean latents that it sees.
        signal: Vec<f64>,
    },
    /// Training images.
    Nearest {
        /// The nearest one comes first.
        images: Sheet,
        /// How far each is from the picture: the root of the mean squared difference of pixels, which lie from 0 to 1.
        distances: Vec<f64>,
        /// The number of training images.
        of: u32,
        /// The data set.
        data: String,
    },
    /// The question is answered.
    Done,
    /// The question cannot be answered.
    Refused {
        /// Why, in a sentence.
        sentence: String,
    },
}

/// A model in reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct ModelName {
    /// By which the page asks for it.
    pub model: String,
    /// What the page calls it.
    pub title: String,
}

/// A run in reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct RunName {
    /// By which the page asks for it.
    pub run: String,
    /// What the page calls it.
    pub title: String,
}

/// How a training goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct RunFacts {
    /// Its name.
    pub run: String,
    /// Its `config.toml`.
    pub config: String,
    /// The stages that have begun, in order.
    pub stages: Vec<StageFacts>,
}

/// How the training of a stage goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct StageFacts {
    /// `stage 1` or `stage 2`.
    pub stage: String,
    /// The steps that the training takes.
    pub steps: u32,
    /// Those up to the newest row.
    pub done: u32,
    /// Where it computes, as in `cpu:2`, if it is known.
    pub devices: Option<String>,
    /// The time of a step, if it is known.
    pub seconds_a_step: Option<f64>,
    /// The time since the newest row, if it is known.
    pub seconds_since: Option<f64>,
    /// What is wrong with the metrics, if they cannot be read.
    pub damage: Option<String>,
    /// The metrics: a curve for each name, such as `loss/train`.
    pub curves: Vec<Curve>,
    /// The steps of the checkpoints that are there.
    pub checkpoints: Vec<u32>,
    /// The steps of the pictures that are there.
    pub pictures: Vec<u32>,
}

/// A metric over the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Curve {
    /// The metric, such as `loss/train`.
    pub name: String,
    /// Steps and values.
    pub points: Vec<(u32, f64)>,
}

/// What a model is, and how it draws if it is not told otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct ModelFacts {
    /// Its name.
    pub model: String,
    /// Channels of its images: 1 (gray) or 3.
    pub channels: u32,
    /// Pixels from left to right of its images.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// `[channels, height, width]` of what is denoised.
    pub latents: [u32; 3],
    /// diffusers' name for the class of its first stage; absent for a model of pixels.
    pub first_stage: Option<String>,
    /// The number of codes in its codebook; 0 without one.
    pub codebook: u32,
    /// Weights of the denoising network.
    #[cfg_attr(test, ts(type = "number"))]
    pub weights: u64,
    /// What the network predicts.
    pub prediction: String,
    /// Its schedule, as in a config's `[schedule]`.
    #[cfg_attr(test, ts(type = "Record<string, unknown>"))]
    pub schedule: ScheduleConfig,
    /// The names of its classes; none if it has no classes.
    pub classes: Vec<String>,
    /// Whether it can be guided.
    pub guided: bool,
    /// How it was distilled, if it was.
    pub distilled: Option<String>,
    /// How it draws if it is not told otherwise.
    pub drawing: Drawing,
    /// Facts about its training.
    pub training: Vec<(String, String)>,
}

/// A level of noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct LevelAt {
    /// What the network is told.
    pub timestep: f64,
    /// The share of the image.
    pub signal_rate: f64,
    /// The amount of noise.
    pub noise_rate: f64,
}

/// A message: JSON, and bytes behind it.
///
/// # Errors
/// If the value cannot be JSON.
pub fn to_message<T: Serialize>(value: &T, bytes: &[u8]) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(value)?;
    let length = (json.len() as u32).to_le_bytes();
    Ok([length.as_slice(), &json, bytes].concat())
}

/// More bytes than any question has beside its pictures.
const LONGEST_JSON: usize = 1 << 20;

/// The value in a message, and the bytes behind it.
///
/// # Errors
/// A sentence about what is wrong with the message.
pub fn from_message<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<(T, &'a [u8]), String> {
    let cut = "the message is cut off";
    let (length, rest) = message.split_first_chunk::<4>().ok_or(cut)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > LONGEST_JSON {
        return Err(format!(
            "no question has {length} bytes beside its pictures"
        ));
    }
    let (json, bytes) = rest.split_at_checked(length).ok_or(cut)?;
    let value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok((value, bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use ts_rs::{Config, TS};

    use super::*;

    #[test]
    fn messages_survive() {
        let question = Question {
            id: 7,
            ask: Ask::Models,
        };
        let message = to_message(&question, &[1, 2, 3]).unwrap();
        let read: (Question, &[u8]) = from_message(&message).unwrap();
        assert_eq!(read, (question, [1, 2, 3].as_slice()));
        let long = to_message(&" ".repeat(LONGEST_JSON), &[]).unwrap();
        assert!(
            from_message::<String>(&long)
                .unwrap_err()
                .contains("bytes beside its pictures")
        );
        for end in 0..message.len() - 3 {
            assert!(from_message::<Question>(&message[..end]).is_err());
        }
        let huge = [255, 255, 255, 255, 0];
        assert!(from_message::<Question>(&huge).is_err());
    }

    /// Set KILN_WRITE=1 to write the file again.
    #[test]
    fn the_page_has_these_types() {
        let config = Config::default();
        let mut text = String::from("// Written by a test of kiln-play from protocol.rs.\n");
        for declaration in [
            Question::decl(&config),
            Ask::decl(&config),
            Drawing::decl(&config),
            Watch::decl(&config),
            Sheet::decl(&config),
            Answered::decl(&config),
            Answer::decl(&config),
            ModelName::decl(&config),
            RunName::decl(&config),
            RunFacts::decl(&config),
            StageFacts::decl(&config),
            Curve::decl(&config),
            ModelFacts::decl(&config),
            LevelAt::decl(&config),
        ] {
            text += &format!("\nexport {declaration}\n");
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/src/protocol.ts");
        if std::env::var_os("KILN_WRITE").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        assert_eq!(
            fs::read_to_string(&file).unwrap_or_default(),
            text,
            "KILN_WRITE=1 writes it"
        );
    }
}
