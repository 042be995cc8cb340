//! The walk of a teacher: its levels, and a step from one to the next.

use burn::tensor::Tensor;
use kiln_diffusion::{Denoised, Level, per_image};

use super::Noisy;

/// The noisy images after a step of DDIM, each from its level to the next one of `walk`, with what was `seen` in them.
pub(super) fn stepped(walk: &[Level], noisy: &Noisy, seen: Denoised) -> Noisy {
    let next = noisy.levels.iter();
    let next: Vec<Level> = next.map(|&level| walk[step_at(walk, level) + 1]).collect();
    noisy.led_to(next, seen)
}

/// The number, from 0, of the step of `walk` that begins at `level`.
fn step_at(walk: &[Level], level: Level) -> usize {
    let last = walk.len() - 2;
    (walk.iter())
        .position(|of_step| of_step.timestep <= level.timestep)
        .map_or(last, |step| step.min(last))
}

/// The clean images `[batch, channels, height, width]` from which one step of DDIM leads from the noisy images `from` to
/// those in `end`.
pub(super) fn leads_to(from: &Noisy, end: &Noisy) -> Tensor<4> {
    let device = from.zt.device();
    let pairs = from.levels.iter().zip(&end.levels);
    let pairs = pairs.map(|(from, end)| (from.rates, end.rates));
    let ratios = pairs.clone().map(|(from, end)| end.noise / from.noise);
    let divisors =
        (pairs.zip(ratios.clone())).map(|((from, end), ratio)| end.signal - ratio * from.signal);
    let rest = end.zt.clone() - from.zt.clone() * per_image(ratios, &device);
    rest / per_image(divisors, &device)
}

#[cfg(test)]
mod tests {
    use kiln_diffusion::trailing_levels;

    use super::*;
    use crate::denoising::distillation::batch_rates;
    use crate::denoising::distillation::tests::{assert_close, images, noisy, schedule};

    #[test]
    fn one_step_with_the_answer_leads_where_it_should() {
        let from = noisy(&[999.0, 500.0, 249.0, 40.0]);
        let ends = [749.0, 0.0, 200.0, 39.0].map(|timestep| schedule().level(timestep));
        let clean = trailing_levels(&schedule(), 4).unwrap()[4];
        for ends in [ends, [clean; 4]] {
            let wanted = images(3, 4);
            let end = from.moved_to(wanted.clone(), ends.to_vec());
            let z0 = leads_to(&from, &end);
            // A step of DDIM: the noise that z0 leaves stays.
            let device = z0.device();
            let rates = batch_rates(&from.levels, &device);
            let noise = (from.zt.clone() - rates.signal * z0.clone()) / rates.noise;
            let reached = batch_rates(&ends, &device).add_noise(z0, noise);
            assert_close(reached, wanted, 2e-3);
        }
    }
}
