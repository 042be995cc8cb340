//! The tensors of a checkpoint that are being renamed.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::CheckpointError;
use crate::pickle::RawTensor;

/// Tensors under their keys.
#[derive(Debug, Default)]
pub(super) struct Tensors(pub(super) BTreeMap<String, RawTensor>);

impl Tensors {
    /// A tensor's shape, or an empty one if the tensor does not exist.
    pub(super) fn shape(&self, key: &str) -> &[usize] {
        self.0.get(key).map_or(&[], |(_, shape, _)| shape)
    }

    /// The size of one dimension of a tensor, or `None` if it does not exist.
    pub(super) fn size(&self, key: &str, dimension: usize) -> Option<usize> {
        self.shape(key).get(dimension).copied()
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The greatest number after `prefix` in any key, plus one: the length of a list.
    pub(super) fn count(&self, prefix: &str) -> usize {
        let numbers = self.0.keys().filter_map(|key| {
            let (number, _) = key.strip_prefix(prefix)?.split_once('.')?;
            number.parse::<usize>().ok()
        });
        // No network has so many; ignore such a number.
        numbers
            .filter(|&number| number < 10_000)
            .max()
            .map_or(0, |last| last + 1)
    }

    /// The numbers of a tensor of F32 or F64 values.
    pub(super) fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        let (dtype, _, bytes) = self.0.get(key)?;
        match dtype {
            Dtype::F32 => {
                let chunks = bytes.as_chunks().0.iter();
                Some(
                    chunks
                        .map(|&four| f64::from(f32::from_le_bytes(four)))
                        .collect(),
                )
            }
            Dtype::F64 => {
                let chunks = bytes.as_chunks().0.iter();
                Some(chunks.map(|&eight| f64::from_le_bytes(eight)).collect())
            }
            _ => None,
        }
    }

    /// Renames to diffusers' keys by `rename`, which returns the new keys of a tensor: one, or three for an attention's
    /// joint projection; `None` if the tensor has no counterpart.
    pub(super) fn renamed(
        self,
        rename: impl Fn(&str, &[usize]) -> Option<NewKeys>,
    ) -> Result<Self, CheckpointError> {
        let mut renamed = BTreeMap::new();
        for (key, (dtype, shape, bytes)) in self.0 {
            let new = rename(&key, &shape).ok_or_else(|| CheckpointError::NoPlace {
                key: key.clone(),
                shape: shape.clone(),
            })?;
            match new {
                NewKeys::One(new) => {
                    renamed.insert(new, (dtype, shape, bytes));
                }
                NewKeys::Linear(new) => {
                    // A 1x1 convolution of one or two dimensions is a linear layer.
                    let shape = shape.into_iter().take(2).collect();
                    renamed.insert(new, (dtype, shape, bytes));
                }
                NewKeys::Joint { keys, heads } => {
                    for (part, new) in keys.into_iter().enumerate() {
                        let (shape, bytes) = third(&shape, &bytes, part, heads);
                        renamed.insert(new, (dtype, shape, bytes));
                    }
                }
            }
        }
        Ok(Self(renamed))
    }

    /// The tensors as in a weights file.
    pub(super) fn views(&self) -> Vec<(&String, TensorView<'_>)> {
        let views = self.0.iter().filter_map(|(key, (dtype, shape, bytes))| {
            // Shapes and bytes were read together and split together.
            let view = TensorView::new(*dtype, shape.clone(), bytes).ok()?;
            Some((key, view))
        });
        views.collect()
    }
}

/// A tensor's name in diffusers.
pub(super) enum NewKeys {
    /// Unchanged, under another name.
    One(String),
    /// A 1x1 convolution that is a linear layer there.
    Linear(String),
    /// Query, key and value of an attention that stores them in one tensor, head by head.
    Joint {
        /// Their names.
        keys: [String; 3],
        /// How many heads there are.
        heads: usize,
    },
}

/// Query (0), key (1) or value (2) of a joint projection. Its rows are, for each head, the rows of its query, its key
/// and its value.
fn third(shape: &[usize], bytes: &[u8], part: usize, heads: usize) -> (Vec<usize>, Vec<u8>) {
    let rows = shape.first().copied().unwrap_or_default() / 3;
    let per_head = rows / heads.max(1);
    let row = bytes.len() / (3 * rows).max(1);
    let mut taken = Vec::with_capacity(bytes.len() / 3);
    for head in 0..heads {
        let begin = (3 * head + part) * per_head * row;
        taken.extend(bytes.get(begin..begin + per_head * row).unwrap_or_default());
    }
    let shape = [rows]
        .into_iter()
        .chain(shape.iter().skip(1).take(1).copied());
    (shape.collect(), taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joint_projections_are_taken_apart_head_by_head() {
        // Two heads of one channel: rows q0 k0 v0 q1 k1 v1, of one input.
        let bytes: Vec<u8> = (0..6u8)
            .flat_map(|row| f32::from(row).to_le_bytes())
            .collect();
        let part = |part| {
            let (shape, bytes) = third(&[6, 1, 1], &bytes, part, 2);
            assert_eq!(shape, [2, 1]);
            let numbers = bytes.as_chunks().0.iter();
            numbers
                .map(|&four| f32::from_le_bytes(four))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            [part(0), part(1), part(2)],
            [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
        );
        // Biases have no inputs.
        assert_eq!(third(&[6], &bytes, 1, 2).0, [2]);
    }
}
