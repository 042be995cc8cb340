//! The file with the network's weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::store::pytorch_reader::{DType, PytorchReader};
use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::layer::Folded;
use crate::EvalError;

/// Added to the variance in the batch normalisations.
const EPSILON: f32 = 1e-3;
const FIRST_LAYER: &str = "Conv2d_1a_3x3";

/// Tensors by name, `Mixed_5b.branch1x1.conv.weight`, as shape and values.
pub(super) struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    sha256: String,
}

impl Weights {
    pub(super) fn read(path: &Path) -> Result<Self, EvalError> {
        let bytes = crate::read(path)?;
        let is_safetensors = path
            .extension()
            .is_some_and(|extension| extension == "safetensors");
        let tensors = if is_safetensors {
            from_safetensors(&bytes)
        } else {
            from_pytorch(path)
        };
        Ok(Self {
            path: path.to_owned(),
            tensors: tensors.map_err(|reason| damaged(path, reason))?,
            sha256: kiln_data::sha256(&bytes),
        })
    }

    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The kernel of a layer with its batch normalisation (Ioffe and Szegedy 2015) folded in:
    ///
    /// ```text
    /// gamma (w x - mean) / sqrt(variance + epsilon) + beta = (scale w) x + (beta - scale mean)
    /// ```
    pub(super) fn folded(&self, name: &str) -> Result<Folded, EvalError> {
        let (shape, weight) = self.tensor(&format!("{name}.conv.weight"))?;
        let &[channels, inputs, height, width] = shape.as_slice() else {
            return Err(damaged(
                &self.path,
                format!("{name}.conv.weight is no kernel"),
            ));
        };
        let statistics = |part: &str| {
            let key = format!("{name}.bn.{part}");
            let (_, values) = self.tensor(&key)?;
            let fits = values.len() == channels;
            fits.then_some(values.as_slice())
                .ok_or_else(|| damaged(&self.path, format!("{key} has the wrong length")))
        };
        let (gammas, betas) = (statistics("weight")?, statistics("bias")?);
        let (means, variances) = (statistics("running_mean")?, statistics("running_var")?);
        let scales: Vec<f32> = gammas
            .iter()
            .zip(variances)
            .map(|(gamma, variance)| gamma / (variance + EPSILON).sqrt())
            .collect();
        let rows = weight.chunks(inputs * height * width).zip(&scales);
        let shifts = betas.iter().zip(means).zip(&scales);
        Ok(Folded {
            shape: [channels, inputs, height, width],
            weight: rows
                .flat_map(|(row, &scale)| row.iter().map(move |value| value * scale))
                .collect(),
            bias: shifts
                .map(|((beta, mean), scale)| beta - mean * scale)
                .collect(),
        })
    }

    /// Whether the network was trained on pixels in [0, 1], rather than in [-1, 1].
    ///
    /// The first layer has no bias, so on images of one colour m its outputs have the means `sum over c of m_c K_oc`,
    /// where K_oc is the sum of output o's kernel over channel c. The same holds for all training images with their
    /// mean colour m. The m that best fits the means in the first normalisation is about 0.5 on [0, 1], and about 0 on
    /// [-1, 1].
    pub(super) fn reads_zero_to_one(&self) -> Result<bool, EvalError> {
        let (shape, weight) = self.tensor(&format!("{FIRST_LAYER}.conv.weight"))?;
        let &[_, 3, height, width] = shape.as_slice() else {
            return Err(damaged(
                &self.path,
                format!("{FIRST_LAYER} does not read RGB"),
            ));
        };
        let (_, means) = self.tensor(&format!("{FIRST_LAYER}.bn.running_mean"))?;
        // Least squares for one gray m: the sum of K mean over the sum of K².
        let sums = weight
            .chunks(3 * height * width)
            .map(|row| row.iter().sum::<f32>());
        let (mut products, mut squares) = (0.0, 0.0);
        for (sum, mean) in sums.zip(means) {
            products += f64::from(sum * mean);
            squares += f64::from(sum * sum);
        }
        Ok(products / squares > 0.25)
    }

    fn tensor(&self, key: &str) -> Result<&(Vec<usize>, Vec<f32>), EvalError> {
        let found = self.tensors.get(key);
        found.ok_or_else(|| damaged(&self.path, format!("{key} is missing")))
    }
}

fn damaged(path: &Path, reason: String) -> EvalError {
    EvalError::Weights {
        path: path.to_owned(),
        reason,
    }
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn from_safetensors(bytes: &[u8]) -> Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let tensors = file.iter().map(|(key, tensor)| {
        let values = match tensor.dtype() {
            Dtype::F32 => from_f32(tensor.data()),
            Dtype::F16 => from_f16(tensor.data()),
            other => return Err(format!("{key} is of type {other}, not F32 or F16")),
        };
        Ok((key.to_owned(), (tensor.shape().to_vec(), values)))
    });
    tensors.collect()
}

/// The floating-point tensors of a `.pth`: counters and other integers are not needed.
fn from_pytorch(path: &Path) -> Result<Tensors, String> {
    let file = PytorchReader::new(path).map_err(|error| error.to_string())?;
    let floats = file.tensors().iter().filter_map(|(key, tensor)| {
        let values = match tensor.dtype() {
            DType::F32 => from_f32,
            DType::F16 => from_f16,
            _ => return None,
        };
        let bytes = tensor.read().map_err(|error| format!("{key}: {error}"));
        Some(bytes.map(|bytes| (key.clone(), (tensor.shape().to_vec(), values(&bytes)))))
    });
    floats.collect()
}

fn from_f32(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&four| f32::from_le_bytes(four))
        .collect()
}

fn from_f16(bytes: &[u8]) -> Vec<f32> {
    let halves = bytes.as_chunks().0.iter();
    halves
        .map(|&two| f16::from_le_bytes(two).to_f32())
        .collect()
}
