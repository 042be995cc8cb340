//! The schedule: one curve from a timestep to the signal and noise rates.

use burn::tensor::{Device, Tensor, TensorData};

use crate::{DiffusionError, Level, Rates, ScheduleConfig};

/// A signal rate at the last timestep above which samples suffer, because they start from pure
/// noise that training never saw. Linear betas over 1000 timesteps end at 0.006, Stable Diffusion's
/// at 0.068.
const NOTICEABLE_SIGNAL: f64 = 0.05;

/// The smallest signal rate that f32 images can still be divided by.
const SMALLEST_SIGNAL: f64 = 1e-30;

/// How much signal and noise there are at each timestep: `zt = signal_rate(t) z0 + noise_rate(t)
/// noise`.
///
/// The curve is kept in f64 at the T whole timesteps and read anywhere between them.
///
/// ```
/// use kiln_diffusion::{Schedule, ScheduleConfig};
///
/// let schedule = Schedule::new(ScheduleConfig::default())?;
/// assert!(schedule.signal_rate(0.0) > 0.999);
/// assert!(schedule.terminal_signal_rate() < 0.01);
/// # Ok::<(), kiln_diffusion::DiffusionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Schedule {
    config: ScheduleConfig,
    /// The rates at timesteps 0 to T - 1; never empty.
    table: Vec<Rates>,
}

impl Schedule {
    /// Computes the curve that `config` describes.
    ///
    /// # Errors
    /// Whatever [`ScheduleConfig::validate`] refuses, and betas so large that the signal vanishes
    /// before the last timestep.
    pub fn new(config: ScheduleConfig) -> Result<Self, DiffusionError> {
        config.validate()?;
        let mut alpha_bar = 1.0;
        let mut table: Vec<Rates> = (config.betas().iter())
            .map(|beta| {
                alpha_bar *= 1.0 - beta;
                rates_from_signal(f64::sqrt(alpha_bar))
            })
            .collect();
        if config.zero_terminal_snr {
            rescale_to_zero_terminal_snr(&mut table);
        }
        // Pure noise belongs at the last timestep only.
        let vanishes = |(timestep, rates): (usize, &Rates)| {
            let pure_noise_at_the_end = rates.signal == 0.0 && timestep + 1 == table.len();
            rates.signal < SMALLEST_SIGNAL && !pure_noise_at_the_end
        };
        if let Some(timestep) = table.iter().enumerate().position(vanishes) {
            return Err(DiffusionError::VanishingSignal {
                timestep,
                timesteps: table.len(),
            });
        }
        Ok(Self { config, table })
    }

    /// The settings that this schedule was made from.
    pub fn config(&self) -> &ScheduleConfig {
        &self.config
    }

    /// T: timesteps go from 0 to T - 1.
    pub fn num_train_timesteps(&self) -> usize {
        self.table.len()
    }

    /// The signal and noise rates at any timestep; one below 0 or above T - 1 is read as that end.
    ///
    /// Between whole timesteps the log-SNR is interpolated linearly, except towards a last timestep
    /// of pure noise, where it would be minus infinity and the signal rate is interpolated instead.
    pub fn rates(&self, timestep: f64) -> Rates {
        let last = self.table.len() - 1;
        let timestep = self.clamp(timestep);
        let index = (timestep.floor() as usize).min(last);
        let fraction = timestep - index as f64;
        let (here, next) = (self.table[index], self.table[(index + 1).min(last)]);
        if fraction == 0.0 {
            here
        } else if next.signal == 0.0 {
            rates_from_signal(here.signal * (1.0 - fraction))
        } else {
            Rates::from_log_snr(here.log_snr() * (1.0 - fraction) + next.log_snr() * fraction)
        }
    }

    fn clamp(&self, timestep: f64) -> f64 {
        timestep.clamp(0.0, (self.table.len() - 1) as f64)
    }

    /// The [`Level`] at any timestep: the rates together with the timestep itself.
    pub fn level(&self, timestep: f64) -> Level {
        Level {
            timestep: self.clamp(timestep),
            rates: self.rates(timestep),
        }
    }

    /// a, from almost 1 at timestep 0 to almost 0 at T - 1.
    pub fn signal_rate(&self, timestep: f64) -> f64 {
        self.rates(timestep).signal
    }

    /// b, from almost 0 at timestep 0 to almost 1 at T - 1.
    pub fn noise_rate(&self, timestep: f64) -> f64 {
        self.rates(timestep).noise
    }

    /// ln(a² / b²), which falls with the timestep; minus infinity where there is no signal.
    pub fn log_snr(&self, timestep: f64) -> f64 {
        self.rates(timestep).log_snr()
    }

    /// The rates of a training batch, one timestep an image: two tensors `[batch, 1, 1, 1]`.
    pub fn batch_rates(&self, timesteps: &[f64], device: &Device) -> Rates<Tensor<4>> {
        let rates: Vec<Rates> = timesteps
            .iter()
            .map(|&timestep| self.rates(timestep))
            .collect();
        let tensor = |values: Vec<f32>| {
            let shape = [values.len(), 1, 1, 1];
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Rates {
            signal: tensor(rates.iter().map(|rates| rates.signal as f32).collect()),
            noise: tensor(rates.iter().map(|rates| rates.noise as f32).collect()),
        }
    }

    /// The share of the image that is left at the last timestep, where sampling assumes that there
    /// is nothing but noise.
    pub fn terminal_signal_rate(&self) -> f64 {
        self.table[self.table.len() - 1].signal
    }

    /// Whether the last timestep is pure noise.
    pub fn is_zero_terminal_snr(&self) -> bool {
        self.terminal_signal_rate() == 0.0
    }

    /// A sentence about a schedule that would train well and sample badly, or nothing.
    ///
    /// Sampling starts from pure noise. If the last timestep still holds part of the image, the
    /// network has never seen pure noise, and samples come out blurred or with the wrong brightness
    /// (Lin et al. 2023).
    pub fn warning(&self) -> Option<String> {
        let left = self.terminal_signal_rate();
        (left > NOTICEABLE_SIGNAL).then(|| {
            format!(
                "the schedule leaves a signal rate of {left:.3} at the last of its {} timesteps, but sampling starts from pure noise, \
                 so samples will be blurred: set `scale_betas = true` (betas times 1000 / T), \
                 or `zero_terminal_snr = true` with `prediction = \"velocity\"`.",
                self.num_train_timesteps()
            )
        })
    }
}

fn rates_from_signal(signal: f64) -> Rates {
    Rates {
        signal,
        noise: (1.0 - signal * signal).sqrt(),
    }
}

/// Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1:
/// shifts the signal rates so that the last is 0, then stretches them so that the first is what it
/// was.
fn rescale_to_zero_terminal_snr(table: &mut [Rates]) {
    let (first, last) = (table[0].signal, table[table.len() - 1].signal);
    for rates in table {
        *rates = rates_from_signal((rates.signal - last) * first / (first - last));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ScheduleKind;

    fn linear(num_train_timesteps: usize) -> ScheduleConfig {
        ScheduleConfig {
            num_train_timesteps,
            ..Default::default()
        }
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        let kind = prop_oneof![
            Just(ScheduleKind::Linear),
            Just(ScheduleKind::ScaledLinear),
            Just(ScheduleKind::Cosine)
        ];
        (kind, 2..1200usize, any::<bool>()).prop_map(
            |(kind, num_train_timesteps, zero_terminal_snr)| {
                Schedule::new(ScheduleConfig {
                    kind,
                    num_train_timesteps,
                    zero_terminal_snr,
                    ..Default::default()
                })
                .unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn the_rates_are_a_point_on_the_circle(schedule in any_schedule(), t in 0.0..1.0f64) {
            let rates = schedule.rates(t * (schedule.num_train_timesteps() - 1) as f64);
            prop_assert!((rates.signal.powi(2) + rates.noise.powi(2) - 1.0).abs() < 1e-12);
            prop_assert!(rates.signal >= 0.0 && rates.noise > 0.0);
        }

        #[test]
        fn log_snr_falls_with_the_timestep(schedule in any_schedule(), t in 0.0..1.0f64, u in 0.0..1.0f64) {
            let last = (schedule.num_train_timesteps() - 1) as f64;
            let (early, late) = (t.min(u) * last, t.max(u) * last);
            prop_assume!(late - early > 1e-3);
            prop_assert!(schedule.log_snr(early) > schedule.log_snr(late));
        }

        #[test]
        fn the_curve_is_continuous(schedule in any_schedule(), t in 0.0..1.0f64) {
            let timestep = (t * (schedule.num_train_timesteps() - 1) as f64).round();
            for near in [timestep - 1e-9, timestep + 1e-9] {
                prop_assert!((schedule.signal_rate(near) - schedule.signal_rate(timestep)).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_ends_are_held_and_nothing_panics() {
        let schedule = Schedule::new(linear(10)).unwrap();
        assert_eq!(schedule.rates(-5.0), schedule.rates(0.0));
        assert_eq!(schedule.level(f64::INFINITY), schedule.level(9.0));
        assert!(schedule.rates(f64::NAN).signal.is_nan());
        assert_eq!(
            Schedule::new(linear(1)).unwrap().rates(3.0).signal,
            (1.0 - 1e-4f64).sqrt()
        );
    }

    /// The numbers of "A trap": linear betas over too few timesteps do not reach noise.
    #[test]
    fn too_few_timesteps_are_warned_of() {
        for (timesteps, signal) in [(200, 0.364), (300, 0.219), (1000, 0.0064)] {
            let schedule = Schedule::new(linear(timesteps)).unwrap();
            assert!(
                (schedule.terminal_signal_rate() - signal).abs() < 1e-3,
                "{timesteps}"
            );
            assert_eq!(
                schedule.warning().is_some(),
                timesteps < 1000,
                "{timesteps}"
            );
        }
        let warning = Schedule::new(linear(200)).unwrap().warning().unwrap();
        for word in ["0.364", "200", "scale_betas", "zero_terminal_snr"] {
            assert!(warning.contains(word), "{warning}");
        }
    }

    #[test]
    fn both_cures_work() {
        let scaled = Schedule::new(ScheduleConfig {
            scale_betas: true,
            ..linear(200)
        })
        .unwrap();
        assert!(scaled.warning().is_none());
        let rescaled = Schedule::new(ScheduleConfig {
            zero_terminal_snr: true,
            ..linear(200)
        })
        .unwrap();
        assert!(rescaled.warning().is_none());
        assert!(rescaled.is_zero_terminal_snr());
        assert_eq!(rescaled.noise_rate(199.0), 1.0);
        assert_eq!(rescaled.log_snr(199.0), f64::NEG_INFINITY);
        assert!((rescaled.signal_rate(0.0) - (1.0 - 1e-4f64).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn a_signal_that_vanishes_early_is_refused() {
        for (timesteps, beta_end) in [(1000, 0.9), (100_000, 0.02)] {
            let config = ScheduleConfig {
                beta_end,
                ..linear(timesteps)
            };
            let message = Schedule::new(config).unwrap_err().to_string();
            assert!(message.contains("no signal"), "{message}");
        }
    }

    #[test]
    fn halfway_is_halfway_in_log_snr() {
        let schedule = Schedule::new(linear(1000)).unwrap();
        let middle = (schedule.log_snr(500.0) + schedule.log_snr(501.0)) / 2.0;
        assert!((schedule.log_snr(500.5) - middle).abs() < 1e-12);
    }

    #[test]
    fn a_batch_has_rates_of_its_own() {
        let schedule = Schedule::new(linear(1000)).unwrap();
        let rates = schedule.batch_rates(&[0.0, 999.0, 20.5], &Device::flex());
        assert_eq!(rates.signal.dims(), [3, 1, 1, 1]);
        let signal: Vec<f32> = rates.signal.into_data().try_to_vec().unwrap();
        let expected = [0.0, 999.0, 20.5].map(|timestep| schedule.signal_rate(timestep) as f32);
        assert_eq!(signal, expected);
    }
}
