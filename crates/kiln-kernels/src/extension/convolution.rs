//! Convolution, with the operations around it, as an operator of Burn.

use std::iter;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::Shape;

use super::kept::KeptInput;
use super::prepared::prepared;
use super::{numbers, tensor, values};
use crate::convolution::{Geometry, Pixels, Source, Start, Weights, apply, weight_gradient};
use crate::normalisation::{self, ChannelMap, Groups, Statistics};
use crate::precision::Factors;
use crate::reduction::{image_sums, sum_of_rows};
use crate::values::Values;

/// All arguments that are not tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) geometry: Geometry,
    /// The groups of the normalisation, if there is one.
    pub(crate) groups: Option<Groups>,
}

/// On a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait ConvolutionOps: Backend {
    /// See [`crate::Convolution`]. A missing part is an empty tensor; `second` has the channels after those of `input`, and is
    /// missing where there is a gradient.
    #[allow(
        clippy::too_many_arguments,
        reason = "a backend takes tensors one by one"
    )]
    fn kiln_convolution(
        input: FloatTensor<Self>,
        second: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        per_image: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self>;
}

impl ConvolutionOps for Flex {
    fn kiln_convolution(
        input: FlexTensor,
        second: FlexTensor,
        weight: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        bias: FlexTensor,
        per_image: FlexTensor,
        shortcut: FlexTensor,
        options: Options,
    ) -> FlexTensor {
        let inputs = Inputs::new([input, second], weight, [gamma, beta], options);
        let weights = prepared(&inputs.weight, &inputs.geometry);
        inputs.convolved(&weights, bias, per_image, shortcut)
    }
}

/// The inputs of the output's products and of their gradients.
#[derive(Clone, Debug)]
struct Inputs {
    input: KeptInput,
    /// Images whose channels follow those of `input`; never where there is a gradient.
    second: Option<FlexTensor>,
    weight: FlexTensor,
    norm: Option<Norm>,
    geometry: Geometry,
}

#[derive(Clone, Debug)]
struct Norm {
    groups: Groups,
    gamma: FlexTensor,
    statistics: Vec<Statistics>,
    /// The normalisation of each image.
    maps: Vec<ChannelMap>,
}

/// A part that is not missing.
fn present(part: &FlexTensor) -> Option<FlexTensor> {
    (part.shape().num_elements() > 0).then(|| values(part))
}

impl Inputs {
    fn new(
        [input, second]: [FlexTensor; 2],
        weight: FlexTensor,
        [gamma, beta]: [FlexTensor; 2],
        options: Options,
    ) -> Self {
        let geometry = options.geometry;
        let (input, second) = (values(&input), present(&second));
        let norm = options.groups.map(|groups| {
            let (gamma, beta) = (values(&gamma), values(&beta));
            let places: Vec<&[f32]> = iter::once(&input).chain(&second).map(numbers).collect();
            let statistics = normalisation::statistics(&groups, &places, geometry.positions_in());
            let images = statistics.chunks_exact(groups.groups);
            let map = |image| ChannelMap::new(&groups, image, numbers(&gamma), numbers(&beta));
            Norm {
                maps: images.map(map).collect(),
                groups,
                gamma,
                statistics,
            }
        });
        Self {
            input: KeptInput::Exact(input),
            second,
            weight: values(&weight),
            norm,
            geometry,
        }
    }

    fn images(&self) -> usize {
        self.input.shape()[0]
    }

    fn source(&self) -> Source<'_> {
        let pixels = match (self.input.values(), &self.second) {
            (Values::Exact(first), Some(second)) => {
                let far = second.shape()[3];
                let channels = [self.geometry.channels_in - far, far];
                Pixels::Beside([first, numbers(second)], channels)
            }
            (values, _) => Pixels::Whole(values),
        };
        Source {
            pixels,
            maps: self.norm.as_ref().map(|norm| &*norm.maps),
        }
    }

    fn convolved(
        &self,
        weights: &Weights,
        bias: FlexTensor,
        per_image: FlexTensor,
        shortcut: FlexTensor,
    ) -> FlexTensor {
        let (bias, per_image, shortcut) = (present(&bias), present(&per_image), present(&shortcut));
        let start = Start {
            bias: bias.as_ref().map(numbers),
            per_image: per_image.as_ref().map(numbers),
            shortcut: shortcut.as_ref().map(numbers),
        };
        let stencil = self.geometry.forward();
        let output = apply(&stencil, weights, self.source(), start, self.images());
        let [height, width] = self.geometry.size_out;
        let shape = [self.images(), height, width, self.geometry.channels_out];
        tensor(output, Shape::new(shape))
    }
}

impl<C: CheckpointStrategy> ConvolutionOps for Autodiff<Flex, C> {
    fn kiln_convolution(
        input: FloatTensor<Self>,
        second: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        per_image: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (second, _) = second.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (gamma, gamma_node) = gamma.into_parts();
        let (beta, beta_node) = beta.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let (per_image, per_image_node) = per_image.into_parts();
        let (shortcut, shortcut_node) = shortcut.into_parts();
        let mut inputs = Inputs::new([input, second], weight, [gamma, beta], options);
        let weights = Weights::new(&inputs.geometry.forward(), numbers(&inputs.weight));
        let output = inputs.convolved(&weights, bias, per_image, shortcut);
        let nodes = [
            input_node,
            weight_node,
            gamma_node,
            beta_node,
            bias_node,
            per_image_node,
            shortcut_node,
        ];
        match ConvolutionGradient
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => {
                if inputs.geometry.precision.factors == Factors::Bf16 {
                    inputs.input = inputs.input.rounded();
                }
                operation.finish(inputs, output)
            }
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

#[derive(Debug)]
struct ConvolutionGradient;

impl Backward<Flex, 7> for ConvolutionGradient {
    type State = Inputs;

    fn backward(
        self,
        operation: Ops<Inputs, 7>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let inputs = operation.state;
        let geometry = inputs.geometry;
        let images = inputs.images();
        let output_gradient = values(&gradients.consume::<Flex>(&operation.node));
        let gradient: &[f32] = numbers(&output_gradient);
        let [input, weight, gamma, beta, bias, per_image, shortcut] = operation.parents;

        if bias.is_some() || per_image.is_some() {
            let channels = geometry.channels_out;
            let sums = image_sums(gradient, geometry.positions_out(), channels);
            if let Some(node) = bias {
                let result = sum_of_rows(&sums, channels);
                gradients.register::<Flex>(node.id, tensor(result, Shape::new([channels])));
            }
            if let Some(node) = per_image {
                gradients.register::<Flex>(node.id, tensor(sums, Shape::new([images, channels])));
            }
        }
        if let Some(node) = weight {
            let result = weight_gradient(
                &geometry.for_weight_gradient(),
                inputs.source(),
                gradient,
                images,
            );
            gradients.register::<Flex>(node.id, tensor(result, inputs.weight.shape()));
        }
        if input.is_some() || gamma.is_some() || beta.is_some() {
            let source = Source {
                pixels: Pixels::Whole(Values::Exact(gradient)),
                maps: None,
            };
            let stencil = geometry.back();
            let weights = Weights::new(&stencil, numbers(&inputs.weight));
            let mut result = apply(&stencil, &weights, source, Start::default(), images);
            if let Some(norm) = &inputs.norm {
                let parameters = normalisation::gradients(
                    &norm.groups,
                    inputs.input.values(),
                    geometry.positions_in(),
                    numbers(&norm.gamma),
                    &norm.maps,
                    &norm.statistics,
                    &mut result,
                );
                let shape = Shape::new([geometry.channels_in]);
                if let Some(node) = gamma {
                    gradients.register::<Flex>(node.id, tensor(parameters.gamma, shape.clone()));
                }
                if let Some(node) = beta {
                    gradients.register::<Flex>(node.id, tensor(parameters.beta, shape));
                }
            }
            if let Some(node) = input {
                gradients.register::<Flex>(node.id, tensor(result, inputs.input.shape()));
            }
        }
        if let Some(node) = shortcut {
            gradients.register::<Flex>(node.id, output_gradient);
        }
    }
}
