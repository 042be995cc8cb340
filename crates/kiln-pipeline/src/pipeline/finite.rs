//! Checks that the networks' output is finite.

use std::cell::{Cell, RefCell};

use burn::tensor::{Tensor, TensorReadError};
use kiln_diffusion::Level;

use crate::Error;

/// The largest number of outputs that are checked together. Reading each of them would make a GPU wait.
const TOGETHER: usize = 16;

/// Checks all outputs of a network on one walk. After an output that is not finite, or after the end of the walk, the
/// network is not called again, so the rest of the walk is fast.
#[derive(Default)]
pub(super) struct Watch {
    steps_done: Cell<usize>,
    /// The number of checked outputs.
    seen: Cell<usize>,
    unseen: RefCell<Vec<Answer>>,
    failure: RefCell<Option<Error>>,
    is_ended: Cell<bool>,
}

/// One output. Only its sum is kept, which is finite if the whole output is.
struct Answer {
    step: usize,
    timestep: f64,
    sum: Tensor<1>,
}

impl Watch {
    /// Records the progress of the walk.
    pub(super) fn set_steps_done(&self, steps: usize) {
        self.steps_done.set(steps);
    }

    /// Ends the walk: its rest is not needed.
    pub(super) fn end(&self) {
        self.is_ended.set(true);
    }

    /// The output of `network` at `level`.
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
        // Checks at once in the beginning, where a broken model shows, and less often later.
        if waiting > self.seen.get().min(TOGETHER - 1) {
            self.look();
        }
        output
    }

    /// Whether an output was not finite.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Call this at the end of the walk.
    ///
    /// # Errors
    /// [`Error::NetworkNotFinite`] with the first step whose output was not finite, [`Error::Compute`] if the device
    /// fails.
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

/// Returns the tensor after a check that it is finite; `what` names it in the error.
///
/// # Errors
/// [`Error::NotFinite`] if it is not finite, [`Error::Compute`] if the device fails.
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

    /// Calls a network whose output is `value` from step `from` on, and counts the calls.
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
