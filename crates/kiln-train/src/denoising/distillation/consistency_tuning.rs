//! Easy consistency tuning: no teacher is asked.

use burn::tensor::Tensor;
use kiln_diffusion::{Level, per_image};

use super::{ImageDistance, Method, Noisy, Student, Target, batch_rates};
use crate::denoising::noisy_source::{OfSchedule, Timesteps};

/// Easy consistency tuning (Geng et al. 2024, "Consistency Models Made Easy"): the student's clean image at sigma = b / a
/// must be its own at a lower sigma', with the same noise. After k halvings
///
/// ```text
/// sigma' = sigma (1 - (1 + 8 sigmoid(-sigma)) / 2^(k + 1)),   or the clean image itself where this is not above 0
/// ```
///
/// The distance weighs 1 / (angle - angle'), where angle = arctan sigma. The paper has sigmas there. At low noise that is
/// the same, but schedules go on to sigmas of thousands, where nothing would be left to learn.
#[derive(Debug)]
pub(super) struct ConsistencyTuning {
    pub(super) levels: OfSchedule,
    /// The training steps from one halving to the next.
    pub(super) halve_every: usize,
}

/// This stands for the infinite sigma of a schedule that ends in pure noise.
const LARGEST_SIGMA: f64 = 4096.0;

impl ConsistencyTuning {
    /// The level below `level` in training step `step`, `None` for the clean image, and the weight of their distance.
    fn lower(&self, level: Level, step: usize) -> (Option<Level>, f64) {
        let schedule = &self.levels.schedule;
        let sigma = (level.rates.noise / level.rates.signal).min(LARGEST_SIGMA);
        let halvings = (step / self.halve_every) as f64;
        let share = (1.0 + 8.0 / (1.0 + sigma.exp())) / (halvings + 1.0).exp2();
        let lower = (sigma * (1.0 - share)).max(0.0);
        let log_snr = -2.0 * lower.ln();
        match log_snr < schedule.log_snr(0.0) {
            true => {
                let lower_level = schedule.level(schedule.timestep_at(log_snr));
                let weight = 1.0 / (sigma.atan() - lower.atan());
                (Some(lower_level), weight)
            }
            false => (None, 1.0 / sigma.atan()),
        }
    }
}

impl Timesteps for ConsistencyTuning {
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64 {
        self.levels.drawn(seed, slot, step)
    }

    fn spread(&self, place: f64, step: usize) -> f64 {
        self.levels.spread(place, step)
    }
}

impl Method for ConsistencyTuning {
    fn target(&self, noisy: &Noisy, student: &Student<'_>) -> Target {
        let step = noisy.position.step as usize;
        let lower = noisy.levels.iter().map(|&level| self.lower(level, step));
        let (lower, weights): (Vec<Option<Level>>, Vec<f64>) = lower.unzip();
        Target {
            z0: answers(noisy, &lower, |noisy| student.denoise(noisy).z0),
            weights,
            distance: ImageDistance::PseudoHuber,
            auxiliary_loss: None,
        }
    }
}

/// The clean images that `clean` sees at the `lower` levels with the same noise, and the true ones where there is no
/// such level.
fn answers(
    noisy: &Noisy,
    lower: &[Option<Level>],
    clean: impl FnOnce(&Noisy) -> Tensor<4>,
) -> Tensor<4> {
    let (z0, device) = (noisy.z0.clone(), noisy.z0.device());
    if lower.iter().all(Option::is_none) {
        return z0;
    }
    // The answer for an image without such a level is thrown away.
    let levels = lower.iter().zip(&noisy.levels);
    let levels: Vec<Level> = levels
        .map(|(lower, &level)| lower.unwrap_or(level))
        .collect();
    let zt = batch_rates(&levels, &device).add_noise(z0.clone(), noisy.noise.clone());
    let seen = clean(&noisy.moved_to(zt, levels));
    let is_seen = lower
        .iter()
        .map(|lower| f64::from(u8::from(lower.is_some())));
    let is_seen = per_image(is_seen, &device);
    z0.clone() + (seen - z0) * is_seen
}

#[cfg(test)]
mod tests {
    use kiln_diffusion::NoiseLevels;

    use super::*;
    use crate::denoising::distillation::tests::{assert_close, noisy, schedule};

    fn method() -> ConsistencyTuning {
        ConsistencyTuning {
            levels: OfSchedule {
                schedule: schedule(),
                noise_levels: NoiseLevels::Uniform,
            },
            halve_every: 100,
        }
    }

    fn level(sigma: f64) -> Level {
        let schedule = schedule();
        schedule.level(schedule.timestep_at(-2.0 * f64::ln(sigma)))
    }

    fn sigma(level: Level) -> f64 {
        level.rates.noise / level.rates.signal
    }

    /// The numbers of ECT's own mapping function, q = 2, k = 8, b = 1.
    #[test]
    fn the_lower_level_is_that_of_the_paper() {
        let lower = |from: f64, step: usize| method().lower(level(from), step).0.map(sigma);
        for (from, step, expected) in [
            // 1 - (1 + 8 / (1 + e)) / 2 is below 0.
            (1.0, 0, None),
            (1.0, 99, None),
            // 3 (1 - (1 + 8 / (1 + e^3)) / 2)
            (3.0, 0, Some(0.930_888)),
            (3.0, 100, Some(1.965_444)),
            (1.0, 200, Some(0.606_059)),
            (80.0, 0, Some(40.0)),
        ] {
            let found = lower(from, step);
            match (found, expected) {
                (Some(found), Some(expected)) => {
                    assert!(
                        (found / expected - 1.0).abs() < 1e-4,
                        "{from} {step}: {found}"
                    );
                }
                _ => assert_eq!(found, expected, "{from} {step}"),
            }
        }
    }

    #[test]
    fn weights_are_finite_over_the_whole_schedule_and_grow_as_levels_come_closer() {
        for timestep in 0..1000 {
            let level = schedule().level(f64::from(timestep));
            let weights = [0, 100, 200, 700].map(|step| method().lower(level, step).1);
            assert!(
                weights
                    .iter()
                    .all(|weight| weight.is_finite() && *weight > 0.0)
            );
            assert!(weights.is_sorted(), "{timestep}: {weights:?}");
        }
    }

    #[test]
    fn the_clean_image_is_the_answer_where_there_is_no_lower_level() {
        let noisy = noisy(&[10.0, 500.0, 990.0]);
        let lower = [
            None,
            Some(schedule().level(200.0)),
            Some(schedule().level(900.0)),
        ];
        let seen = answers(&noisy, &lower, |at_lower| {
            assert_eq!(at_lower.levels[1].timestep, 200.0);
            // The same noise.
            let rates = batch_rates(&at_lower.levels, &at_lower.zt.device());
            let expected = rates.add_noise(noisy.z0.clone(), noisy.noise.clone());
            assert_close(at_lower.zt.clone(), expected, 1e-6);
            at_lower.zt.clone() * 0.0 + 7.0
        });
        let first = seen.clone().narrow(0, 0, 1);
        assert_close(first, noisy.z0.clone().narrow(0, 0, 1), 1e-6);
        let rest = seen.narrow(0, 1, 2);
        assert_close(rest.clone(), rest.zeros_like() + 7.0, 1e-6);
    }
}
