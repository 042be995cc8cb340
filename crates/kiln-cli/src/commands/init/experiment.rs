//! Writes an experiment as TOML, with the reason of each value.

use std::path::Path;

use kiln_data::{DataConfig, DatasetKind, Datasets};
use kiln_train::counted;

use super::choices::{Choices, Space};
use super::length::Lengths;
use super::look::Look;
use super::sheet::{Sheet, number};
use crate::commands::expectations::time_in_words;
use crate::commands::fact_table::thousands;
use crate::commands::next_commands::Kind;
use crate::commands::training::path_in_toml;
use crate::terminal::size_in_words;

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
            let why = match self.look.takes_long_to_decode() {
                true => format!(
                    "as seen from the folder of the command; decoding all images first takes {}",
                    time_in_words(self.look.time_to_decode().as_secs_f64())
                ),
                false => "as seen from the folder of the command".to_owned(),
            };
            sheet.key("path", path_in_toml(path), why);
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

#[cfg(test)]
mod tests {
    use kiln_data::{ImageDataset, ImageShape};
    use kiln_train::Experiment;

    use super::*;
    use crate::commands::init::choices::Wishes;

    /// So many images of each of these classes, as [`Look`] and [`Choices`] see them.
    fn text(space: Space, size: usize, images: usize, channels: usize) -> String {
        let mut look = Look::of_side(size);
        look.is_gray = channels == 1;
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
