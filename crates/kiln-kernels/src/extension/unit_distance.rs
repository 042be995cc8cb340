//! The distance of feature maps as an operator of Burn.

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
use crate::unit_vectors;

/// On a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait UnitDistanceOps: Backend {
    /// See [`crate::unit_distance()`].
    fn kiln_unit_distance(
        maps: FloatTensor<Self>,
        others: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        smallest: f32,
    ) -> FloatTensor<Self>;
}

impl UnitDistanceOps for Flex {
    fn kiln_unit_distance(
        maps: FlexTensor,
        others: FlexTensor,
        weights: FlexTensor,
        smallest: f32,
    ) -> FlexTensor {
        Inputs::new(maps, others, weights, smallest).distances()
    }
}

/// Positions of one task.
const POSITIONS_PER_TASK: usize = 256;

#[derive(Clone, Debug)]
struct Inputs {
    maps: FlexTensor,
    others: FlexTensor,
    weights: FlexTensor,
    smallest: f32,
}

impl Inputs {
    fn new(maps: FlexTensor, others: FlexTensor, weights: FlexTensor, smallest: f32) -> Self {
        Self {
            maps: values(&maps),
            others: values(&others),
            weights: values(&weights),
            smallest,
        }
    }

    /// Positions of an image, and channels.
    fn image(&self) -> [usize; 2] {
        let [_, height, width, channels] = self.maps.shape().dims();
        [height * width, channels]
    }

    fn of<'a>(&'a self, maps: &'a [f32], others: &'a [f32]) -> unit_vectors::Forward<'a> {
        unit_vectors::Forward {
            maps,
            others,
            weights: numbers(&self.weights),
            smallest: self.smallest,
        }
    }

    fn distances(&self) -> FlexTensor {
        let [positions, channels] = self.image();
        let part = POSITIONS_PER_TASK * channels;
        let maps = numbers(&self.maps).par_chunks_exact(positions * channels);
        let pairs = maps.zip(numbers(&self.others).par_chunks_exact(positions * channels));
        let distances: Vec<f32> = pairs
            .map(|(maps, others)| {
                let parts = maps.par_chunks(part).zip(others.par_chunks(part));
                let sums: Vec<f64> = parts
                    .map(|(maps, others)| vectorized(self.of(maps, others)))
                    .collect();
                (sums.iter().sum::<f64>() / positions as f64) as f32
            })
            .collect();
        let images = distances.len();
        tensor(distances, Shape::new([images]))
    }

    /// The gradient with respect to `maps`, one of both.
    fn gradient(&self, maps: &FlexTensor, others: &FlexTensor, upstream: &[f32]) -> FlexTensor {
        let [positions, channels] = self.image();
        let part = POSITIONS_PER_TASK * channels;
        let mut gradient = arrays::array(maps.shape().num_elements());
        let pairs = numbers(maps)
            .par_chunks_exact(positions * channels)
            .zip(numbers(others).par_chunks_exact(positions * channels));
        gradient
            .par_chunks_exact_mut(positions * channels)
            .zip(pairs)
            .zip(upstream.par_iter())
            .for_each(|((gradient, (maps, others)), &upstream)| {
                let pairs = maps.par_chunks(part).zip(others.par_chunks(part));
                let parts = gradient.par_chunks_mut(part).zip(pairs);
                parts.for_each(|(gradient, (maps, others))| {
                    vectorized(unit_vectors::Backward {
                        of: self.of(maps, others),
                        upstream: upstream / positions as f32,
                        gradient,
                    });
                });
            });
        tensor(gradient, maps.shape())
    }
}

impl<C: CheckpointStrategy> UnitDistanceOps for Autodiff<Flex, C> {
    fn kiln_unit_distance(
        maps: FloatTensor<Self>,
        others: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        smallest: f32,
    ) -> FloatTensor<Self> {
        let (maps, maps_node) = maps.into_parts();
        let (others, others_node) = others.into_parts();
        let (weights, _) = weights.into_parts();
        let inputs = Inputs::new(maps, others, weights, smallest);
        let distances = inputs.distances();
        let nodes = [maps_node, others_node];
        match UnitDistanceGradient
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(inputs, distances),
            OpsKind::UnTracked(operation) => operation.finish(distances),
        }
    }
}

#[derive(Debug)]
struct UnitDistanceGradient;

impl Backward<Flex, 2> for UnitDistanceGradient {
    type State = Inputs;

    fn backward(
        self,
        operation: Ops<Inputs, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let inputs = operation.state;
        let upstream = values(&gradients.consume::<Flex>(&operation.node));
        let [maps, others] = operation.parents;
        for (node, own, other) in [
            (maps, &inputs.maps, &inputs.others),
            (others, &inputs.others, &inputs.maps),
        ] {
            if let Some(node) = node {
                let gradient = inputs.gradient(own, other, numbers(&upstream));
                gradients.register::<Flex>(node.id, gradient);
            }
        }
    }
}
