//! Convolutions with a fixed kernel for each of the three products: see [`super::product`].

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, backend_extension};
use burn::tensor::DType;
use burn::tensor::ops::ConvOptions;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::conv::{
    ConvStrategy, conv_data_backward, conv_forward, conv_weight_backward,
};
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;

use super::product::format;
use super::{AnyTensor, Gpu, fused};
use crate::precision::Factors;

/// Of `input`, channels-last, by `weight`, `[channels_out, channels_in, rows, columns]`; the result is channels-last.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait PlainConvolutionOps: Backend {
    /// See the trait.
    fn kiln_plain_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: PlainOptions,
    ) -> FloatTensor<Self>;
}

/// How to convolve.
#[derive(Clone, Debug)]
pub(crate) struct PlainOptions {
    pub(crate) burns: ConvOptions<2>,
    pub(crate) precision: Factors,
    /// Rows and columns of the output.
    pub(crate) size_out: [usize; 2],
}

/// The kernel that is tried first, and the one that Burn would choose.
fn with_either<E: std::fmt::Debug>(
    work: impl Fn(ConvStrategy) -> Result<CubeTensor, E>,
) -> CubeTensor {
    let made = work(ConvStrategy::ImplicitGemm).or_else(|_| work(ConvStrategy::default()));
    made.expect("some kernel convolves any images")
}

/// Tensors in the number format of the factors; images with the channels second.
fn ready(inputs: Vec<CubeTensor>, precision: Factors) -> [CubeTensor; 2] {
    let mut inputs = inputs
        .into_iter()
        .map(|tensor| cast(tensor, format(precision)));
    let mut next = || inputs.next().unwrap_or_else(|| unreachable!("two inputs"));
    [next(), next()]
}

fn forward(input: &AnyTensor, weight: &AnyTensor, options: &PlainOptions) -> AnyTensor {
    let [height, width] = options.size_out;
    let shape = [input.shape()[0], height, width, weight.shape()[0]].into();
    let PlainOptions {
        burns, precision, ..
    } = options.clone();
    let inputs = vec![input.clone(), weight.clone()];
    let mut made = fused::queue(
        "kiln_plain_convolution",
        inputs,
        vec![shape],
        move |inputs| {
            let [input, weight] = ready(inputs, precision);
            let input = permute_nhwc_to_nchw(input);
            let made = with_either(|strategy| {
                conv_forward::<2>(input.clone(), weight.clone(), None, burns.clone(), strategy)
            });
            vec![cast(permute_nchw_to_nhwc(made), DType::F32)]
        },
    );
    made.pop().unwrap_or_else(|| unreachable!("one shape"))
}

impl PlainConvolutionOps for Gpu {
    fn kiln_plain_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: PlainOptions,
    ) -> FloatTensor<Self> {
        forward(&AnyTensor(input), &AnyTensor(weight), &options).0
    }
}

impl<C: CheckpointStrategy> PlainConvolutionOps for Autodiff<Gpu, C> {
    fn kiln_plain_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: PlainOptions,
    ) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (input, weight) = (AnyTensor(input), AnyTensor(weight));
        let output = forward(&input, &weight, &options).0;
        match Gradient
            .prepare::<C>([input_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(operation) => operation.finish(
                State {
                    input,
                    weight,
                    options,
                },
                output,
            ),
            OpsKind::UnTracked(operation) => operation.finish(output),
        }
    }
}

#[derive(Debug)]
struct Gradient;

#[derive(Clone, Debug)]
struct State {
    input: AnyTensor,
    weight: AnyTensor,
    options: PlainOptions,
}

impl Backward<Gpu, 2> for Gradient {
    type State = State;

    fn backward(
        self,
        operation: Ops<State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let State {
            input,
            weight,
            options,
        } = operation.state;
        let gradient = AnyTensor(gradients.consume::<Gpu>(&operation.node));
        let (in_shape, weight_shape) = (input.shape().clone(), weight.shape().clone());
        let PlainOptions {
            burns, precision, ..
        } = options;
        let [input_node, weight_node] = operation.parents;
        if let Some(node) = weight_node {
            let (burns, shape) = (burns.clone(), weight_shape.clone());
            let inputs = vec![input, gradient.clone()];
            let made = fused::queue(
                "kiln_convolution_weight",
                inputs,
                vec![weight_shape],
                move |inputs| {
                    let [input, gradient] = ready(inputs, precision).map(permute_nhwc_to_nchw);
                    let made = with_either(|strategy| {
                        let (input, gradient) = (input.clone(), gradient.clone());
                        conv_weight_backward::<2>(
                            input,
                            gradient,
                            shape.clone(),
                            burns.clone(),
                            strategy,
                        )
                    });
                    vec![cast(made, DType::F32)]
                },
            );
            for made in made {
                gradients.register::<Gpu>(node.id, made.0);
            }
        }
        if let Some(node) = input_node {
            let shape = [in_shape[0], in_shape[3], in_shape[1], in_shape[2]];
            let inputs = vec![gradient, weight];
            let made = fused::queue(
                "kiln_convolution_data",
                inputs,
                vec![in_shape],
                move |inputs| {
                    let [gradient, weight] = ready(inputs, precision);
                    let gradient = permute_nhwc_to_nchw(gradient);
                    let made = with_either(|strategy| {
                        let (gradient, weight) = (gradient.clone(), weight.clone());
                        conv_data_backward::<2>(
                            gradient,
                            weight,
                            shape.into(),
                            burns.clone(),
                            strategy,
                        )
                    });
                    vec![cast(permute_nchw_to_nhwc(made), DType::F32)]
                },
            );
            for made in made {
                gradients.register::<Gpu>(node.id, made.0);
            }
        }
    }
}
