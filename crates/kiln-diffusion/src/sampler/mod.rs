//! Samplers: functions that walk a denoiser from noise to an image.
//!
//! Each is one function of (denoiser, noise, levels, options) that reads like its paper's
//! algorithm; [`Sampler`] is the choice between them as a value. None knows what a network is, or
//! how noise is drawn: fresh noise comes from a closure that is given the step, counted from 1
//! (step 0 being the noise that the walk starts from), such as
//! [`ImageNoise::draw`](crate::noise::ImageNoise::draw).

mod ddim;
mod ddpm;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use ddim::ddim;
pub use ddpm::{Variance, ddpm};

use crate::{Denoiser, DiffusionError, Level};

/// What a sampler reports after each step, for progress bars and for pictures of the denoising.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The step just taken, from 1 to `steps`.
    pub step: usize,
    /// How many steps there are.
    pub steps: usize,
    /// The images after the step, with the noise of the next level `[batch, channels, height,
    /// width]`.
    pub z: &'a Tensor<4>,
    /// The denoiser's estimate of the clean images during the step `[batch, channels, height,
    /// width]`.
    pub z0: &'a Tensor<4>,
}

/// A sampler and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sampler {
    /// [`ddim`]
    Ddim {
        /// Stochasticity, from 0 (none) to 1 (that of DDPM).
        eta: f64,
    },
    /// [`ddpm`]
    Ddpm {
        /// How much noise a step adds.
        variance: Variance,
    },
}

impl Default for Sampler {
    /// DDIM without fresh noise.
    fn default() -> Self {
        Sampler::Ddim { eta: 0.0 }
    }
}

impl Sampler {
    /// Walks `noise` `[batch, channels, height, width]` down `levels`.
    ///
    /// # Errors
    /// An `eta` outside [0, 1].
    pub fn sample(
        self,
        denoiser: &dyn Denoiser,
        noise: Tensor<4>,
        levels: &[Level],
        fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Tensor<4>, DiffusionError> {
        match self {
            Sampler::Ddim { eta } => ddim(denoiser, noise, levels, eta, fresh_noise, observe),
            Sampler::Ddpm { variance } => Ok(ddpm(
                denoiser,
                noise,
                levels,
                variance,
                fresh_noise,
                observe,
            )),
        }
    }
}
