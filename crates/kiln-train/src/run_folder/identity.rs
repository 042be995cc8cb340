//! The identity of a training, which its checkpoints store: a resumed run must be the same experiment on the same data.

use std::path::{Path, PathBuf};

use kiln_data::{Datasets, ImageDataset, hexadecimal};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::counted;
use crate::error::TrainError;
use crate::run_folder::changed_keys::differences;
use crate::run_folder::facts::EarlierSteps;

/// Everything that a resumed training must have in common with its beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The experiment, as TOML.
    pub(crate) config: String,
    /// Images of a step, over all devices and micro-batches.
    step_images: usize,
    /// The path of the data, unless it is on the Hub or was passed by a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    train: SetIdentity,
    validation: SetIdentity,
    class_names: Vec<String>,
    /// Latent diffusion: the VQ-VAE of the latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vqvae: Option<VqVaeIdentity>,
    /// Stage 1: the frozen network that sees the images, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) perceptual: Option<PerceptualIdentity>,
    /// The model whose weights it began with instead of random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) initial: Option<InitialWeights>,
}

/// The identity of a set of images, independent of its path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SetIdentity {
    images: usize,
    pixels: String,
    /// The digest of the labels, if there are any.
    labels: Option<String>,
}

/// The VQ-VAE of a stage 2.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VqVaeIdentity {
    pub(crate) hash: String,
    /// Its path, unless it is the run folder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<PathBuf>,
}

/// The frozen network by whose features a stage 1 compares images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PerceptualIdentity {
    /// Of the file of its weights.
    pub(crate) sha256: String,
    /// The path of that file, unless it was downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<PathBuf>,
}

/// The model that a run began with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InitialWeights {
    pub(crate) place: Option<PathBuf>,
    pub(crate) earlier_steps: EarlierSteps,
    /// The hash of the networks of a student's teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) teacher: Option<String>,
    /// The student whose weights a student began with, if not with its teacher's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) student: Option<PathBuf>,
}

impl Identity {
    /// The identity of a training on `datasets`, `step_images` in a step, described by the TOML `config`.
    pub(crate) fn new(
        config: &str,
        step_images: usize,
        datasets: &Datasets,
        data: Option<PathBuf>,
        vqvae: Option<VqVaeIdentity>,
        perceptual: Option<PerceptualIdentity>,
        initial: Option<InitialWeights>,
    ) -> Self {
        Self {
            config: config.to_owned(),
            step_images,
            data,
            train: SetIdentity::of(&datasets.train),
            validation: SetIdentity::of(&datasets.validation),
            class_names: datasets.train.class_names().to_vec(),
            vqvae,
            perceptual,
            initial,
        }
    }

    /// Refuses other data than this, or steps of another size. `tables` are the stage's tables; `require_same_keys`
    /// compares their other keys before any data is read.
    ///
    /// # Errors
    /// Says what differs, how, and what to do. Another size is only a warning if just the number of devices has
    /// changed.
    pub(crate) fn require_same(&self, now: &Self, tables: &[&str]) -> Result<(), TrainError> {
        if let Some(difference) = self.other_data(now) {
            return Err(TrainError::Run(format!(
                "{difference} when this run began: a run goes on with the data that it began with, so name that by --data, or choose another --out"
            )));
        }
        if self.step_images != now.step_images {
            let sizes = format!(
                "a step saw {} before and now sees {}",
                counted(self.step_images, "image"),
                now.step_images
            );
            let changed = differences(tables, &self.config, &now.config)?;
            let changed = changed.iter().find(|difference| difference.is_step_size());
            if let Some(difference) = changed {
                return Err(TrainError::Run(format!(
                    "{difference}, so that {sizes}: {}",
                    difference.remedy()
                )));
            }
            let pass = |images: usize| {
                (self.train.images as f64 / images.max(1) as f64)
                    .round()
                    .max(1.0)
            };
            tracing::warn!(
                "{sizes}, because the number of devices has changed: a pass over the data was {} steps and is now {}",
                pass(self.step_images),
                pass(now.step_images)
            );
        }
        Ok(())
    }

    /// A sentence about the difference in the data.
    fn other_data(&self, now: &Self) -> Option<String> {
        let (before, after) = (&self.class_names, &now.class_names);
        if before.len() != after.len() {
            let (before, after) = (before.len(), after.len());
            return Some(format!(
                "the data has {}, and had {before}",
                counted(after, "class")
            ));
        }
        let mut names = before.iter().zip(after).enumerate();
        if let Some((class, (before, after))) = names.find(|(_, (before, after))| before != after) {
            return Some(format!(
                "class {class} of the data was `{before}` and is now `{after}`"
            ));
        }
        self.train
            .other_than(&now.train, "training")
            .or_else(|| self.validation.other_than(&now.validation, "validation"))
    }

    /// Refuses a perceptual network with other weights than the one of the run so far.
    ///
    /// # Errors
    /// Names both, and how to go on.
    pub(crate) fn require_perceptual(
        &self,
        network: &PerceptualIdentity,
    ) -> Result<(), TrainError> {
        let before = self.perceptual.as_ref();
        let Some(before) = before.filter(|before| before.sha256 != network.sha256) else {
            return Ok(());
        };
        let place = network.place.as_deref().map(Path::display);
        Err(TrainError::Run(format!(
            "the weights of the perceptual network{} are not those that this run began with (their sha256 was {:.12} and is now {:.12}): name those by stage_1.perceptual.weights, or choose another --out",
            place.map_or_else(String::new, |place| format!(" in {place}")),
            before.sha256,
            network.sha256
        )))
    }

    /// Refuses the latents of the VQ-VAE in `place` if this run began with another one.
    pub(crate) fn require_vqvae(
        &self,
        hash: &str,
        place: &Path,
        at_start: &Path,
    ) -> Result<(), TrainError> {
        let Some(before) = self.vqvae.as_ref().filter(|before| before.hash != hash) else {
            return Ok(());
        };
        let that_one = match at_start.is_dir() {
            true => format!("go on with that one by --vqvae {}", at_start.display()),
            false => "name that one by --vqvae".to_owned(),
        };
        Err(TrainError::Run(format!(
            "the VQ-VAE in {} is not the one that this run began with (its hash was {:.12} and is now {hash:.12}): {that_one}, or choose another --out",
            place.display(),
            before.hash
        )))
    }
}

impl SetIdentity {
    fn of(set: &ImageDataset) -> Self {
        let labels = set.has_labels().then(|| {
            let mut digest = Sha256::new();
            for image in 0..set.len() {
                let label = set.label(image).map_or(u64::MAX, |label| label as u64);
                digest.update(label.to_le_bytes());
            }
            hexadecimal(&digest.finalize())
        });
        Self {
            images: set.len(),
            pixels: set.fingerprint().to_owned(),
            labels,
        }
    }

    fn other_than(&self, now: &Self, name: &str) -> Option<String> {
        if self.images != now.images {
            let (before, now) = (self.images, now.images);
            return Some(format!(
                "there were {before} {name} images and are now {now}"
            ));
        }
        let is = if self.pixels != now.pixels {
            "images are not those"
        } else if self.labels != now.labels {
            "images have other labels than"
        } else {
            return None;
        };
        Some(format!(
            "the {now} {name} {is} that there were",
            now = now.images
        ))
    }
}
