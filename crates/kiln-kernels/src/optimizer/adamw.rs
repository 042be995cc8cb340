//! A step of AdamW over plain arrays. The formula is at [`super::AdamW`].

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{AdamW, CHUNK};
use crate::instructions::vectorized;

/// The numbers of a step that are the same for all weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    beta_1: f32,
    beta_2: f32,
    /// `1 - beta_1^time`.
    correction_1: f32,
    /// `1 - beta_2^time`.
    correction_2: f32,
    epsilon: f32,
    learning_rate: f32,
    /// The share of a weight that weight decay leaves: `1 - learning_rate weight_decay`.
    kept: f32,
    /// The gradient's factor.
    scale: f32,
}

impl Step {
    /// Step number `time` with `adamw`, counted from 1. The numbers are rounded to `f32` where Burn rounds them.
    pub(crate) fn new(adamw: &AdamW, learning_rate: f64, scale: f64, time: usize) -> Self {
        let time = i32::try_from(time).unwrap_or(i32::MAX);
        Self {
            beta_1: adamw.beta_1,
            beta_2: adamw.beta_2,
            correction_1: 1.0 - adamw.beta_1.powi(time),
            correction_2: 1.0 - adamw.beta_2.powi(time),
            epsilon: adamw.epsilon,
            learning_rate: learning_rate as f32,
            kept: (1.0 - learning_rate * f64::from(adamw.weight_decay)) as f32,
            scale: scale as f32,
        }
    }

    /// Moves the moments along the gradient and writes the new weights over it. All four have one length.
    pub(crate) fn take(
        self,
        weight: &[f32],
        gradient: &mut [f32],
        moment_1: &mut [f32],
        moment_2: &mut [f32],
    ) {
        let chunk = |(((weight, gradient), moment_1), moment_2)| {
            vectorized(Chunk {
                step: self,
                weight,
                gradient,
                moment_1,
                moment_2,
            });
        };
        // A single chunk is not worth waking another thread.
        if weight.len() <= CHUNK {
            return chunk((((weight, gradient), moment_1), moment_2));
        }
        weight
            .par_chunks(CHUNK)
            .zip(gradient.par_chunks_mut(CHUNK))
            .zip(moment_1.par_chunks_mut(CHUNK))
            .zip(moment_2.par_chunks_mut(CHUNK))
            .for_each(chunk);
    }
}

struct Chunk<'a> {
    step: Step,
    weight: &'a [f32],
    /// The new weight afterwards.
    gradient: &'a mut [f32],
    moment_1: &'a mut [f32],
    moment_2: &'a mut [f32],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Step {
            beta_1,
            beta_2,
            correction_1,
            correction_2,
            epsilon,
            learning_rate,
            kept,
            scale,
        } = self.step;
        let moments = self.moment_1.iter_mut().zip(self.moment_2);
        for ((weight, gradient), (m, v)) in self.weight.iter().zip(self.gradient).zip(moments) {
            let g = *gradient * scale;
            *m = beta_1 * *m + (1.0 - beta_1) * g;
            *v = beta_2 * *v + (1.0 - beta_2) * (g * g);
            let direction = (*m / correction_1) / ((*v / correction_2).sqrt() + epsilon);
            *gradient = kept * weight - learning_rate * direction;
        }
    }
}
