//! Inpainting: a sampler that is given part of the image.

use burn::tensor::{Bool, Tensor};

use super::consistency::consistency;
use super::ddim::ddim;
use super::ddpm::Variance;
use super::step_taken::StepTaken;
use crate::{Denoiser, DiffusionError, Level};

/// The part of an image that inpainting keeps.
#[derive(Debug, Clone)]
pub struct Known {
    /// The original z0, `[1, channels, height, width]` or one for each image of the batch.
    pub z0: Tensor<4>,
    /// `[1, 1, height, width]` or larger: true where inpainting fills in, false where it keeps the original.
    pub unknown: Tensor<4, Bool>,
}

/// How [`inpaint`] makes known and unknown parts agree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InpaintOptions {
    /// DDIM's stochasticity, from 0 to 1. RePaint uses DDPM's steps, which is 1.
    pub eta: f64,
    /// How many times each stretch of the way is repeated; 0 is the plain replacement method.
    pub resamplings: usize,
    /// The steps in such a stretch, at least 1.
    pub jump: usize,
    /// Whether a step leads to the clean image that the network sees and from there, by fresh noise, to the next level, as in
    /// [`consistency`](super::consistency()) with one segment: for distilled networks. `eta` does not count then.
    pub forgets: bool,
}

impl Default for InpaintOptions {
    /// The plain replacement method. With resamplings, stretches are 10 steps long.
    fn default() -> Self {
        Self {
            eta: 1.0,
            resamplings: 0,
            jump: 10,
            forgets: false,
        }
    }
}

/// RePaint (Lugmayr et al. 2022, algorithm 1), and with no resamplings the replacement method (Song et al. 2021,
/// "Score-based generative modeling", appendix I.2).
///
/// After each step from a level with rates a, b to the next, with a', b', the known part replaces its place, with as
/// much noise as the rest:
///
/// ```text
/// z' = DDIM step of z              where unknown
/// z' = a' z0 + b' fresh_noise      elsewhere
/// ```
///
/// The step did not know what would be put there, so the parts may not fit together. Resampling goes back up some
/// levels with the forward process, and down again, so that the network can make them fit:
///
/// ```text
/// z = (a / a') z' + sqrt(b² - b'² (a / a')²) fresh_noise
/// ```
///
/// `noise` and the result are `[batch, channels, height, width]`; where `unknown` is false and the last level is clean,
/// the result is the known z0. Each call of `fresh_noise` gets a new number, from 1.
///
/// # Errors
/// An `eta` outside [0, 1].
pub fn inpaint(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    known: &Known,
    options: InpaintOptions,
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    let mut draws = 0;
    let mut fresh_noise = || {
        draws += 1;
        fresh_noise(draws)
    };
    let visited = visits(levels.len().saturating_sub(1), options);
    let moves = visited.iter().zip(visited.iter().skip(1));
    let steps = moves.len();
    let original = known.z0.clone().expand(noise.dims());
    let unknown = known.unknown.clone().expand(noise.dims());
    let end = levels.last().map_or(&[][..], std::slice::from_ref);
    let (mut z, mut z0) = (noise.clone(), noise);
    for (step, (&from, &to)) in (1..).zip(moves) {
        let (Some(level), Some(next)) = (levels.get(from), levels.get(to)) else {
            break;
        };
        z = if to > from {
            let pair = [*level, *next];
            let mut fresh = |_| fresh_noise();
            let mut see = |progress: StepTaken<'_>| z0 = progress.z0.clone();
            let stepped = match options.forgets {
                true => consistency(denoiser, z, &pair, end, &mut fresh, &mut see),
                false => {
                    let (eta, variance) = (options.eta, Variance::Small);
                    ddim(denoiser, z, &pair, eta, variance, &mut fresh, &mut see)?
                }
            };
            let noisy = if next.rates.noise > 0.0 {
                next.rates.add_noise(original.clone(), fresh_noise())
            } else {
                original.clone()
            };
            noisy.mask_where(unknown.clone(), stepped)
        } else {
            let signal = next.rates.signal / level.rates.signal;
            let noise = next.rates.noise.powi(2) - (level.rates.noise * signal).powi(2);
            z * signal + fresh_noise() * noise.max(0.0).sqrt()
        };
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    Ok(z)
}

/// The levels in the order of the visits, from 0, the noisiest, to `steps`, the last: diffusers' `RePaintScheduler`.
///
/// At every `jump`-th level, counted from the last, the walk goes back up `jump` levels `resamplings` times, if there
/// is room for that.
pub fn visits(steps: usize, options: InpaintOptions) -> Vec<usize> {
    let jump = options.jump.max(1);
    let turns_back = |level: usize| level > jump && (steps - level).is_multiple_of(jump);
    let mut resamplings: Vec<usize> = (0..=steps)
        .map(|level| {
            if turns_back(level) {
                options.resamplings
            } else {
                0
            }
        })
        .collect();
    let (mut level, mut visited) = (0, vec![0]);
    while level < steps {
        level += 1;
        visited.push(level);
        if resamplings[level] > 0 {
            resamplings[level] -= 1;
            visited.extend((level - jump..level).rev());
            level -= jump;
        }
    }
    visited
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(jump: usize, resamplings: usize) -> InpaintOptions {
        InpaintOptions {
            jump,
            resamplings,
            ..Default::default()
        }
    }

    #[test]
    fn without_resamplings_the_way_is_straight_down() {
        assert_eq!(visits(4, InpaintOptions::default()), [0, 1, 2, 3, 4]);
        assert_eq!(visits(0, InpaintOptions::default()), [0]);
        assert_eq!(visits(3, options(0, 0)), [0, 1, 2, 3]);
    }

    #[test]
    fn stretches_are_gone_again() {
        assert_eq!(visits(4, options(2, 1)), [0, 1, 2, 3, 4, 3, 2, 3, 4]);
        let twice = [0, 1, 2, 1, 2, 1, 2, 3, 2, 3, 2, 3];
        assert_eq!(visits(3, options(1, 2)), twice);
        // A jump as long as the whole way is not possible.
        assert_eq!(visits(3, options(3, 5)), [0, 1, 2, 3]);
    }

    #[test]
    fn every_stretch_adds_its_length_twice() {
        for (steps, jump, resamplings) in [(50, 10, 3), (50, 10, 10), (17, 4, 2)] {
            let visited = visits(steps, options(jump, resamplings));
            let stretches = (steps - 1) / jump;
            assert_eq!(
                visited.len(),
                steps + 1 + 2 * jump * resamplings * stretches
            );
            assert!(
                visited
                    .windows(2)
                    .all(|pair| pair[0].abs_diff(pair[1]) == 1)
            );
            assert_eq!(visited.last(), Some(&steps));
        }
    }
}
