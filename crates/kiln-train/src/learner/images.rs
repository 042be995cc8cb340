//! Images of a data set as tensors.

use burn::tensor::{Device, Tensor, TensorData};
use kiln_data::{ImageBatch, ImageDataset};

/// `[batch, channels, height, width]` in [-1, 1] on `device`.
pub(crate) fn tensor(batch: &ImageBatch, dataset: &ImageDataset, device: &Device) -> Tensor<4> {
    let shape = dataset.shape();
    let shape = [
        batch.indices.len(),
        shape.channels,
        shape.height,
        shape.width,
    ];
    Tensor::from_data(TensorData::new(batch.pixels.clone(), shape), device)
}
