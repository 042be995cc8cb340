//! What was seen in real images, kept in a file: they do not change from one evaluation to the next.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::{DigitReadings, EvalError, Features, Seen};

const FEATURES: &str = "features";
/// Digits and their probabilities, `[count, 2]`.
const READINGS: &str = "readings";

impl Seen {
    /// Reads what [`Self::save`] has written; none if the file is not there or is damaged, since it can be made anew.
    pub fn load(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let file = SafeTensors::deserialize(&bytes).ok()?;
        let (values, length) = matrix(&file, FEATURES)?;
        let features = Features::new(values, length).ok()?;
        let Some((readings, 2)) = matrix(&file, READINGS) else {
            return Some(Self::Features(features));
        };
        let pairs = readings.as_chunks().0.iter();
        let digits: Vec<(usize, f32)> = pairs
            .map(|&[digit, probability]| (digit as usize, probability))
            .collect();
        (digits.len() == features.count())
            .then_some(Self::Digits(DigitReadings { features, digits }))
    }

    /// Writes a safetensors file, under a temporary name until it is whole.
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
                tensors.insert(*name, tensor);
            }
        }
        let write = || {
            let folder = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let bytes = safetensors::serialize(&tensors, None).map_err(std::io::Error::other)?;
            let mut temporary = path.as_os_str().to_owned();
            temporary.push(format!(".{}.tmp", std::process::id()));
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
        let Some(Seen::Digits(loaded)) = Seen::load(&path) else {
            panic!("not loaded");
        };
        assert_eq!((loaded.features, loaded.digits), (features.clone(), digits));

        Seen::Features(features.clone()).save(&path).unwrap();
        assert!(matches!(Seen::load(&path), Some(Seen::Features(loaded)) if loaded == features));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(Seen::load(&path).is_none());
        assert!(Seen::load(folder.path()).is_none());
    }
}
