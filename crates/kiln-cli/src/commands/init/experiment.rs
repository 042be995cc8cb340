//! Writes an experiment as TOML, with the reason of each value.

use std::path::Path;

use kiln_data::{DataConfig, DatasetKind, Datasets};
use kiln_train::counted;
use toml::Value;

use super::choices::{Choices, FEW, Space};
use super::length::{Length, Lengths};
use super::look::Look;
use super::sheet::Sheet;
use crate::commands::expectations::time_in_words;
use crate::commands::fact_table::thousands;
use crate::commands::next_commands::Kind;
use crate::commands::training::overrides;
use crate::terminal::size_in_words;

/// The channels of a latent, as in most first stages.
const LATENT: usize = 4;
/// A validation looks at no more images.
const VALIDATED: usize = 512;

/// What an experiment is written from.
pub struct Written<'a> {
    pub look: &'a Look,
    pub data: &'a DataConfig,
    pub datasets: &'a Datasets,
    pub choices: &'a Choices,
    pub lengths: &'a Lengths,
    /// In bytes, if the system tells.
    pub free_memory: Option<u64>,
    /// Threads that compute.
    pub threads: usize,
    /// The command that made it.
    pub origin: &'a str,
    /// The file that it will be in.
    pub config: &'a Path,
    /// Further arguments of its trainings.
    pub arguments: &'a [String],
}

impl Written<'_> {
    /// The TOML.
    pub fn text(&self) -> String {
        let mut sheet = Sheet::default();
        self.head(&mut sheet);
        self.data(&mut sheet);
        if let Some(length) = &self.lengths.first_stage {
            self.first_stage(&mut sheet, length);
        }
        self.unet(&mut sheet);
        self.stage_2(&mut sheet);
        self.sampling(&mut sheet);
        sheet.finish()
    }

    fn head(&self, sheet: &mut Sheet) {
        let Choices {
            space,
            size,
            channels,
            images,
            held_out,
            ..
        } = self.choices;
        let kind = match space {
            Space::Pixel => Kind::Diffusion,
            Space::Latent => Kind::LatentDiffusion,
        };
        sheet.say(&format!(
            "{} on {}: {} images of {channels}x{size}x{size}, {}.",
            capitalised(kind.in_words()),
            self.datasets.train.name(),
            thousands(images + held_out),
            self.choices.classes_in_words(),
        ));
        sheet.say(&format!(
            "Made by `{}`: {}.",
            self.origin, self.choices.space_why
        ));
        sheet.say("");
        for command in kind.commands(self.config, self.arguments) {
            sheet.say(&format!("  {command}"));
        }
        sheet.say("");
        if let Some(originals) = &self.look.originals {
            sheet.say(&format!(
                "{} images were looked at in their files: {}, with sides of {} to {} pixels.",
                originals.looked_at,
                if originals.is_gray {
                    "all gray"
                } else {
                    "in colour"
                },
                originals.shortest,
                originals.longest
            ));
        }
        let free = self.free_memory.map_or_else(String::new, |bytes| {
            format!(", {} of memory free", size_in_words(bytes))
        });
        sheet.say(&format!(
            "Times are those of real steps on this machine ({} threads{free}), without validations and pictures.",
            self.threads
        ));
        sheet.say("`kiln check` measures again, and docs/diffusion.md and docs/first-stage.md have the other values of the keys.");
        sheet.gap();
        sheet.key(
            "seed",
            0,
            "of the initial weights, the order of the images and all noise",
        );
    }

    fn data(&self, sheet: &mut Sheet) {
        let Self { data, choices, .. } = self;
        sheet.table("data", "");
        let kind = data.dataset.to_string();
        let why = format!(
            "{} images to train on, {} held out",
            thousands(choices.images),
            thousands(choices.held_out)
        );
        sheet.key("dataset", kind.as_str(), why);
        if let Some(path) = &data.path {
            let written = overrides(&[], Some(path)).concat();
            let path = written.strip_prefix("data.path=").unwrap_or_default();
            let why = match self.look.takes_long_to_decode() {
                true => format!(
                    "as seen from the folder of the command; decoding all images first takes {}",
                    time_in_words(self.look.time_to_decode().as_secs_f64())
                ),
                false => "as seen from the folder of the command".to_owned(),
            };
            sheet.written("path", path, why);
        }
        let is_mnist = matches!(data.dataset, DatasetKind::Mnist | DatasetKind::Mnist10k);
        let why = match is_mnist && choices.size == 32 {
            true => {
                "28x28 padded with black, so that it halves; samples are cropped back".to_owned()
            }
            false => choices.size_why.clone(),
        };
        sheet.key("size", number(choices.size), why);
        let why = match choices.channels {
            1 => "gray: no image has colours",
            _ => "RGB, because there are colours",
        };
        sheet.key("channels", number(choices.channels), why);
        sheet.key("horizontal_flip", choices.flips, choices.flips_why);
    }

    fn first_stage(&self, sheet: &mut Sheet, length: &Length) {
        let choices = self.choices;
        let channels = choices.first_stage();
        let levels = |name: &str| list(channels.iter().map(|_| name));
        sheet.table(
            "autoencoder_kl",
            "stage 1's network, in the keys of diffusers' AutoencoderKL",
        );
        sheet.key("in_channels", number(choices.channels), "");
        sheet.key("out_channels", number(choices.channels), "");
        sheet.key("sample_size", number(choices.size), "");
        sheet.key("down_block_types", levels("DownEncoderBlock2D"), "");
        sheet.key("up_block_types", levels("UpDecoderBlock2D"), "");
        let why = format!(
            "{} levels, so latents are {side}x{side}",
            channels.len(),
            side = choices.side()
        );
        sheet.key("block_out_channels", numbers(&channels), why);
        sheet.key("layers_per_block", 1, "");
        sheet.key("latent_channels", number(LATENT), "");
        sheet.key("norm_num_groups", 8, "");
        sheet.key("mid_block_add_attention", false, "");

        sheet.table("stage_1", "");
        sheet.key(
            "reconstruction",
            "mse",
            "blurs texture; docs/first-stage.md has the terms that make photographs sharp",
        );
        sheet.written(
            "kl",
            "1e-2",
            "weight of the KL term, which keeps the latents smooth",
        );
        sheet.table("stage_1.training", "");
        self.training(sheet, length, 2e-3, 1e-4);
    }

    fn unet(&self, sheet: &mut Sheet) {
        let choices = self.choices;
        let levels = choices.unet();
        let (channels, what) = match choices.space {
            Space::Pixel => (choices.channels, "the images' channels"),
            Space::Latent => (LATENT, "the latents' channels"),
        };
        let blocks = |attention: &'static str, plain: &'static str| {
            levels
                .iter()
                .map(move |&(_, attends)| if attends { attention } else { plain })
        };
        let down = blocks("AttnDownBlock2D", "DownBlock2D");
        let up: Vec<&str> = blocks("AttnUpBlock2D", "UpBlock2D").collect();
        sheet.table(
            "unet",
            "the network that denoises, in the keys of diffusers' UNet2DModel",
        );
        sheet.key("in_channels", number(channels), what);
        sheet.key("out_channels", number(channels), "");
        sheet.key("sample_size", number(choices.side()), "");
        sheet.key(
            "down_block_types",
            list(down),
            "attention where maps are at most 8x8, which is cheap",
        );
        sheet.key("up_block_types", list(up.into_iter().rev()), "");
        let widths: Vec<usize> = levels.iter().map(|&(channels, _)| channels).collect();
        sheet.key(
            "block_out_channels",
            numbers(&widths),
            "wider ones learn more, and take longer",
        );
        sheet.key("layers_per_block", 1, "");
        sheet.key("attention_head_dim", 32, "");
        sheet.key("norm_num_groups", 8, "");
        if choices.dropout > 0.0 {
            sheet.key("dropout", choices.dropout, format!("because of fewer than {FEW} images; with it a resumed run is not the same bit for bit"));
        }
        if !choices.classes.is_empty() {
            sheet.key(
                "num_class_embeds",
                number(choices.classes.len() + 1),
                format!(
                    "{}, and one more where labels are dropped",
                    choices.classes_in_words()
                ),
            );
        }

        sheet.table("schedule", "");
        sheet.key(
            "kind",
            "cosine",
            "leaves no signal at its end; docs/diffusion.md lists the others",
        );
        sheet.key("num_train_timesteps", 1000, "");
    }

    fn stage_2(&self, sheet: &mut Sheet) {
        sheet.table("stage_2", "");
        sheet.key(
            "prediction",
            "velocity",
            "what the network predicts: noise, signal, velocity or flow",
        );
        sheet.key("loss", "mse", "");
        sheet.written(
            "noise_levels",
            "{ logit-normal = { mean = 0.0, standard_deviation = 1.0 } }",
            "more often in the middle of the schedule",
        );
        if !self.choices.classes.is_empty() {
            sheet.key(
                "label_dropout",
                0.1,
                "share of the images shown without their label, for classifier-free guidance",
            );
        }
        let length = &self.lengths.unet;
        sheet.table("stage_2.training", "");
        self.training(sheet, length, 1e-3, 1e-5);
        sheet.table(
            "stage_2.training.ema",
            "training validates, draws with and keeps the average of the weights",
        );
        sheet.key(
            "decay",
            length.ema_decay(),
            "about a tenth of the training, at most 1,000 steps",
        );
    }

    /// The settings of a training with this learning rate for batches of 64.
    fn training(&self, sheet: &mut Sheet, length: &Length, rate: f64, last: f64) {
        let Choices {
            batch,
            held_out,
            batch_why,
            ..
        } = self.choices;
        let scaled = rate * (*batch as f64 / 64.0).sqrt();
        sheet.key("steps", number(length.steps), length.why());
        sheet.key("batch_size", number(*batch), batch_why);
        sheet.written(
            "learning_rate",
            &format!("{scaled:.1e}"),
            format!("{rate:e} for batches of 64, by the root of the batch"),
        );
        sheet.written(
            "final_learning_rate",
            &format!("{:.1e}", last.min(scaled)),
            "the cosine ends here",
        );
        sheet.key("warmup_steps", number(length.warmup()), "");
        sheet.key(
            "checkpoint_every",
            number(length.checkpoint_every()),
            "steps between checkpoints, validations and rows of metrics.csv",
        );
        sheet.key(
            "pictures_every",
            2,
            "a picture after every second checkpoint",
        );
        if *held_out > VALIDATED {
            sheet.key(
                "validation_images",
                number(VALIDATED),
                format!("of the {}; 0 takes all", thousands(*held_out)),
            );
        }
    }

    fn sampling(&self, sheet: &mut Sheet) {
        sheet.table(
            "sampling",
            "of the pictures drawn while training, and the finished model's defaults",
        );
        sheet.key("steps", 50, "");
        let why = match self.choices.classes.len() {
            0 => String::new(),
            classes => {
                let images = counted(self.choices.pictured() / classes, "image");
                format!("a row for each class, {images} in it")
            }
        };
        sheet.key("count", number(self.choices.pictured()), why);
        sheet.key("spacing", "trailing", "");
        if self.choices.space == Space::Pixel {
            sheet.key("clip", 1.0, "the predicted image stays in the data's range");
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// TOML's numbers are signed. No number here is near the end of their range.
fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn numbers(values: &[usize]) -> Value {
    Value::Array(values.iter().map(|&value| number(value).into()).collect())
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    Value::Array(names.map(Value::from).collect())
}

#[cfg(test)]
mod tests {
    use kiln_data::{ImageDataset, ImageShape};
    use kiln_train::Experiment;

    use super::*;
    use crate::commands::init::choices::Wishes;

    /// So many images of each of these classes, as [`Look`] and [`Choices`] see them.
    fn text(space: Space, size: usize, images: usize, channels: usize) -> String {
        let look = Look {
            is_gray: channels == 1,
            ..Look::of_side(size)
        };
        let wishes = Wishes {
            space: Some(space),
            size: Some(size),
            devices: kiln::Devices::cpu(),
        };
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        let set =
            |images| ImageDataset::from_pixels("a\nset", shape, vec![0; images], None).unwrap();
        let datasets = Datasets {
            train: set(images),
            validation: set(images / 10 + 1),
        };
        let mut choices = Choices::for_images(&look, &wishes).unwrap();
        choices.suit(&datasets);
        let wicked = "a \" quote,\n[data]\r and \u{202e}more";
        choices.classes = vec!["cat".to_owned(), wicked.to_owned()];
        let data = DataConfig {
            path: Some("a \"b\" c".into()),
            ..DataConfig::new(DatasetKind::Folder, size, channels)
        };
        let lengths = Lengths::wanted(&choices).within_a_night(&[3.0, 3.0]);
        Written {
            look: &look,
            data: &data,
            datasets: &datasets,
            choices: &choices,
            lengths: &lengths,
            free_memory: Some(1 << 30),
            threads: 2,
            origin: "kiln init 'a\nfolder'",
            config: Path::new("a\nb.toml"),
            arguments: &[],
        }
        .text()
    }

    #[test]
    fn whatever_the_images_the_experiment_is_valid() {
        for (space, step, least) in [(Space::Pixel, 8, 8), (Space::Latent, 16, 32)] {
            for size in (least..=256).step_by(step) {
                for images in [1, 2, 90, 7000] {
                    for channels in [1, 3] {
                        let text = text(space, size, images, channels);
                        let experiment = Experiment::parse(&text, "made", &[]);
                        let experiment =
                            experiment.unwrap_or_else(|error| panic!("{error}: {text}"));
                        let is_latent = experiment.first_stage.is_some();
                        assert_eq!(is_latent, space == Space::Latent);
                        assert_eq!(experiment.unet.num_class_embeds, Some(3));
                        assert!(experiment.stage_2.training.batch_size <= images);
                    }
                }
            }
        }
    }

    #[test]
    fn few_images_get_dropout_and_the_time_is_told() {
        let few = text(Space::Pixel, 32, 90, 1);
        assert!(few.contains("dropout = 0.1"), "{few}");
        assert!(few.contains("measured: 3.00 s each"), "{few}");
        let many = text(Space::Latent, 64, 60_000, 3);
        assert!(many.contains("longer than a night"), "{many}");
        let has_dropout = many.lines().any(|line| line.starts_with("dropout"));
        assert!(!has_dropout, "{many}");
    }
}
