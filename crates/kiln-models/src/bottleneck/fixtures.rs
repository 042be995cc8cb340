//! The reference values of `vector-quantize-pytorch`, for tests.

use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
use safetensors::SafeTensors;

/// Made by `tests/fixtures/quantizer/make_others.py`.
const OTHERS: &[u8] = include_bytes!("../../../../tests/fixtures/quantizer/others.safetensors");

/// The file, read onto a device.
pub(super) struct Fixture {
    file: SafeTensors<'static>,
    device: Device,
}

impl Fixture {
    pub(super) fn others(device: &Device) -> Self {
        Self {
            file: SafeTensors::deserialize(OTHERS).expect("a safetensors file"),
            device: device.clone(),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    fn words(&self, name: &str) -> (Vec<[u8; 4]>, Vec<usize>) {
        let view = self.file.tensor(name).expect("a known tensor");
        let words = view.data().chunks_exact(4);
        let words = words.map(|bytes| [bytes[0], bytes[1], bytes[2], bytes[3]]);
        (words.collect(), view.shape().to_vec())
    }

    pub(super) fn floats<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (words, shape) = self.words(name);
        let values: Vec<f32> = words.into_iter().map(f32::from_le_bytes).collect();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    pub(super) fn integers(&self, name: &str) -> Vec<i32> {
        let (words, _) = self.words(name);
        words.into_iter().map(i32::from_le_bytes).collect()
    }

    /// Both have the same shape, and values within 1e-5.
    pub(super) fn assert_close<const D: usize>(&self, name: &str, ours: Tensor<D>) {
        let expected = self.floats::<D>(name).into_data();
        ours.into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }
}

pub(super) fn integers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
    tensor.into_data().iter::<i32>().collect()
}
