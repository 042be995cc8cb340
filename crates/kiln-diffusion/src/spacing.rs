//! Which timesteps a sampler visits when it takes fewer steps than there are timesteps.

use serde::{Deserialize, Serialize};

use crate::betas::linspace;
use crate::{DiffusionError, Level, Rates, Schedule};

/// How S sampling steps are spread over T timesteps (Lin et al. 2023, table 2, except `Quadratic`).
///
/// With T = 1000 and S = 5:
///
/// | spacing | visits |
/// | --- | --- |
/// | leading | 800, 600, 400, 200, 0 |
/// | linspace | 999, 749, 500, 250, 0 |
/// | trailing | 999, 799, 599, 399, 199 |
/// | quadratic | 800, 450, 200, 50, 0 |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spacing {
    /// Every (T / S)-th timestep from 0 up, T / S rounded down: diffusers' default. Never visits
    /// the last timesteps, so a single step would start from timestep 0: take `Trailing` for very
    /// few steps.
    #[default]
    Leading,
    /// Evenly from 0 to T - 1, both included.
    Linspace,
    /// Every (T / S)-th timestep from T - 1 down. The choice for zero-terminal-SNR schedules.
    Trailing,
    /// Squares of even numbers from 0 to sqrt(0.8 T), rounded down: denser where there is little
    /// noise. The DDIM paper's choice for CIFAR-10. Where two would fall together, the later moves
    /// up by one, so that no step is lost. Not in diffusers.
    Quadratic,
}

/// Where the walk ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalLevel {
    /// At the clean image: a = 1, b = 0 (diffusers' `set_alpha_to_one: true`).
    #[default]
    Clean,
    /// At timestep 0, with the little noise that it has (diffusers' `set_alpha_to_one: false`, as
    /// in Stable Diffusion).
    First,
}

/// How to lay a sampling trajectory over a schedule. The default is diffusers': leading, no offset,
/// ending clean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LevelOptions {
    /// Which timesteps are visited.
    pub spacing: Spacing,
    /// Added to every timestep of `Spacing::Leading`; the other spacings have no use for it.
    pub steps_offset: usize,
    /// Where the last step ends.
    pub final_level: FinalLevel,
}

impl Spacing {
    /// The timesteps of `steps` sampling steps, from the noisiest down.
    ///
    /// They are diffusers' to the number. (Its DDIM scheduler then steps from t to t - T / S rather
    /// than to the next of these timesteps, which differs for `Linspace`, and for `Trailing` where
    /// S does not divide T. Here a step always ends where the next begins, as in its DDPM
    /// scheduler.)
    ///
    /// # Errors
    /// No steps, more steps than timesteps, or an offset that leads beyond the last timestep.
    pub fn timesteps(
        self,
        num_train_timesteps: usize,
        steps: usize,
        steps_offset: usize,
    ) -> Result<Vec<usize>, DiffusionError> {
        if steps == 0 || steps > num_train_timesteps {
            return Err(DiffusionError::Steps {
                steps,
                maximum: num_train_timesteps,
            });
        }
        let (total, last) = (num_train_timesteps as f64, num_train_timesteps - 1);
        // numpy rounds halves to the even number.
        let mut timesteps: Vec<usize> = match self {
            Spacing::Leading => {
                let ratio = num_train_timesteps / steps;
                let timestep = ((steps - 1) * ratio).saturating_add(steps_offset);
                if timestep > last {
                    return Err(DiffusionError::StepsOffset {
                        offset: steps_offset,
                        steps,
                        timestep,
                        last,
                    });
                }
                (0..steps).map(|i| i * ratio + steps_offset).collect()
            }
            Spacing::Linspace => linspace(0.0, last as f64, steps)
                .map(|timestep| timestep.round_ties_even() as usize)
                .collect(),
            Spacing::Trailing => {
                let ratio = total / steps as f64;
                let from_the_end = |i: usize| (total - i as f64 * ratio).round_ties_even() as usize;
                (0..steps)
                    .rev()
                    .map(|i| from_the_end(i).saturating_sub(1))
                    .collect()
            }
            Spacing::Quadratic => {
                let mut free = 0;
                linspace(0.0, (0.8 * total).sqrt(), steps)
                    .map(|root| {
                        let timestep = ((root * root) as usize).clamp(free, last);
                        free = timestep + 1;
                        timestep
                    })
                    .collect()
            }
        };
        timesteps.reverse();
        Ok(timesteps)
    }
}

/// The trajectory of `steps` sampling steps: `steps` + 1 levels from the noisiest to the final one.
/// A denoiser is asked at all but the final one, whose timestep is never used.
///
/// # Errors
/// Those of [`Spacing::timesteps`].
pub fn levels(
    schedule: &Schedule,
    steps: usize,
    options: LevelOptions,
) -> Result<Vec<Level>, DiffusionError> {
    let timesteps =
        options
            .spacing
            .timesteps(schedule.num_train_timesteps(), steps, options.steps_offset)?;
    let last = match options.final_level {
        FinalLevel::Clean => Level {
            timestep: 0.0,
            rates: Rates {
                signal: 1.0,
                noise: 0.0,
            },
        },
        FinalLevel::First => schedule.level(0.0),
    };
    Ok(timesteps
        .into_iter()
        .map(|timestep| schedule.level(timestep as f64))
        .chain([last])
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ScheduleConfig;

    const ALL: [Spacing; 4] = [
        Spacing::Leading,
        Spacing::Linspace,
        Spacing::Trailing,
        Spacing::Quadratic,
    ];

    proptest! {
        #[test]
        fn every_step_visits_a_timestep_of_its_own(total in 1..2000usize, fraction in 0.0..1.0f64) {
            let steps = ((total as f64 * fraction) as usize).max(1);
            for spacing in ALL {
                let timesteps = spacing.timesteps(total, steps, 0).unwrap();
                prop_assert_eq!(timesteps.len(), steps);
                prop_assert!(timesteps.is_sorted_by(|early, late| early > late), "{:?} {:?}", spacing, timesteps);
                prop_assert!(timesteps[0] < total);
            }
        }
    }

    #[test]
    fn the_table_in_the_documentation_is_right() {
        for (spacing, expected) in ALL.into_iter().zip([
            [800, 600, 400, 200, 0],
            [999, 749, 500, 250, 0],
            [999, 799, 599, 399, 199],
            [800, 450, 200, 50, 0],
        ]) {
            assert_eq!(
                spacing.timesteps(1000, 5, 0).unwrap(),
                expected,
                "{spacing:?}"
            );
        }
    }

    /// diffusers' own test: `test_steps_offset`.
    #[test]
    fn an_offset_moves_leading_steps() {
        assert_eq!(
            Spacing::Leading.timesteps(1000, 5, 1).unwrap(),
            [801, 601, 401, 201, 1]
        );
    }

    #[test]
    fn all_steps_visit_all_timesteps() {
        let all: Vec<usize> = (0..50).rev().collect();
        for spacing in ALL {
            assert_eq!(spacing.timesteps(50, 50, 0).unwrap(), all, "{spacing:?}");
        }
    }

    #[test]
    fn impossible_steps_are_refused_in_a_sentence() {
        for spacing in ALL {
            for steps in [0, 101] {
                let message = spacing.timesteps(100, steps, 0).unwrap_err().to_string();
                assert!(message.contains("from 1 to 100"), "{message}");
            }
        }
        for offset in [1, usize::MAX] {
            let message = Spacing::Leading
                .timesteps(100, 100, offset)
                .unwrap_err()
                .to_string();
            assert!(message.contains("`steps_offset`"), "{message}");
        }
    }

    #[test]
    fn a_trajectory_ends_clean_or_at_timestep_zero() {
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        let clean = levels(&schedule, 4, LevelOptions::default()).unwrap();
        let timesteps: Vec<f64> = clean.iter().map(|level| level.timestep).collect();
        assert_eq!(timesteps, [750.0, 500.0, 250.0, 0.0, 0.0]);
        assert_eq!(
            clean[4].rates,
            Rates {
                signal: 1.0,
                noise: 0.0
            }
        );
        let options = LevelOptions {
            final_level: FinalLevel::First,
            ..Default::default()
        };
        assert_eq!(
            levels(&schedule, 4, options).unwrap()[4],
            schedule.level(0.0)
        );
    }
}
