//! PNDM: pseudo numerical methods.

use burn::tensor::Tensor;

use super::adams_bashforth::mean_over_step;
use super::slope::{estimate, straight};
use super::step_taken::StepTaken;
use super::turn::heuns_step;
use crate::{Denoiser, Level};

/// Pseudo linear multistep (PLMS), the multistep half of PNDM (Liu et al. 2022, "Pseudo Numerical
/// Methods for Diffusion Models on Manifolds"), as latent diffusion and Stable Diffusion use it
/// (diffusers' `PNDMScheduler` with `skip_prk_steps`).
///
/// The first step is [Heun's](super::heun()); then come Adams-Bashforth steps of order 2, 3 and from then on 4 (eq.
/// 12). A walk of S steps calls the denoiser S + 1 times. As in the paper, it combines noises, whatever the network
/// predicts; diffusers combines the network's outputs, which is a different method if they are velocities. `noise` and
/// the result are `[batch, channels, height, width]`.
pub fn pndm(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Tensor<4> {
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    // Newest first.
    let mut earlier: Vec<Tensor<4>> = Vec::new();
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let here = estimate(denoiser, &z, *level);
        let mut z_next = next.rates.add_noise(here.z0.clone(), here.noise.clone());
        if !earlier.is_empty() {
            let mean = mean_over_step(&here.noise, &earlier);
            z_next = straight(z, mean, level.rates, next.rates);
        } else if next.rates.noise > 0.0 {
            let there = estimate(denoiser, &z_next, *next);
            z_next = heuns_step(z, z_next, &here, there, [level.rates, next.rates]);
        }
        z = z_next;
        earlier.insert(0, here.noise);
        earlier.truncate(3);
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &here.z0,
        });
    }
    z
}
