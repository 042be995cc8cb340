//! The file of a run's latents.
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
use kiln_data::{hexadecimal, read_regular};
use kiln_models::free_memory;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::latents::{LatentSet, Latents};
use crate::error::TrainError;
use crate::run_folder::record::RunRecord;
use crate::run_folder::write_atomically;

/// The header's key for the sha256 of all latents, in hexadecimal.
const DIGEST: &str = "sha256";
const SETS: [&str; 2] = ["train", "validation"];

/// Why the latents in a cache cannot be used.
pub(super) enum CacheProblem {
    /// The cache was made from something else, which is named.
    Foreign(&'static str),
    Damaged(String),
    /// The cache has no digest, so it may be damaged.
    Unchecked,
}

impl Latents {
    pub(super) fn write(
        &self,
        cache: &Path,
        mut header: HashMap<String, String>,
    ) -> Result<(), TrainError> {
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
        write_atomically(cache, &bytes)
    }

    pub(super) fn from_bytes(
        bytes: &[u8],
        expected: &HashMap<String, String>,
    ) -> Result<Self, CacheProblem> {
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

impl RunRecord {
    /// The first `count` cached validation latents `[batch, channels, height, width]`, not scaled, of the VQ-VAE with
    /// this [hash](kiln_checkpoint::vqvae_hash); `None` if that VQ-VAE's latents are not cached.
    ///
    /// # Errors
    /// [`TrainError::File`] if the cache cannot be read, [`TrainError::Run`] if it is damaged.
    pub fn validation_latents(
        &self,
        vqvae_hash: &str,
        count: usize,
        device: &Device,
    ) -> Result<Option<Tensor<4>>, TrainError> {
        let path = self.folder.latents(vqvae_hash);
        if !path.is_file() {
            return Ok(None);
        }
        let most = free_memory().unwrap_or(u64::MAX);
        let bytes = read_regular(&path, most).map_err(TrainError::file("read", &path))?;
        let damaged = |problem: String| {
            TrainError::Run(format!(
                "the latents in {} are damaged ({problem}): remove the file, and training stage 2 encodes them again",
                path.display()
            ))
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        check_digest(&file, &bytes).map_err(damaged)?;
        let validation = (file.tensor("validation")).map_err(|error| damaged(error.to_string()))?;
        let &[images, variants, channels, height, width] = validation.shape() else {
            return Err(damaged("`validation` has the wrong shape".to_owned()));
        };
        let count = count.min(images);
        // Only the unmirrored images: the first variant of each.
        let image = channels * height * width;
        let values: Vec<f32> = validation
            .data()
            .as_chunks()
            .0
            .chunks((variants * image).max(1))
            .take(count)
            .flat_map(|variants| variants.iter().take(image))
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        if count == 0 || image == 0 || values.len() != count * image {
            return Err(damaged("`validation` has the wrong length".to_owned()));
        }
        let data = TensorData::new(values, [count, channels, height, width]);
        Ok(Some(Tensor::from_data(data, device)))
    }
}

/// Checks the latents in a cache against the digest in its header, if it has one.
///
/// # Errors
/// A sentence that says what is wrong with the cache.
fn check_digest(file: &SafeTensors<'_>, bytes: &[u8]) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::run_folder::RunFolder;

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

    fn record(folder: &Path) -> RunRecord {
        let text = include_str!("../../../../configs/mnist-quick.toml");
        RunRecord {
            folder: RunFolder::new(folder),
            experiment: Experiment::parse(text, "mnist-quick", &[]).unwrap(),
            stages: Vec::new(),
        }
    }

    fn write_latents(path: &Path, shape: [usize; 5]) {
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..count)
            .flat_map(|value| (value as f32).to_le_bytes())
            .collect();
        let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
        let nothing: Option<HashMap<String, String>> = None;
        let bytes = safetensors::serialize([("validation", view)], nothing).unwrap();
        write_atomically(path, &bytes).unwrap();
    }

    #[test]
    fn latents_are_found_by_their_vqvae() {
        let place = tempfile::tempdir().unwrap();
        let record = record(place.path());
        write_latents(&record.folder.latents("abc"), [3, 2, 1, 1, 2]);
        let read = |hash, count| {
            let latents = record
                .validation_latents(hash, count, &Device::flex())
                .unwrap()?;
            Some(latents.into_data().iter::<f32>().collect::<Vec<f32>>())
        };
        assert_eq!(read("abc", 2), Some(vec![0.0, 1.0, 4.0, 5.0]));
        assert_eq!(read("abc", 9).map(|values| values.len()), Some(6));
        assert_eq!(read("other", 2), None);
    }

    #[test]
    fn a_damaged_cache_is_named() {
        let place = tempfile::tempdir().unwrap();
        let record = record(place.path());
        let path = record.folder.latents("abc");
        write_latents(&path, [3, 2, 1, 1, 2]);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..4], &whole[..whole.len() - 4], &[]] {
            std::fs::write(&path, bytes).unwrap();
            let error = record.validation_latents("abc", 2, &Device::flex());
            assert!(error.unwrap_err().to_string().contains("abc.safetensors"));
        }
    }
}
