//! Group normalisation as an operator of Burn.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};

use super::{numbers, tensor, values};
use crate::arrays;
use crate::normalisation::{self, ChannelMap, Groups, Statistics};
use crate::values::Values;

/// On a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub(crate) trait NormalisationOps: Backend {
    /// See [`crate::GroupNorm`].
    fn kiln_group_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self>;
}

impl NormalisationOps for Flex {
    fn kiln_group_norm(
        input: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        groups: Groups,
    ) -> FlexTensor {
        normalised(&input, &gamma, &beta, &groups).0
    }
}

/// Positions of images `[batch, height, width, channels]`.
fn positions(images: &FlexTensor) -> usize {
    images.shape()[1] * images.shape()[2]
}

fn normalised(
    input: &FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    groups: &Groups,
) -> (FlexTensor, Vec<Statistics>) {
    let (input, gamma, beta) = (values(input), values(gamma), values(beta));
    let (output, statistics) = normalisation::normalise(
        groups,
        numbers(&input),
        positions(&input),
        numbers(&gamma),
        numbers(&beta),
    );
    (tensor(output, input.shape()), statistics)
}

impl<C: CheckpointStrategy> NormalisationOps for Autodiff<Flex, C> {
    fn kiln_group_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (gamma, gamma_node) = gamma.into_parts();
        let (beta, beta_node) = beta.into_parts();
        let (output, statistics) = normalised(&input, &gamma, &beta, &groups);
        match NormalisationGradient
            .prepare::<C>([input_node, gamma_node, beta_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => {
                let state = State {
                    input,
                    gamma,
                    beta,
                    statistics,
                    groups,
                };
                operation.finish(state, output)
            }
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

#[derive(Debug)]
struct NormalisationGradient;

#[derive(Clone, Debug)]
struct State {
    input: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    statistics: Vec<Statistics>,
    groups: Groups,
}

impl Backward<Flex, 3> for NormalisationGradient {
    type State = State;

    fn backward(
        self,
        operation: Ops<State, 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let state = operation.state;
        let output_gradient = values(&gradients.consume::<Flex>(&operation.node));
        let mut gradient = arrays::array(output_gradient.shape().num_elements());
        gradient.copy_from_slice(numbers(&output_gradient));
        let (gamma, beta) = (values(&state.gamma), values(&state.beta));
        let images = state.statistics.chunks_exact(state.groups.groups);
        let map = |image| ChannelMap::new(&state.groups, image, numbers(&gamma), numbers(&beta));
        let maps: Vec<ChannelMap> = images.map(map).collect();
        let parameters = normalisation::gradients(
            &state.groups,
            Values::Exact(numbers(&values(&state.input))),
            positions(&state.input),
            numbers(&gamma),
            &maps,
            &state.statistics,
            &mut gradient,
        );
        let [input, gamma, beta] = operation.parents;
        if let Some(node) = input {
            gradients.register::<Flex>(node.id, tensor(gradient, state.input.shape()));
        }
        if let Some(node) = gamma {
            gradients.register::<Flex>(node.id, tensor(parameters.gamma, state.gamma.shape()));
        }
        if let Some(node) = beta {
            gradients.register::<Flex>(node.id, tensor(parameters.beta, state.beta.shape()));
        }
    }
}
