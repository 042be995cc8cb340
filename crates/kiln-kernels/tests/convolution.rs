//! The convolution, forward and every gradient, against Burn's own operators on the same backend.

mod common;

use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, TensorData, activation};
use common::{assert_close, numbers, on_threads, spread, tensor};
use kiln_kernels::{
    Convolution, GroupNorm, Images, Padding, Precision, Sampling, beside, bf16_instructions,
    with_exact_precision, with_precision,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    channels: [usize; 2],
    size: [usize; 2],
    kernel: usize,
    sampling: Sampling,
    groups: Option<usize>,
    silu: bool,
    with_bias: bool,
    with_per_image: bool,
    with_shortcut: bool,
}

const THREE: Case = Case {
    batch: 2,
    channels: [32, 48],
    size: [8, 8],
    kernel: 3,
    sampling: Sampling::Strided {
        stride: 1,
        padding: Padding {
            top: 1,
            bottom: 1,
            left: 1,
            right: 1,
        },
    },
    groups: Some(4),
    silu: true,
    with_bias: true,
    with_per_image: true,
    with_shortcut: true,
};

const DOUBLED: Case = Case {
    sampling: Sampling::Doubled,
    ..THREE
};

const HALVING: Case = Case {
    sampling: Sampling::Strided {
        stride: 2,
        padding: Padding {
            top: 0,
            bottom: 1,
            left: 0,
            right: 1,
        },
    },
    ..THREE
};

const POINTWISE: Case = Case {
    kernel: 1,
    sampling: Sampling::Strided {
        stride: 1,
        padding: Padding::uniform(0),
    },
    ..THREE
};

/// All tensors of a case, including those that it does not use.
struct Tensors {
    input: Tensor<4>,
    weight: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    bias: Tensor<1>,
    per_image: Tensor<2>,
    shortcut: Tensor<4>,
}

impl Tensors {
    /// Of a model that only draws.
    fn without_gradients(self) -> Self {
        Self {
            input: self.input.inner(),
            weight: self.weight.inner(),
            gamma: self.gamma.inner(),
            beta: self.beta.inner(),
            bias: self.bias.inner(),
            per_image: self.per_image.inner(),
            shortcut: self.shortcut.inner(),
        }
    }
}

impl Case {
    fn size_out(&self) -> Option<[usize; 2]> {
        match self.sampling {
            Sampling::Doubled => Some(self.size.map(|size| 2 * size)),
            Sampling::Strided { stride, padding } => {
                let height = self.size[0] + padding.top + padding.bottom;
                let width = self.size[1] + padding.left + padding.right;
                let outputs = |size: usize| Some(size.checked_sub(self.kernel)? / stride + 1);
                Some([outputs(height)?, outputs(width)?])
            }
        }
    }

    fn tensors(&self) -> Tensors {
        let device = Device::flex().autodiff();
        let [channels_in, channels_out] = self.channels;
        let [height, width] = self.size;
        let [height_out, width_out] = self.size_out().expect("cases have outputs");
        Tensors {
            input: tensor([self.batch, height, width, channels_in], 1, &device).require_grad(),
            weight: tensor(
                [channels_out, channels_in, self.kernel, self.kernel],
                2,
                &device,
            )
            .require_grad(),
            gamma: tensor([channels_in], 3, &device).require_grad(),
            beta: tensor([channels_in], 4, &device).require_grad(),
            bias: tensor([channels_out], 5, &device).require_grad(),
            per_image: tensor([self.batch, channels_out], 6, &device).require_grad(),
            shortcut: tensor(
                [self.batch, height_out, width_out, channels_out],
                7,
                &device,
            )
            .require_grad(),
        }
    }

    fn ours(&self, tensors: &Tensors) -> Tensor<4> {
        self.of(tensors.input.clone(), tensors)
    }

    fn of(&self, input: impl Into<Images>, tensors: &Tensors) -> Tensor<4> {
        let mut convolution = Convolution::new(input, tensors.weight.clone(), self.sampling)
            .plus_bias(self.with_bias.then(|| tensors.bias.clone()))
            .plus_per_image(self.with_per_image.then(|| tensors.per_image.clone()));
        if let Some(groups) = self.groups {
            convolution = convolution.after(GroupNorm {
                gamma: tensors.gamma.clone(),
                beta: tensors.beta.clone(),
                groups,
                epsilon: 1e-5,
                silu: self.silu,
            });
        }
        if self.with_shortcut {
            convolution = convolution.plus_shortcut(tensors.shortcut.clone());
        }
        convolution.forward()
    }

    /// From Burn's operators, channels first.
    fn burns(&self, tensors: &Tensors) -> Tensor<4> {
        let mut input = tensors.input.clone().permute([0, 3, 1, 2]);
        let [batch, channels, height, width] = input.dims();
        if let Some(groups) = self.groups {
            let grouped: Tensor<3> =
                input.reshape([batch, groups, channels / groups * height * width]);
            let centred = grouped.clone() - grouped.mean_dim(2);
            let variance = centred.clone().square().mean_dim(2);
            let normal =
                (centred / (variance + 1e-5).sqrt()).reshape([batch, channels, height, width]);
            input = normal * tensors.gamma.clone().reshape([1, channels, 1, 1])
                + tensors.beta.clone().reshape([1, channels, 1, 1]);
            if self.silu {
                input = activation::silu(input);
            }
        }
        let options = match self.sampling {
            Sampling::Strided { stride, padding } => {
                let padding = [(padding.top, padding.bottom), (padding.left, padding.right)];
                ConvOptions::new_with_padding([stride; 2], padding, [1; 2], 1)
            }
            Sampling::Doubled => {
                let nearest = InterpolateOptions::new(InterpolateMode::Nearest)
                    .with_align_corners(false)
                    .with_output_size([2 * height, 2 * width]);
                input = interpolate(input, nearest);
                ConvOptions::new_with_padding([1; 2], [(1, 1); 2], [1; 2], 1)
            }
        };
        let bias = self.with_bias.then(|| tensors.bias.clone());
        let mut output = conv2d(input, tensors.weight.clone(), bias, options);
        if self.with_per_image {
            let [batch, channels] = tensors.per_image.dims();
            output = output + tensors.per_image.clone().reshape([batch, channels, 1, 1]);
        }
        let output = output.permute([0, 2, 3, 1]);
        if self.with_shortcut {
            output + tensors.shortcut.clone()
        } else {
            output
        }
    }

    /// Ours against Burn's: the output, and the gradient of every input.
    fn check(&self) {
        self.compare(self.tensors(), self.tensors(), Precision::F32);
    }

    /// The input in two places, `near` channels in the first, against the same in one: the same bits.
    fn check_beside(&self, near: usize) {
        let tensors = self.tensors().without_gradients();
        let far = self.channels[0] - near;
        let [first, second] = [(0, near), (near, far)]
            .map(|(from, channels)| tensors.input.clone().narrow(3, from, channels));
        for precision in [Precision::F32, Precision::Bf16] {
            let [whole, halves] = with_exact_precision(precision, || {
                let halves = beside(first.clone(), second.clone());
                assert!(matches!(halves, Images::Beside(..)));
                [self.ours(&tensors), self.of(halves, &tensors)]
            });
            assert_eq!(numbers(&halves), numbers(&whole), "{precision:?}");
        }
    }

    /// Ours with bf16 products against Burn's operators on numbers of few bits. All products are then exact in `f32`.
    fn check_bf16(&self) {
        let rounded = || {
            let mut tensors = self.tensors();
            tensors.input = in_eighths(tensors.input);
            tensors.weight = in_eighths(tensors.weight);
            tensors
        };
        self.compare(rounded(), rounded(), Precision::Bf16);
    }

    fn compare(&self, ours: Tensors, burns: Tensors, precision: Precision) {
        let taps = self.kernel * self.kernel;
        let [there, back] = self.channels.map(|channels| taps * channels);
        let [positions_in, positions_out] = [ours.input.dims(), ours.shortcut.dims()]
            .map(|[batch, height, width, _]| batch * height * width);
        let our_output = with_exact_precision(precision, || self.ours(&ours));
        let burn_output = self.burns(&burns);
        assert_close(
            &our_output.clone().inner(),
            &burn_output.clone().inner(),
            spread(there),
            "output",
        );
        let weigh = |output: Tensor<4>| {
            let weights = tensor(output.dims(), 8, &output.device());
            (output * in_eighths(weights)).sum().backward()
        };
        let (our_gradients, burn_gradients) = (weigh(our_output), weigh(burn_output));
        macro_rules! compare {
            ($($field:ident: $terms:expr,)*) => {$(
                match (ours.$field.grad(&our_gradients), burns.$field.grad(&burn_gradients)) {
                    (Some(ours), Some(burns)) => {
                        assert_close(&ours, &burns, spread($terms), stringify!($field));
                    }
                    (ours, burns) => assert_eq!(ours.is_some(), burns.is_some(), stringify!($field)),
                }
            )*};
        }
        compare! {
            input: back,
            weight: positions_out,
            gamma: positions_in * back,
            beta: positions_in * back,
            bias: positions_out,
            per_image: positions_out,
            shortcut: 1,
        }
    }
}

/// The nearest eighths: so few bits that sums of them, in Winograd's transforms, are bf16 numbers, too.
fn in_eighths(tensor: Tensor<4>) -> Tensor<4> {
    let numbers = numbers(&tensor).into_iter();
    let rounded = numbers.map(|number| (8.0 * number).round() / 8.0);
    let data = TensorData::new(rounded.collect::<Vec<f32>>(), tensor.dims());
    let rounded = Tensor::from_data(data, &tensor.device());
    if tensor.is_require_grad() {
        rounded.require_grad()
    } else {
        rounded
    }
}

fn samplings() -> impl Strategy<Value = Sampling> {
    let padding = [0usize..3, 0usize..3, 0usize..3, 0usize..3];
    prop_oneof![
        3 => (1usize..3, padding).prop_map(|(stride, [top, bottom, left, right])| {
            let padding = Padding { top, bottom, left, right };
            Sampling::Strided { stride, padding }
        }),
        1 => Just(Sampling::Doubled),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    (
        1usize..6,
        [1usize..20, 1usize..20],
        [1usize..14, 1usize..14],
        prop_oneof![Just(1usize), Just(3)],
        samplings(),
        any::<[bool; 5]>(),
    )
        .prop_map(|(batch, channels, size, kernel, sampling, with)| Case {
            batch,
            channels,
            size,
            kernel: if sampling == Sampling::Doubled {
                3
            } else {
                kernel
            },
            sampling,
            groups: with[0].then_some(if channels[0] % 2 == 0 { 2 } else { 1 }),
            silu: with[1],
            with_bias: with[2],
            with_per_image: with[3],
            with_shortcut: with[4],
        })
        .prop_filter("an output", |case| case.size_out().is_some())
        // Two normalised numbers are always 1 and -1: their gradient is rounding noise.
        .prop_filter("something to normalise", |case| {
            let positions = case.size[0] * case.size[1];
            case.groups
                .is_none_or(|groups| positions * case.channels[0] / groups > 3)
        })
}

/// 3x3 kernels on even sizes and whole vectors of channels: Winograd's algorithm.
fn winograd_cases() -> impl Strategy<Value = Case> {
    (
        1usize..6,
        [1usize..5, 1usize..6],
        [1usize..9, 1usize..9],
        any::<bool>(),
    )
        .prop_map(|(batch, vectors, half_size, normalised)| Case {
            batch,
            channels: vectors.map(|vectors| 16 * vectors),
            size: half_size.map(|half| 2 * half),
            groups: normalised.then_some(4),
            ..THREE
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn equals_burns_operators(case in cases()) {
        case.check();
    }

    // Neither normalised nor doubled: in those cases the factors are sums, which are rounded afterwards.
    #[test]
    fn bf16_products_equal_burns_of_numbers_of_few_bits(case in cases()) {
        prop_assume!(case.sampling != Sampling::Doubled);
        Case { groups: None, ..case }.check_bf16();
    }

    #[test]
    fn an_input_in_two_places_gives_the_bits_of_one(
        case in prop_oneof![cases(), winograd_cases()], near in any::<prop::sample::Index>(),
    ) {
        prop_assume!(case.channels[0] > 1);
        case.check_beside(1 + near.index(case.channels[0] - 1));
    }

    #[test]
    fn small_tiles_of_many_channels_equal_burns_operators(case in winograd_cases()) {
        case.check();
    }
}

#[test]
fn many_channels_are_cut_into_parts() {
    for size in [[16, 12], [6, 10]] {
        let case = Case {
            channels: [144, 208],
            size,
            ..THREE
        };
        case.check();
        Case {
            groups: None,
            ..case
        }
        .check_bf16();
    }
}

#[test]
fn many_images_and_large_images_are_cut_into_blocks() {
    THREE.check();
    for case in [THREE, DOUBLED, HALVING, POINTWISE] {
        for (batch, size) in [(40, [4, 4]), (2, [40, 36]), (1, [64, 2])] {
            Case {
                batch,
                size,
                channels: [16, 32],
                ..case.clone()
            }
            .check();
        }
    }
}

#[test]
fn bf16_products_of_many_tiles_equal_burns_of_numbers_of_few_bits() {
    for (channels, kernel, batch) in [
        ([32, 48], 3, 5),
        ([96, 64], 3, 9),
        ([160, 33], 1, 70),
        ([400, 352], 3, 1),
    ] {
        let padding = Padding::uniform(kernel / 2);
        let sampling = Sampling::Strided { stride: 1, padding };
        let case = Case {
            channels,
            kernel,
            batch,
            sampling,
            groups: None,
            ..THREE
        };
        case.check_bf16();
    }
}

#[test]
fn bf16_changes_a_normalised_or_doubled_convolution_by_its_rounding_errors_only() {
    for case in [THREE, DOUBLED] {
        let tensors = case.tensors();
        let exact = case.ours(&tensors).inner();
        let rounded = with_exact_precision(Precision::Bf16, || case.ours(&tensors)).inner();
        let error = (rounded - exact.clone())
            .square()
            .mean()
            .sqrt()
            .into_scalar::<f32>();
        let size = exact.square().mean().sqrt().into_scalar::<f32>();
        assert!(
            error > 1e-5 * size && error < 4e-3 * size,
            "{error} of {size}"
        );
    }
}

#[test]
fn few_channels_are_multiplied_exactly_where_that_is_faster() {
    if bf16_instructions() == Some("amx") {
        return;
    }
    for channels in [[16, 16], [64, 48], [8, 64]] {
        let case = Case {
            channels,
            groups: Some(4),
            ..THREE
        };
        let tensors = case.tensors();
        let exact = case.ours(&tensors).into_data();
        let auto = with_precision(Precision::Bf16, || case.ours(&tensors)).into_data();
        assert!(auto == exact, "{channels:?}");
        let rounded = with_exact_precision(Precision::Bf16, || case.ours(&tensors)).into_data();
        assert!(rounded != exact, "{channels:?}");
    }
}

#[test]
fn an_image_is_the_same_bits_in_every_batch() {
    for precision in [Precision::F32, Precision::Bf16] {
        with_exact_precision(precision, images_alone_are_the_same_bits_as_together);
    }
}

fn images_alone_are_the_same_bits_as_together() {
    for size in [[8, 8], [7, 5]] {
        let case = Case {
            batch: 7,
            size,
            ..THREE
        };
        let all = case.tensors();
        let together = case.ours(&all);
        for image in 0..7 {
            let alone = Tensors {
                input: all.input.clone().narrow(0, image, 1),
                per_image: all.per_image.clone().narrow(0, image, 1),
                shortcut: all.shortcut.clone().narrow(0, image, 1),
                weight: all.weight.clone(),
                gamma: all.gamma.clone(),
                beta: all.beta.clone(),
                bias: all.bias.clone(),
            };
            let alone = Case {
                batch: 1,
                ..case.clone()
            }
            .ours(&alone);
            assert_eq!(
                numbers(&alone),
                numbers(&together.clone().narrow(0, image, 1))
            );
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize, precision, case: &Case| {
        on_threads(threads, || {
            let tensors = case.tensors();
            let output = with_exact_precision(precision, || case.ours(&tensors));
            let gradients = output.clone().square().sum().backward();
            let mut all = numbers(&output);
            all.extend(numbers(
                &tensors.input.grad(&gradients).expect("a gradient"),
            ));
            all.extend(numbers(
                &tensors.weight.grad(&gradients).expect("a gradient"),
            ));
            all
        })
    };
    let cases = [[8, 8], [7, 5]].map(|size| Case {
        batch: 9,
        size,
        ..THREE
    });
    // More threads than rows of the weights: they share the columns, too.
    let pointwise = Case {
        channels: [40, 300],
        groups: None,
        ..POINTWISE
    };
    let few_inputs = Case {
        channels: [3, 150],
        groups: None,
        ..THREE
    };
    // Enough images for several rounds of blocks, in the gradient of the weights.
    let doubled = Case {
        batch: 50,
        channels: [16, 20],
        ..DOUBLED
    };
    let many = Case {
        batch: 80,
        channels: [16, 16],
        ..THREE
    };
    for case in cases
        .iter()
        .chain([&pointwise, &few_inputs, &HALVING, &doubled, &many])
    {
        for precision in [Precision::F32, Precision::Bf16] {
            let once = run(1, precision, case);
            for threads in [2, 5, 16] {
                assert!(
                    run(threads, precision, case) == once,
                    "{threads} threads: {case:?}"
                );
            }
        }
    }
}
