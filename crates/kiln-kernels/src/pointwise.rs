//! Linear layers of every pixel, as one convolution.

use std::io;
use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use crate::extension::{Prepared, numbers, tensor, values};
use crate::stored::{Store, StoredOps, is_stored, stored};
use crate::{arrays, is_ours_without_gradient};

/// The most layers that one operator takes.
const MOST_LAYERS: usize = 3;

/// The weight of a 1x1 convolution whose outputs are those of some linear layers side by side, `[outputs of all, inputs, 1,
/// 1]`, from the layers' weights, `[inputs, outputs]` each. For a model that is not being trained it is computed once.
pub fn pointwise_weight(layers: Vec<Tensor<2>>) -> Tensor<4> {
    let ours = (1..=MOST_LAYERS).contains(&layers.len());
    if ours && layers.iter().all(is_ours_without_gradient) {
        let device = layers[0].device();
        let mut layers = layers.into_iter();
        let mut next = || {
            let layer = layers.next();
            layer
                .unwrap_or_else(|| Tensor::empty([0, 0], &device))
                .into_dispatch()
        };
        let weight = <Dispatch as PointwiseOps>::kiln_pointwise_weight(next(), next(), next());
        return Tensor::from_dispatch(weight);
    }
    let rows = layers.into_iter().map(Tensor::transpose);
    let weight = Tensor::cat(rows.collect(), 0);
    let [outputs, inputs] = weight.dims();
    weight.reshape([outputs, inputs, 1, 1])
}

/// On a backend's own tensors. `f32` has been checked before.
#[backend_extension(Flex)]
pub(crate) trait PointwiseOps: Backend {
    /// See [`pointwise_weight`]. A missing layer is an empty tensor.
    fn kiln_pointwise_weight(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

static JOINED: Prepared<(), FlexTensor> = Prepared::new();

impl PointwiseOps for Flex {
    fn kiln_pointwise_weight(
        first: FlexTensor,
        second: FlexTensor,
        third: FlexTensor,
    ) -> FlexTensor {
        let layers = [&first, &second, &third];
        let layers: Vec<&FlexTensor> = layers
            .into_iter()
            .filter(|layer| layer.shape().num_elements() > 0)
            .collect();
        JOINED.get(&layers, (), || joined(&layers))
    }
}

fn joined(layers: &[&FlexTensor]) -> FlexTensor {
    let joined = Joined(layers.iter().map(|&layer| layer.clone()).collect());
    let [inputs, outputs] = [joined.inputs(), joined.outputs()];
    let shape = Shape::new([outputs, inputs, 1, 1]);
    if layers.iter().all(|layer| is_stored(layer)) {
        // Tensors of their own: `JOINED` must see when nothing but itself has the model's any more.
        let own = |layer: FlexTensor| {
            let (layout, dtype) = (layer.layout().clone(), layer.dtype());
            FlexTensor::new((*layer.data_arc()).clone(), layout, dtype)
        };
        let layers = joined.0.into_iter().map(own).collect();
        return stored(Arc::new(Joined(layers)), shape);
    }
    let mut numbers = arrays::array(inputs * outputs);
    joined.write(&mut numbers);
    tensor(numbers, shape)
}

/// Weights, `[inputs, outputs]`, whose transposes lie below each other.
struct Joined(Vec<FlexTensor>);

impl Joined {
    fn inputs(&self) -> usize {
        self.0.first().map_or(0, |layer| layer.shape()[0])
    }

    fn outputs(&self) -> usize {
        self.0.iter().map(|layer| layer.shape()[1]).sum()
    }

    fn write(&self, mut rows: &mut [f32]) {
        let inputs = self.inputs();
        for layer in &self.0 {
            let outputs = layer.shape()[1];
            let layer = values(&Flex::kiln_for_one_use(layer.clone()));
            let numbers = numbers(&layer);
            let of_layer = rows.split_off_mut(..outputs * inputs).unwrap_or_default();
            let rows = of_layer.par_chunks_exact_mut(inputs.max(1)).enumerate();
            rows.for_each(|(output, row)| {
                let column = numbers[output..].iter().step_by(outputs);
                for (value, &number) in row.iter_mut().zip(column) {
                    *value = number;
                }
            });
        }
    }
}

impl Store for Joined {
    /// Panics as the layers do where [theirs](crate::tensor_in_store) cannot be read.
    fn read(&self, numbers: &mut [f32]) -> io::Result<()> {
        self.write(numbers);
        Ok(())
    }
}
