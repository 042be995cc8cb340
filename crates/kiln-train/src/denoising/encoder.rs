//! Encodes the images of stage 2 once: the run folder keeps their latents.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use kiln_checkpoint::FirstStage;
use kiln_data::{Datasets, ImageDataset, Progress, ProgressUnit, Task, prefetch, read_regular};

use super::latents::{LatentSet, Latents};
use super::latents_file::CacheProblem;
use crate::error::TrainError;
use crate::learner::images::tensor;
use crate::learner::session::StopSignal;

/// The most images that are encoded at once.
const BATCH: usize = 64;

/// Many times the size of the header of a latents file, in bytes.
const LARGEST_HEADER: u64 = 1 << 20;

/// The encoder of a data set.
pub(crate) struct Encoder<'a> {
    pub(crate) first_stage: &'a FirstStage,
    /// The most images that fit into memory at once.
    pub(crate) together: usize,
    pub(crate) device: &'a Device,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) stop: &'a StopSignal,
}

impl Encoder<'_> {
    /// The latents of `datasets`: read from `cache` if it has exactly these, otherwise encoded and written there.
    ///
    /// # Errors
    /// If the data cannot be read, the cache cannot be written, or the cache belongs to another VQ-VAE or other data.
    pub(crate) fn latents(&self, datasets: &Datasets, cache: &Path) -> Result<Latents, TrainError> {
        let identity = identity(datasets, self.first_stage);
        match read_regular(cache, most_bytes(datasets, self.first_stage)) {
            Ok(bytes) => match Latents::from_bytes(&bytes, &identity) {
                Ok(latents) if are_of(&latents, datasets) => return Ok(latents),
                Ok(_) => {
                    tracing::warn!(
                        "encoding the latents again, because {} is damaged: its number of latents differs from the number of images",
                        cache.display()
                    );
                }
                Err(CacheProblem::Foreign(what)) => {
                    return Err(TrainError::Run(format!(
                        "the latents in {} were made from {what}; remove the file to encode them again",
                        cache.display()
                    )));
                }
                Err(CacheProblem::Damaged(problem)) => {
                    tracing::warn!(
                        "encoding the latents again, because {} is damaged: {problem}",
                        cache.display()
                    );
                }
                Err(CacheProblem::Unchecked) => {
                    tracing::warn!(
                        "encoding the latents again, because {} is of an older kiln and has no digest to check it by",
                        cache.display()
                    );
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                "encoding the latents again, because {} cannot be read: {error}",
                cache.display()
            ),
        }
        let train = self.encode(&datasets.train, datasets.train.horizontal_flip())?;
        let validation = self.encode(&datasets.validation, false)?;
        let latents = Latents { train, validation };
        latents.write(cache, identity)?;
        Ok(latents)
    }

    fn encode(&self, dataset: &ImageDataset, flips: bool) -> Result<LatentSet, TrainError> {
        let variants = if flips { 2 } else { 1 };
        let images: Vec<(u32, bool)> = (0..dataset.len() as u32)
            .flat_map(|index| (0..variants).map(move |variant| (index, variant == 1)))
            .collect();
        let total = Some(images.len() as u64);
        let task = Task::begin(
            self.progress,
            "encoding the images",
            ProgressUnit::Images,
            total,
        );
        let together = self.together.clamp(1, BATCH);
        let requests: Vec<_> = images.chunks(together).map(<[_]>::to_vec).collect();
        let mut values = Vec::new();
        let mut latent_shape = [0; 3];
        for batch in prefetch(dataset.clone(), requests.into_iter()) {
            self.stop.check()?;
            let images = tensor(&batch?, dataset, self.device);
            let latents = self.first_stage.network.encode(images);
            let [count, channels, height, width] = latents.dims();
            task.advance(count as u64);
            latent_shape = [channels, height, width];
            values.extend(latents.into_data().iter::<f32>());
        }
        let [channels, height, width] = latent_shape;
        Ok(LatentSet {
            shape: [dataset.len(), variants, channels, height, width],
            values,
        })
    }
}

/// Whether there is one latent for each image.
fn are_of(latents: &Latents, datasets: &Datasets) -> bool {
    latents.train.shape[0] == datasets.train.len()
        && latents.validation.shape[0] == datasets.validation.len()
}

/// The required source of a cache.
fn identity(datasets: &Datasets, first_stage: &FirstStage) -> HashMap<String, String> {
    let flips = if datasets.train.horizontal_flip() {
        " with flips"
    } else {
        ""
    };
    HashMap::from([
        ("vqvae".to_owned(), first_stage.hash()),
        (
            "train".to_owned(),
            datasets.train.fingerprint().to_owned() + flips,
        ),
        (
            "validation".to_owned(),
            datasets.validation.fingerprint().to_owned(),
        ),
    ])
}

/// The largest possible file for the latents of `datasets`, in bytes.
fn most_bytes(datasets: &Datasets, first_stage: &FirstStage) -> u64 {
    let network = &first_stage.network;
    let shape = datasets.train.shape();
    let sides = [shape.height, shape.width].map(|side| side / network.config().downscale_factor());
    let numbers = network.config().latent_dim() * sides[0] * sides[1];
    let images = 2 * datasets.train.len() + datasets.validation.len();
    (images * numbers * size_of::<f32>()) as u64 + LARGEST_HEADER
}
