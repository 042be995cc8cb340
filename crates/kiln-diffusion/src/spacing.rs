//! Which timesteps a sampler visits when it takes fewer steps than there are timesteps.

use serde::{Deserialize, Serialize};

use crate::linspace::linspace;
use crate::{DiffusionError, Level, Rates, Schedule};

/// How S sampling steps are spread over T timesteps (the first three: Lin et al. 2023, table 2).
///
/// With T = 1000 and S = 5, and linear betas for the last two, which depend on the schedule:
///
/// | spacing | visits |
/// | --- | --- |
/// | leading | 800, 600, 400, 200, 0 |
/// | linspace | 999, 749, 500, 250, 0 |
/// | trailing | 999, 799, 599, 399, 199 |
/// | quadratic | 800, 450, 200, 50, 0 |
/// | karras | 999, 843.4, 593, 141.8, 0 |
/// | log-snr | 999, 721.6, 302.3, 30.1, 0 |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Spacing {
    /// Every (T / S)-th timestep from 0 up, T / S rounded down: diffusers' default. It never visits the last timesteps,
    /// so a single step would start from timestep 0: use `Trailing` for very few steps.
    #[default]
    Leading,
    /// Evenly from 0 to T - 1, both included.
    Linspace,
    /// Every (T / S)-th timestep from T - 1 down. The choice for zero-terminal-SNR schedules.
    Trailing,
    /// Squares of even numbers from 0 to sqrt(0.8 T), rounded down: denser where there is little noise. The DDIM
    /// paper's choice for CIFAR-10. If two coincide, the later one moves up by one, so that no step is lost. Not in
    /// diffusers.
    Quadratic,
    /// Evenly in sigma^(1/7), sigma = b / a, from T - 1 to 0 (Karras et al. 2022, eq. 5 with rho = 7):
    /// much denser where there is little noise. Timesteps have fractions.
    Karras,
    /// Evenly in ln(a² / b²) from T - 1 to 0: what DPM-Solver was made for. In terms of sigma this is
    /// the exponential spacing of k-diffusion and diffusers (`use_exponential_sigmas`, and
    /// `use_lu_lambdas`). Timesteps have fractions.
    #[serde(alias = "exponential")]
    LogSnr,
}

/// Where the walk ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FinalLevel {
    /// At the clean image: a = 1, b = 0 (diffusers' `set_alpha_to_one: true`).
    #[default]
    Clean,
    /// At timestep 0, with the little noise that it has (diffusers' `set_alpha_to_one: false`, as
    /// in Stable Diffusion).
    First,
}

impl FinalLevel {
    fn of(self, schedule: &Schedule) -> Level {
        match self {
            FinalLevel::Clean => Level {
                timestep: 0.0,
                rates: Rates {
                    signal: 1.0,
                    noise: 0.0,
                },
            },
            FinalLevel::First => schedule.level(0.0),
        }
    }
}

/// The grid of `Leading` and `Linspace`, in which diffusers' classes differ; the other spacings are the same in all
/// classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StepGrid {
    /// Rounded to whole timesteps: DDIM, DDPM and PNDM.
    #[default]
    Whole,
    /// `Linspace` is not rounded: Euler and Heun.
    Fractional,
    /// Computed for one more step, whose last and cleanest timestep is left out: DPM-Solver++ and UniPC. For a level
    /// that `Karras` or `LogSnr` places between two timesteps, the network gets a whole timestep.
    OneMore,
}

/// How to place a sampling trajectory on a schedule. The default is diffusers': leading, no offset, ending clean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LevelOptions {
    /// The timesteps to visit.
    pub spacing: Spacing,
    /// Added to every timestep of `Spacing::Leading`; the other spacings ignore it.
    pub steps_offset: usize,
    /// Where the last step ends.
    pub final_level: FinalLevel,
    /// The grid of leading and linspaced timesteps.
    pub grid: StepGrid,
}

impl LevelOptions {
    /// The timesteps of `steps` sampling steps, from the noisiest down.
    ///
    /// # Errors
    /// Those of [`Spacing::timesteps`].
    pub fn timesteps(self, schedule: &Schedule, steps: usize) -> Result<Vec<f64>, DiffusionError> {
        let is_gridded = matches!(self.spacing, Spacing::Leading | Spacing::Linspace);
        let total = schedule.num_train_timesteps();
        match (self.grid, self.spacing) {
            (StepGrid::Fractional, Spacing::Linspace) if (1..=total).contains(&steps) => {
                let mut timesteps: Vec<f64> = linspace(0.0, (total - 1) as f64, steps).collect();
                timesteps.reverse();
                Ok(timesteps)
            }
            // If every timestep is visited, there is no room for one more.
            (StepGrid::OneMore, _) if is_gridded && (1..total).contains(&steps) => {
                let mut timesteps =
                    (self.spacing).timesteps(schedule, steps + 1, self.steps_offset)?;
                timesteps.pop();
                Ok(timesteps)
            }
            _ => (self.spacing).timesteps(schedule, steps, self.steps_offset),
        }
    }

    /// The timestep that the network gets for a level at `timestep`.
    fn told(self, timestep: f64) -> f64 {
        match (self.grid, self.spacing) {
            (StepGrid::OneMore, Spacing::Karras) => timestep.round_ties_even(),
            (StepGrid::OneMore, Spacing::LogSnr) => timestep.floor(),
            _ => timestep,
        }
    }
}

/// The largest sigma = b / a for `Karras` and `LogSnr`, diffusers' choice: a schedule that ends in pure noise has no
/// largest sigma.
const LARGEST_SIGMA: f64 = 4096.0;

/// Karras et al. 2022, the exponent that makes the errors of all steps about equal.
const RHO: f64 = 7.0;

impl Spacing {
    /// Every spacing.
    pub const ALL: [Spacing; 6] = [
        Spacing::Leading,
        Spacing::Linspace,
        Spacing::Trailing,
        Spacing::Quadratic,
        Spacing::Karras,
        Spacing::LogSnr,
    ];

    /// The name in a config file and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Leading => "leading",
            Spacing::Linspace => "linspace",
            Spacing::Trailing => "trailing",
            Spacing::Quadratic => "quadratic",
            Spacing::Karras => "karras",
            Spacing::LogSnr => "log-snr",
        }
    }

    /// The timesteps of `steps` sampling steps, from the noisiest down.
    ///
    /// They are exactly the timesteps of diffusers' DDIM scheduler. (That scheduler then steps from t to t - T / S and
    /// not to the next of these timesteps, which differs for `Linspace`, and for `Trailing` if S does not divide T.
    /// Here a step always ends where the next begins, as in diffusers' DDPM scheduler. For its other classes see
    /// [`StepGrid`].)
    ///
    /// # Errors
    /// No steps, more steps than timesteps, or an offset that leads beyond the last timestep.
    pub fn timesteps(
        self,
        schedule: &Schedule,
        steps: usize,
        steps_offset: usize,
    ) -> Result<Vec<f64>, DiffusionError> {
        let total = schedule.num_train_timesteps();
        if steps == 0 || steps > total {
            return Err(DiffusionError::Steps {
                steps,
                maximum: total,
            });
        }
        let last = (total - 1) as f64;
        // From the clean end up. numpy rounds halves to the even number.
        let mut timesteps: Vec<f64> = match self {
            Spacing::Leading => {
                let ratio = total / steps;
                let timestep = ((steps - 1) * ratio).saturating_add(steps_offset);
                if timestep >= total {
                    return Err(DiffusionError::StepsOffset {
                        offset: steps_offset,
                        steps,
                        timestep,
                        last: total - 1,
                    });
                }
                (0..steps)
                    .map(|i| (i * ratio + steps_offset) as f64)
                    .collect()
            }
            Spacing::Linspace => linspace(0.0, last, steps)
                .map(f64::round_ties_even)
                .collect(),
            Spacing::Trailing => {
                let ratio = total as f64 / steps as f64;
                let from_the_end = |i: usize| (total as f64 - i as f64 * ratio).round_ties_even();
                (0..steps)
                    .rev()
                    .map(|i| (from_the_end(i) - 1.0).max(0.0))
                    .collect()
            }
            Spacing::Quadratic => {
                let mut free = 0.0;
                linspace(0.0, (0.8 * total as f64).sqrt(), steps)
                    .map(|root| {
                        let timestep = (root * root).floor().max(free).min(last);
                        free = timestep + 1.0;
                        timestep
                    })
                    .collect()
            }
            Spacing::Karras => even_in_sigma(
                schedule,
                steps,
                |sigma| sigma.powf(1.0 / RHO),
                |root| root.powf(RHO),
            ),
            Spacing::LogSnr => even_in_sigma(schedule, steps, f64::ln, f64::exp),
        };
        timesteps.reverse();
        Ok(timesteps)
    }
}

/// The timesteps, from 0 to T - 1, at which `scale` of sigma = b / a grows in equal steps; `sigma_at`
/// undoes `scale`.
fn even_in_sigma(
    schedule: &Schedule,
    steps: usize,
    scale: fn(f64) -> f64,
    sigma_at: fn(f64) -> f64,
) -> Vec<f64> {
    let last = (schedule.num_train_timesteps() - 1) as f64;
    let sigma = |timestep| (-schedule.log_snr(timestep) / 2.0).exp();
    let smallest = sigma(0.0);
    let largest = Some(sigma(last)).filter(|sigma| sigma.is_finite());
    let largest = largest.unwrap_or(LARGEST_SIGMA);
    let timestep = |(index, scaled)| match index {
        // The ends are exact, and so is pure noise.
        _ if index + 1 == steps => last,
        0 => 0.0,
        _ => schedule.timestep_at(-2.0 * sigma_at(scaled).ln()),
    };
    (linspace(scale(smallest), scale(largest), steps).enumerate())
        .map(timestep)
        .collect()
}

/// The trajectory of `steps` sampling steps: `steps` + 1 levels from the noisiest to the final one. A sampler calls the
/// denoiser at all but the final level, whose timestep is never used.
///
/// # Errors
/// Those of [`LevelOptions::timesteps`].
pub fn levels(
    schedule: &Schedule,
    steps: usize,
    options: LevelOptions,
) -> Result<Vec<Level>, DiffusionError> {
    let timesteps = options.timesteps(schedule, steps)?.into_iter();
    let visited = timesteps.map(|timestep| Level {
        timestep: options.told(timestep),
        ..schedule.level(timestep)
    });
    Ok(visited.chain([options.final_level.of(schedule)]).collect())
}

/// The trajectory that visits the given `timesteps`, from the noisiest down, and then goes to the final level. Timesteps
/// may have fractions.
///
/// # Errors
/// No timesteps, one outside [0, T - 1], or one that is not below the one before it.
pub fn levels_at(
    schedule: &Schedule,
    timesteps: &[f64],
    final_level: FinalLevel,
) -> Result<Vec<Level>, DiffusionError> {
    let last = schedule.num_train_timesteps() - 1;
    let in_range = |timestep: &f64| (0.0..=last as f64).contains(timestep);
    let fall = timesteps.is_sorted_by(|early, late| early > late);
    if timesteps.is_empty() || !timesteps.iter().all(in_range) || !fall {
        return Err(DiffusionError::Timesteps {
            timesteps: timesteps.to_vec(),
            last,
        });
    }
    let visited = timesteps.iter().map(|&timestep| schedule.level(timestep));
    Ok(visited.chain([final_level.of(schedule)]).collect())
}

/// The levels of a walk of so many steps with [`Spacing::Trailing`], from the noisiest down to the clean image.
///
/// # Errors
/// Those of [`levels`].
pub fn trailing_levels(schedule: &Schedule, steps: usize) -> Result<Vec<Level>, DiffusionError> {
    let options = LevelOptions {
        spacing: Spacing::Trailing,
        ..LevelOptions::default()
    };
    levels(schedule, steps, options)
}

/// A sentence if too few of the `levels` of `spacing` lie where an image is visible, otherwise `None`. It advises another
/// spacing if one is better.
///
/// `Karras` and `LogSnr` spread the steps evenly over the whole range of noise. If a schedule ends at a sigma of
/// 20,000, as the cosine does, a third or more of the steps lie beyond 100.
///
/// # Errors
/// Those of `levels`.
pub fn warning<E>(
    spacing: Spacing,
    levels: impl Fn(Spacing) -> Result<Vec<Level>, E>,
) -> Result<Option<String>, E> {
    let own = levels(spacing)?;
    let Some(unseen) = too_many_unseen(&own) else {
        return Ok(None);
    };
    let sees_enough =
        |&spacing: &Spacing| levels(spacing).is_ok_and(|levels| too_many_unseen(&levels).is_none());
    // `Trailing` before the others: it begins at the noise where sampling begins.
    let better = [Spacing::Trailing]
        .into_iter()
        .chain(Spacing::ALL)
        .find(sees_enough);
    let better = better.map_or_else(String::new, |spacing| {
        format!(", or another spacing, such as {}", spacing.name())
    });
    Ok(Some(format!(
        "{unseen} of the {} steps lie where the signal rate is below {UNSEEN_SIGNAL}, which leaves few useful ones: \
         use more steps{better}.",
        own.len() - 1
    )))
}

/// How many of `levels` lie where no image is visible, if too few others are left.
fn too_many_unseen(levels: &[Level]) -> Option<usize> {
    let visited = levels.split_last().map_or(levels, |(_, visited)| visited);
    let steps = visited.len();
    let unseen = (visited.iter())
        .filter(|level| level.rates.signal < UNSEEN_SIGNAL)
        .count();
    (3 * unseen > steps && unseen > 1 && steps - unseen < ENOUGH_STEPS).then_some(unseen)
}

/// A signal rate at which an image cannot be told from noise: a sigma of 100.
const UNSEEN_SIGNAL: f64 = 0.01;

/// With this many steps below that noise, all samplers draw well.
const ENOUGH_STEPS: usize = 10;

/// The last part of a trajectory, for images that do not start from pure noise (SDEdit, Meng et al. 2022; "image to
/// image").
///
/// `strength` is the share of the steps to take, rounded to a whole number: 1 is all of `levels`; 0 is the final level
/// alone, with nothing left to do. The walk begins with the image at the first of these levels:
///
/// ```
/// # use burn::tensor::{Device, Tensor};
/// use kiln_diffusion::{LevelOptions, Schedule, ScheduleConfig, last_part, levels};
///
/// let schedule = Schedule::new(ScheduleConfig::default())?;
/// let levels = levels(&schedule, 50, LevelOptions::default())?;
/// let part = last_part(&levels, 0.6)?;
/// assert_eq!(part.len(), 31);
/// # let (image, noise) = (Tensor::<4>::ones([1, 1, 2, 2], &Device::flex()), Tensor::<4>::ones([1, 1, 2, 2], &Device::flex()));
/// let z = part[0].rates.add_noise(image, noise);
/// # Ok::<(), kiln_diffusion::DiffusionError>(())
/// ```
///
/// # Errors
/// A `strength` outside [0, 1].
pub fn last_part(levels: &[Level], strength: f64) -> Result<&[Level], DiffusionError> {
    if !(0.0..=1.0).contains(&strength) {
        return Err(DiffusionError::Strength(strength));
    }
    let steps = levels.len().saturating_sub(1);
    let skipped = steps - (strength * steps as f64).round() as usize;
    Ok(levels.get(skipped..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ScheduleConfig;

    fn ddpm(num_train_timesteps: usize) -> Schedule {
        Schedule::new(ScheduleConfig {
            num_train_timesteps,
            ..Default::default()
        })
        .unwrap()
    }

    proptest! {
        #[test]
        fn every_step_visits_a_timestep_of_its_own(total in 1..1200usize, fraction in 0.0..1.0f64, pure in any::<bool>()) {
            let steps = ((total as f64 * fraction) as usize).max(1);
            let schedule = Schedule::new(ScheduleConfig {
                num_train_timesteps: total,
                zero_terminal_snr: pure && total > 1,
                ..Default::default()
            })
            .unwrap();
            for spacing in Spacing::ALL {
                let timesteps = spacing.timesteps(&schedule, steps, 0).unwrap();
                prop_assert_eq!(timesteps.len(), steps);
                prop_assert!(timesteps.is_sorted_by(|early, late| early > late), "{:?} {:?}", spacing, timesteps);
                prop_assert!(timesteps[0] <= (total - 1) as f64);
                prop_assert!(timesteps[steps - 1] >= 0.0);
            }
        }

        #[test]
        fn the_last_part_has_its_share_of_the_steps(steps in 1..200usize, strength in 0.0..1.0f64) {
            let levels = levels(&ddpm(200), steps, LevelOptions::default()).unwrap();
            let part = last_part(&levels, strength).unwrap();
            prop_assert!(((part.len() - 1) as f64 - strength * steps as f64).abs() <= 0.5);
            prop_assert_eq!(part, &levels[levels.len() - part.len()..]);
        }
    }

    #[test]
    fn the_table_in_the_documentation_is_right() {
        for (spacing, expected) in Spacing::ALL.into_iter().zip([
            [800.0, 600.0, 400.0, 200.0, 0.0],
            [999.0, 749.0, 500.0, 250.0, 0.0],
            [999.0, 799.0, 599.0, 399.0, 199.0],
            [800.0, 450.0, 200.0, 50.0, 0.0],
            [999.0, 843.4, 593.0, 141.8, 0.0],
            [999.0, 721.6, 302.3, 30.1, 0.0],
        ]) {
            let timesteps = spacing.timesteps(&ddpm(1000), 5, 0).unwrap();
            let rounded: Vec<f64> = (timesteps.iter())
                .map(|timestep| (timestep * 10.0).round() / 10.0)
                .collect();
            assert_eq!(rounded, expected, "{spacing:?}");
        }
    }

    #[test]
    fn names_are_those_of_configs() {
        for spacing in Spacing::ALL {
            assert_eq!(serde_json::to_value(spacing).unwrap(), spacing.name());
        }
        let read = serde_json::from_str::<Spacing>(r#""exponential""#).unwrap();
        assert_eq!(read, Spacing::LogSnr);
    }

    #[test]
    fn grids_differ_in_the_cleanest_steps() {
        let timesteps = |spacing, grid, steps| {
            let options = LevelOptions {
                spacing,
                grid,
                ..Default::default()
            };
            options.timesteps(&ddpm(100), steps).unwrap()
        };
        let whole = [99.0, 66.0, 33.0, 0.0];
        assert_eq!(timesteps(Spacing::Linspace, StepGrid::Whole, 4), whole);
        assert_eq!(
            timesteps(Spacing::Linspace, StepGrid::OneMore, 3),
            whole[..3]
        );
        assert_eq!(
            timesteps(Spacing::Leading, StepGrid::OneMore, 3),
            [75.0, 50.0, 25.0]
        );
        let halves = [99.0, 49.5, 0.0];
        assert_eq!(
            timesteps(Spacing::Linspace, StepGrid::Fractional, 3),
            halves
        );
        for grid in [StepGrid::Whole, StepGrid::Fractional, StepGrid::OneMore] {
            // Nothing to round, and nothing to leave out.
            let trailing = [99.0, 74.0, 49.0, 24.0];
            assert_eq!(timesteps(Spacing::Trailing, grid, 4), trailing);
            assert_eq!(timesteps(Spacing::Leading, grid, 100).len(), 100);
            let options = LevelOptions {
                grid,
                ..Default::default()
            };
            for steps in [0, 101, usize::MAX] {
                assert!(options.timesteps(&ddpm(100), steps).is_err());
            }
        }
    }

    fn warned(schedule: &Schedule, spacing: Spacing, steps: usize) -> Option<String> {
        let of_spacing = |spacing| {
            let options = LevelOptions {
                spacing,
                ..Default::default()
            };
            levels(schedule, steps, options)
        };
        warning(spacing, of_spacing).unwrap()
    }

    #[test]
    fn steps_that_see_nothing_are_warned_of_where_the_others_are_few() {
        let cosine = Schedule::new(ScheduleConfig {
            kind: crate::ScheduleKind::Cosine,
            ..Default::default()
        });
        let cosine = cosine.unwrap();
        let warns =
            |schedule: &Schedule, spacing, steps| warned(schedule, spacing, steps).is_some();
        assert!(warns(&cosine, Spacing::Karras, 20) && warns(&cosine, Spacing::LogSnr, 10));
        assert!(!warns(&cosine, Spacing::Karras, 50) && !warns(&cosine, Spacing::LogSnr, 20));
        for steps in [1, 2, 5, 20, 200] {
            assert!(!warns(&cosine, Spacing::Trailing, steps));
            assert!(!warns(&ddpm(1000), Spacing::Karras, steps));
        }
        assert_eq!(too_many_unseen(&[]), None);
    }

    /// Most of such a schedule is pure noise. If no spacing helps, the message names none, and it never names the
    /// requested one.
    #[test]
    fn no_spacing_is_advised_that_is_no_better() {
        let (mut advised, mut trailing) = (0, 0);
        for beta_end in [0.02, 0.05, 0.1] {
            let config =
                ScheduleConfig::of(crate::ScheduleKind::Linear(crate::schedule::BetaRange {
                    beta_start: 1e-4,
                    beta_end,
                    scale_betas: false,
                }));
            let schedule = Schedule::new(config).unwrap();
            for spacing in Spacing::ALL {
                for steps in [5, 10, 20] {
                    let Some(said) = warned(&schedule, spacing, steps) else {
                        continue;
                    };
                    trailing += usize::from(spacing == Spacing::Trailing);
                    let names = Spacing::ALL.map(|spacing| (spacing, spacing.name()));
                    let named = names
                        .iter()
                        .find(|(_, name)| said.ends_with(&format!("such as {name}.")));
                    match named {
                        Some(&(better, _)) => {
                            assert_ne!(better, spacing, "{said}");
                            assert_eq!(warned(&schedule, better, steps), None);
                            advised += 1;
                        }
                        None => assert!(said.ends_with("use more steps."), "{said}"),
                    }
                }
            }
        }
        assert!(advised > 0 && trailing > 0, "{advised} {trailing}");
    }

    /// From diffusers' own test `test_steps_offset`.
    #[test]
    fn an_offset_moves_leading_steps() {
        assert_eq!(
            Spacing::Leading.timesteps(&ddpm(1000), 5, 1).unwrap(),
            [801.0, 601.0, 401.0, 201.0, 1.0]
        );
    }

    #[test]
    fn all_steps_visit_all_timesteps() {
        let all: Vec<f64> = (0..50).rev().map(f64::from).collect();
        for spacing in [
            Spacing::Leading,
            Spacing::Linspace,
            Spacing::Trailing,
            Spacing::Quadratic,
        ] {
            assert_eq!(
                spacing.timesteps(&ddpm(50), 50, 0).unwrap(),
                all,
                "{spacing:?}"
            );
        }
    }

    #[test]
    fn impossible_steps_are_refused_in_a_sentence() {
        let schedule = ddpm(100);
        for spacing in Spacing::ALL {
            for steps in [0, 101] {
                let message = spacing
                    .timesteps(&schedule, steps, 0)
                    .unwrap_err()
                    .to_string();
                assert!(message.contains("from 1 to 100"), "{message}");
            }
        }
        for offset in [1, usize::MAX] {
            let message = Spacing::Leading
                .timesteps(&schedule, 100, offset)
                .unwrap_err()
                .to_string();
            assert!(message.contains("`steps_offset`"), "{message}");
        }
    }

    #[test]
    fn an_impossible_strength_is_refused() {
        let levels = levels(&ddpm(100), 10, LevelOptions::default()).unwrap();
        for strength in [-0.1, 1.1, f64::NAN] {
            let message = last_part(&levels, strength).unwrap_err().to_string();
            assert!(message.contains("`strength`"), "{message}");
        }
        assert_eq!(last_part(&levels, 1.0).unwrap(), levels);
        assert_eq!(last_part(&levels, 0.0).unwrap(), &levels[10..]);
        assert!(last_part(&[], 0.5).unwrap().is_empty());
    }

    #[test]
    fn listed_timesteps_are_visited_as_they_are() {
        let schedule = ddpm(100);
        let spread = levels(&schedule, 4, LevelOptions::default()).unwrap();
        let listed = levels_at(&schedule, &[75.0, 50.0, 25.0, 0.0], FinalLevel::Clean);
        assert_eq!(listed.unwrap(), spread);
        let first = levels_at(&schedule, &[98.5], FinalLevel::First).unwrap();
        assert_eq!(first, [schedule.level(98.5), schedule.level(0.0)]);
        for refused in [
            &[][..],
            &[100.0],
            &[50.0, 50.0],
            &[20.0, 30.0],
            &[5.0, -1.0],
            &[f64::NAN],
            &[50.0, f64::NAN],
        ] {
            let error = levels_at(&schedule, refused, FinalLevel::Clean).unwrap_err();
            assert!(error.to_string().contains("from 99 down to 0"), "{error}");
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
