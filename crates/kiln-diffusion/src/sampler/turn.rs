//! Second-order steps that need no sigma: from one level to the next by the angle between them.

use burn::tensor::Tensor;

use super::slope::straight;
use crate::{Denoised, Prediction, Rates};

/// Up to this growth of the signal rate in one step, [`heuns_step`] is the step in sigma, as in k-diffusion and
/// diffusers.
///
/// Where noise dominates, the noise changes with 1 / sigma². The mean of a step's two ends then corrects DDIM's error
/// sigma / sigma' = a' / a times over: at 2 the result is as far off as DDIM's on the other side, and at 1,500, in a
/// cosine schedule's first of 20 steps, nothing is left of the image.
const LARGEST_GROWTH: f64 = 3.0;

/// The angle phi of rates on the circle a² + b² = 1: a = cos phi, b = sin phi.
fn angle(rates: Rates) -> f64 {
    rates.noise.atan2(rates.signal)
}

/// The rates at `part` of the angle from one level to another, 0 being `from` and 1 `to`.
pub(super) fn part_of_the_way(from: Rates, to: Rates, part: f64) -> Rates {
    let (noise, signal) = (angle(from) + part * (angle(to) - angle(from))).sin_cos();
    Rates { signal, noise }
}

/// A second-order step from two estimates: `here`, at its beginning, and `there`, at the end of a DDIM step part of the
/// way, at the rates `between`. `z_next` is the result of DDIM's whole step.
///
/// By the angle of the rates, dz / dphi is the velocity v = a noise - b z0 (Salimans and Ho 2022, appendix D), and dv /
/// dphi = w - z, where w is how fast image and noise themselves change: a dnoise / dphi - b dz0 / dphi. DDIM assumes
/// that w is 0. Here w is constant over the step, so with d and D, the angles to `between` and to the end,
///
/// ```text
/// w  = (v_there - v_here) / sin d,    both at the rates `between`
/// z' = DDIM's step + (1 - cos D) w
/// ```
///
/// This divides by no rate, so there may be no signal at the beginning. All tensors are
/// `[batch, channels, height, width]`.
pub(super) fn turn(
    z_next: Tensor<4>,
    here: &Denoised,
    there: &Denoised,
    [from, between, to]: [Rates; 3],
) -> Tensor<4> {
    let velocity = |estimated: &Denoised| {
        let Denoised { z0, noise } = estimated.clone();
        Prediction::Velocity.target(z0, noise, &between)
    };
    let (whole, part) = (angle(to) - angle(from), angle(between) - angle(from));
    if part == 0.0 {
        return z_next;
    }
    // 1 - cos D without cancellation.
    let versine = 2.0 * (whole / 2.0).sin().powi(2);
    z_next + (velocity(there) - velocity(here)) * (versine / part.sin())
}

/// Heun's step from `z` at the rates `from`, with the estimate `here`, to `to`, where DDIM's step gives `z_next` and
/// the estimate there is `there`.
///
/// It follows the mean of both noises, a straight line in x and sigma, unless sigma falls too fast for that.
pub(super) fn heuns_step(
    z: Tensor<4>,
    z_next: Tensor<4>,
    here: &Denoised,
    there: Denoised,
    [from, to]: [Rates; 2],
) -> Tensor<4> {
    if to.signal > LARGEST_GROWTH * from.signal {
        return turn(z_next, here, &there, [from, to, to]);
    }
    let mean = (here.noise.clone() + there.noise) / 2.0;
    straight(z, mean, from, to)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn rates(angle: f64) -> Rates {
        Rates {
            signal: angle.cos(),
            noise: angle.sin(),
        }
    }

    /// z'' + z = w, solved by hand: with z = 1 and v = 0.5 at the angle phi, z' = cos D + 0.5 sin D + (1 - cos D) w.
    #[test]
    fn a_constant_change_is_followed_exactly() {
        let pixel = |value: f64| Tensor::<4>::full([1, 1, 1, 1], value, &Device::flex());
        let w = 0.7;
        let state = |phi: f64| {
            // z and v after the angle phi - 1.2, split into image and noise.
            let (sin, cos) = (phi - 1.2).sin_cos();
            let z = cos + 0.5 * sin + (1.0 - cos) * w;
            let v = 0.5 * cos - sin + sin * w;
            let Rates {
                signal: a,
                noise: b,
            } = rates(phi);
            (z, a * z - b * v, b * z + a * v)
        };
        let estimated = |phi| {
            let (_, z0, noise) = state(phi);
            Denoised {
                z0: pixel(z0),
                noise: pixel(noise),
            }
        };
        let here = estimated(1.2);
        let to = rates(0.4);
        let ddim = to.add_noise(here.z0.clone(), here.noise.clone());
        for part in [0.1, 0.5, 1.0] {
            let between = 1.2 - 0.8 * part;
            let points = [rates(1.2), part_of_the_way(rates(1.2), to, part), to];
            let turned = turn(ddim.clone(), &here, &estimated(between), points);
            let difference = f64::from(turned.into_scalar::<f32>()) - state(0.4).0;
            assert!(difference.abs() < 1e-5, "{part}: {difference}");
        }
    }

    #[test]
    fn both_forms_of_heuns_step_agree_where_steps_are_small() {
        let pixel = |value: f64| Tensor::<4>::full([1, 1, 1, 1], value, &Device::flex());
        let estimated = |z0, noise| Denoised {
            z0: pixel(z0),
            noise: pixel(noise),
        };
        let (from, to) = (rates(0.8), rates(0.79));
        let here = estimated(0.2, 0.9);
        let z = from.add_noise(here.z0.clone(), here.noise.clone());
        let z_next = to.add_noise(here.z0.clone(), here.noise.clone());
        // Another split that gives the same z_next.
        let there = estimated(0.2 + 0.01 * to.noise, 0.9 - 0.01 * to.signal);
        let turned = turn(z_next.clone(), &here, &there, [from, to, to]);
        let straight = heuns_step(z, z_next.clone(), &here, there, [from, to]);
        let scalar = |tensor: Tensor<4>| f64::from(tensor.into_scalar::<f32>());
        let correction = scalar(turned.clone() - z_next);
        assert!(correction.abs() > 1e-5, "{correction}");
        assert!(scalar(turned - straight).abs() < 0.05 * correction.abs());
    }
}
