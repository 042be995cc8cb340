//! The schedule: one curve from a timestep to the signal and noise rates.
//!
//! ```text
//! config.rs             the settings of every schedule
//! kind.rs               all curves; each of the other files has one family of them, with its settings
//! ```

mod beta_range;
mod config;
mod cosine;
mod flow;
mod kind;
mod listed_betas;
mod log_snr_ends;
mod range;
mod sigma_ends;
mod sigmoid;
mod signal_rate_ends;
mod time;

use std::sync::Arc;

use crate::{DiffusionError, Level, Rates};

pub use beta_range::BetaRange;
pub use config::ScheduleConfig;
pub use kind::ScheduleKind;
pub use listed_betas::ListedBetas;
pub use log_snr_ends::LogSnrEnds;
pub use sigma_ends::{Exponential, Karras};
pub use sigmoid::Sigmoid;
pub use signal_rate_ends::SignalRateEnds;

/// A signal rate at the last timestep above which samples suffer, because they start from pure
/// noise that training never saw. Linear betas over 1000 timesteps end at 0.006, Stable Diffusion's
/// at 0.068.
const NOTICEABLE_SIGNAL: f64 = 0.05;

/// The smallest signal rate by which f32 images can still be divided.
const SMALLEST_SIGNAL: f64 = 1e-30;

/// After this many halvings an interval of timesteps is as short as an f64 can represent.
const HALVINGS: usize = 70;

/// The amounts of signal and noise at each timestep: `zt = signal_rate(t) z0 + noise_rate(t) noise`.
///
/// Timesteps go from 0 to T - 1 and may be fractions. A discrete schedule is stored in f64 at the whole timesteps and
/// interpolated between them; a continuous one is evaluated at each timestep that is asked for. Both are cheap to
/// clone.
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
    config: Arc<ScheduleConfig>,
    reading: Reading,
}

/// How a schedule is read between its whole timesteps.
#[derive(Debug, Clone)]
enum Reading {
    /// Interpolated from the rates at timesteps 0 to T - 1; never empty.
    Discrete(Arc<[Rates]>),
    /// From the curve of the config.
    Continuous(Option<ZeroTerminalSnr>),
}

impl Schedule {
    /// Computes the curve that `config` describes.
    ///
    /// # Errors
    /// The errors of [`ScheduleConfig::validate`], and a signal that vanishes before the last timestep.
    pub fn new(config: ScheduleConfig) -> Result<Self, DiffusionError> {
        config.validate()?;
        let reading = if config.continuous {
            let last = (config.num_train_timesteps - 1) as f64;
            let ends = ZeroTerminalSnr::new(config.curve(0.0), config.curve(last));
            Reading::Continuous(config.zero_terminal_snr.then_some(ends))
        } else {
            Reading::Discrete(table(&config).into())
        };
        let schedule = Self {
            config: Arc::new(config),
            reading,
        };
        schedule.refuse_vanishing_signal()?;
        Ok(schedule)
    }

    /// Only the last timestep may be pure noise.
    fn refuse_vanishing_signal(&self) -> Result<(), DiffusionError> {
        let timesteps = self.num_train_timesteps();
        let vanishes = |&timestep: &usize| {
            let signal = self.signal_rate(timestep as f64);
            let pure_noise_at_the_end = signal == 0.0 && timestep + 1 == timesteps;
            signal < SMALLEST_SIGNAL && !pure_noise_at_the_end
        };
        match (0..timesteps).find(vanishes) {
            Some(timestep) => Err(DiffusionError::VanishingSignal {
                timestep,
                timesteps,
            }),
            None => Ok(()),
        }
    }

    /// The settings that this schedule was made from.
    pub fn config(&self) -> &ScheduleConfig {
        &self.config
    }

    /// T: timesteps go from 0 to T - 1.
    pub fn num_train_timesteps(&self) -> usize {
        self.config.num_train_timesteps
    }

    /// Whether the curve itself is read, and trained on, between the whole timesteps.
    pub fn is_continuous(&self) -> bool {
        self.config.continuous
    }

    fn last_timestep(&self) -> f64 {
        (self.num_train_timesteps() - 1) as f64
    }

    /// The signal and noise rates at any timestep; one below 0 or above T - 1 is read as that end.
    ///
    /// Between the whole timesteps of a discrete schedule the log-SNR is interpolated linearly,
    /// except towards a last timestep of pure noise, where it would be minus infinity and the
    /// signal rate is interpolated instead.
    pub fn rates(&self, timestep: f64) -> Rates {
        let timestep = timestep.clamp(0.0, self.last_timestep());
        match &self.reading {
            Reading::Discrete(table) => interpolated(table, timestep),
            Reading::Continuous(None) => self.config.curve(timestep),
            Reading::Continuous(Some(rescaling)) => rescaling.rescaled(self.config.curve(timestep)),
        }
    }

    /// The [`Level`] at any timestep: the rates together with the timestep itself.
    pub fn level(&self, timestep: f64) -> Level {
        Level {
            timestep: timestep.clamp(0.0, self.last_timestep()),
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

    /// The timestep with this ln(a² / b²), from 0 to T - 1: the inverse of [`Schedule::log_snr`]. A
    /// log-SNR beyond the schedule's is read as that end.
    ///
    /// For a noise level sigma = b / a, the log-SNR is -2 ln sigma.
    pub fn timestep_at(&self, log_snr: f64) -> f64 {
        // The curve falls, so the timestep lies where it passes `log_snr`.
        let (mut early, mut late) = (0.0, self.last_timestep());
        if log_snr >= self.log_snr(early) {
            return early;
        }
        if log_snr <= self.log_snr(late) {
            return late;
        }
        for _ in 0..HALVINGS {
            let middle = (early + late) / 2.0;
            if self.log_snr(middle) > log_snr {
                early = middle;
            } else {
                late = middle;
            }
        }
        (early + late) / 2.0
    }

    /// The betas that lead from one whole timestep to the next, beginning with a clean image.
    pub(crate) fn step_betas(&self) -> Vec<f64> {
        let mut before = 1.0;
        (0..self.num_train_timesteps())
            .map(|timestep| {
                let signal = self.signal_rate(timestep as f64);
                let kept = signal / std::mem::replace(&mut before, signal);
                1.0 - kept * kept
            })
            .collect()
    }

    /// The share of the image that is left at the last timestep, where sampling assumes pure noise.
    pub fn terminal_signal_rate(&self) -> f64 {
        self.signal_rate(self.last_timestep())
    }

    /// Whether the last timestep is pure noise.
    pub fn is_zero_terminal_snr(&self) -> bool {
        self.terminal_signal_rate() == 0.0
    }

    /// A sentence if the schedule would train well but sample badly, otherwise `None`.
    ///
    /// Sampling starts from pure noise. If the last timestep still holds part of the image, the
    /// network has never seen pure noise, and samples come out blurred or with the wrong brightness
    /// (Lin et al. 2023).
    pub fn warning(&self) -> Option<String> {
        let left = self.terminal_signal_rate();
        let cure = match self.config.kind.beta_range() {
            Some(_) => "set `scale_betas = true` (betas times 1000 / T), or ",
            None => "set ",
        };
        (left > NOTICEABLE_SIGNAL).then(|| {
            format!(
                "the schedule leaves a signal rate of {left:.3} at the last of its {} timesteps, but sampling starts from pure noise, \
                 so samples will be blurred: {cure}`zero_terminal_snr = true` with `prediction = \"velocity\"`.",
                self.num_train_timesteps()
            )
        })
    }
}

/// The rates at the whole timesteps.
fn table(config: &ScheduleConfig) -> Vec<Rates> {
    let timesteps = config.num_train_timesteps;
    let mut table: Vec<Rates> = match config.kind.betas(timesteps) {
        Some(betas) => {
            let mut alpha_bar = 1.0;
            (betas.iter())
                .map(|beta| {
                    alpha_bar *= 1.0 - beta;
                    Rates::from_signal(f64::sqrt(alpha_bar))
                })
                .collect()
        }
        None => (0..timesteps)
            .map(|timestep| config.curve(timestep as f64))
            .collect(),
    };
    if config.zero_terminal_snr {
        let rescaling = ZeroTerminalSnr::new(table[0], table[table.len() - 1]);
        for rates in &mut table {
            *rates = rescaling.rescaled(*rates);
        }
    }
    table
}

/// `timestep` lies from 0 to the table's last place.
fn interpolated(table: &[Rates], timestep: f64) -> Rates {
    let last = table.len() - 1;
    let index = (timestep.floor() as usize).min(last);
    let fraction = timestep - index as f64;
    let (here, next) = (table[index], table[(index + 1).min(last)]);
    if fraction == 0.0 {
        here
    } else if next.signal == 0.0 {
        Rates::from_signal(here.signal * (1.0 - fraction))
    } else {
        Rates::from_log_snr(here.log_snr() * (1.0 - fraction) + next.log_snr() * fraction)
    }
}

/// Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1: shifts the signal
/// rates so that the last is 0, then stretches them so that the first is unchanged.
#[derive(Debug, Clone, Copy)]
struct ZeroTerminalSnr {
    first: f64,
    last: f64,
}

impl ZeroTerminalSnr {
    fn new(first: Rates, last: Rates) -> Self {
        Self {
            first: first.signal,
            last: last.signal,
        }
    }

    fn rescaled(self, rates: Rates) -> Rates {
        let Self { first, last } = self;
        Rates::from_signal((rates.signal - last) * first / (first - last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn linear(num_train_timesteps: usize) -> ScheduleConfig {
        ScheduleConfig {
            num_train_timesteps,
            ..Default::default()
        }
    }

    fn listed(betas: Vec<f64>) -> ScheduleKind {
        ScheduleKind::Betas(ListedBetas { betas })
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        let kind = prop::sample::select(ScheduleKind::ALL.to_vec());
        (kind, 2..1200usize, any::<bool>(), any::<bool>()).prop_map(
            |(kind, num_train_timesteps, zero_terminal_snr, continuous)| {
                let (kind, continuous) = match kind {
                    ScheduleKind::Betas(_) => (listed(vec![0.01; num_train_timesteps]), false),
                    kind => (kind, continuous),
                };
                Schedule::new(ScheduleConfig {
                    kind,
                    num_train_timesteps,
                    zero_terminal_snr,
                    continuous,
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
            // Curves towards pure noise are flat in the last fraction of a timestep.
            prop_assume!(late - early > 0.1);
            prop_assert!(schedule.log_snr(early) > schedule.log_snr(late));
        }

        #[test]
        fn the_curve_is_continuous(schedule in any_schedule(), t in 0.0..1.0f64) {
            let timestep = (t * (schedule.num_train_timesteps() - 1) as f64).round();
            for near in [timestep - 1e-9, timestep + 1e-9] {
                prop_assert!((schedule.signal_rate(near) - schedule.signal_rate(timestep)).abs() < 1e-6);
            }
        }

        #[test]
        fn a_timestep_is_found_by_its_log_snr(schedule in any_schedule(), t in 0.0..1.0f64) {
            let timestep = t * (schedule.num_train_timesteps() - 1) as f64;
            let found = schedule.timestep_at(schedule.log_snr(timestep));
            let (here, there) = (schedule.log_snr(timestep), schedule.log_snr(found));
            prop_assert!(here == there || (here - there).abs() < 1e-6, "{timestep} {found}: {here} {there}");
        }

        #[test]
        fn discrete_and_continuous_curves_agree_at_whole_timesteps(kind in prop::sample::select(ScheduleKind::ALL.to_vec()), t in 0..1000usize) {
            prop_assume!(!matches!(kind, ScheduleKind::Betas(_)));
            let read = |continuous| {
                let config = ScheduleConfig { continuous, ..ScheduleConfig::of(kind.clone()) };
                Schedule::new(config).unwrap().signal_rate(t as f64)
            };
            let (discrete, continuous) = (read(false), read(true));
            // Finite betas describe a coarser diffusion than their rate does.
            let tolerance = if kind.betas(1).is_some() { 5e-3 } else { 1e-15 };
            prop_assert!((discrete - continuous).abs() <= tolerance, "{discrete} {continuous}");
        }
    }

    #[test]
    fn a_level_beyond_the_schedule_is_its_end() {
        let schedule = Schedule::new(linear(1000)).unwrap();
        assert_eq!(schedule.timestep_at(f64::INFINITY), 0.0);
        assert_eq!(schedule.timestep_at(-40.0), 999.0);
        assert_eq!(schedule.timestep_at(f64::NEG_INFINITY), 999.0);
        assert!(schedule.timestep_at(f64::NAN).is_finite());
        let rescaled = Schedule::new(ScheduleConfig {
            zero_terminal_snr: true,
            ..linear(1000)
        });
        // Between the last noisy timestep and pure noise, too.
        let timestep = rescaled.unwrap().timestep_at(-40.0);
        assert!(timestep > 998.9 && timestep < 999.0, "{timestep}");
    }

    /// For every kind, the betas between its timesteps make the same schedule.
    #[test]
    fn a_schedule_is_its_betas() {
        for kind in ScheduleKind::ALL {
            if matches!(kind, ScheduleKind::Betas(_)) {
                continue;
            }
            for zero_terminal_snr in [false, true] {
                let curve = Schedule::new(ScheduleConfig {
                    zero_terminal_snr,
                    ..ScheduleConfig::of(kind.clone())
                });
                let curve = curve.unwrap();
                let listed = Schedule::new(ScheduleConfig::of(listed(curve.step_betas())));
                let listed = listed.unwrap();
                for timestep in 0..1000 {
                    let (curve, listed) = (
                        curve.rates(f64::from(timestep)),
                        listed.rates(f64::from(timestep)),
                    );
                    assert!(
                        (curve.signal - listed.signal).abs() < 1e-12,
                        "{kind:?} {timestep}"
                    );
                }
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
        let kind = ScheduleKind::Linear(BetaRange {
            scale_betas: true,
            ..BetaRange::DEFAULT
        });
        let scaled = Schedule::new(ScheduleConfig {
            kind,
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
            let kind = ScheduleKind::Linear(BetaRange {
                beta_end,
                ..BetaRange::DEFAULT
            });
            let config = ScheduleConfig {
                kind,
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
}
