//! The walk of a teacher: its levels, and a step from one to the next.

use burn::tensor::Tensor;
use kiln_diffusion::{Denoised, Level, LevelOptions, Schedule, Spacing, levels, per_image};

use super::Noisy;
use crate::error::TrainError;

/// The levels of a walk of so many steps: trailing, from the noisiest down to the clean image.
pub(super) fn trailing(schedule: &Schedule, steps: usize) -> Result<Vec<Level>, TrainError> {
    let options = LevelOptions {
        spacing: Spacing::Trailing,
        ..LevelOptions::default()
    };
    Ok(levels(schedule, steps, options)?)
}

/// The noisy images after a step of DDIM, each from its level to the next one of `walk`, with what was `seen` in them.
pub(super) fn stepped(walk: &[Level], noisy: &Noisy, seen: Denoised) -> Noisy {
    let next = noisy.levels.iter();
    let next: Vec<Level> = next.map(|&level| walk[step_at(walk, level) + 1]).collect();
    noisy.led_to(next, seen)
}

/// The first level of `walk` that is below `level`.
pub(super) fn below(walk: &[Level], level: Level) -> Level {
    let [between @ .., clean] = walk else {
        return level;
    };
    let below = between.iter().find(|end| end.timestep < level.timestep);
    *below.unwrap_or(clean)
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
    use super::*;
    use crate::denoising::distillation::batch_rates;
    use crate::denoising::distillation::tests::{assert_close, images, noisy, schedule};

    #[test]
    fn one_step_with_the_answer_leads_where_it_should() {
        let from = noisy(&[999.0, 500.0, 249.0, 40.0]);
        let ends = [749.0, 0.0, 200.0, 39.0].map(|timestep| schedule().level(timestep));
        let clean = trailing(&schedule(), 4).unwrap()[4];
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

    #[test]
    fn the_level_below_is_the_end_of_a_segment() {
        let walk = trailing(&schedule(), 4).unwrap();
        for (timestep, expected) in [
            (999.0, 749.0),
            (760.0, 749.0),
            (749.0, 499.0),
            (250.0, 249.0),
        ] {
            let end = below(&walk, schedule().level(timestep));
            assert_eq!(end.timestep, expected, "{timestep}");
        }
        for timestep in [249.0, 19.0, 0.0] {
            assert_eq!(below(&walk, schedule().level(timestep)).rates.noise, 0.0);
        }
    }
}
