//! Feeds Burn's Learner: one round of steps at a time, split over devices, in an order that a resumed run repeats.
//!
//! A *round* here is the Learner's epoch: the steps from one checkpoint to the next. A round starts at the session's
//! cursor, so a run that was stopped within a round continues exactly there.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::kind::Basic;
use burn::tensor::{Device, Tensor};
use kiln_data::{DataError, ahead};
use kiln_kernels::is_cpu;

use crate::learner::plan::{Plan, Share};
use crate::learner::session::Session;

/// A stream of batches, in order.
pub(crate) type Batches<B> = Box<dyn Iterator<Item = Result<B, DatasetError>> + Send>;

/// Shares of steps, in order, each made on demand.
pub(crate) trait Shares: Iterator<Item = Share> + Clone + Send + 'static {}

impl<I: Iterator<Item = Share> + Clone + Send + 'static> Shares for I {}

/// Batches that wait for a GPU, each with its random numbers.
const BATCHES_AHEAD: usize = 2;

/// A batch that can be made on the processor for a step on a GPU.
pub(crate) trait Movable: Send + 'static {
    /// The same batch, with its tensors on `device`.
    fn to_device(self, device: &Device) -> Self;
}

/// The tensor on another device, whether that has autodiff or not.
pub(crate) fn moved<const D: usize, K: Basic>(
    tensor: Tensor<D, K>,
    device: &Device,
) -> Tensor<D, K> {
    Tensor::from_data(tensor.into_data(), device)
}

/// Turns shares of steps into the tensors that a stage trains on.
pub(crate) trait BatchSource: Send + Sync + 'static {
    /// The input of the trained module's training step.
    type Batch: Movable;
    /// The input of its validation step.
    type Validation: Send + 'static;

    /// Whether images are shown mirrored at random.
    fn flips(&self) -> bool;
    /// The batches for `shares`, in order, on `device`.
    fn batches(&self, shares: impl Shares, device: &Device) -> Batches<Self::Batch>;
    /// All of validation after step `step`, on `device`.
    fn validation(&self, step: usize, device: &Device) -> Batches<Self::Validation>;
    /// Items of a validation.
    fn validation_batches(&self) -> usize;
}

/// The training batches of one device.
pub(crate) struct TrainingLoader<S> {
    source: Arc<S>,
    plan: Arc<Plan>,
    session: Session,
    /// Which of this process' devices this loader feeds.
    place: usize,
    device: Device,
    /// Whether its first round has no steps left, only their validation.
    only_validates: AtomicBool,
}

impl<S: BatchSource> TrainingLoader<S> {
    pub(crate) fn new(source: Arc<S>, plan: Arc<Plan>, session: Session, device: Device) -> Self {
        Self {
            source,
            plan,
            session,
            place: 0,
            device,
            only_validates: AtomicBool::new(false),
        }
    }

    /// Begins with a round of no steps where the session owes a validation.
    pub(crate) fn after_owed_validation(mut self) -> Self {
        self.only_validates = AtomicBool::new(self.session.owes_validation());
        self
    }

    /// A GPU finds its next batch ready, because another thread prepares it. On the processor that thread would only take
    /// time from the step.
    fn batches(&self, shares: impl Shares) -> Batches<S::Batch> {
        if is_cpu(&self.device) {
            return self.source.batches(shares, &self.device);
        }
        let made = self.source.batches(shares, &Device::flex());
        let made = ahead(made, BATCHES_AHEAD, |reason| {
            DatasetError::new(DataError::PrefetchStopped(reason))
        });
        let device = self.device.clone();
        Box::new(made.map(move |batch| Ok(batch?.to_device(&device))))
    }

    fn with(&self, place: usize, device: Device) -> Arc<dyn DataLoader<S::Batch>> {
        Arc::new(Self {
            source: self.source.clone(),
            plan: self.plan.clone(),
            session: self.session.clone(),
            place,
            device,
            only_validates: AtomicBool::new(self.only_validates.load(Ordering::Relaxed)),
        })
    }
}

impl<S: BatchSource> DataLoader<S::Batch> for TrainingLoader<S> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<S::Batch> + 'a> {
        let first = self.session.steps_done();
        let steps = match self.only_validates.swap(false, Ordering::Relaxed) {
            true => first..first,
            false => self.plan.rest_of_round(first),
        };
        let flips = self.source.flips();
        let plan = self.plan.clone();
        let shares = self
            .plan
            .shares(steps.clone(), self.plan.own_devices().start + self.place)
            .map(move |(step, slot)| plan.share(step, slot, flips));
        Box::new(RoundOfBatches {
            batches: self.batches(shares),
            accumulate: self.plan.accumulate(),
            before: self.plan.batches_before(first),
            of_full_round: self.plan.round() * self.plan.accumulate(),
            of_this_round: self.plan.batches_before(first) + steps.len() * self.plan.accumulate(),
            steps,
            next: 0,
            batch_size: self.plan.batch_size(),
            session: self.session.clone(),
            decides: self.place == 0,
        })
    }

    fn num_items(&self) -> usize {
        self.plan.own_round_images()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<S::Batch>> {
        self.with(self.place, device.clone())
    }

    /// Burn splits a loader into equal ranges of items, one for each device.
    fn slice(&self, start: usize, _end: usize) -> Arc<dyn DataLoader<S::Batch>> {
        let per_device = (self.plan.own_round_images() / self.plan.own_devices().len()).max(1);
        self.with(start / per_device, self.device.clone())
    }
}

struct RoundOfBatches<B> {
    batches: Batches<B>,
    /// Batches of a step.
    accumulate: usize,
    steps: Range<usize>,
    /// Batches of the round that an earlier part of the run used.
    before: usize,
    /// The number of batches of a full round, and of this one. The last round may be shorter.
    of_full_round: usize,
    of_this_round: usize,
    next: usize,
    batch_size: usize,
    session: Session,
    decides: bool,
}

impl<B> RoundOfBatches<B> {
    fn total(&self) -> usize {
        self.steps.len() * self.accumulate
    }
}

impl<B> Iterator for RoundOfBatches<B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.steps.start + self.next / self.accumulate;
        let batch = self.steps.start * self.accumulate + self.next;
        let ends = || match self.next.is_multiple_of(self.accumulate) {
            true => self.session.ends_before(step, self.decides),
            false => self.session.gives_up_before(batch, self.decides),
        };
        if step < self.steps.end && ends() {
            self.steps.end = step;
        }
        if self.next >= self.total() {
            if self.decides {
                self.session.finish_steps_before(self.steps.end);
            }
            return None;
        }
        let batch = self.batches.next();
        self.next += 1;
        batch
    }
}

impl<B> DataLoaderIterator<B> for RoundOfBatches<B> {
    /// Burn's dashboard assumes that all rounds are as long as the first, so a shorter round advances in larger steps.
    fn progress(&self) -> Progress {
        let total = self.of_full_round * self.batch_size;
        let done = (self.before + self.next) * total / self.of_this_round.max(1);
        Progress::new(done, total, Some("images".into()))
    }
}

/// The validation batches, always on one device.
pub(crate) struct ValidationLoader<S> {
    source: Arc<S>,
    session: Session,
    device: Device,
}

impl<S: BatchSource> ValidationLoader<S> {
    pub(crate) fn new(source: Arc<S>, session: Session, device: Device) -> Self {
        Self {
            source,
            session,
            device,
        }
    }
}

impl<S: BatchSource> DataLoader<S::Validation> for ValidationLoader<S> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<S::Validation> + 'a> {
        self.session.set_validated(false);
        // Nothing where somebody waits for the program to end, or rank 0 does it.
        let is_stopped = self.session.stop_requested();
        let is_first = self.session.ranks().is_first();
        let is_left_out = is_stopped || !is_first;
        self.session.set_owes_validation(is_stopped || is_first);
        let batches: Batches<S::Validation> = if is_left_out {
            Box::new(std::iter::empty())
        } else {
            self.source
                .validation(self.session.steps_done(), &self.device)
        };
        Box::new(ValidationBatches {
            batches,
            session: self.session.clone(),
            is_left_out,
            done: 0,
            total: self.source.validation_batches(),
        })
    }

    fn num_items(&self) -> usize {
        self.source.validation_batches()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<S::Validation>> {
        Arc::new(Self {
            source: self.source.clone(),
            session: self.session.clone(),
            device: device.clone(),
        })
    }

    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<S::Validation>> {
        self.to_device(&self.device)
    }
}

struct ValidationBatches<B> {
    batches: Batches<B>,
    session: Session,
    is_left_out: bool,
    done: usize,
    total: usize,
}

impl<B> Iterator for ValidationBatches<B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        // What was measured so far then counts for nothing, and a resume measures it again.
        if self.session.wants_to_stop_now() {
            return None;
        }
        let batch = self.batches.next();
        self.done += usize::from(batch.is_some());
        // Pictures and measurements of drawn images come last.
        if self.done >= self.total && !self.is_left_out {
            self.session.set_validated(true);
        }
        if batch.is_none() && !self.is_left_out {
            self.session.set_owes_validation(false);
        }
        batch
    }
}

impl<B> DataLoaderIterator<B> for ValidationBatches<B> {
    fn progress(&self) -> Progress {
        Progress::new(
            self.done.min(self.total),
            self.total,
            Some("batches".into()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::TrainingConfig;
    use crate::learner::session::StopSignal;

    impl Movable for () {
        fn to_device(self, _: &Device) {}
    }

    /// Batches of nothing.
    struct Nothing;

    impl BatchSource for Nothing {
        type Batch = ();
        type Validation = ();

        fn flips(&self) -> bool {
            false
        }
        fn batches(&self, shares: impl Shares, _device: &Device) -> Batches<()> {
            Box::new(shares.map(|_| Ok(())))
        }
        fn validation(&self, _step: usize, _device: &Device) -> Batches<()> {
            Box::new(std::iter::empty())
        }
        fn validation_batches(&self) -> usize {
            0
        }
    }

    #[test]
    fn a_resume_in_mid_round_counts_the_images_before_it() {
        let training: TrainingConfig = toml::from_str(
            "steps = 25\nbatch_size = 4\naccumulate = 2\nlearning_rate = 0.1\ncheckpoint_every = 10",
        )
        .unwrap();
        let progress = |first| {
            let plan = Arc::new(Plan::new(&training, 50, 1, 0));
            let session = Session::new(first, StopSignal::default());
            let loader = TrainingLoader::new(Arc::new(Nothing), plan, session, Device::flex());
            let mut batches = loader.iter();
            batches.next();
            let begun = batches.progress();
            while batches.next().is_some() {}
            let ended = batches.progress();
            [begun, ended].map(|progress| (progress.items_processed, progress.items_total))
        };
        // Ten steps of two batches of four images.
        assert_eq!(progress(0), [(4, 80), (80, 80)]);
        assert_eq!(progress(13), [(28, 80), (80, 80)]);
        // The last round has five steps.
        assert_eq!(progress(20), [(8, 80), (80, 80)]);
        assert_eq!(progress(23), [(56, 80), (80, 80)]);
    }

    #[test]
    fn an_owed_validation_comes_before_the_next_steps_on_every_device() {
        let training: TrainingConfig = toml::from_str(
            "steps = 25\nbatch_size = 4\nlearning_rate = 0.1\ncheckpoint_every = 10",
        )
        .unwrap();
        for (first, next) in [(10, 10), (20, 5), (25, 0)] {
            let session = Session::new(first, StopSignal::default());
            session.set_owes_validation(true);
            let plan = Arc::new(Plan::new(&training, 50, 2, 0));
            let loader = TrainingLoader::new(Arc::new(Nothing), plan, session, Device::flex());
            let loader = loader.after_owed_validation();
            let images = loader.num_items();
            let devices = [0, images / 2].map(|start| loader.slice(start, start + images / 2));
            for steps in [0, next] {
                let rounds = devices.each_ref().map(|device| device.iter());
                let seen = rounds.map(Iterator::count);
                assert_eq!(seen, [steps; 2], "after step {first}");
            }
        }
    }

    #[test]
    fn a_step_under_way_is_given_up_by_all_devices_before_the_same_batch() {
        let training: TrainingConfig = toml::from_str(
            "steps = 25\nbatch_size = 1\naccumulate = 4\nlearning_rate = 0.1\ncheckpoint_every = 10",
        )
        .unwrap();
        // 6 steps of 4 batches are done in the round, and 2 batches of another one.
        let signal = StopSignal::default();
        let session = Session::new(10, signal.clone());
        let devices = 2;
        let plan = Arc::new(Plan::new(&training, 50, devices, 0));
        let loader = TrainingLoader::new(Arc::new(Nothing), plan, session.clone(), Device::flex());
        let images = loader.num_items();
        let loaders =
            [0, images / devices].map(|start| loader.slice(start, start + images / devices));
        let [mut first, mut second] = loaders.each_ref().map(|loader| loader.iter());
        for _ in 0..6 * 4 + 2 {
            assert!(first.next().is_some() && second.next().is_some());
        }
        assert!(first.next().is_some());
        signal.request();
        assert!(
            second.next().is_some(),
            "the first device has begun this batch"
        );
        assert!(first.next().is_none() && second.next().is_none());
        assert_eq!(
            session.steps_done(),
            16,
            "what is left of a step is done again"
        );
        assert!(session.stop_requested());

        // A stop before a particular step does not interrupt another one.
        let session = Session::new(0, StopSignal::before_step(2));
        let plan = Arc::new(Plan::new(&training, 50, 1, 0));
        let loader = TrainingLoader::new(Arc::new(Nothing), plan, session.clone(), Device::flex());
        assert_eq!(loader.iter().count(), 2 * 4);
        assert_eq!(session.steps_done(), 2);
    }

    #[test]
    fn a_validation_that_is_cut_short_counts_for_nothing() {
        struct Five;
        impl BatchSource for Five {
            type Batch = ();
            type Validation = usize;
            fn flips(&self) -> bool {
                false
            }
            fn batches(&self, _: impl Shares, _: &Device) -> Batches<()> {
                Box::new(std::iter::empty())
            }
            fn validation(&self, _: usize, _: &Device) -> Batches<usize> {
                // The last one is a picture.
                Box::new((0..6).map(Ok))
            }
            fn validation_batches(&self) -> usize {
                5
            }
        }
        let session = Session::new(3, StopSignal::default());
        let loader = ValidationLoader::new(Arc::new(Five), session.clone(), Device::flex());
        assert_eq!(loader.iter().count(), 6);
        assert!(session.is_validated() && !session.owes_validation());
        for (seen, is_whole) in [(0, false), (4, false), (5, true), (6, true)] {
            let signal = StopSignal::default();
            let session = Session::new(3, signal.clone());
            let loader = ValidationLoader::new(Arc::new(Five), session.clone(), Device::flex());
            let mut batches = loader.iter();
            assert_eq!(batches.by_ref().take(seen).count(), seen);
            signal.request();
            assert!(batches.next().is_none());
            assert_eq!(session.is_validated(), is_whole, "{seen}");
            assert!(session.owes_validation(), "{seen}");
            assert_eq!(loader.iter().count(), 0);
            assert!(!session.is_validated() && session.owes_validation());
        }
    }
}
