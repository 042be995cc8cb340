//! Decides on sizes, networks and batches.

use anyhow::ensure;
use clap::ValueEnum;
use kiln::Devices;
use kiln_data::Datasets;
use serde::Serialize;

use super::images::{flips, size};
use super::look::Look;
use crate::commands::expectations::some_names;

/// Up to this side, the U-Net learns on the pixels themselves.
const LARGEST_IN_PIXELS: usize = 32;
/// A set with fewer images to train on gets dropout.
pub const FEW: usize = 1000;
/// From so many images on, a batch is of 64 instead of 32.
const MANY: usize = 5000;
/// The side of the largest feature maps with attention.
const ATTENTION: usize = 8;

/// Where the U-Net learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// On the images themselves: one training, best for small images
    Pixel,
    /// On the latents of a first stage: two trainings, faster for large images
    Latent,
}

/// What the user asked for.
pub struct Wishes {
    /// Pixels or latents.
    pub space: Option<Space>,
    /// The side of the images in pixels.
    pub size: Option<usize>,
    /// Where it will be trained.
    pub devices: Devices,
}

/// What was decided, and why where there are several reasons.
#[derive(Clone, Debug)]
pub struct Choices {
    pub space: Space,
    pub space_why: String,
    pub size: usize,
    pub size_why: String,
    pub channels: usize,
    pub flips: bool,
    pub flips_why: &'static str,
    /// Images to train on.
    pub images: usize,
    /// Images that are held out.
    pub held_out: usize,
    /// The names of the classes; empty without classes.
    pub classes: Vec<String>,
    pub batch: usize,
    pub batch_why: String,
    pub dropout: f64,
}

impl Choices {
    /// For the images that were looked at. [`Self::suit`] adds what the whole set decides.
    ///
    /// # Errors
    /// If the wishes do not fit each other.
    pub fn for_images(look: &Look, wishes: &Wishes) -> anyhow::Result<Self> {
        let (size, size_why) = size(look.side, wishes.size);
        let space = wishes.space.unwrap_or(match size {
            ..=LARGEST_IN_PIXELS => Space::Pixel,
            _ => Space::Latent,
        });
        let step = match space {
            Space::Pixel => 4,
            Space::Latent => 16,
        };
        ensure!(
            size % step == 0 && size >= 2 * step,
            "images of {size}x{size} pixels do not halve often enough{}: give a --size that is a multiple of {step} and at least {}, such as {}",
            if space == Space::Latent {
                " for a first stage"
            } else {
                ""
            },
            2 * step,
            size.next_multiple_of(step).max(2 * step)
        );
        let space_why = match (wishes.space, space) {
            (Some(_), _) => "as --space says".to_owned(),
            (None, Space::Pixel) => {
                format!("images of up to {LARGEST_IN_PIXELS} pixels need no first stage")
            }
            (None, Space::Latent) => format!(
                "images of more than {LARGEST_IN_PIXELS} pixels are learnt faster in latents"
            ),
        };
        Ok(Self {
            space,
            space_why,
            size,
            size_why,
            channels: if look.is_gray { 1 } else { 3 },
            flips: false,
            flips_why: "",
            images: 0,
            held_out: 0,
            classes: Vec::new(),
            batch: 1,
            batch_why: String::new(),
            dropout: 0.0,
        })
    }

    /// Adds what the whole set decides: classes, the batch, mirroring and dropout.
    pub fn suit(&mut self, datasets: &Datasets) {
        let Datasets { train, validation } = datasets;
        self.images = train.len();
        self.held_out = validation.len();
        let has_classes = train.has_labels() && validation.has_labels();
        let names = train.class_names();
        self.classes = match has_classes && names.len() > 1 {
            true => names.to_vec(),
            false => Vec::new(),
        };
        (self.flips, self.flips_why) = flips(self.channels, self.size, &self.classes);
        let (usual, why) = match self.images {
            MANY.. => (64, "images per device and update"),
            _ => (
                32,
                "images per device and update; half of what a large set gets",
            ),
        };
        let most = 1 << self.images.max(1).ilog2();
        self.batch = usual.min(most);
        self.batch_why = match self.batch < usual {
            true => format!(
                "images per device and update: there are only {}",
                self.images
            ),
            false => why.to_owned(),
        };
        if self.images < FEW {
            self.dropout = 0.1;
        }
    }

    /// Halves the batch, and says whether that was possible.
    pub fn halve_batch(&mut self) -> bool {
        let can = self.batch > 1;
        self.batch = (self.batch / 2).max(1);
        if can {
            self.batch_why =
                "images per device and update: as many as fit into half of the free memory"
                    .to_owned();
        }
        can
    }

    /// How often the first stage halves the images.
    pub fn halvings(&self) -> usize {
        match (self.space, self.size) {
            (Space::Pixel, _) => 0,
            (Space::Latent, ..=64) => 2,
            (Space::Latent, ..=128) => 3,
            (Space::Latent, _) => 4,
        }
    }

    /// The side of what the U-Net denoises.
    pub fn side(&self) -> usize {
        self.size >> self.halvings()
    }

    /// The channels of the first stage's levels.
    pub fn first_stage(&self) -> Vec<usize> {
        let levels = [16, 32, 64, 64, 64];
        levels[..=self.halvings()].to_vec()
    }

    /// The channels of the U-Net's levels, each with whether it has attention.
    pub fn unet(&self) -> Vec<(usize, bool)> {
        let channels: &[usize] = match self.space {
            Space::Pixel => &[32, 64, 128, 128],
            Space::Latent => &[64, 128, 192],
        };
        let most = if self.side() < 64 { 3 } else { channels.len() };
        let mut side = self.side();
        let mut levels = Vec::new();
        for &channels in &channels[..most] {
            levels.push((channels, side <= ATTENTION));
            if !side.is_multiple_of(2) || side < 8 {
                break;
            }
            side /= 2;
        }
        levels
    }

    /// How many images a picture has.
    pub fn pictured(&self) -> usize {
        match self.classes.len() {
            0 => 64,
            classes @ ..=8 => 8 * classes,
            classes @ ..=32 => 4 * classes,
            classes => classes,
        }
    }

    /// The classes in words.
    pub fn classes_in_words(&self) -> String {
        match self.classes.len() {
            0 => "no classes".to_owned(),
            count => format!("{count} classes ({})", some_names(&self.classes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(space: Space, size: usize) -> Choices {
        let look = Look::of_side(size);
        let wishes = Wishes {
            space: Some(space),
            size: Some(size),
            devices: kiln::Devices::cpu(),
        };
        Choices::for_images(&look, &wishes).unwrap()
    }

    #[test]
    fn every_level_halves() {
        for size in (8..=256).step_by(8) {
            for space in [Space::Pixel, Space::Latent] {
                if space == Space::Latent && (size % 16 != 0 || size < 32) {
                    continue;
                }
                let choices = choices(space, size);
                let levels = choices.unet().len();
                assert_eq!(choices.side() % (1 << (levels - 1)), 0, "{space:?} {size}");
                assert_eq!(choices.side() << choices.halvings(), size);
                assert!(levels >= 2 || !choices.side().is_multiple_of(4));
                assert_eq!(choices.first_stage().len(), choices.halvings() + 1);
            }
        }
    }
}
