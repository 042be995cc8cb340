//! Stage 2 trains on latents that are encoded once and kept in the run folder.
//!
//! ```text
//! latents/HASH.safetensors    HASH: of the VQ-VAE that encoded them
//!   train       [images, 1 or 2, channels, height, width]: as they are, and mirrored if the data set is flipped
//!   validation  [images, 1, channels, height, width]
//! ```
//!
//! The header of the file records the source of the latents, and has a digest that reveals damage.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use kiln_checkpoint::FirstStage;
use kiln_data::{
    Datasets, ImageDataset, Progress, ProgressUnit, Task, hexadecimal, prefetch, read_regular,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::learner::images::tensor;
use crate::learner::session::StopSignal;

/// The most images that are encoded at once.
const BATCH: usize = 64;

/// The header's key for the sha256 of all latents, in hexadecimal.
const DIGEST: &str = "sha256";
const SETS: [&str; 2] = ["train", "validation"];

/// Many times the size of the header of a latents file, in bytes.
const LARGEST_HEADER: u64 = 1 << 20;

/// The latents of a data set, in memory.
#[derive(Debug)]
pub(crate) struct Latents {
    pub(crate) train: LatentSet,
    pub(crate) validation: LatentSet,
}

/// The encoder of a data set.
pub(crate) struct Encoder<'a> {
    pub(crate) first_stage: &'a FirstStage,
    /// The most images that fit into memory at once.
    pub(crate) together: usize,
    pub(crate) device: &'a Device,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) stop: &'a StopSignal,
}

/// The latents of one split: the encoder's output until they are [`scaled`](LatentSet::scaled).
#[derive(Debug, PartialEq)]
pub(crate) struct LatentSet {
    /// `[images, variants, channels, height, width]`; variant 1 is the mirrored image.
    shape: [usize; 5],
    values: Vec<f32>,
}

impl Latents {
    /// The latents of `datasets` by `encoder`: read from `cache` if it has exactly these, otherwise encoded and written
    /// there.
    ///
    /// # Errors
    /// If the data cannot be read, the cache cannot be written, or the cache belongs to another VQ-VAE or other data.
    pub(crate) fn open(
        cache: &Path,
        datasets: &Datasets,
        encoder: &Encoder<'_>,
    ) -> Result<Self, TrainError> {
        let identity = identity(datasets, encoder.first_stage);
        match read_regular(cache, most_bytes(datasets, encoder.first_stage)) {
            Ok(bytes) => match Self::from_bytes(&bytes, &identity) {
                Ok(latents) if latents.are_of(datasets) => return Ok(latents),
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
        let train = encoder.encode(&datasets.train, datasets.train.horizontal_flip())?;
        let validation = encoder.encode(&datasets.validation, false)?;
        let latents = Self { train, validation };
        latents.write(cache, identity)?;
        Ok(latents)
    }

    /// Whether there is one latent for each image.
    fn are_of(&self, datasets: &Datasets) -> bool {
        self.train.shape[0] == datasets.train.len()
            && self.validation.shape[0] == datasets.validation.len()
    }

    fn write(&self, cache: &Path, mut header: HashMap<String, String>) -> Result<(), TrainError> {
        let problem = |problem: String| TrainError::File {
            action: "write",
            path: cache.to_owned(),
            source: std::io::Error::other(problem),
        };
        let sets = [&self.train, &self.validation];
        let sets = sets.map(|set| (bytes_of(&set.values), set.shape));
        let digest = digest(sets.iter().map(|(bytes, shape)| (&shape[..], &bytes[..])));
        header.insert(DIGEST.to_owned(), digest);
        let views: Result<Vec<_>, _> = SETS
            .iter()
            .zip(&sets)
            .map(|(name, (bytes, shape))| {
                Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?))
            })
            .collect();
        let views =
            views.map_err(|error: safetensors::SafeTensorError| problem(error.to_string()))?;
        let bytes = safetensors::serialize(views, Some(header))
            .map_err(|error| problem(error.to_string()))?;
        crate::run_folder::write_atomically(cache, &bytes)
    }

    fn from_bytes(bytes: &[u8], expected: &HashMap<String, String>) -> Result<Self, CacheProblem> {
        let damaged =
            |error: safetensors::SafeTensorError| CacheProblem::Damaged(error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let found = header.metadata().clone().unwrap_or_default();
        for (key, what) in [
            ("vqvae", "another VQ-VAE"),
            ("train", "other images"),
            ("validation", "other images"),
        ] {
            if found.get(key) != expected.get(key) {
                return Err(CacheProblem::Foreign(what));
            }
        }
        let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
        check_digest(&file, bytes).map_err(CacheProblem::Damaged)?;
        if !found.contains_key(DIGEST) {
            return Err(CacheProblem::Unchecked);
        }
        let set = |name| {
            let view = file.tensor(name).map_err(damaged)?;
            let shape = <[usize; 5]>::try_from(view.shape())
                .map_err(|_| CacheProblem::Damaged(format!("`{name}` has the wrong shape")))?;
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            if values.len() != shape.iter().product::<usize>() || values.is_empty() {
                return Err(CacheProblem::Damaged(format!(
                    "`{name}` has the wrong length"
                )));
            }
            Ok(LatentSet { shape, values })
        };
        Ok(Self {
            train: set("train")?,
            validation: set("validation")?,
        })
    }
}

enum CacheProblem {
    /// The cache was made from something else, which is named.
    Foreign(&'static str),
    Damaged(String),
    /// The cache has no digest, so it may be damaged.
    Unchecked,
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

/// Checks the latents in a cache against the digest in its header, if it has one.
///
/// # Errors
/// A sentence that says what is wrong with the cache.
pub(crate) fn check_digest(file: &SafeTensors<'_>, bytes: &[u8]) -> Result<(), String> {
    let words = |error: safetensors::SafeTensorError| error.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(words)?;
    let written = header
        .metadata()
        .as_ref()
        .and_then(|facts| facts.get(DIGEST));
    match written {
        Some(digest) if *digest != digest_of(file).map_err(words)? => {
            Err("the latents in it are not those that were written".to_owned())
        }
        _ => Ok(()),
    }
}

fn digest_of(file: &SafeTensors<'_>) -> Result<String, safetensors::SafeTensorError> {
    let [train, validation] = SETS.map(|name| file.tensor(name));
    let sets = [train?, validation?];
    Ok(digest(sets.iter().map(|set| (set.shape(), set.data()))))
}

/// sha256 over shapes and values, in hexadecimal.
fn digest<'a>(sets: impl Iterator<Item = (&'a [usize], &'a [u8])>) -> String {
    let mut digest = Sha256::new();
    for (shape, bytes) in sets {
        digest.update(format!("{shape:?}"));
        digest.update(bytes);
    }
    hexadecimal(&digest.finalize())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
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

impl Encoder<'_> {
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

impl LatentSet {
    /// `[channels, height, width]`.
    fn latent_shape(&self) -> [usize; 3] {
        let [_, _, channels, height, width] = self.shape;
        [channels, height, width]
    }

    /// Standard deviation over everything: its inverse is the `scaling_factor` (Rombach et al. 2022, appendix G).
    pub(crate) fn standard_deviation(&self) -> f64 {
        let count = self.values.len() as f64;
        let mean = self
            .values
            .iter()
            .map(|&value| f64::from(value))
            .sum::<f64>()
            / count;
        let variance = self
            .values
            .iter()
            .map(|&value| (f64::from(value) - mean).powi(2))
            .sum::<f64>()
            / count;
        variance.sqrt()
    }

    /// All latents, minus `shift`, multiplied by `factor`.
    pub(crate) fn scaled(mut self, shift: f64, factor: f64) -> Self {
        for value in &mut self.values {
            *value = (*value - shift as f32) * factor as f32;
        }
        self
    }

    /// Latents `[batch, channels, height, width]`.
    pub(crate) fn batch(&self, images: &[(u32, bool)], device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.latent_shape();
        let (length, variants) = (channels * height * width, self.shape[1]);
        let mut values = Vec::with_capacity(images.len() * length);
        for &(index, flipped) in images {
            let variant = usize::from(flipped).min(variants - 1);
            let first = (index as usize * variants + variant) * length;
            values.extend_from_slice(&self.values[first..first + length]);
        }
        Tensor::from_data(
            TensorData::new(values, [images.len(), channels, height, width]),
            device,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latents() -> Latents {
        let set = |images: usize, variants: usize| {
            let shape = [images, variants, 1, 2, 2];
            LatentSet {
                shape,
                values: (0..images * variants * 4)
                    .map(|value| value as f32)
                    .collect(),
            }
        };
        Latents {
            train: set(3, 2),
            validation: set(2, 1),
        }
    }

    fn identity(vqvae: &str) -> HashMap<String, String> {
        [("vqvae", vqvae), ("train", "a"), ("validation", "b")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn a_cache_gives_back_what_was_put_in() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("latents/x.safetensors");
        latents().write(&path, identity("x")).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let Ok(read) = Latents::from_bytes(&bytes, &identity("x")) else {
            panic!("the cache is good")
        };
        assert_eq!(read.train, latents().train);
        assert_eq!(read.validation, latents().validation);
        assert!(matches!(
            Latents::from_bytes(&bytes, &identity("y")),
            Err(CacheProblem::Foreign("another VQ-VAE"))
        ));
        let mut flipped = bytes.clone();
        let one_of_the_values = bytes.len() - 10;
        flipped[one_of_the_values] ^= 1;
        let file = SafeTensors::deserialize(&flipped).unwrap();
        assert!(check_digest(&file, &flipped).is_err());
        assert!(matches!(
            Latents::from_bytes(&flipped, &identity("x")),
            Err(CacheProblem::Damaged(_))
        ));
        for length in [0, 7, 60, bytes.len() - 1] {
            assert!(matches!(
                Latents::from_bytes(&bytes[..length], &identity("x")),
                Err(CacheProblem::Damaged(_))
            ));
        }
    }

    #[test]
    fn a_mirrored_image_has_latents_of_its_own() {
        let latents = latents().train.scaled(0.0, 0.5);
        let batch = latents.batch(&[(2, true), (0, false)], &Device::flex());
        let values: Vec<f32> = batch.into_data().iter::<f32>().collect();
        assert_eq!(values, [10.0, 10.5, 11.0, 11.5, 0.0, 0.5, 1.0, 1.5]);
    }

    #[test]
    fn the_deviation_is_that_of_all_values() {
        let set = LatentSet {
            shape: [2, 1, 1, 1, 2],
            values: vec![1.0, 3.0, 5.0, 7.0],
        };
        assert!((set.standard_deviation() - 5f64.sqrt()).abs() < 1e-12);
    }
}
