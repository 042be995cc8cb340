//! Compares this project's operators for GPUs with those for the processor: see `gpu.rs` for the device.
#![cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "metal",
    feature = "wgpu",
    feature = "cubecl-cpu"
))]

use std::env;

use burn::optim::{AdamWState, AdaptiveMomentumState};
use burn::tensor::{Device, Distribution, Gradients, Tensor, TensorData};
use kiln::{DeviceError, Devices};
use kiln_kernels::{
    AdamW, AnyTensor, Convolution, GroupNorm, Padding, Precision, Repeated, Sampling, Together,
    Weight, copied, moving_average, with_precision,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};

/// The device; or `None`, with a message, if there is none.
fn gpu() -> Option<Device> {
    let default = [
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "rocm"), "rocm"),
        (cfg!(feature = "metal"), "metal"),
        (cfg!(feature = "wgpu"), "wgpu"),
        (cfg!(feature = "cubecl-cpu"), "cubecl-cpu"),
    ];
    let built_in = default.iter().find(|(built_in, _)| *built_in);
    let name = env::var("KILN_TEST_DEVICE").unwrap_or_else(|_| built_in.unwrap().1.to_owned());
    match Devices::parse(&name) {
        Ok(devices) => Some(devices.first()),
        Err(error @ DeviceError::NoneFound { .. }) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Numbers that are the same on each device, for each seed.
fn numbers<const D: usize>(shape: [usize; D], seed: usize, device: &Device) -> Tensor<D> {
    let len: usize = shape.iter().product();
    let mut state = (seed as u32).wrapping_mul(0x9E37_79B9) | 1;
    let number = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        3.4 * ((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
    };
    let numbers: Vec<f32> = (0..len).map(number).collect();
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

fn moved<const D: usize>(tensor: &Tensor<D>, device: &Device) -> Tensor<D> {
    Tensor::from_data(tensor.to_data(), device)
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

#[track_caller]
fn assert_close(what: &str, of_gpu: &[f32], of_cpu: &[f32], tolerance: f32) {
    assert_eq!(of_gpu.len(), of_cpu.len(), "{what}");
    let largest = of_cpu
        .iter()
        .fold(0.5f32, |largest, value| largest.max(value.abs()));
    for (place, (gpu, cpu)) in of_gpu.iter().zip(of_cpu).enumerate() {
        let apart = (gpu - cpu).abs();
        assert!(
            apart <= tolerance * largest,
            "{what}: {gpu} is not {cpu} at {place} of {}",
            of_gpu.len()
        );
    }
}

/// Checks the fixed cases, and some that are drawn, which are the same in each run.
fn check_all<S: Strategy>(
    fixed: impl IntoIterator<Item = S::Value>,
    drawn: S,
    check: impl Fn(S::Value),
) {
    fixed.into_iter().for_each(&check);
    let config = Config {
        cases: 12,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(Default::default()))
        .run(&drawn, |case| {
            check(case);
            Ok(())
        })
        .unwrap();
}

#[test]
fn group_normalisation_and_its_gradients() {
    let Some(gpu) = gpu() else { return };
    let fixed = [
        ([2, 4, 4, 8], 2),
        ([3, 5, 7, 12], 3),
        ([2, 8, 8, 64], 8),
        ([1, 16, 16, 6], 3),
        ([4, 2, 2, 300], 1),
        ([2, 1, 1, 5], 5),
        ([2, 3, 3, 2048], 2),
    ];
    let drawn = (1usize..4, 1usize..9, 1usize..9, 1usize..9, 1usize..9).prop_map(
        |(batch, height, width, groups, in_group)| {
            // One number alone has no deviation to divide by.
            let in_group = in_group.max(if height * width == 1 { 2 } else { 1 });
            ([batch, height, width, groups * in_group], groups)
        },
    );
    check_all(fixed, drawn, |(shape, groups)| {
        for silu in [false, true] {
            group_normalisation(&gpu, shape, groups, silu);
        }
    });
}

fn group_normalisation(gpu: &Device, shape: [usize; 4], groups: usize, silu: bool) {
    let channels = shape[3];
    let (input, weights) = (random(shape) * 2.0 + 0.5, random(shape));
    let (gamma, beta) = (random([channels]), random([channels]));
    let on = |device: &Device| {
        let device = device.clone().autodiff();
        let [gamma, beta] = [&gamma, &beta].map(|tensor| moved(tensor, &device).require_grad());
        let input = moved(&input, &device).require_grad();
        let norm = GroupNorm {
            gamma: gamma.clone(),
            beta: beta.clone(),
            groups,
            epsilon: 1e-5,
            silu,
        };
        let output = norm.forward(input.clone());
        let gradients = (output.clone() * moved(&weights, &device)).sum().backward();
        [
            values(&output),
            values(&input.grad(&gradients).unwrap()),
            values(&gamma.grad(&gradients).unwrap()),
            values(&beta.grad(&gradients).unwrap()),
        ]
    };
    let names = ["output", "input's", "gamma's", "beta's"];
    for (name, (of_gpu, of_cpu)) in names.iter().zip(on(gpu).iter().zip(&on(&Device::flex()))) {
        let what = format!("{name} {shape:?} {groups} {silu}");
        assert_close(&what, of_gpu, of_cpu, 2e-4);
    }
}

/// The precisions of the device, and how far results may be from those of f32 on the processor.
fn precisions(gpu: &Device) -> Vec<(Precision, f32)> {
    // NVIDIA's matrix units round the factors of f32 products to 11 bits.
    let all = [(Precision::F32, 4e-3), (Precision::Bf16, 0.03)];
    let (found, missing): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|(precision, _)| precision.runs_on(gpu));
    for (precision, _) in missing {
        eprintln!("skipped: {gpu:?} has no {precision}");
    }
    found
}

#[derive(Clone, Copy, Debug)]
struct ConvolutionCase {
    batch: usize,
    kernel: usize,
    size: usize,
    channels: [usize; 2],
    sampling: Sampling,
}

#[test]
fn convolutions_and_their_gradients() {
    let Some(gpu) = gpu() else { return };
    let strided = |stride, padding| Sampling::Strided { stride, padding };
    let after = Padding {
        bottom: 1,
        right: 1,
        ..Padding::default()
    };
    let kinds = [
        (3, strided(1, Padding::uniform(1))),
        (1, strided(1, Padding::default())),
        (3, strided(2, Padding::uniform(1))),
        (3, strided(2, after)),
        (3, Sampling::Doubled),
    ];
    let fixed = [(0, 8), (0, 5), (1, 8), (2, 8), (3, 8), (4, 4)].map(|(kind, size)| {
        let (kernel, sampling) = kinds[kind];
        ConvolutionCase {
            batch: 2,
            kernel,
            size,
            channels: [32, 16],
            sampling,
        }
    });
    let channels = || prop_oneof![1usize..10, Just(16usize), Just(32), Just(48)];
    let drawn = (
        1usize..4,
        prop::sample::select(kinds.to_vec()),
        2usize..10,
        channels(),
        channels(),
    );
    let drawn = drawn.prop_map(|(batch, (kernel, sampling), size, read, written)| {
        let even = matches!(sampling, Sampling::Strided { stride: 2, .. });
        ConvolutionCase {
            batch,
            kernel,
            size: if even { 2 * size } else { size },
            channels: [read, written],
            sampling,
        }
    });
    let precisions = precisions(&gpu);
    check_all(fixed, drawn, |case| convolution(&gpu, &precisions, case));
}

fn convolution(gpu: &Device, precisions: &[(Precision, f32)], case: ConvolutionCase) {
    let ConvolutionCase {
        batch,
        kernel,
        size,
        channels: [read, written],
        sampling,
    } = case;
    let input = random([batch, size, size, read]);
    let (weight, bias) = (random([written, read, kernel, kernel]), random([written]));
    let per_image = random([batch, written]);
    let size_out = match sampling {
        Sampling::Doubled => 2 * size,
        Sampling::Strided { stride, .. } => size.div_ceil(stride),
    };
    let shortcut = random([batch, size_out, size_out, written]);
    let on = |device: &Device, precision| {
        with_precision(precision, || {
            let device = device.clone().autodiff();
            let input = moved(&input, &device).require_grad();
            let weight = moved(&weight, &device).require_grad();
            let bias = moved(&bias, &device).require_grad();
            let per_image = moved(&per_image, &device).require_grad();
            let shortcut = moved(&shortcut, &device).require_grad();
            let output = Convolution::new(input.clone(), weight.clone(), sampling)
                .plus_bias(Some(bias.clone()))
                .plus_per_image(Some(per_image.clone()))
                .plus_shortcut(shortcut.clone())
                .forward();
            let gradients = output.clone().square().sum().backward();
            [
                values(&output),
                values(&input.grad(&gradients).unwrap()),
                values(&weight.grad(&gradients).unwrap()),
                values(&bias.grad(&gradients).unwrap()),
                values(&per_image.grad(&gradients).unwrap()),
                values(&shortcut.grad(&gradients).unwrap()),
            ]
        })
    };
    let exact = on(&Device::flex(), Precision::F32);
    let names = [
        "output",
        "input's",
        "weight's",
        "bias's",
        "images'",
        "shortcut's",
    ];
    for &(precision, tolerance) in precisions {
        let found = on(gpu, precision);
        for (name, (found, exact)) in names.iter().zip(found.iter().zip(&exact)) {
            assert_close(
                &format!("{name} {case:?} {precision}"),
                found,
                exact,
                tolerance,
            );
        }
    }
}

#[test]
fn products_of_matrices_and_their_gradients() {
    let Some(gpu) = gpu() else { return };
    // [batch, rows, depth, columns]; the second was too large for the memory of a cube in kernels without matrix units.
    let fixed = [
        [1, 16, 32, 16],
        [1, 16, 256, 9],
        [2, 256, 9, 16],
        [1, 1, 300, 1],
        [3, 70, 1, 5],
    ];
    let side = || prop_oneof![1usize..10, 10usize..80, Just(128usize), Just(300)];
    let drawn = (1usize..4, side(), side(), side());
    let drawn = drawn.prop_map(|(batch, rows, depth, columns)| [batch, rows, depth, columns]);
    let precisions = precisions(&gpu);
    check_all(fixed, drawn, |[batch, rows, depth, columns]| {
        let (left, right) = (
            random([batch, rows, depth]),
            random([batch, depth, columns]),
        );
        let weights = random([batch, rows, columns]);
        let on = |device: &Device, precision| {
            with_precision(precision, || {
                let device = device.clone().autodiff();
                let [left, right] =
                    [&left, &right].map(|tensor| moved(tensor, &device).require_grad());
                let product = kiln_kernels::matmul(left.clone(), right.clone());
                let gradients = (product.clone() * moved(&weights, &device))
                    .sum()
                    .backward();
                [product, left, right].map(|tensor| match tensor.grad(&gradients) {
                    Some(gradient) => values(&gradient),
                    None => values(&tensor),
                })
            })
        };
        let exact = on(&Device::flex(), Precision::F32);
        for &(precision, tolerance) in &precisions {
            let names = ["product", "left's", "right's"];
            for ((name, found), exact) in names.iter().zip(on(&gpu, precision)).zip(&exact) {
                let what = format!("{name} of {batch} x {rows} x {depth} x {columns} {precision}");
                assert_close(&what, &found, exact, tolerance);
            }
        }
    });
}

#[test]
fn attention_and_its_gradient() {
    let Some(gpu) = gpu() else { return };
    // The scores of the last one do not fit into the memory for them at once.
    let fixed = [(2, 16, 2, 16), (3, 1, 1, 1), (2, 50, 3, 5), (1, 4100, 2, 4)];
    let drawn = (1usize..4, 1usize..70, 1usize..5, 1usize..20);
    let precisions = precisions(&gpu);
    check_all(fixed, drawn, |case| attention(&gpu, &precisions, case));
}

fn attention(
    gpu: &Device,
    precisions: &[(Precision, f32)],
    (batch, tokens, heads, channels): (usize, usize, usize, usize),
) {
    let inner = heads * channels;
    let qkv = random([batch, tokens, 3 * inner]);
    let weights = random([batch, tokens, inner]);
    let on = |device: &Device, precision| {
        with_precision(precision, || {
            let device = device.clone().autodiff();
            let qkv = moved(&qkv, &device).require_grad();
            let output = kiln_kernels::attention(qkv.clone(), heads);
            let gradients = (output.clone() * moved(&weights, &device)).sum().backward();
            [values(&output), values(&qkv.grad(&gradients).unwrap())]
        })
    };
    let exact = on(&Device::flex(), Precision::F32);
    for &(precision, tolerance) in precisions {
        for (found, exact) in on(gpu, precision).iter().zip(&exact) {
            let what =
                format!("attention of {batch} x {tokens} x {heads} x {channels} {precision}");
            assert_close(&what, found, exact, tolerance);
        }
    }
}

/// A small denoiser of stripes: three convolutions, the later ones after a normalisation, around attention.
struct Denoiser {
    convolutions: [Tensor<4>; 4],
    norms: [[Tensor<1>; 2]; 2],
}

impl Denoiser {
    const CHANNELS: usize = 8;

    fn new(seed: usize, device: &Device) -> Self {
        let channels = Self::CHANNELS;
        let weight = |place: usize, written: usize, read: usize, kernel: usize| {
            let scale = 1.0 / ((read * kernel * kernel) as f32).sqrt();
            numbers([written, read, kernel, kernel], 10 * seed + place, device) * scale
        };
        let norm = || {
            [
                Tensor::ones([channels], device),
                Tensor::zeros([channels], device),
            ]
        };
        Self {
            convolutions: [
                weight(0, channels, 1, 3),
                weight(1, 3 * channels, channels, 1),
                weight(2, channels, channels, 3),
                weight(3, 1, channels, 3) * 0.1,
            ],
            norms: [norm(), norm()],
        }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, _] = images.dims();
        let [first, qkv, middle, last] = self.convolutions.clone();
        let after = |place: usize, silu| {
            let [gamma, beta] = self.norms[place].clone();
            let (groups, epsilon) = (4, 1e-5);
            GroupNorm {
                gamma,
                beta,
                groups,
                epsilon,
                silu,
            }
        };
        let near = Sampling::Strided {
            stride: 1,
            padding: Padding::uniform(1),
        };
        let point = Sampling::Strided {
            stride: 1,
            padding: Padding::default(),
        };
        let features = Convolution::new(images, first, near).forward();
        let qkv = Convolution::new(features.clone(), qkv, point)
            .after(after(0, false))
            .forward();
        let qkv = qkv.reshape([batch, height * width, 3 * Self::CHANNELS]);
        let attended = kiln_kernels::attention(qkv, 2).reshape(features.dims());
        let features = Convolution::new(attended, middle, near)
            .plus_shortcut(features)
            .forward();
        Convolution::new(features, last, near)
            .after(after(1, true))
            .forward()
    }

    /// One step of gradient descent; the loss before it.
    fn learn(&mut self, noisy: Tensor<4>, clean: Tensor<4>) -> f32 {
        fn parameter<const D: usize>(tensor: &mut Tensor<D>) {
            *tensor = tensor.clone().detach().require_grad();
        }
        fn descend<const D: usize>(tensor: &mut Tensor<D>, gradients: &Gradients) {
            let gradient = Tensor::from_inner(tensor.grad(gradients).unwrap());
            *tensor = tensor.clone().detach() - gradient * 0.2;
        }
        self.convolutions.iter_mut().for_each(parameter);
        self.norms.as_flattened_mut().iter_mut().for_each(parameter);
        let loss = (self.forward(noisy) - clean).square().mean();
        let gradients = loss.backward();
        self.convolutions
            .iter_mut()
            .for_each(|tensor| descend(tensor, &gradients));
        let norms = self.norms.as_flattened_mut().iter_mut();
        norms.for_each(|tensor| descend(tensor, &gradients));
        loss.into_scalar()
    }
}

/// The losses of a training in `precision` on two noisy images; `seed` is that of the weights and of the noise.
fn losses(device: &Device, precision: Precision, seed: usize) -> Vec<f32> {
    const SIDE: usize = 4;
    with_precision(precision, || {
        let device = device.clone().autodiff();
        let mut denoiser = Denoiser::new(seed, &device);
        let step = |step: usize| {
            // Stripes across, and stripes along.
            let stripe = |place: usize| match place / (SIDE * SIDE) {
                0 => place % 2,
                _ => place / SIDE % 2,
            };
            let clean = (0..2 * SIDE * SIDE).map(|place| 2.0 * stripe(place) as f32 - 1.0);
            let clean = TensorData::new(clean.collect::<Vec<f32>>(), [2, SIDE, SIDE, 1]);
            let clean = Tensor::<4>::from_data(clean, &device);
            let noise = numbers([2, SIDE, SIDE, 1], 100 + seed, &device);
            let loss = denoiser.learn(clean.clone() + noise, clean);
            println!("{precision}, step {step}: {loss}");
            loss
        };
        (0..6).map(step).collect()
    })
}

#[test]
fn networks_learn_with_rounded_factors_as_with_exact_ones() {
    let Some(gpu) = gpu() else { return };
    let cpu = Device::flex();
    let exact = losses(&cpu, Precision::F32, 0);
    let other_seed = losses(&cpu, Precision::F32, 1);
    let apart = |losses: &[f32]| -> f32 {
        let ratios = losses
            .iter()
            .zip(&exact)
            .map(|(loss, exact)| (loss / exact).ln().powi(2));
        (ratios.sum::<f32>() / exact.len() as f32).sqrt()
    };
    assert!(exact[5] < 0.7 * exact[0], "{exact:?}");
    for (precision, _) in precisions(&gpu) {
        let found = losses(&gpu, precision, 0);
        println!(
            "{precision} {found:?}, f32 on the processor {exact:?}, of another seed {other_seed:?}"
        );
        println!(
            "apart by a factor of e to the {}, seeds by {}",
            apart(&found),
            apart(&other_seed)
        );
        assert!(apart(&found) < 0.5 * apart(&other_seed));
    }
}

#[test]
fn recorded_launches_compute_with_new_numbers() {
    let Some(gpu) = gpu() else { return };
    let factor = random([1, 1, 1, 3]);
    let on = |device: &Device| {
        let factor = moved(&factor, device);
        let work = &|images: Tensor<4>, matrix: Tensor<2>| {
            let norm = GroupNorm {
                gamma: matrix.clone().narrow(1, 0, 3).reshape([3]),
                beta: matrix.narrow(1, 3, 3).reshape([3]),
                groups: 3,
                epsilon: 1e-5,
                silu: true,
            };
            let normalised = norm.forward(images.clone());
            kiln_kernels::matmul(normalised, images.swap_dims(2, 3))
                * factor.clone().sum().reshape([1, 1, 1, 1])
        };
        let repeated = Repeated::default();
        let mut made = Vec::new();
        for (seed, shape) in [
            (1, [2, 4, 4, 3]),
            (2, [2, 4, 4, 3]),
            (3, [2, 4, 4, 3]),
            (4, [1, 2, 4, 3]),
            (5, [2, 4, 4, 3]),
            (6, [3, 2, 4, 3]),
            (7, [1, 2, 4, 3]),
            (8, [2, 4, 4, 3]),
        ] {
            let images = numbers(shape, seed, device);
            let matrix = numbers([1, 6], seed + 10, device);
            let inputs = AnyTensor::of(images.clone()).zip(AnyTensor::of(matrix.clone()));
            let found = inputs.and_then(|(images, matrix)| {
                let work = |mut inputs: Vec<AnyTensor>| {
                    let [images, matrix] = [inputs.remove(0), inputs.remove(0)];
                    let (images, matrix) = (images.into_tensor(), matrix.into_tensor());
                    move || work(images.clone(), matrix.clone())
                };
                let kept = |made: &Tensor<4>| copied(made.clone());
                repeated.call(device, vec![images, matrix], work, kept)
            });
            let records = std::env::var("KILN_GRAPHS").as_deref() == Ok("on");
            // CubeCL's processor records nothing.
            let records = records && *device != Device::flex() && !cfg!(feature = "cubecl-cpu");
            assert_eq!(repeated.is_recorded(), records);
            assert_eq!(found.is_some(), repeated.is_recorded());
            made.push(found.unwrap_or_else(|| work(images, matrix)));
        }
        // Read only now: a later call leaves the results of earlier ones.
        made.iter().map(values).collect::<Vec<_>>()
    };
    for (of_gpu, of_cpu) in on(&gpu).iter().zip(&on(&Device::flex())) {
        assert_close("repeated", of_gpu, of_cpu, 1e-4);
    }
}

const SHAPES: [[usize; 4]; 6] = [
    [1, 1, 1, 1],
    [1, 1, 1, 7],
    [3, 4, 5, 6],
    [64, 3, 3, 3],
    [128, 64, 3, 3],
    [1, 1, 33, 4097],
];

#[test]
fn an_update_of_all_tensors_is_that_of_each() {
    let Some(gpu) = gpu() else { return };
    let adamw = AdamW {
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-4,
        weight_decay: 0.1,
    };
    let (learning_rate, clip_norm, decay) = (1e-2, 3.0, 0.75);
    let shapes: Vec<[usize; 4]> = SHAPES.into_iter().cycle().take(40).collect();
    let mut on_cpu: Vec<(Tensor<4>, Option<AdamWState<4>>, Tensor<4>)> = shapes
        .iter()
        .map(|&shape| (random(shape), None, random(shape)))
        .collect();
    let there = |tensor: &Tensor<4>| AnyTensor::of(tensor.clone().to_device(&gpu)).unwrap();
    let mut on_gpu: Vec<Weight<AnyTensor>> = on_cpu
        .iter()
        .map(|(weight, _, average)| Weight {
            weight: there(weight),
            moments: [there(&weight.zeros_like()), there(&weight.zeros_like())],
            average: Some(there(average)),
        })
        .collect();
    let mut report = None;
    for time in 1..=5 {
        // In the third step a gradient is not finite. Nothing moves, and neither does it in the fourth.
        let broken = time == 3 || time == 4;
        let gradients: Vec<Tensor<4>> = shapes.iter().map(|&shape| random(shape)).collect();
        let squares = gradients
            .iter()
            .map(|gradient| gradient.clone().square().sum().into_scalar::<f32>());
        let norm = f64::from(squares.sum::<f32>()).sqrt();
        let moved: Vec<AnyTensor> = gradients
            .iter()
            .enumerate()
            .map(|(place, gradient)| {
                let gradient = gradient.clone().to_device(&gpu);
                // Some gradients lie in memory with the channels last, and one has gaps.
                let gradient = match place % 3 {
                    0 => gradient
                        .permute([0, 2, 3, 1])
                        .mul_scalar(1.0)
                        .permute([0, 3, 1, 2]),
                    1 => Tensor::cat(vec![gradient.clone(), gradient], 3).slice([
                        0..shapes[place][0],
                        0..shapes[place][1],
                        0..shapes[place][2],
                        0..shapes[place][3],
                    ]),
                    _ => gradient,
                };
                let gradient = if time == 3 && place == 17 {
                    gradient / 0.0
                } else {
                    gradient
                };
                AnyTensor::of(gradient).unwrap()
            })
            .collect();
        let together = Together {
            adamw,
            learning_rate,
            clip_norm,
            decay,
            step: time,
        };
        let times = vec![if time == 5 { 3 } else { time }; shapes.len()];
        // The fifth step does not know of the third.
        let before = report.take().filter(|_| time < 5);
        let (updated, found) = together.update(moved, on_gpu, times, before);
        report = found.clone();
        on_gpu = updated;
        let found = values(&found.unwrap().into_tensor::<1>());
        if broken {
            assert!(!found[0].is_finite() && found[2] == 3.0, "{found:?}");
        } else {
            assert_close("norm", &[found[0]], &[norm as f32], 1e-4);
            for ((weight, state, average), gradient) in on_cpu.iter_mut().zip(gradients) {
                let scale = (clip_norm / norm).min(1.0);
                let (new, moments) =
                    adamw.step(learning_rate, scale, weight.clone(), gradient, state.take());
                *average = moving_average(average.clone(), new.clone(), decay);
                (*weight, *state) = (new, moments);
            }
        }
        for (gpu, (weight, state, average)) in on_gpu.iter().zip(&on_cpu) {
            let AdaptiveMomentumState {
                moment_1, moment_2, ..
            } = &state.as_ref().unwrap().momentum;
            let of = |tensor: &AnyTensor| values(&tensor.clone().into_tensor::<4>());
            assert_close("weight", &of(&gpu.weight), &values(weight), 1e-5);
            assert_close(
                "first moment",
                &of(&gpu.moments[0]),
                &values(moment_1),
                1e-5,
            );
            assert_close(
                "second moment",
                &of(&gpu.moments[1]),
                &values(moment_2),
                1e-5,
            );
            assert_close(
                "average",
                &of(gpu.average.as_ref().unwrap()),
                &values(average),
                1e-5,
            );
        }
    }
}
