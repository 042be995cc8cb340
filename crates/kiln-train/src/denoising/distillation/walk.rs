//! The walk of a teacher: its levels, and a step from one to the next.

use kiln_diffusion::{Denoised, Level, LevelOptions, Schedule, Spacing, levels};

use super::{Noisy, batch_rates};
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
    let rates = batch_rates(&next, &noisy.zt.device());
    noisy.moved_to(rates.add_noise(seen.z0, seen.noise), next)
}

/// The number, from 0, of the step of `walk` that begins at `level`.
fn step_at(walk: &[Level], level: Level) -> usize {
    let last = walk.len() - 2;
    (walk.iter())
        .position(|of_step| of_step.timestep <= level.timestep)
        .map_or(last, |step| step.min(last))
}
