//! Max pooling as an operator of Burn.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::Shape;
use rayon::prelude::*;

use super::{numbers, tensor, values};
use crate::arrays;
use crate::instructions::vectorized;
use crate::pooling::{self, Pool};

/// On a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait MaxPoolOps: Backend {
    /// See [`crate::halving_max_pool`].
    fn kiln_max_pool(maps: FloatTensor<Self>, pool: Pool) -> FloatTensor<Self>;
}

impl MaxPoolOps for Flex {
    fn kiln_max_pool(maps: FlexTensor, pool: Pool) -> FlexTensor {
        pooled(&values(&maps), pool)
    }
}

/// Rows of which one task computes the gradient.
const ROWS_PER_TASK: usize = 16;

fn pooled(maps: &FlexTensor, pool: Pool) -> FlexTensor {
    let ([height, width], [rows, columns]) = (pool.size_in, pool.size_out);
    let images = maps.shape()[0];
    let mut output = arrays::array(images * rows * columns * pool.channels);
    output
        .par_chunks_exact_mut(rows * columns * pool.channels)
        .zip(numbers(maps).par_chunks_exact(height * width * pool.channels))
        .for_each(|(output, image)| {
            let rows = output.par_chunks_exact_mut(columns * pool.channels);
            rows.enumerate().for_each(|(row, output)| {
                vectorized(pooling::Forward {
                    pool,
                    image,
                    row,
                    output,
                });
            });
        });
    tensor(output, Shape::new([images, rows, columns, pool.channels]))
}

impl<C: CheckpointStrategy> MaxPoolOps for Autodiff<Flex, C> {
    fn kiln_max_pool(maps: FloatTensor<Self>, pool: Pool) -> FloatTensor<Self> {
        let (maps, node) = maps.into_parts();
        let maps = values(&maps);
        let output = pooled(&maps, pool);
        match MaxPoolGradient
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish((maps, pool), output),
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

#[derive(Debug)]
struct MaxPoolGradient;

impl Backward<Flex, 1> for MaxPoolGradient {
    type State = (FlexTensor, Pool);

    fn backward(
        self,
        operation: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (maps, pool) = operation.state;
        let upstream = values(&gradients.consume::<Flex>(&operation.node));
        let [Some(node)] = operation.parents else {
            return;
        };
        let ([height, width], [rows, columns]) = (pool.size_in, pool.size_out);
        let image_len = height * width * pool.channels;
        let mut gradient = arrays::array(maps.shape().num_elements());
        let images = numbers(&maps)
            .par_chunks_exact(image_len)
            .zip(numbers(&upstream).par_chunks_exact(rows * columns * pool.channels));
        gradient
            .par_chunks_exact_mut(image_len)
            .zip(images)
            .for_each(|(gradient, (image, upstream))| {
                let parts = gradient.par_chunks_mut(ROWS_PER_TASK * width * pool.channels);
                parts.enumerate().for_each(|(part, gradient)| {
                    pooling::backward(pool, image, upstream, part * ROWS_PER_TASK, gradient);
                });
            });
        gradients.register::<Flex>(node.id, tensor(gradient, maps.shape()));
    }
}
