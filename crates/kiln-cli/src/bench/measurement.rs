//! Timing: a few repeats to warm up, then each repeat is timed.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::memory::peak_memory;

/// The number of repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// Repeats that do not count: caches fill, memory is allocated, the processor speeds up.
    pub warm_up: usize,
    /// Repeats that count, at least one.
    pub timed: usize,
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
    /// This process's peak memory so far, in bytes; `None` if the system does not tell.
    pub peak_memory: Option<u64>,
}

/// Runs `task` as often as `repeats` says. Each call handles `images` images and must finish its work before it
/// returns.
///
/// # Errors
/// The first error of `task`.
pub fn measure<E>(
    images: usize,
    repeats: Repeats,
    mut task: impl FnMut() -> Result<f64, E>,
) -> Result<Measurement, E> {
    let timed = repeats.timed.max(1);
    let mut milliseconds = Vec::with_capacity(timed);
    let mut first_result = None;
    for repeat in 0..repeats.warm_up + timed {
        let started = Instant::now();
        let result = task()?;
        let elapsed = started.elapsed().as_secs_f64() * 1e3;
        if repeat == 0 {
            first_result = Some(result).filter(|result| result.is_finite());
        }
        if repeat >= repeats.warm_up {
            milliseconds.push(elapsed);
        }
    }
    Ok(Measurement {
        images,
        milliseconds,
        first_result,
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
        };
        let measurement = measure(1, repeats, || {
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
        };
        let mut calls = 0;
        let outcome = measure(1, repeats, || {
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
