//! Convolutions with a fixed kernel for each of the three products, and what is added to them: see [`super::product`].

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::conv::{
    ConvStrategy, conv_data_backward, conv_forward, conv_weight_backward,
};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw, reshape};
use burn_cubecl::tensor::CubeTensor;

use super::added::Added;
use super::columns::{self, Windows};
use super::product::{format, multiplied};
use super::sums::{sum_of_positions, sum_of_rows};
use super::{AnyTensor, Gpu, fused};
use crate::precision::Factors;

/// Of `input`, channels-last, by `weight`, `[channels_out, channels_in, rows, columns]`, plus what the options say is
/// there; the result is channels-last.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait PlainConvolutionOps: Backend {
    /// See the trait.
    fn kiln_plain_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        per_image: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        options: PlainOptions,
    ) -> FloatTensor<Self>;
}

/// How to convolve.
#[derive(Clone, Debug)]
pub(crate) struct PlainOptions {
    /// Without groups and dilation, and with one stride for both axes.
    pub(crate) burns: ConvOptions<2>,
    pub(crate) precision: Factors,
    /// Rows and columns of the output.
    pub(crate) size_out: [usize; 2],
    /// Whether there are a bias, something for each image, and a shortcut.
    pub(crate) added: [bool; 3],
}

impl PlainOptions {
    fn windows(&self, input: &Shape, weight: &Shape) -> Windows {
        Windows {
            kernel: [weight[2], weight[3]],
            size_in: [input[1], input[2]],
            size_out: self.size_out,
            channels_in: input[3],
            stride: self.burns.stride[0],
            before: self.burns.padding_begin(),
        }
    }
}

/// Whether every output sees one pixel.
fn is_pointwise(windows: &Windows) -> bool {
    windows.kernel == [1, 1] && windows.stride == 1 && windows.size_in == windows.size_out
}

/// Images as a matrix of pixels.
fn pixels(images: CubeTensor) -> CubeTensor {
    let shape = images.shape();
    let positions = shape[0] * shape[1] * shape[2];
    reshape(into_contiguous(images), [positions, shape[3]].into())
}

/// A kernel of one pixel as a matrix.
fn matrix(weight: CubeTensor) -> CubeTensor {
    let shape = weight.shape();
    reshape(into_contiguous(weight), [shape[0], shape[1]].into())
}

/// The product alone.
fn convolved(input: CubeTensor, weight: CubeTensor, options: &PlainOptions) -> CubeTensor {
    let windows = options.windows(&input.shape(), &weight.shape());
    let [height, width] = options.size_out;
    let shape = [input.shape()[0], height, width, weight.shape()[0]];
    if is_pointwise(&windows) {
        let made = multiplied(
            pixels(input),
            matrix(weight),
            [false, true],
            options.precision,
        );
        return reshape(made, shape.into());
    }
    let rounded = [input, weight].map(|tensor| cast(tensor, format(options.precision)));
    let by = |strategy, [input, weight]: [CubeTensor; 2]| {
        let input = permute_nhwc_to_nchw(input);
        conv_forward::<2>(input, weight, None, options.burns.clone(), strategy)
    };
    let made = by(ConvStrategy::ImplicitGemm, rounded.clone()).or_else(|_| {
        // This one sums in the format of the factors.
        let factors = rounded.map(|tensor| cast(tensor, DType::F32));
        by(ConvStrategy::Direct, factors)
    });
    let made = made.expect("some kernel convolves any images");
    into_contiguous(cast(permute_nchw_to_nhwc(made), DType::F32))
}

fn weight_gradient(
    input: CubeTensor,
    gradient: CubeTensor,
    weight: &Shape,
    options: &PlainOptions,
) -> CubeTensor {
    let windows = options.windows(&input.shape(), weight);
    let precision = options.precision;
    if is_pointwise(&windows) {
        let made = multiplied(pixels(gradient), pixels(input), [true, false], precision);
        return reshape(made, weight.clone());
    }
    let by_gemm = || {
        let ready = |tensor: &CubeTensor| {
            permute_nhwc_to_nchw(cast(tensor.clone(), format(options.precision)))
        };
        conv_weight_backward::<2>(
            ready(&input),
            ready(&gradient),
            weight.clone(),
            options.burns.clone(),
            ConvStrategy::ImplicitGemm,
        )
    };
    match by_gemm() {
        Ok(made) => cast(made, DType::F32),
        Err(_) => {
            let [input, gradient] = [input, gradient].map(into_contiguous);
            columns::weight_gradient(&input, &gradient, &windows, precision)
        }
    }
}

fn input_gradient(
    gradient: CubeTensor,
    weight: CubeTensor,
    input: &Shape,
    options: &PlainOptions,
) -> CubeTensor {
    let windows = options.windows(input, &weight.shape());
    let precision = options.precision;
    if is_pointwise(&windows) {
        let made = multiplied(pixels(gradient), matrix(weight), [false, false], precision);
        return reshape(made, input.clone());
    }
    let by_gemm = || {
        let [gradient, weight] =
            [&gradient, &weight].map(|tensor| cast(tensor.clone(), format(precision)));
        conv_data_backward::<2>(
            permute_nhwc_to_nchw(gradient),
            weight,
            [input[0], input[3], input[1], input[2]].into(),
            options.burns.clone(),
            ConvStrategy::ImplicitGemm,
        )
    };
    // With another stride, Burn would search for a kernel.
    match (windows.stride == 1).then(by_gemm) {
        Some(Ok(made)) => cast(permute_nchw_to_nhwc(made), DType::F32),
        _ => columns::input_gradient(&into_contiguous(gradient), weight, &windows, precision),
    }
}

/// All inputs; those to add as far as they are there.
#[derive(Clone, Debug)]
struct Inputs {
    input: AnyTensor,
    weight: AnyTensor,
    added: Vec<AnyTensor>,
}

impl Inputs {
    fn new(tensors: [FloatTensor<Gpu>; 5], options: &PlainOptions) -> Self {
        let [input, weight, added @ ..] = tensors.map(AnyTensor);
        let added = added.into_iter().zip(options.added);
        Self {
            input,
            weight,
            added: added
                .filter_map(|(tensor, is_there)| is_there.then_some(tensor))
                .collect(),
        }
    }
}

fn forward(inputs: Inputs, options: &PlainOptions) -> AnyTensor {
    let [height, width] = options.size_out;
    let Inputs {
        input,
        weight,
        added,
    } = inputs;
    let shape = [input.shape()[0], height, width, weight.shape()[0]].into();
    let options = options.clone();
    fused::queue_one(
        "kiln_plain_convolution",
        [input, weight].into_iter().chain(added).collect(),
        shape,
        move |inputs| {
            let mut inputs = inputs.into_iter();
            let (input, weight) = pair(&mut inputs);
            let made = convolved(input, weight, &options);
            let [bias, per_image, shortcut] = options
                .added
                .map(|is_there| if is_there { inputs.next() } else { None });
            let added = Added {
                bias,
                per_image,
                shortcut,
            };
            added.added_to(made)
        },
    )
}

fn pair(inputs: &mut impl Iterator<Item = CubeTensor>) -> (CubeTensor, CubeTensor) {
    let mut next = || inputs.next().unwrap_or_else(|| unreachable!("two inputs"));
    (next(), next())
}

impl PlainConvolutionOps for Gpu {
    fn kiln_plain_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        per_image: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        options: PlainOptions,
    ) -> FloatTensor<Self> {
        let inputs = Inputs::new([input, weight, bias, per_image, shortcut], &options);
        forward(inputs, &options).0
    }
}

impl<C: CheckpointStrategy> PlainConvolutionOps for Autodiff<Gpu, C> {
    fn kiln_plain_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        per_image: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        options: PlainOptions,
    ) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let (per_image, image_node) = per_image.into_parts();
        let (shortcut, shortcut_node) = shortcut.into_parts();
        let nodes = [
            input_node,
            weight_node,
            bias_node,
            image_node,
            shortcut_node,
        ];
        let inputs = Inputs::new([input, weight, bias, per_image, shortcut], &options);
        let output = forward(inputs.clone(), &options).0;
        match Gradient.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let state = State {
                    input: inputs.input,
                    weight: inputs.weight,
                    options,
                };
                operation.finish(state, output)
            }
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

impl Backward<Gpu, 5> for Gradient {
    type State = State;

    fn backward(
        self,
        operation: Ops<State, 5>,
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
        let [
            input_node,
            weight_node,
            bias_node,
            image_node,
            shortcut_node,
        ] = operation.parents;
        if bias_node.is_some() || image_node.is_some() {
            let [images, channels] = [in_shape[0], weight_shape[0]];
            let of_images = fused::queue_one(
                "kiln_sums_of_images",
                vec![gradient.clone()],
                [images, channels].into(),
                |mut inputs| {
                    let gradient = inputs.pop().unwrap_or_else(|| unreachable!("one input"));
                    sum_of_positions(&into_contiguous(gradient))
                },
            );
            if let Some(node) = bias_node {
                let made = fused::queue_one(
                    "kiln_sum_of_bias",
                    vec![of_images.clone()],
                    [channels].into(),
                    |inputs| sum_of_rows(&inputs[0]),
                );
                gradients.register::<Gpu>(node.id, made.0);
            }
            if let Some(node) = image_node {
                gradients.register::<Gpu>(node.id, of_images.0);
            }
        }
        if let Some(node) = shortcut_node {
            gradients.register::<Gpu>(node.id, gradient.clone().0);
        }
        if let Some(node) = weight_node {
            let (options, shape) = (options.clone(), weight_shape.clone());
            let made = fused::queue_one(
                "kiln_convolution_weight",
                vec![input, gradient.clone()],
                weight_shape,
                move |inputs| {
                    let (input, gradient) = pair(&mut inputs.into_iter());
                    weight_gradient(input, gradient, &shape, &options)
                },
            );
            gradients.register::<Gpu>(node.id, made.0);
        }
        if let Some(node) = input_node {
            let shape = in_shape.clone();
            let made = fused::queue_one(
                "kiln_convolution_data",
                vec![gradient, weight],
                in_shape,
                move |inputs| {
                    let (gradient, weight) = pair(&mut inputs.into_iter());
                    input_gradient(gradient, weight, &shape, &options)
                },
            );
            gradients.register::<Gpu>(node.id, made.0);
        }
    }
}
