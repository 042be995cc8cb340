//! Stores the features of real images in a file, because they do not change between evaluations.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use kiln_data::read_regular;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::{DigitReadings, EvalError, Features, Seen};

const FEATURES: &str = "features";
/// Digits and their probabilities, `[count, 2]`.
const READINGS: &str = "readings";
/// The extension of files that are being written.
const TEMPORARY: &str = ".tmp";
/// A file is written within a second. One that is older belongs to a killed process.
const LONGEST_WRITE: Duration = Duration::from_secs(3600);
/// The key of the tensors' digest in the file's metadata.
const DIGEST: &str = "sha256";

impl Seen {
    /// Reads a file from [`Self::save`]; `None` if there is no file, or one from an old kiln without a checksum.
    ///
    /// # Errors
    /// [`EvalError::Cache`] for a file that differs in any bit from what was saved; [`EvalError::File`] for one that
    /// cannot be read.
    pub fn load(path: &Path) -> Result<Option<Self>, EvalError> {
        match read_regular(path, crate::LARGEST) {
            Ok(bytes) => Self::from_bytes(&bytes).map_err(|reason| EvalError::Cache {
                path: path.to_owned(),
                reason,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EvalError::File {
                action: "read",
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Result<Option<Self>, String> {
        let in_words = |error: safetensors::SafeTensorError| error.to_string();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(in_words)?;
        let file = SafeTensors::deserialize(bytes).map_err(in_words)?;
        let tensors: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
        let facts = header.metadata().as_ref();
        let Some(noted) = facts.and_then(|facts| facts.get(DIGEST)) else {
            return Ok(None);
        };
        if *noted != digest(&tensors) {
            return Err("its checksum differs from the saved one".to_owned());
        }
        let (values, length) = matrix(&file, FEATURES).ok_or("it holds no features")?;
        let features = Features::new(values, length).map_err(|error| error.to_string())?;
        let Some((readings, 2)) = matrix(&file, READINGS) else {
            return Ok(Some(Self::Features(features)));
        };
        let pairs = readings.as_chunks().0.iter();
        let digits: Vec<(usize, f32)> = pairs
            .map(|&[digit, probability]| (digit as usize, probability))
            .collect();
        if digits.len() != features.count() {
            return Err(format!(
                "it has {} digits of {} images",
                digits.len(),
                features.count()
            ));
        }
        Ok(Some(Self::Digits(DigitReadings { features, digits })))
    }

    /// Writes a safetensors file, under a temporary name until it is complete.
    ///
    /// # Errors
    /// [`EvalError::File`] when it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), EvalError> {
        let features = self.features();
        let readings: Vec<f32> = match self {
            Self::Digits(readings) => (readings.digits.iter())
                .flat_map(|&(digit, probability)| [digit as f32, probability])
                .collect(),
            Self::Features(_) => Vec::new(),
        };
        let bytes = |values: &[f32]| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let parts: [(&str, usize, Vec<u8>); 2] = [
            (FEATURES, features.length(), bytes(features.values())),
            (READINGS, 2, bytes(&readings)),
        ];
        let mut tensors = BTreeMap::new();
        for (name, length, bytes) in &parts {
            let shape = vec![bytes.len() / 4 / length, *length];
            let whole_rows = TensorView::new(Dtype::F32, shape, bytes);
            if let (false, Ok(tensor)) = (bytes.is_empty(), whole_rows) {
                tensors.insert((*name).to_owned(), tensor);
            }
        }
        let write = || {
            let folder = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            clear_leftovers(folder);
            let facts = HashMap::from([(DIGEST.to_owned(), digest(&tensors))]);
            let bytes = safetensors::serialize(&tensors, Some(facts)).map_err(io::Error::other)?;
            let mut temporary = path.as_os_str().to_owned();
            temporary.push(format!(".{}{TEMPORARY}", std::process::id()));
            fs::write(&temporary, bytes)?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| EvalError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }
}

/// Removes the files of killed processes. Best effort: they only take room.
fn clear_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_temporary = name.to_string_lossy().ends_with(TEMPORARY);
        let written = entry.metadata().and_then(|file| file.modified());
        let age = written.ok().and_then(|time| time.elapsed().ok());
        if is_temporary && age.is_some_and(|age| age > LONGEST_WRITE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// SHA-256 of the tensors' names, shapes and bytes, in hexadecimal digits.
fn digest(tensors: &BTreeMap<String, TensorView<'_>>) -> String {
    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        hash.update(format!("{name} {:?} ", tensor.shape()));
        hash.update(tensor.data());
    }
    kiln_data::hexadecimal(&hash.finalize())
}

fn matrix(file: &SafeTensors, name: &str) -> Option<(Vec<f32>, usize)> {
    let tensor = file.tensor(name).ok()?;
    let &[_, length] = tensor.shape() else {
        return None;
    };
    let numbers = tensor.data().as_chunks().0.iter();
    let values = numbers.map(|&four| f32::from_le_bytes(four)).collect();
    (tensor.dtype() == Dtype::F32).then_some((values, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/seen.safetensors");
        let features = Features::new(vec![0.5, 1.5, 2.5, 3.5], 2).unwrap();
        let digits = vec![(7, 0.25), (1, 1.0)];
        let readings = DigitReadings {
            features: features.clone(),
            digits: digits.clone(),
        };
        Seen::Digits(readings).save(&path).unwrap();
        let Ok(Some(Seen::Digits(loaded))) = Seen::load(&path) else {
            panic!("not loaded");
        };
        assert_eq!((loaded.features, loaded.digits), (features.clone(), digits));

        Seen::Features(features.clone()).save(&path).unwrap();
        let loaded = Seen::load(&path).unwrap();
        assert!(matches!(loaded, Some(Seen::Features(loaded)) if loaded == features));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(Seen::load(&path).is_err());
        assert!(Seen::load(folder.path()).is_err());
        assert!(matches!(
            Seen::load(&folder.path().join("nothing")),
            Ok(None)
        ));
    }

    #[test]
    fn no_bit_of_the_file_can_flip_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen.safetensors");
        let readings = DigitReadings {
            features: Features::new(vec![0.5, 1.5, 2.5, 3.5], 2).unwrap(),
            digits: vec![(7, 0.25), (1, 1.0)],
        };
        Seen::Digits(readings.clone()).save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[place] ^= 1 << bit;
                // A space of the header may become other whitespace, which changes nothing.
                let Ok(Some(Seen::Digits(loaded))) = Seen::from_bytes(&flipped) else {
                    continue;
                };
                assert_eq!(
                    loaded.features, readings.features,
                    "bit {bit} of byte {place}"
                );
                assert_eq!(loaded.digits, readings.digits, "bit {bit} of byte {place}");
            }
        }
        // A file without a digest, from kiln 0.1.0, cannot be checked, but is not damaged.
        let values = [0.5f32, 1.5].map(f32::to_le_bytes).concat();
        let tensor = TensorView::new(Dtype::F32, vec![1, 2], &values).unwrap();
        let unproven = safetensors::serialize([(FEATURES, tensor)], None).unwrap();
        assert!(matches!(Seen::from_bytes(&unproven), Ok(None)));
    }
}
