//! The norm of the gradients, AdamW and the moving average over all tensors of a network, in a few launches.
//!
//! The formulas are at [`crate::AdamW`] and [`crate::moving_average`]. Weights, moments and averages take the order of
//! numbers in memory that their gradients have: then nothing is copied, here and in the convolutions, which read the
//! channels of a weight side by side.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::arguments::{flat, like, memory, ordered_like, without_gaps};
use super::{AnyTensor, UNITS, fused};
use crate::optimizer::{Together, Weight};

/// Most tensors of a launch: a kernel's source grows with them.
const MOST_TOGETHER: usize = 16;

/// Numbers of a cube.
pub(super) const CHUNK: u32 = 16 * UNITS;

/// See [`Together::update`].
pub(crate) fn update(
    step: Together,
    gradients: Vec<AnyTensor>,
    weights: Vec<Weight<AnyTensor>>,
    times: Vec<usize>,
    before: Option<AnyTensor>,
) -> (Vec<Weight<AnyTensor>>, Option<AnyTensor>) {
    let count = gradients.len();
    let averaged = weights
        .first()
        .is_some_and(|weight| weight.average.is_some());
    let mut shapes = Vec::new();
    let mut inputs = gradients;
    for Weight {
        weight,
        moments,
        average,
    } in weights
    {
        for tensor in [weight].into_iter().chain(moments).chain(average) {
            shapes.push(tensor.shape().clone());
            inputs.push(tensor);
        }
    }
    shapes.push([3].into());
    let tensors = inputs.len();
    inputs.extend(before);
    let mut made = fused::queue("kiln_update", inputs, shapes, move |mut inputs| {
        let before = inputs.split_off(tensors).pop();
        launch(step, inputs, count, averaged, &times, before)
    });
    let report = made.pop();
    let mut made = made.into_iter();
    let updated = std::iter::from_fn(|| {
        Some(Weight {
            weight: made.next()?,
            moments: [made.next()?, made.next()?],
            average: if averaged { made.next() } else { None },
        })
    });
    (updated.collect(), report)
}

fn launch(
    step: Together,
    mut inputs: Vec<CubeTensor>,
    count: usize,
    averaged: bool,
    times: &[usize],
    report_before: Option<CubeTensor>,
) -> Vec<CubeTensor> {
    let rest = inputs.split_off(count);
    let gradients: Vec<CubeTensor> = inputs.into_iter().map(without_gaps).collect();
    let size = if averaged { 4 } else { 3 };
    let before: Vec<Vec<CubeTensor>> = rest
        .chunks(size)
        .zip(&gradients)
        .map(|(tensors, gradient)| {
            let tensors = tensors.iter().cloned();
            tensors
                .map(|tensor| ordered_like(tensor, gradient))
                .collect()
        })
        .collect();
    let norm = norm_of(&gradients, &step, report_before);
    let after: Vec<Vec<CubeTensor>> = before
        .iter()
        .map(|tensors| tensors.iter().map(like).collect())
        .collect();
    let together = together(&norm, 2 * size + 1);
    for first in (0..count).step_by(together) {
        let part = first..(first + together).min(count);
        let all = |of: &[Vec<CubeTensor>], which: usize| -> SequenceArg<OwnedTensor<f32>> {
            of[part.clone()]
                .iter()
                .map(|tensors| flat(&tensors[which]))
                .collect()
        };
        let averages = |of: &[Vec<CubeTensor>]| match averaged {
            true => all(of, 3),
            false => SequenceArg::new(),
        };
        let correction = |beta: f32| -> SequenceArg<f32> {
            let times = times[part.clone()].iter();
            times
                .map(|&time| 1.0 - beta.powi(i32::try_from(time).unwrap_or(i32::MAX)))
                .collect()
        };
        let (lengths, firsts, cubes) = cubes_of(&gradients[part.clone()]);
        let client = &gradients[first].client;
        let gradients: SequenceArg<OwnedTensor<f32>> =
            gradients[part.clone()].iter().map(flat).collect();

        adamw::launch(
            client,
            cubes,
            CubeDim::new_1d(UNITS),
            gradients,
            all(&before, 0),
            all(&before, 1),
            all(&before, 2),
            averages(&before),
            all(&after, 0),
            all(&after, 1),
            all(&after, 2),
            averages(&after),
            flat(&norm),
            lengths,
            firsts,
            correction(step.adamw.beta_1),
            correction(step.adamw.beta_2),
            step.adamw.beta_1,
            step.adamw.beta_2,
            step.adamw.epsilon,
            step.learning_rate as f32,
            (1.0 - step.learning_rate * f64::from(step.adamw.weight_decay)) as f32,
            (1.0 - step.decay) as f32,
            averaged,
        );
    }
    after.into_iter().flatten().chain([norm]).collect()
}

/// How many tensors a launch has if it reads or writes so many arrays of each. Besides them it has up to four.
pub(super) fn together(on: &CubeTensor, arrays: usize) -> usize {
    let most = on.client.properties().hardware.max_bindings as usize;
    (most.saturating_sub(4) / arrays).clamp(1, MOST_TOGETHER * 9 / arrays)
}

/// The lengths of the tensors, the number of the first cube of each, and the number of cubes.
pub(super) fn cubes_of(tensors: &[CubeTensor]) -> (SequenceArg<u32>, SequenceArg<u32>, CubeCount) {
    let (mut lengths, mut firsts, mut cubes) = (SequenceArg::new(), SequenceArg::new(), 0);
    for tensor in tensors {
        let length = tensor.meta.num_elements() as u32;
        lengths.push(length);
        firsts.push(cubes);
        cubes += length.div_ceil(CHUNK);
    }
    (lengths, firsts, grid(cubes))
}

/// A grid of at least this many cubes: one side of it is limited.
pub(super) fn grid(cubes: u32) -> CubeCount {
    const SIDE: u32 = 32_768;
    match cubes <= SIDE {
        true => CubeCount::Static(cubes.max(1), 1, 1),
        false => CubeCount::Static(SIDE, cubes.div_ceil(SIDE), 1),
    }
}

/// The report of [`Together::update`].
fn norm_of(gradients: &[CubeTensor], step: &Together, before: Option<CubeTensor>) -> CubeTensor {
    let cubes = |tensors: &[CubeTensor]| -> u32 {
        let cubes = tensors
            .iter()
            .map(|tensor| (tensor.meta.num_elements() as u32).div_ceil(CHUNK));
        cubes.sum()
    };
    let total = cubes(gradients);
    let partial = memory(&gradients[0], [total as usize]);
    let norm = memory(&gradients[0], [3]);
    let client = &gradients[0].client;
    let mut cubes_before = 0;
    for part in gradients.chunks(together(&norm, 1)) {
        let (lengths, firsts, grid) = cubes_of(part);
        let tensors: SequenceArg<OwnedTensor<f32>> = part.iter().map(flat).collect();

        squares::launch(
            client,
            grid,
            CubeDim::new_1d(UNITS),
            tensors,
            flat(&partial),
            lengths,
            firsts,
            cubes_before,
        );

        cubes_before += cubes(part);
    }

    norm_and_factor::launch(
        client,
        CubeCount::Static(1, 1, 1),
        CubeDim::new_1d(UNITS),
        flat(&partial),
        flat(before.as_ref().unwrap_or(&partial)),
        flat(&norm),
        total,
        step.clip_norm as f32,
        step.step as f32,
        before.is_some(),
    );

    norm
}

/// The sum of `own` over all units of the cube, for all of them.
#[cube]
pub(super) fn sum_over_cube(own: f32) -> f32 {
    let mut sums = Shared::<[f32]>::new_slice(comptime![UNITS as usize]);
    sums[UNIT_POS as usize] = own;
    sync_cube();
    let mut active = comptime![UNITS / 2].runtime();
    while active > 0 {
        if UNIT_POS < active {
            let other = sums[(UNIT_POS + active) as usize];
            sums[UNIT_POS as usize] += other;
        }
        active /= 2;
        sync_cube();
    }
    let sum = sums[0];
    // The memory may be used again.
    sync_cube();
    sum
}

/// The sum of the squares of each cube's numbers.
#[cube(launch)]
fn squares(
    tensors: &Sequence<OwnedTensor<f32>>,
    partial: &mut Tensor<f32>,
    lengths: &Sequence<u32>,
    firsts: &Sequence<u32>,
    before: u32,
) {
    let cube = CUBE_POS as u32;
    let mut sum = 0.0f32;
    let mut ours = false;
    #[unroll]
    for tensor in 0..comptime![tensors.len()] {
        let (length, first) = (*lengths.index(tensor), *firsts.index(tensor));
        if cube >= first && (cube - first) * CHUNK < length {
            ours = true;
            let begin = (cube - first) * CHUNK;
            for row in 0..comptime![CHUNK / UNITS] {
                let place = begin + row * UNITS + UNIT_POS;
                if place < length {
                    let number = tensors.index(tensor)[place as usize];
                    sum += number * number;
                }
            }
        }
    }
    let sum = sum_over_cube(sum);
    if ours && UNIT_POS == 0 {
        partial[(before + cube) as usize] = sum;
    }
}

/// Whether it is a finite number. NaN is less than nothing.
#[cube]
fn is_finite(number: f32) -> bool {
    number < 3.0e38f32
}

#[cube(launch)]
fn norm_and_factor(
    partial: &Tensor<f32>,
    before: &Tensor<f32>,
    report: &mut Tensor<f32>,
    count: u32,
    clip_norm: f32,
    step: f32,
    #[comptime] has_before: bool,
) {
    let mut sum = 0.0f32;
    let mut place = UNIT_POS;
    while place < count {
        sum += partial[place as usize];
        place += UNITS;
    }
    let mut norm = sum_over_cube(sum).sqrt();
    if UNIT_POS == 0 {
        let mut step = step;
        // The first condition is known when the kernel is compiled.
        #[allow(clippy::collapsible_if)]
        if has_before {
            if !is_finite(before[0]) {
                norm = before[0];
                step = before[2];
            }
        }
        report[0] = norm;
        report[1] = 1.0f32;
        report[2] = step;
        if clip_norm > 0.0f32 && norm > clip_norm {
            report[1] = clip_norm / norm;
        }
    }
}

#[cube(launch)]
fn adamw(
    gradients: &Sequence<OwnedTensor<f32>>,
    weights: &Sequence<OwnedTensor<f32>>,
    moments_1: &Sequence<OwnedTensor<f32>>,
    moments_2: &Sequence<OwnedTensor<f32>>,
    averages: &Sequence<OwnedTensor<f32>>,
    new_weights: &mut Sequence<OwnedTensor<f32>>,
    new_moments_1: &mut Sequence<OwnedTensor<f32>>,
    new_moments_2: &mut Sequence<OwnedTensor<f32>>,
    new_averages: &mut Sequence<OwnedTensor<f32>>,
    report: &Tensor<f32>,
    lengths: &Sequence<u32>,
    firsts: &Sequence<u32>,
    corrections_1: &Sequence<f32>,
    corrections_2: &Sequence<f32>,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    learning_rate: f32,
    kept: f32,
    average_rate: f32,
    #[comptime] averaged: bool,
) {
    let cube = CUBE_POS as u32;
    let finite = is_finite(report[0]);
    let factor = report[1];
    #[unroll]
    for tensor in 0..comptime![gradients.len()] {
        let (length, first) = (*lengths.index(tensor), *firsts.index(tensor));
        if cube >= first && (cube - first) * CHUNK < length {
            let begin = (cube - first) * CHUNK;
            for row in 0..comptime![CHUNK / UNITS] {
                let place = begin + row * UNITS + UNIT_POS;
                if place < length {
                    let place = place as usize;
                    let mut w = weights.index(tensor)[place];
                    let mut m = moments_1.index(tensor)[place];
                    let mut v = moments_2.index(tensor)[place];
                    if finite {
                        let g = gradients.index(tensor)[place] * factor;
                        m = beta_1 * m + (1.0f32 - beta_1) * g;
                        v = beta_2 * v + (1.0f32 - beta_2) * (g * g);
                        let direction = (m / *corrections_1.index(tensor))
                            / ((v / *corrections_2.index(tensor)).sqrt() + epsilon);
                        w = kept * w - learning_rate * direction;
                    }
                    new_weights.index_mut(tensor)[place] = w;
                    new_moments_1.index_mut(tensor)[place] = m;
                    new_moments_2.index_mut(tensor)[place] = v;
                    if averaged {
                        let mut average = averages.index(tensor)[place];
                        if finite {
                            average -= (average - w) * average_rate;
                        }
                        new_averages.index_mut(tensor)[place] = average;
                    }
                }
            }
        }
    }
}
