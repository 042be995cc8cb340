//! The time of each operator, compared with Burn's own on the same backend: forward, and forward and backward.
//!
//! `cargo bench -p kiln-kernels` runs all, `cargo bench -p kiln-kernels -- attention` the ones with this word in their
//! name. Burn's side does the same as a network of Burn's modules: images are channels-first from the beginning, so its
//! time includes no change of layout.

use std::fmt::{self, Display};

use burn::module::Param;
use burn::nn::{GroupNorm as BurnGroupNorm, GroupNormConfig};
use burn::optim::{AdamWConfig, Optimizer};
use burn::tensor::module::{self, conv2d, interpolate};
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Distribution, Tensor, activation};
use divan::Bencher;
use kiln_kernels::{AdamW, Convolution, GroupNorm, Padding, Sampling, attention, nearest_codes};

/// Runs on a thread of the pool that the operators share, as training does.
fn main() {
    kiln_kernels::on_the_pool(divan::main);
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Kiln,
    Burn,
}

/// One side's measurement of a case.
struct Turn<C> {
    case: C,
    backward: bool,
    side: Side,
}

/// The turns of all cases, both sides of a case next to each other.
fn turns<C: Copy>(cases: impl IntoIterator<Item = C>) -> Vec<Turn<C>> {
    let mut turns = Vec::new();
    for case in cases {
        for backward in [false, true] {
            turns.extend([Side::Kiln, Side::Burn].map(|side| Turn {
                case,
                backward,
                side,
            }));
        }
    }
    turns
}

impl<C: Display> Display for Turn<C> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let backward = if self.backward { " and backward" } else { "" };
        write!(f, "{}, forward{backward}: {:?}", self.case, self.side)
    }
}

impl<C> Turn<C> {
    /// Random numbers, which have a gradient if the turn goes backward.
    fn tensor<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        if self.backward {
            normal(shape, &Device::flex().autodiff()).require_grad()
        } else {
            normal(shape, &Device::flex())
        }
    }

    fn time<const D: usize>(&self, bencher: Bencher, output: impl Fn() -> Tensor<D>) {
        if self.backward {
            bencher.bench_local(|| output().sum().backward());
        } else {
            bencher.bench_local(output);
        }
    }
}

fn normal<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// A batch of square images.
#[derive(Clone, Copy)]
struct Images {
    batch: usize,
    size: usize,
    channels: usize,
}

/// As in the U-Net of small latents.
const SMALL: Images = Images {
    batch: 64,
    size: 8,
    channels: 128,
};

/// As in the first layers of an autoencoder.
const LARGE: Images = Images {
    batch: 32,
    size: 64,
    channels: 32,
};

impl Images {
    /// In the side's own layout: Kiln's has the channels last.
    fn tensor<C>(self, turn: &Turn<C>) -> Tensor<4> {
        let Images {
            batch,
            size,
            channels,
        } = self;
        turn.tensor(match turn.side {
            Side::Kiln => [batch, size, size, channels],
            Side::Burn => [batch, channels, size, size],
        })
    }
}

impl Display for Images {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (batch, size, channels) = (self.batch, self.size, self.channels);
        write!(f, "{batch} images {size}x{size}x{channels}")
    }
}

const GROUPS: usize = 32;
const EPSILON: f64 = 1e-6;

fn kiln_norm<C>(turn: &Turn<C>, channels: usize) -> GroupNorm {
    GroupNorm {
        gamma: turn.tensor([channels]),
        beta: turn.tensor([channels]),
        groups: GROUPS,
        epsilon: EPSILON,
        silu: true,
    }
}

fn burn_norm<C>(turn: &Turn<C>, channels: usize) -> BurnGroupNorm {
    let [gamma, beta] = [0, 1].map(|_| turn.tensor([channels]));
    let mut norm = GroupNormConfig::new(GROUPS, channels)
        .with_epsilon(EPSILON)
        .init(&gamma.device());
    norm.gamma = Some(Param::from_tensor(gamma));
    norm.beta = Some(Param::from_tensor(beta));
    norm
}

#[divan::bench(args = turns([SMALL, LARGE]), sample_count = 10, max_time = 0.5)]
fn group_norm_silu(bencher: Bencher, turn: &Turn<Images>) {
    let input = turn.case.tensor(turn);
    match turn.side {
        Side::Kiln => {
            let norm = kiln_norm(turn, turn.case.channels);
            turn.time(bencher, || norm.clone().forward(input.clone()));
        }
        Side::Burn => {
            let norm = burn_norm(turn, turn.case.channels);
            turn.time(bencher, || activation::silu(norm.forward(input.clone())));
        }
    }
}

/// To as many channels as the images have.
#[derive(Clone, Copy)]
struct ConvolutionCase {
    images: Images,
    kernel: usize,
    sampling: Sampling,
    normalised: bool,
}

impl Display for ConvolutionCase {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kernel = self.kernel;
        write!(f, "{}, {kernel}x{kernel}", self.images)?;
        match self.sampling {
            Sampling::Doubled => write!(f, " doubled")?,
            Sampling::Strided { stride: 1, .. } => {}
            Sampling::Strided { stride, .. } => write!(f, " stride {stride}")?,
        }
        f.write_str(if self.normalised { " after norm" } else { "" })
    }
}

fn convolutions() -> impl Iterator<Item = ConvolutionCase> {
    let strided = |stride, padding| Sampling::Strided {
        stride,
        padding: Padding::uniform(padding),
    };
    let kinds = [
        (SMALL, 3, strided(1, 1)),
        (LARGE, 3, strided(1, 1)),
        (SMALL, 1, strided(1, 0)),
        (SMALL, 3, strided(2, 1)),
        (SMALL, 3, Sampling::Doubled),
    ];
    kinds.into_iter().flat_map(|(images, kernel, sampling)| {
        [false, true].map(|normalised| ConvolutionCase {
            images,
            kernel,
            sampling,
            normalised,
        })
    })
}

#[divan::bench(args = turns(convolutions()), sample_count = 10, max_time = 0.5)]
fn convolution(bencher: Bencher, turn: &Turn<ConvolutionCase>) {
    let ConvolutionCase {
        images,
        kernel,
        sampling,
        normalised,
    } = turn.case;
    let channels = images.channels;
    let input = images.tensor(turn);
    let weight = turn.tensor([channels, channels, kernel, kernel]);
    let bias = turn.tensor([channels]);
    match turn.side {
        Side::Kiln => {
            let norm = normalised.then(|| kiln_norm(turn, channels));
            turn.time(bencher, || {
                let convolution = Convolution::new(input.clone(), weight.clone(), sampling)
                    .plus_bias(Some(bias.clone()));
                match norm.clone() {
                    Some(norm) => convolution.after(norm).forward(),
                    None => convolution.forward(),
                }
            });
        }
        Side::Burn => {
            let norm = normalised.then(|| burn_norm(turn, channels));
            turn.time(bencher, || {
                let input = match &norm {
                    Some(norm) => activation::silu(norm.forward(input.clone())),
                    None => input.clone(),
                };
                burn_convolution(input, weight.clone(), bias.clone(), sampling)
            });
        }
    }
}

fn burn_convolution(
    mut input: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    sampling: Sampling,
) -> Tensor<4> {
    let (stride, padding) = match sampling {
        Sampling::Strided { stride, padding } => (stride, padding),
        Sampling::Doubled => {
            let [_, _, height, width] = input.dims();
            let nearest = InterpolateOptions::new(InterpolateMode::Nearest)
                .with_align_corners(false)
                .with_output_size([2 * height, 2 * width]);
            input = interpolate(input, nearest);
            (1, Padding::uniform(1))
        }
    };
    let padding = [(padding.top, padding.bottom), (padding.left, padding.right)];
    let options = ConvOptions::new_with_padding([stride; 2], padding, [1; 2], 1);
    conv2d(input, weight, Some(bias), options)
}

/// Four heads of 32 channels.
#[derive(Clone, Copy)]
struct Tokens {
    batch: usize,
    tokens: usize,
}

const TOKENS: [Tokens; 2] = [
    Tokens {
        batch: 64,
        tokens: 16,
    },
    Tokens {
        batch: 16,
        tokens: 256,
    },
];

impl Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} images of {} tokens", self.batch, self.tokens)
    }
}

#[divan::bench(args = turns(TOKENS), sample_count = 20, max_time = 0.5)]
fn self_attention(bencher: Bencher, turn: &Turn<Tokens>) {
    let (heads, channels) = (4, 32);
    let Tokens { batch, tokens } = turn.case;
    let qkv = turn.tensor([batch, tokens, 3 * heads * channels]);
    match turn.side {
        Side::Kiln => turn.time(bencher, || attention(qkv.clone(), heads)),
        Side::Burn => turn.time(bencher, || {
            let [query, key, value] = [0, 1, 2].map(|part| -> Tensor<4> {
                qkv.clone()
                    .narrow(2, part * heads * channels, heads * channels)
                    .reshape([batch, tokens, heads, channels])
                    .swap_dims(1, 2)
            });
            let options = AttentionModuleOptions::default();
            module::attention(query, key, value, None, None, options)
                .swap_dims(1, 2)
                .reshape([batch, tokens, heads * channels])
        }),
    }
}

/// 4,096 latent vectors of 4 numbers among 512 codes.
#[divan::bench(args = [Side::Kiln, Side::Burn], sample_count = 20, max_time = 0.5)]
fn nearest(bencher: Bencher, side: Side) {
    let vectors = normal([4096, 4], &Device::flex());
    let codes = normal([512, 4], &Device::flex());
    bencher.bench_local(|| match side {
        Side::Kiln => nearest_codes(vectors.clone(), codes.clone()),
        Side::Burn => {
            let squared_lengths = codes.clone().square().sum_dim(1).transpose();
            let products = vectors.clone().matmul(codes.clone().transpose());
            (squared_lengths - products * 2.0).argmin(1).squeeze_dim(1)
        }
    });
}

/// A step of a million weights, with gradients halved as by clipping. The tensors are moved into each call, as in a
/// training step.
#[divan::bench(args = [Side::Kiln, Side::Burn], sample_count = 20, max_time = 0.5)]
fn adamw(bencher: Bencher, side: Side) {
    let weights = || normal([1024, 1024], &Device::flex());
    let kilns = AdamW {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
    };
    let burns = AdamWConfig::new().with_weight_decay(0.01).build();
    bencher
        .with_inputs(|| {
            let (weight, state) = kilns.step(1e-4, 0.5, weights(), weights(), None);
            (weight, weights(), state)
        })
        .bench_local_values(|(weight, gradient, state)| match side {
            Side::Kiln => kilns.step(1e-4, 0.5, weight, gradient, state),
            Side::Burn => burns.step(1e-4, weight, gradient * 0.5, state),
        });
}
