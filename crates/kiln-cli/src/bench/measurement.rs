//! Timing: a few repeats to warm up, then each repeat is timed.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::memory::peak_memory;

/// The number of repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// Repeats that do not count: caches fill, memory is allocated, the processor speeds up.
    pub warm_up: usize,
    /// Repeats that count, at least one.
    pub timed: usize,
    /// Calls of the task in each repeat that counts; its time is divided by them. A device that computes while the
    /// host prepares the next call is only busy with more than one.
    pub calls: Calls,
    /// Whether to say on stderr, with the lines `TIMING` and `TIMED`, when the repeats that count begin and end.
    pub announced: bool,
}

/// How many calls a repeat has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// This many, at least one.
    Exactly(usize),
    /// As many as take about 0.7 s, at most 50.
    #[allow(dead_code, reason = "examples/peer.rs chooses it")]
    Fitting,
}

impl Calls {
    /// The number, if the last repeat to warm up took this many milliseconds.
    fn after(self, milliseconds: f64) -> usize {
        match self {
            Calls::Exactly(calls) => calls.max(1),
            Calls::Fitting => (700.0 / milliseconds).clamp(1.0, 50.0) as usize,
        }
    }
}

/// The measurement of one work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Images in each repeat.
    pub images: usize,
    /// The time of each timed repeat in milliseconds, in order.
    pub milliseconds: Vec<f64>,
    /// The result of the very first repeat, if it is finite: it shows whether two programs do the same work.
    pub first_result: Option<f64>,
    /// The results of the first repeats, at most 64.
    pub first_losses: Vec<f64>,
    /// When the first repeat had ended, in seconds since 1970.
    pub first_end: f64,
    /// This process's peak memory so far, in bytes; `None` if the system does not tell.
    pub peak_memory: Option<u64>,
}

/// First repeats whose results are kept.
const FIRST: usize = 64;

/// Runs `task` as often as `repeats` says. It is told how often to do its work, each time for `images` images, and must
/// finish the work before it returns the last result.
///
/// # Errors
/// The first error of `task`.
pub fn measure<E>(
    images: usize,
    repeats: Repeats,
    mut task: impl FnMut(usize) -> Result<f64, E>,
) -> Result<Measurement, E> {
    let timed = repeats.timed.max(1);
    let mut milliseconds = Vec::with_capacity(timed);
    let mut first_losses = Vec::new();
    let (mut first_end, mut calls) = (0.0, repeats.calls.after(f64::INFINITY));
    for repeat in 0..repeats.warm_up + timed {
        let counts = repeat >= repeats.warm_up;
        if repeats.announced && repeat == repeats.warm_up {
            eprintln!("TIMING");
        }
        let now = if counts { calls } else { 1 };
        let started = Instant::now();
        let result = task(now)?;
        let elapsed = started.elapsed().as_secs_f64() * 1e3;
        if repeat == 0 {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            first_end = since.map_or(0.0, |time| time.as_secs_f64());
        }
        if repeat < FIRST {
            first_losses.push(result);
        }
        match counts {
            true => milliseconds.push(elapsed / now as f64),
            false => calls = repeats.calls.after(elapsed),
        }
    }
    if repeats.announced {
        eprintln!("TIMED");
    }
    Ok(Measurement {
        images,
        milliseconds,
        first_result: first_losses
            .first()
            .copied()
            .filter(|result| result.is_finite()),
        first_losses,
        first_end,
        peak_memory: peak_memory(),
    })
}

impl Measurement {
    /// The fastest repeat, in milliseconds.
    pub fn min(&self) -> f64 {
        self.milliseconds
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min)
    }

    /// The slowest repeat, in milliseconds.
    pub fn max(&self) -> f64 {
        self.milliseconds.iter().copied().fold(0.0, f64::max)
    }

    /// The median repeat, in milliseconds. For an even number, the mean of the two middle ones.
    pub fn median(&self) -> f64 {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        (middle(sorted.len().saturating_sub(1) / 2) + middle(sorted.len() / 2)) / 2.0
    }

    /// Images per second at the median.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 * 1e3 / self.median()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(milliseconds: &[f64]) -> Measurement {
        Measurement {
            images: 10,
            milliseconds: milliseconds.to_vec(),
            first_result: None,
            first_losses: Vec::new(),
            first_end: 0.0,
            peak_memory: None,
        }
    }

    #[test]
    fn statistics_do_not_depend_on_the_order() {
        let odd = of(&[5.0, 1.0, 4.0]);
        assert_eq!((odd.min(), odd.median(), odd.max()), (1.0, 4.0, 5.0));
        assert_eq!(odd.images_per_second(), 2500.0);
        assert_eq!(of(&[9.0, 1.0, 2.0, 4.0]).median(), 3.0);
        assert_eq!(of(&[7.0]).median(), 7.0);
    }

    #[test]
    fn warming_up_counts_for_the_first_result_alone() {
        let mut calls = 0.0;
        let repeats = Repeats {
            warm_up: 2,
            timed: 3,
            calls: Calls::Exactly(1),
            announced: false,
        };
        let measurement = measure(1, repeats, |_| {
            calls += 1.0;
            Ok::<f64, ()>(calls)
        })
        .unwrap();
        assert_eq!((calls, measurement.milliseconds.len()), (5.0, 3));
        assert_eq!(measurement.first_result, Some(1.0));
    }

    #[test]
    fn the_first_error_ends_it() {
        let repeats = Repeats {
            warm_up: 0,
            timed: 3,
            calls: Calls::Exactly(1),
            announced: false,
        };
        let mut calls = 0;
        let outcome = measure(1, repeats, |_| {
            calls += 1;
            if calls == 2 {
                Err("broken")
            } else {
                Ok(f64::NAN)
            }
        });
        assert_eq!((outcome, calls), (Err("broken"), 2));
    }
}
