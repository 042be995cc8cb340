//! Whether what the networks answer is a number at all.

use std::cell::{Cell, RefCell};

use burn::tensor::{Tensor, TensorReadError};
use kiln_diffusion::Level;

use crate::Error;

/// Answers that are looked at together, at most: reading each of them would make a GPU wait.
const TOGETHER: usize = 16;

/// Looks at all that a network answers on one walk. Once an answer is not finite, or the walk is ended, the network is not
/// asked again, and the rest of the walk is soon over.
#[derive(Default)]
pub(super) struct Watch {
    steps_done: Cell<usize>,
    /// Answers that have been looked at.
    seen: Cell<usize>,
    unseen: RefCell<Vec<Answer>>,
    failure: RefCell<Option<Error>>,
    is_ended: Cell<bool>,
}

/// One answer, of which no more than its sum is kept: that is finite if all of it is.
struct Answer {
    step: usize,
    timestep: f64,
    sum: Tensor<1>,
}

impl Watch {
    /// Notes that the walk has come so far.
    pub(super) fn set_steps_done(&self, steps: usize) {
        self.steps_done.set(steps);
    }

    /// Says that nothing is wanted of the rest of the walk.
    pub(super) fn end(&self) {
        self.is_ended.set(true);
    }

    /// What `network` answers at `level`.
    pub(super) fn ask(
        &self,
        zt: Tensor<4>,
        level: Level,
        network: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        if self.has_failed() || self.is_ended.get() {
            return zt;
        }
        let output = network(zt);
        let waiting = {
            let mut unseen = self.unseen.borrow_mut();
            unseen.push(Answer {
                step: self.steps_done.get() + 1,
                timestep: level.timestep,
                sum: output.clone().sum(),
            });
            unseen.len()
        };
        // At once in the beginning, where a broken model shows itself, and less often later.
        if waiting > self.seen.get().min(TOGETHER - 1) {
            self.look();
        }
        output
    }

    /// Whether an answer was not finite.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// At the end of the walk.
    ///
    /// # Errors
    /// [`Error::NetworkNotFinite`] with the first step whose answer was not finite, [`Error::Compute`] when the device fails.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.look();
        self.failure.into_inner().map_or(Ok(()), Err)
    }

    fn look(&self) {
        let unseen = self.unseen.take();
        self.seen.set(self.seen.get() + unseen.len());
        if unseen.is_empty() || self.has_failed() {
            return;
        }
        let sums = unseen.iter().map(|answer| answer.sum.clone()).collect();
        match numbers(Tensor::cat(sums, 0)) {
            Ok(sums) => {
                let lost = unseen.iter().zip(sums).find(|(_, sum)| !sum.is_finite());
                if let Some((&Answer { step, timestep, .. }, _)) = lost {
                    *self.failure.borrow_mut() = Some(Error::NetworkNotFinite { step, timestep });
                }
            }
            Err(error) => *self.failure.borrow_mut() = Some(error.into()),
        }
    }
}

/// A tensor, once it is known to be finite; `what` it is.
///
/// # Errors
/// [`Error::NotFinite`] if it is not, [`Error::Compute`] when the device fails.
pub(super) fn require_finite(tensor: Tensor<4>, what: &'static str) -> Result<Tensor<4>, Error> {
    let sum = numbers(tensor.clone().sum())?;
    if sum.iter().all(|sum| sum.is_finite()) {
        Ok(tensor)
    } else {
        Err(Error::NotFinite(what))
    }
}

fn numbers(tensor: Tensor<1>) -> Result<Vec<f32>, TensorReadError> {
    Ok(tensor.try_into_data_as::<f32>()?.iter::<f32>().collect())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_diffusion::Rates;

    use super::*;

    /// Asks a network that answers with `value` from step `from` on, and counts how often it was asked.
    fn walk(steps: usize, from: usize, value: f32) -> (usize, Result<(), Error>) {
        let (watch, asked) = (Watch::default(), Cell::new(0));
        for step in 1..=steps {
            let zt = Tensor::<4>::ones([2, 1, 2, 2], &Device::flex());
            let level = Level {
                timestep: (steps - step) as f64,
                rates: Rates::from_log_snr(0.0),
            };
            watch.ask(zt, level, |zt| {
                asked.set(asked.get() + 1);
                if step >= from { zt * value } else { zt }
            });
            watch.set_steps_done(step);
        }
        (asked.get(), watch.finish())
    }

    #[test]
    fn the_first_step_that_is_not_finite_is_named_soon() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for from in [1, 2, 30, 99, 100] {
                let (asked, result) = walk(100, from, value);
                let error = result.unwrap_err();
                assert!(
                    matches!(error, Error::NetworkNotFinite { step, timestep }
                        if step == from && timestep == (100 - from) as f64),
                    "{error}"
                );
                assert!(asked < from + TOGETHER, "{asked} calls for step {from}");
            }
            assert_eq!(walk(100, 1, value).0, 1);
        }
    }

    #[test]
    fn a_network_is_not_asked_after_the_end() {
        let (watch, asked) = (Watch::default(), Cell::new(0));
        let level = Level {
            timestep: 0.0,
            rates: Rates::from_log_snr(0.0),
        };
        for step in 1..=10 {
            let zt = Tensor::<4>::ones([1, 1, 1, 1], &Device::flex());
            watch.ask(zt, level, |zt| {
                asked.set(step);
                zt
            });
            if step == 3 {
                watch.end();
            }
        }
        assert_eq!(asked.get(), 3);
        assert!(watch.finish().is_ok());
    }

    #[test]
    fn large_numbers_are_numbers() {
        assert!(walk(50, 1, 1e30).1.is_ok());
        assert!(walk(0, 1, 1.0).1.is_ok());
        let one = Tensor::<4>::ones([1, 1, 1, 2], &Device::flex());
        assert!(require_finite(one.clone(), "one").is_ok());
        let error = require_finite(one * f32::NAN, "that").unwrap_err();
        assert!(error.to_string().contains("that"), "{error}");
    }
}
