//! The shared state of one running training: its progress, whether to stop, and what went wrong.
//!
//! Burn's Learner calls the loader, the trained module, the metrics and the checkpointer on several threads and has no
//! channel between them. A [`Session`] is that channel.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::train::Interrupter;
use kiln_kernels::{AdamW, AnyTensor, Weight};
use kiln_pipeline::plots::Rows;

use crate::error::TrainError;
use crate::ranks::Ranks;

/// A request to stop. Any code can make it, such as a Ctrl-C handler or another thread.
///
/// The training saves a checkpoint and returns. A step of several micro-batches (`accumulate`) that is under way is left, and
/// a resume does it again from its start; so is a validation, with its pictures and measurements. Several ranks finish both.
#[derive(Debug, Clone)]
pub struct StopSignal(Arc<Asked>);

#[derive(Debug)]
struct Asked {
    before_step: AtomicUsize,
    at_once: AtomicBool,
    /// Whether the training has reached its first step, so that there is something to save.
    has_begun: AtomicBool,
    leaving: Leaving,
}

/// Removes the traces of a training that has not reached its first step.
#[derive(Default)]
struct Leaving(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl std::fmt::Debug for Leaving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Leaving")
    }
}

impl Default for StopSignal {
    /// No stop.
    fn default() -> Self {
        Self::before_step(usize::MAX)
    }
}

impl StopSignal {
    /// A stop before step `step`, counted from zero.
    pub fn before_step(step: usize) -> Self {
        Self(Arc::new(Asked {
            before_step: AtomicUsize::new(step),
            at_once: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            leaving: Leaving::default(),
        }))
    }

    /// Prepares for the next of several trainings, which has not begun. A stop that was requested stays.
    pub(crate) fn for_the_next(&self) {
        self.0.has_begun.store(false, Ordering::Relaxed);
    }

    /// Requests a stop as soon as possible.
    pub fn request(&self) {
        self.0.at_once.store(true, Ordering::Relaxed);
    }

    /// Ends long work before the first step, when there is nothing to save.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] once a stop was requested.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        match self.is_requested() {
            true => Err(TrainError::Stopped),
            false => Ok(()),
        }
    }

    /// Whether the training has reached its first step. From then on a stop waits for a checkpoint; before, it waits
    /// for nothing.
    pub fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Relaxed)
    }

    /// Restores the run folder as it was before a training that has not begun. For a program that ends without waiting
    /// for the training.
    pub fn leave_nothing(&self) {
        let leaving = self.0.leaving.0.lock();
        let leaving = leaving.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(leave) = leaving.filter(|_| !self.has_begun()) {
            leave();
        }
    }

    pub(crate) fn on_leaving(&self, leave: impl FnOnce() + Send + 'static) {
        let leaving = self.0.leaving.0.lock();
        *leaving.unwrap_or_else(PoisonError::into_inner) = Some(Box::new(leave));
    }

    /// From here on there is something to save.
    pub(crate) fn begin(&self) {
        self.0.has_begun.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        self.0.at_once.load(Ordering::Relaxed)
    }

    fn stops(&self, step: usize) -> bool {
        self.is_requested() || step >= self.0.before_step.load(Ordering::Relaxed)
    }
}

/// The update of one network's weights in one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptimizerStep {
    pub(crate) adamw: AdamW,
    /// The factor that clips the network's gradients.
    pub(crate) gradient_scale: f64,
}

/// Shared by the parts of one running training.
#[derive(Clone)]
pub(crate) struct Session(Arc<State>);

struct State {
    ranks: Ranks,
    /// The number of steps whose gradients were summed over the ranks.
    summed: AtomicUsize,
    /// The number of finished updates: the cursor of a checkpoint.
    steps_done: AtomicUsize,
    /// The step before which a requested stop takes effect; `usize::MAX` until there is one.
    stop_before: AtomicUsize,
    /// The batch, counted from the training's first, at which the current step is given up; `usize::MAX` if there is
    /// none.
    give_up_before: AtomicUsize,
    /// Whether the newest validation used all its images.
    is_validated: AtomicBool,
    /// Whether a validation, or a picture or measurement that belongs to it, is still to be done after the finished steps.
    owes_validation: AtomicBool,
    stop: StopSignal,
    /// Set by the terminal dashboard's quit key.
    dashboard: Interrupter,
    /// Stops the Learner at once, without a checkpoint.
    learner: Interrupter,
    failure: Mutex<Option<TrainError>>,
    /// The step of the newest checkpoint on disk; zero before the first.
    saved: AtomicUsize,
    /// Rows that are not yet in `metrics.csv`.
    unwritten: Mutex<Rows>,
    /// The optimizer's update of the current network; `None` before the first step.
    optimizer_step: Mutex<Option<OptimizerStep>>,
    /// Of the current network.
    handover: Mutex<Handover>,
}

/// What the optimizer and a network's update leave for each other if the network is on a GPU, in the order of its
/// parameters: see [`together`](crate::learner::together).
#[derive(Default)]
pub(crate) struct Handover {
    /// Weights after the update, each with the number of its steps. The optimizer takes them.
    pub(crate) weights: VecDeque<(Weight<AnyTensor>, usize)>,
    /// The moments, and the number of steps, of weights that the optimizer updated one by one.
    pub(crate) moments: Vec<([AnyTensor; 2], usize)>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Session(step {})", self.steps_done())
    }
}

impl Session {
    pub(crate) fn new(steps_done: usize, stop: StopSignal) -> Self {
        Self::of_ranks(Ranks::alone(), steps_done, stop)
    }

    /// This process's part of a training by `ranks`.
    pub(crate) fn of_ranks(ranks: Ranks, steps_done: usize, stop: StopSignal) -> Self {
        Self(Arc::new(State {
            ranks,
            summed: AtomicUsize::new(steps_done),
            steps_done: AtomicUsize::new(steps_done),
            stop_before: AtomicUsize::new(usize::MAX),
            give_up_before: AtomicUsize::new(usize::MAX),
            is_validated: AtomicBool::new(false),
            owes_validation: AtomicBool::new(false),
            stop,
            dashboard: Interrupter::new(),
            learner: Interrupter::new(),
            failure: Mutex::new(None),
            saved: AtomicUsize::new(steps_done),
            unwritten: Mutex::new(Rows::new()),
            optimizer_step: Mutex::default(),
            handover: Mutex::default(),
        }))
    }

    /// The number of finished updates.
    pub(crate) fn steps_done(&self) -> usize {
        self.0.steps_done.load(Ordering::Acquire)
    }

    /// The loader calls this when all steps before `step` are done.
    pub(crate) fn finish_steps_before(&self, step: usize) {
        self.0.steps_done.store(step, Ordering::Release);
    }

    /// The processes that train together.
    pub(crate) fn ranks(&self) -> &Ranks {
        &self.0.ranks
    }

    /// Counts a step whose gradients are summed over the ranks, and says whether this rank wants to stop after it.
    pub(crate) fn wants_to_stop_after_this_step(&self) -> bool {
        let summed = self.0.summed.fetch_add(1, Ordering::AcqRel) + 1;
        self.stops(summed)
    }

    /// Some rank wants to stop, and all ranks learnt it in the same step.
    pub(crate) fn stop_after_this_step(&self) {
        let summed = self.0.summed.load(Ordering::Acquire);
        self.0.stop_before.fetch_min(summed, Ordering::AcqRel);
    }

    /// Whether step `step` must not begin. Only the first device's loader decides (`decides`), so that all
    /// devices end after the same step; several ranks decide together, by [`Self::stop_after_this_step`].
    pub(crate) fn ends_before(&self, step: usize, decides: bool) -> bool {
        if decides && self.ranks().is_alone() && self.stops(step) {
            self.0.stop_before.fetch_min(step, Ordering::AcqRel);
        }
        step >= self.0.stop_before.load(Ordering::Acquire)
    }

    /// Whether to give up the current step before its batch `batch`. As in [`Self::ends_before`], the first device's
    /// loader decides. Several ranks always finish a step, because they learn of each other's wishes at its end.
    pub(crate) fn gives_up_before(&self, batch: usize, decides: bool) -> bool {
        if decides && self.wants_to_stop_now() {
            self.0.give_up_before.fetch_min(batch, Ordering::AcqRel);
        }
        batch >= self.0.give_up_before.load(Ordering::Acquire)
    }

    /// Whether what is under way is to be left, because somebody waits for this process to end. Several ranks end together,
    /// after a step, so none of them leaves anything.
    pub(crate) fn wants_to_stop_now(&self) -> bool {
        self.ranks().is_alone() && (self.0.stop.is_requested() || self.0.dashboard.should_stop())
    }

    /// Ends work before the first step.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] once a stop was requested.
    pub(crate) fn check_start(&self) -> Result<(), TrainError> {
        self.0.stop.check()
    }

    /// Ends long work between steps, which a resume does again.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] where it is to be left.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        match self.wants_to_stop_now() {
            true => Err(TrainError::Stopped),
            false => Ok(()),
        }
    }

    /// From here on there is something to save.
    pub(crate) fn begin(&self) {
        self.0.stop.begin();
    }

    /// Whether the newest validation used all its images. A validation that was cut short has measured nothing.
    pub(crate) fn is_validated(&self) -> bool {
        self.0.is_validated.load(Ordering::Acquire)
    }

    pub(crate) fn set_validated(&self, is_whole: bool) {
        self.0.is_validated.store(is_whole, Ordering::Release);
    }

    /// Whether a validation is still to be done after the finished steps, or its pictures and measurements.
    pub(crate) fn owes_validation(&self) -> bool {
        self.0.owes_validation.load(Ordering::Acquire)
    }

    pub(crate) fn set_owes_validation(&self, owes: bool) {
        self.0.owes_validation.store(owes, Ordering::Release);
    }

    /// Whether the finished steps have reached a requested stop.
    pub(crate) fn stop_requested(&self) -> bool {
        let done = self.steps_done();
        if self.ranks().is_alone() {
            self.stops(done)
        } else {
            done >= self.0.stop_before.load(Ordering::Acquire)
        }
    }

    fn stops(&self, step: usize) -> bool {
        self.0.stop.stops(step) || self.0.dashboard.should_stop()
    }

    /// Ends the training without a further checkpoint. Only the first failure is reported.
    pub(crate) fn fail(&self, error: TrainError) {
        self.0.learner.stop(Some(&error.to_string()));
        self.0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// Ends the training because `quantity` is not finite after step `step`, counted from zero.
    pub(crate) fn fail_diverged(&self, quantity: &'static str, value: f64, step: usize) {
        let saved = self.saved();
        let last_good = (saved > 0).then_some(saved);
        self.fail(TrainError::Diverged {
            quantity,
            value,
            step: step + 1,
            last_good,
        });
    }

    /// The step of the newest checkpoint on disk; zero before the first.
    pub(crate) fn saved(&self) -> usize {
        self.0.saved.load(Ordering::Acquire)
    }

    pub(crate) fn set_saved(&self, step: usize) {
        self.0.saved.store(step, Ordering::Release);
    }

    /// Rows that could not be written to `metrics.csv`, for a checkpoint.
    pub(crate) fn unwritten(&self) -> Rows {
        let rows = self.0.unwritten.lock();
        rows.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_unwritten(&self, rows: Rows) {
        let unwritten = self.0.unwritten.lock();
        *unwritten.unwrap_or_else(PoisonError::into_inner) = rows;
    }

    /// The optimizer's update of the current network.
    ///
    /// # Panics
    /// Before [`Session::set_optimizer_step`].
    pub(crate) fn optimizer_step(&self) -> OptimizerStep {
        let step = self.0.optimizer_step.lock();
        let step = *step.unwrap_or_else(PoisonError::into_inner);
        step.expect("a network says how it moves before it does")
    }

    /// Each network sets it before its weights move.
    pub(crate) fn set_optimizer_step(&self, step: OptimizerStep) {
        let current = self.0.optimizer_step.lock();
        *current.unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    /// Between the optimizer and the current network.
    pub(crate) fn handover(&self) -> MutexGuard<'_, Handover> {
        let handover = self.0.handover.lock();
        handover.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_failure(&self) -> Option<TrainError> {
        self.0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The handle with which the terminal dashboard stops the training.
    pub(crate) fn dashboard(&self) -> Interrupter {
        self.0.dashboard.clone()
    }

    /// The handle that ends the Learner's loop at once.
    pub(crate) fn learner(&self) -> Interrupter {
        self.0.learner.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_stop_before_the_step_at_which_the_first_saw_the_request() {
        let signal = StopSignal::default();
        let session = Session::new(0, signal.clone());
        assert!(!session.ends_before(7, true));
        signal.request();
        assert!(
            !session.ends_before(7, false),
            "step 7 has begun on the first device"
        );
        assert!(session.ends_before(8, true));
        assert!(session.ends_before(8, false));
    }

    #[test]
    fn the_first_failure_is_kept() {
        let session = Session::new(0, StopSignal::default());
        session.fail(TrainError::Diverged {
            quantity: "loss",
            value: f64::NAN,
            step: 3,
            last_good: None,
        });
        session.fail(TrainError::Diverged {
            quantity: "loss",
            value: f64::NAN,
            step: 4,
            last_good: None,
        });
        assert!(session.learner().should_stop());
        assert!(matches!(
            session.take_failure(),
            Some(TrainError::Diverged { step: 3, .. })
        ));
    }
}
