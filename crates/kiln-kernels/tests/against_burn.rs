//! Every operator, forward and every gradient, against Burn's own operators on the same backend.

use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, activation, module};
use kiln_kernels::{Padding, conv2d, group_norm, group_norm_silu};
use proptest::prelude::*;

/// Numbers between -1 and 1 that look random.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let len = shape.iter().product();
    Tensor::from_data(TensorData::new(values(len, seed), shape), device)
}

fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("tensors are f32 here")
}

/// Equal within 1e-5 of the largest number: what sums in another order may differ by.
fn assert_close<const D: usize>(ours: &Tensor<D>, burns: &Tensor<D>, what: &str) {
    assert_eq!(ours.dims(), burns.dims(), "{what}");
    let (ours, burns) = (numbers(ours), numbers(burns));
    let largest = burns
        .iter()
        .fold(1e-3f32, |largest, value| largest.max(value.abs()));
    for (index, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
        assert!(
            (ours - burns).abs() <= 1e-5 * largest,
            "{what} {index}: {ours} instead of {burns}"
        );
    }
}

#[derive(Clone, Debug)]
struct Convolution {
    batch: usize,
    channels: [usize; 2],
    size: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
    with_bias: bool,
}

impl Convolution {
    fn padding(&self) -> Padding {
        let [top, bottom, left, right] = self.padding;
        Padding {
            top,
            bottom,
            left,
            right,
        }
    }

    fn burns(&self, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
        let [top, bottom, left, right] = self.padding;
        let padding = [(top, bottom), (left, right)];
        module::conv2d(
            x,
            weight,
            bias,
            ConvOptions::new_with_padding([self.stride; 2], padding, [1; 2], 1),
        )
    }

    /// Output, and gradients of input, weight and bias, by way of `convolve`.
    fn run(
        &self,
        convolve: impl Fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>) -> Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>, Tensor<4>, Option<Tensor<1>>) {
        let device = Device::flex().autodiff();
        let [channels_in, channels_out] = self.channels;
        let input = tensor(
            [self.batch, channels_in, self.size[0], self.size[1]],
            1,
            &device,
        )
        .require_grad();
        let weight = tensor(
            [channels_out, channels_in, self.kernel, self.kernel],
            2,
            &device,
        )
        .require_grad();
        let bias = self
            .with_bias
            .then(|| tensor([channels_out], 3, &device).require_grad());
        let output = convolve(input.clone(), weight.clone(), bias.clone());
        let loss = output.clone() * tensor(output.dims(), 4, &device);
        let gradients = loss.sum().backward();
        (
            output.inner(),
            input.grad(&gradients).expect("the input has a gradient"),
            weight.grad(&gradients).expect("the weight has a gradient"),
            bias.map(|bias| bias.grad(&gradients).expect("the bias has a gradient")),
        )
    }

    fn check(&self) {
        let ours = self.run(|x, weight, bias| conv2d(x, weight, bias, self.stride, self.padding()));
        let burns = self.run(|x, weight, bias| self.burns(x, weight, bias));
        assert_close(&ours.0, &burns.0, "output");
        assert_close(&ours.1, &burns.1, "input gradient");
        assert_close(&ours.2, &burns.2, "weight gradient");
        if let (Some(ours), Some(burns)) = (ours.3, burns.3) {
            assert_close(&ours, &burns, "bias gradient");
        }
    }
}

fn convolutions() -> impl Strategy<Value = Convolution> {
    (
        1usize..6,
        [1usize..20, 1usize..20],
        [1usize..20, 1usize..20],
        prop_oneof![Just(1usize), Just(3)],
        1usize..3,
        [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        any::<bool>(),
    )
        .prop_map(
            |(batch, channels, size, kernel, stride, padding, with_bias)| Convolution {
                batch,
                channels,
                size,
                kernel,
                stride,
                padding,
                with_bias,
            },
        )
        .prop_filter("an output", |c| {
            c.size[0] + c.padding[0] + c.padding[1] >= c.kernel
                && c.size[1] + c.padding[2] + c.padding[3] >= c.kernel
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn convolutions_agree(convolution in convolutions()) {
        convolution.check();
    }

    #[test]
    fn normalisations_agree(
        batch in 1usize..5, groups in 1usize..5, channels_per_group in 1usize..5,
        height in 1usize..20, width in 1usize..20, with_silu in any::<bool>(),
    ) {
        // Statistics of one number are all rounding.
        prop_assume!(channels_per_group * height * width > 2);
        Normalisation { shape: [batch, groups * channels_per_group, height, width], groups, with_silu }.check();
    }
}

#[test]
fn convolutions_of_the_models_agree() {
    let of = |channels, side, kernel, stride, padding| Convolution {
        batch: 5,
        channels,
        size: [side; 2],
        kernel,
        stride,
        padding,
        with_bias: true,
    };
    of([1, 16], 32, 3, 1, [1; 4]).check();
    of([16, 16], 32, 3, 2, [0, 1, 0, 1]).check();
    of([16, 1], 32, 3, 1, [1; 4]).check();
    of([32, 64], 16, 3, 1, [1; 4]).check();
    of([64, 64], 8, 3, 1, [1; 4]).check();
    of([96, 96], 4, 3, 1, [1; 4]).check();
    of([96, 48], 8, 1, 1, [0; 4]).check();
    of([32, 16], 32, 1, 1, [0; 4]).check();
    of([8, 8], 1, 3, 1, [1; 4]).check();
}

struct Normalisation {
    shape: [usize; 4],
    groups: usize,
    with_silu: bool,
}

impl Normalisation {
    fn burns(&self, x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>) -> Tensor<4> {
        let mut norm: GroupNorm = GroupNormConfig::new(self.groups, self.shape[1])
            .with_epsilon(1e-5)
            .init(&x.device());
        norm.gamma = None;
        norm.beta = None;
        norm.affine = false;
        let [_, channels, _, _] = self.shape;
        let scale: Tensor<4> = gamma.reshape([1, channels, 1, 1]);
        let shift: Tensor<4> = beta.reshape([1, channels, 1, 1]);
        let z = norm.forward(x) * scale + shift;
        if self.with_silu {
            activation::silu(z)
        } else {
            z
        }
    }

    fn run(
        &self,
        normalise: impl Fn(Tensor<4>, Tensor<1>, Tensor<1>) -> Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>, Tensor<1>, Tensor<1>) {
        let device = Device::flex().autodiff();
        let input = (tensor(self.shape, 5, &device) * 2.0 + 0.5)
            .detach()
            .require_grad();
        let gamma = tensor([self.shape[1]], 6, &device).require_grad();
        let beta = tensor([self.shape[1]], 7, &device).require_grad();
        let output = normalise(input.clone(), gamma.clone(), beta.clone());
        let loss = output.clone() * tensor(self.shape, 8, &device);
        let gradients = loss.sum().backward();
        (
            output.inner(),
            input.grad(&gradients).expect("the input has a gradient"),
            gamma.grad(&gradients).expect("the scale has a gradient"),
            beta.grad(&gradients).expect("the shift has a gradient"),
        )
    }

    fn ours(&self, x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>) -> Tensor<4> {
        let operator = if self.with_silu {
            group_norm_silu
        } else {
            group_norm
        };
        operator(x, gamma, beta, self.groups, 1e-5)
    }

    fn check(&self) {
        let ours = self.run(|x, gamma, beta| self.ours(x, gamma, beta));
        let burns = self.run(|x, gamma, beta| self.burns(x, gamma, beta));
        assert_close(&ours.0, &burns.0, "output");
        assert_close(&ours.1, &burns.1, "input gradient");
        assert_close(&ours.2, &burns.2, "scale gradient");
        assert_close(&ours.3, &burns.3, "shift gradient");
    }
}

#[test]
fn views_are_read_in_the_order_of_their_dimensions() {
    let device = Device::flex();
    let stored = tensor([3, 12, 10, 9], 1, &device);
    let transposed = stored.clone().swap_dims(2, 3);
    let sliced = stored.narrow(1, 2, 6).narrow(3, 1, 7);
    let expanded = tensor([3, 6, 1, 5], 2, &device).expand([3, 6, 4, 5]);
    for view in [transposed, sliced, expanded] {
        let copy = Tensor::<4>::from_data(view.to_data(), &device);
        let channels = view.dims()[1];
        let weight = tensor([3, 3, 4, channels], 3, &device).permute([2, 3, 0, 1]);
        let ours = conv2d(view.clone(), weight.clone(), None, 1, Padding::uniform(1));
        let weight = Tensor::from_data(weight.to_data(), &device);
        let same = conv2d(copy.clone(), weight, None, 1, Padding::uniform(1));
        assert_eq!(numbers(&ours), numbers(&same));
        let gamma = tensor([channels], 4, &device);
        let ours = group_norm_silu(view, gamma.clone(), gamma.clone().flip([0]), 3, 1e-5);
        let same = group_norm_silu(
            copy,
            gamma.clone(),
            Tensor::from_data(gamma.flip([0]).to_data(), &device),
            3,
            1e-5,
        );
        assert_eq!(numbers(&ours), numbers(&same));
    }
}

#[test]
fn an_image_has_the_same_bits_in_any_batch() {
    let device = Device::flex();
    for (channels, side, kernel, stride) in [
        ([4, 64], 8, 3, 1),
        ([64, 64], 8, 3, 1),
        ([96, 96], 4, 3, 1),
        ([96, 96], 4, 1, 1),
        ([17, 3], 5, 3, 2),
        ([64, 4], 8, 1, 1),
        ([16, 16], 32, 3, 1),
        ([16, 1], 32, 3, 1),
        ([8, 1], 4, 3, 1),
        ([8, 8], 1, 1, 1),
        ([64, 64], 16, 3, 2),
        ([192, 96], 2, 3, 1),
    ] {
        let [channels_in, channels_out] = channels;
        let images = tensor([37, channels_in, side, side], 1, &device);
        let weight = tensor([channels_out, channels_in, kernel, kernel], 2, &device);
        let bias = tensor([channels_out], 3, &device);
        let convolve = |images| {
            conv2d(
                images,
                weight.clone(),
                Some(bias.clone()),
                stride,
                Padding::uniform(kernel / 2),
            )
        };
        let all = convolve(images.clone());
        for (first, count) in [(0, 1), (4, 1), (36, 1), (3, 5), (20, 17)] {
            let some = convolve(images.clone().narrow(0, first, count));
            assert_eq!(
                numbers(&some),
                numbers(&all.clone().narrow(0, first, count)),
                "{channels:?} {side} {kernel}"
            );
        }
    }
}

#[test]
fn results_are_the_same_bits_twice() {
    let convolution = Convolution {
        batch: 37,
        channels: [19, 23],
        size: [8, 8],
        kernel: 3,
        stride: 1,
        padding: [1; 4],
        with_bias: true,
    };
    let run = || {
        let (output, input, weight, bias) =
            convolution.run(|x, weight, bias| conv2d(x, weight, bias, 1, Padding::uniform(1)));
        [
            numbers(&output),
            numbers(&input),
            numbers(&weight),
            bias.map(|bias| numbers(&bias)).unwrap_or_default(),
        ]
    };
    assert_eq!(run(), run());
    let normalisation = Normalisation {
        shape: [37, 16, 8, 8],
        groups: 4,
        with_silu: true,
    };
    let run = || {
        let (output, input, gamma, beta) =
            normalisation.run(|x, gamma, beta| normalisation.ours(x, gamma, beta));
        [
            numbers(&output),
            numbers(&input),
            numbers(&gamma),
            numbers(&beta),
        ]
    };
    assert_eq!(run(), run());
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    let device = Device::flex().autodiff();
    let input = tensor([2, 4, 6, 6], 1, &device);
    let weight = tensor([5, 4, 3, 3], 2, &device).require_grad();
    let gradients = conv2d(input.clone(), weight.clone(), None, 1, Padding::uniform(1))
        .sum()
        .backward();
    assert!(weight.grad(&gradients).is_some());
    assert!(input.grad(&gradients).is_none());

    let gamma = tensor([4], 3, &device);
    let beta = tensor([4], 4, &device).require_grad();
    let gradients = group_norm(input.clone(), gamma.clone(), beta.clone(), 2, 1e-5)
        .sum()
        .backward();
    assert!(beta.grad(&gradients).is_some());
    assert!(gamma.grad(&gradients).is_none() && input.grad(&gradients).is_none());

    let untracked = conv2d(input, weight.detach(), None, 1, Padding::uniform(1));
    assert!(!untracked.is_require_grad());
}

#[test]
fn constants_without_autodiff_join_tracked_tensors() {
    let plain = Device::flex();
    let input = tensor([2, 4, 6, 6], 1, &plain);
    let weight = tensor([5, 4, 3, 3], 2, &plain.clone().autodiff()).require_grad();
    let output = conv2d(input.clone(), weight.clone(), None, 1, Padding::uniform(1));
    let gradients = output.clone().sum().backward();
    assert!(weight.grad(&gradients).is_some());
    let without = conv2d(input, weight.inner(), None, 1, Padding::uniform(1));
    assert_eq!(numbers(&output.inner()), numbers(&without));
}

#[test]
fn gradients_add_up_where_a_tensor_is_used_twice() {
    let device = Device::flex().autodiff();
    let convolution = Convolution {
        batch: 2,
        channels: [4, 4],
        size: [6, 6],
        kernel: 3,
        stride: 1,
        padding: [1; 4],
        with_bias: false,
    };
    let twice = |convolve: &dyn Fn(Tensor<4>, Tensor<4>) -> Tensor<4>| {
        let input = tensor([2, 4, 6, 6], 1, &device);
        let weight = tensor([4, 4, 3, 3], 2, &device).require_grad();
        let once = convolve(input, weight.clone());
        let gradients = convolve(once, weight.clone()).sum().backward();
        weight.grad(&gradients).expect("the weight has a gradient")
    };
    let ours = twice(&|x, weight| conv2d(x, weight, None, 1, Padding::uniform(1)));
    let burns = twice(&|x, weight| convolution.burns(x, weight, None));
    assert_close(&ours, &burns, "weight gradient");
}
