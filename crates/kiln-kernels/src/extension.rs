//! How the operators hang into Burn: a backend extension for Flex, and its gradients for Flex with autodiff.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Bytes, DType, Shape};

use crate::convolution::{self, Geometry};
use crate::normalisation::{self, Groups, Statistics};

/// The operators on a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait KernelOps: Backend {
    /// See [`crate::conv2d`].
    fn kiln_conv2d(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// See [`crate::group_norm`] and [`crate::group_norm_silu`].
    fn kiln_group_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self>;
}

/// Values in the order of the dimensions. Borrowed from the tensor where they are stored so.
fn values(tensor: &FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        DType::F32,
    )
}

impl KernelOps for Flex {
    fn kiln_conv2d(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        geometry: Geometry,
    ) -> FlexTensor {
        let (input, weight, bias) = (values(&input), values(&weight), values(&bias));
        let output = convolution::convolve(
            &geometry,
            input.storage(),
            weight.storage(),
            Some(bias.storage()),
        );
        let [height, width] = geometry.size_out;
        let shape = Shape::new([input.shape()[0], geometry.channels_out, height, width]);
        tensor(output, shape)
    }

    fn kiln_group_norm(
        input: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        groups: Groups,
    ) -> FlexTensor {
        normalised(&input, &gamma, &beta, &groups).0
    }
}

fn normalised(
    input: &FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    groups: &Groups,
) -> (FlexTensor, Vec<Statistics>) {
    let (input, gamma, beta) = (values(input), values(gamma), values(beta));
    let (output, statistics) =
        normalisation::normalise(groups, input.storage(), gamma.storage(), beta.storage());
    (tensor(output, input.shape()), statistics)
}

impl<C: CheckpointStrategy> KernelOps for Autodiff<Flex, C> {
    fn kiln_conv2d(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let state = ConvolutionState {
            input: input.clone(),
            weight: weight.clone(),
            geometry,
        };
        let output = Flex::kiln_conv2d(input, weight, bias, geometry);
        match ConvolutionGradient
            .prepare::<C>([input_node, weight_node, bias_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(state, output),
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }

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
                let state = NormalisationState {
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

/// The backward pass of a convolution.
#[derive(Debug)]
struct ConvolutionGradient;

#[derive(Clone, Debug)]
struct ConvolutionState {
    input: FlexTensor,
    weight: FlexTensor,
    geometry: Geometry,
}

impl Backward<Flex, 3> for ConvolutionGradient {
    type State = ConvolutionState;

    fn backward(
        self,
        operation: Ops<ConvolutionState, 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let ConvolutionState {
            input,
            weight,
            geometry,
        } = operation.state;
        let gradient = values(&gradients.consume::<Flex>(&operation.node));
        let gradient: &[f32] = gradient.storage();
        let [input_node, weight_node, bias_node] = operation.parents;
        if let Some(node) = input_node {
            let result =
                convolution::input_gradient(&geometry, values(&weight).storage(), gradient);
            gradients.register::<Flex>(node.id, tensor(result, input.shape()));
        }
        if let Some(node) = weight_node {
            let result =
                convolution::weight_gradient(&geometry, values(&input).storage(), gradient);
            gradients.register::<Flex>(node.id, tensor(result, weight.shape()));
        }
        if let Some(node) = bias_node {
            let result = convolution::bias_gradient(&geometry, gradient);
            gradients
                .register::<Flex>(node.id, tensor(result, Shape::new([geometry.channels_out])));
        }
    }
}

/// The backward pass of a group normalisation.
#[derive(Debug)]
struct NormalisationGradient;

#[derive(Clone, Debug)]
struct NormalisationState {
    input: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    statistics: Vec<Statistics>,
    groups: Groups,
}

impl Backward<Flex, 3> for NormalisationGradient {
    type State = NormalisationState;

    fn backward(
        self,
        operation: Ops<NormalisationState, 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let state = operation.state;
        let gradient = values(&gradients.consume::<Flex>(&operation.node));
        let results = normalisation::gradients(
            &state.groups,
            values(&state.input).storage(),
            values(&state.gamma).storage(),
            values(&state.beta).storage(),
            &state.statistics,
            gradient.storage(),
        );
        let [input, gamma, beta] = operation.parents;
        if let Some(node) = input {
            gradients.register::<Flex>(node.id, tensor(results.input, state.input.shape()));
        }
        if let Some(node) = gamma {
            gradients.register::<Flex>(node.id, tensor(results.gamma, state.gamma.shape()));
        }
        if let Some(node) = beta {
            gradients.register::<Flex>(node.id, tensor(results.beta, state.beta.shape()));
        }
    }
}
