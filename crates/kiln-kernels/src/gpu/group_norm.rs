//! Group normalisation with SiLU, and its gradients: two reads of the input and one write each, in one launch.
//!
//! The formula is at [`crate::GroupNorm`]. A cube has one group of one image. Its units lie side by side along the
//! group's channels, so a unit always sees the same channels, and the sums for the gradients of gamma and beta need no
//! more passes.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::arguments::{flat, like, memory, vector_width};
use super::update::sum_over_cube;
use super::{AnyTensor, Gpu, UNITS, fused};
use crate::extension::NormalisationOps;
use crate::normalisation::{Activation, Groups};

/// The largest group, in vectors: each of its vectors has a unit.
pub(crate) fn fits(channels: usize, groups: usize) -> bool {
    let per_group = channels / groups.max(1);
    per_group / vector_width(per_group) <= UNITS as usize
}

/// The output, and `[batch, groups, 2]`: mean and 1 / deviation of each group.
fn normalised(
    input: AnyTensor,
    gamma: AnyTensor,
    beta: AnyTensor,
    groups: Groups,
) -> [AnyTensor; 2] {
    let shape = input.shape().clone();
    let statistics = [shape[0], groups.groups, 2].into();
    let made = fused::queue(
        "kiln_group_norm",
        vec![input, gamma, beta],
        vec![shape, statistics],
        move |inputs| forward(inputs, &groups),
    );
    made.try_into()
        .unwrap_or_else(|_| unreachable!("two shapes"))
}

impl NormalisationOps for Gpu {
    fn kiln_group_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self> {
        let [output, _] = normalised(AnyTensor(input), AnyTensor(gamma), AnyTensor(beta), groups);
        output.0
    }
}

impl<C: CheckpointStrategy> NormalisationOps for Autodiff<Gpu, C> {
    fn kiln_group_norm(
        input: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: Groups,
    ) -> FloatTensor<Self> {
        let (input, input_node) = input.into_parts();
        let (gamma, gamma_node) = gamma.into_parts();
        let (beta, beta_node) = beta.into_parts();
        let [input, gamma, beta] = [input, gamma, beta].map(AnyTensor);
        let nodes = [input_node, gamma_node, beta_node];
        match Gradient.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let [output, statistics] =
                    normalised(input.clone(), gamma.clone(), beta.clone(), groups);
                let state = State {
                    input,
                    gamma,
                    beta,
                    statistics,
                    groups,
                };
                operation.finish(state, output.0)
            }
            OpsKind::UnTracked(operation) => {
                let [output, _] = normalised(input, gamma, beta, groups);
                operation.finish(output.0)
            }
        }
    }
}

#[derive(Debug)]
struct Gradient;

#[derive(Clone, Debug)]
struct State {
    input: AnyTensor,
    gamma: AnyTensor,
    beta: AnyTensor,
    statistics: AnyTensor,
    groups: Groups,
}

impl Backward<Gpu, 3> for Gradient {
    type State = State;

    fn backward(
        self,
        operation: Ops<State, 3>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let State {
            input,
            gamma,
            beta,
            statistics,
            groups,
        } = operation.state;
        let output_gradient = AnyTensor(gradients.consume::<Gpu>(&operation.node));
        let shapes = [&input, &gamma, &beta].map(|tensor| tensor.shape().clone());
        let inputs = vec![output_gradient, input, gamma, beta, statistics];
        let made = fused::queue(
            "kiln_group_norm_backward",
            inputs,
            shapes.into(),
            move |inputs| backward(inputs, &groups),
        );
        for (node, gradient) in operation.parents.into_iter().zip(made) {
            if let Some(node) = node {
                gradients.register::<Gpu>(node.id, gradient.0);
            }
        }
    }
}

/// The numbers that both kernels need.
struct Sizes {
    batch: usize,
    positions: usize,
    /// Channels that a unit reads at once.
    width: usize,
    /// Vectors of all channels, and of a group.
    channels: usize,
    per_group: usize,
    cubes: CubeCount,
}

impl Sizes {
    fn of(input: &CubeTensor, groups: &Groups) -> Self {
        let shape = input.shape();
        let per_group = groups.channels / groups.groups;
        let width = vector_width(per_group);
        Self {
            batch: shape[0],
            positions: shape[1] * shape[2],
            width,
            channels: groups.channels / width,
            per_group: per_group / width,
            cubes: CubeCount::Static(groups.groups as u32, shape[0] as u32, 1),
        }
    }
}

fn forward(inputs: Vec<CubeTensor>, groups: &Groups) -> Vec<CubeTensor> {
    let inputs: Vec<CubeTensor> = inputs.into_iter().map(into_contiguous).collect();
    let sizes = Sizes::of(&inputs[0], groups);
    let output = like(&inputs[0]);
    let statistics = memory(&inputs[0], [sizes.batch, groups.groups, 2]);

    normalise::launch(
        &output.client,
        sizes.cubes,
        CubeDim::new_1d(UNITS),
        sizes.width,
        flat(&inputs[0]),
        flat(&inputs[1]),
        flat(&inputs[2]),
        flat(&output),
        flat(&statistics),
        sizes.positions as u32,
        sizes.channels as u32,
        sizes.per_group as u32,
        groups.epsilon,
        groups.activation == Activation::Silu,
    );

    vec![output, statistics]
}

fn backward(inputs: Vec<CubeTensor>, groups: &Groups) -> Vec<CubeTensor> {
    let inputs: Vec<CubeTensor> = inputs.into_iter().map(into_contiguous).collect();
    let sizes = Sizes::of(&inputs[1], groups);
    let gradient = like(&inputs[1]);
    let parts = memory(&inputs[1], [2, sizes.batch, groups.channels]);
    let [gamma, beta] = [
        memory(&inputs[1], [groups.channels]),
        memory(&inputs[1], [groups.channels]),
    ];
    let client = &gradient.client;

    normalise_backward::launch(
        client,
        sizes.cubes,
        CubeDim::new_1d(UNITS),
        sizes.width,
        flat(&inputs[0]),
        flat(&inputs[1]),
        flat(&inputs[2]),
        flat(&inputs[3]),
        flat(&inputs[4]),
        flat(&gradient),
        flat(&parts),
        sizes.batch as u32,
        sizes.positions as u32,
        sizes.channels as u32,
        sizes.per_group as u32,
        groups.activation == Activation::Silu,
    );
    sum_over_batch::launch(
        client,
        CubeCount::Static((groups.channels as u32).div_ceil(64), 1, 1),
        CubeDim::new_1d(64),
        flat(&parts),
        flat(&gamma),
        flat(&beta),
        sizes.batch as u32,
        groups.channels as u32,
    );

    vec![gradient, gamma, beta]
}

/// The sum of a vector's numbers.
#[cube]
fn lanes<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for lane in 0..N::value() {
        sum += vector.extract(lane);
    }
    sum
}

#[cube(launch)]
fn normalise<N: Size>(
    input: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    output: &mut Tensor<Vector<f32, N>>,
    statistics: &mut Tensor<f32>,
    positions: u32,
    channels: u32,
    per_group: u32,
    epsilon: f32,
    #[comptime] silu: bool,
) {
    let rows = UNITS / per_group;
    let column = UNIT_POS % per_group;
    // The last units have no work if the group's size does not divide their number.
    let row = select(UNIT_POS < rows * per_group, UNIT_POS / per_group, positions);
    let begin = CUBE_POS_Y * positions * channels + CUBE_POS_X * per_group + column;
    let width = N::value();
    let count = (positions * per_group * comptime![width as u32]) as f32;

    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut position = row;
    while position < positions {
        sum += input[(begin + position * channels) as usize];
        position += rows;
    }
    let mean = sum_over_cube(lanes::<N>(sum)) / count;

    let centre = Vector::<f32, N>::new(mean);
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut position = row;
    while position < positions {
        let centred = input[(begin + position * channels) as usize] - centre;
        squares += centred * centred;
        position += rows;
    }
    let variance = sum_over_cube(lanes::<N>(squares)) / count;
    let factor = 1.0f32 / (variance + epsilon).sqrt();

    let channel = (CUBE_POS_X * per_group + column) as usize;
    let scale = gamma[channel] * Vector::new(factor);
    let shift = beta[channel] - scale * centre;
    let mut position = row;
    while position < positions {
        let place = (begin + position * channels) as usize;
        let z = input[place] * scale + shift;
        if silu {
            let one = Vector::<f32, N>::new(1.0f32);
            let zero = Vector::<f32, N>::new(0.0f32);
            output[place] = z / (one + (zero - z).exp());
        } else {
            output[place] = z;
        }
        position += rows;
    }
    if UNIT_POS == 0 {
        let group = ((CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * 2) as usize;
        statistics[group] = mean;
        statistics[group + 1] = factor;
    }
}

/// The gradient of the normalised number `z`, from the one of the output.
#[cube]
fn before_silu<N: Size>(
    gradient: Vector<f32, N>,
    z: Vector<f32, N>,
    #[comptime] silu: bool,
) -> Vector<f32, N> {
    if silu {
        let one = Vector::<f32, N>::new(1.0f32);
        let zero = Vector::<f32, N>::new(0.0f32);
        let sigmoid = one / (one + (zero - z).exp());
        gradient * sigmoid * (one + z * (one - sigmoid))
    } else {
        gradient
    }
}

#[cube(launch)]
fn normalise_backward<N: Size>(
    output_gradient: &Tensor<Vector<f32, N>>,
    input: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    statistics: &Tensor<f32>,
    gradient: &mut Tensor<Vector<f32, N>>,
    parts: &mut Tensor<Vector<f32, N>>,
    batch: u32,
    positions: u32,
    channels: u32,
    per_group: u32,
    #[comptime] silu: bool,
) {
    let rows = UNITS / per_group;
    let column = UNIT_POS % per_group;
    let row = select(UNIT_POS < rows * per_group, UNIT_POS / per_group, positions);
    let begin = CUBE_POS_Y * positions * channels + CUBE_POS_X * per_group + column;
    let width = N::value();
    let count = (positions * per_group * comptime![width as u32]) as f32;
    let group = ((CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * 2) as usize;
    let mean = Vector::<f32, N>::new(statistics[group]);
    let factor = Vector::<f32, N>::new(statistics[group + 1]);
    let channel = CUBE_POS_X * per_group + column;
    let (scale, shift) = (gamma[channel as usize], beta[channel as usize]);

    // Sums of this unit's channels.
    let mut of_beta = Vector::<f32, N>::new(0.0f32);
    let mut of_gamma = Vector::<f32, N>::new(0.0f32);
    let mut position = row;
    while position < positions {
        let place = (begin + position * channels) as usize;
        let x = (input[place] - mean) * factor;
        let dz = before_silu::<N>(output_gradient[place], x * scale + shift, silu);
        of_beta += dz;
        of_gamma += dz * x;
        position += rows;
    }
    let mut sums_of_beta = Shared::<[Vector<f32, N>]>::new_slice(comptime![UNITS as usize]);
    let mut sums_of_gamma = Shared::<[Vector<f32, N>]>::new_slice(comptime![UNITS as usize]);
    sums_of_beta[UNIT_POS as usize] = of_beta;
    sums_of_gamma[UNIT_POS as usize] = of_gamma;
    sync_cube();
    let mut own_1 = 0.0f32;
    let mut own_2 = 0.0f32;
    if UNIT_POS < per_group {
        let mut other = UNIT_POS + per_group;
        while other < rows * per_group {
            of_beta += sums_of_beta[other as usize];
            of_gamma += sums_of_gamma[other as usize];
            other += per_group;
        }
        parts[(CUBE_POS_Y * channels + channel) as usize] = of_beta;
        parts[((batch + CUBE_POS_Y) * channels + channel) as usize] = of_gamma;
        own_1 = lanes::<N>(of_beta * scale);
        own_2 = lanes::<N>(of_gamma * scale);
    }
    let mean_1 = Vector::<f32, N>::new(sum_over_cube(own_1) / count);
    let mean_2 = Vector::<f32, N>::new(sum_over_cube(own_2) / count);

    let mut position = row;
    while position < positions {
        let place = (begin + position * channels) as usize;
        let x = (input[place] - mean) * factor;
        let dz = before_silu::<N>(output_gradient[place], x * scale + shift, silu);
        gradient[place] = factor * (dz * scale - mean_1 - x * mean_2);
        position += rows;
    }
}

/// The sums of each image become the sum of all images.
#[cube(launch)]
fn sum_over_batch(
    parts: &Tensor<f32>,
    gamma: &mut Tensor<f32>,
    beta: &mut Tensor<f32>,
    batch: u32,
    channels: u32,
) {
    let channel = CUBE_POS_X * CUBE_DIM_X + UNIT_POS;
    if channel < channels {
        let mut of_beta = 0.0f32;
        let mut of_gamma = 0.0f32;
        let mut image = 0u32;
        while image < batch {
            of_beta += parts[(image * channels + channel) as usize];
            of_gamma += parts[((batch + image) * channels + channel) as usize];
            image += 1;
        }
        beta[channel as usize] = of_beta;
        gamma[channel as usize] = of_gamma;
    }
}
