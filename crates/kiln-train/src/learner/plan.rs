//! The images that each device sees in each step. Only the seed and the step determine them.

use std::ops::Range;
use std::sync::Mutex;

use kiln_data::{Pass, Passes};
use kiln_models::BatchPosition;

use crate::counted;
use crate::experiment::{ExperimentError, Interval, TrainingConfig};
use crate::ranks::Ranks;

/// The most passes over the data in one update whose gradients are summed batch by batch.
const MOST_PASSES_A_STEP: usize = 100;

/// The division of a training's data into steps, micro-batches and devices.
///
/// Step s sees the `step_images` images at positions `s * step_images ..` of an endless sequence of shuffled passes
/// over the data. Within a step, micro-batch m of device d has the slots from `(m * devices + d) * batch_size`, so N
/// devices with batch B see exactly what one device with batch N x B sees.
#[derive(Debug)]
pub(crate) struct Plan {
    items: usize,
    passes: Passes,
    batch_size: usize,
    /// The devices of all ranks together.
    devices: usize,
    /// The devices of this rank.
    own_devices: Range<usize>,
    accumulate: usize,
    steps: usize,
    checkpoint_every: Interval,
    seed: u64,
    /// The order of the most recently requested pass.
    order: Mutex<Option<(usize, Pass)>>,
}

/// This share of a training's `steps`: at least one, if there are any.
pub(crate) fn steps_of_share(share: f64, steps: usize) -> usize {
    ((steps as f64 * share).ceil() as usize).clamp(1, steps.max(1))
}

/// One device's part of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// The step, from zero.
    pub(crate) step: usize,
    /// The first of the step's slots in this part.
    pub(crate) first_slot: usize,
    /// Images in the whole step.
    pub(crate) step_images: usize,
    /// The index of each image in the data, and whether it is mirrored.
    pub(crate) images: Vec<(u32, bool)>,
}

impl Share {
    /// Where the part is in the step of a run with this seed.
    pub(crate) fn position(&self, seed: u64) -> BatchPosition {
        BatchPosition {
            seed,
            step: self.step as u64,
            first_image: self.first_slot,
            total_images: self.step_images,
        }
    }
}

impl Plan {
    /// Seeds the order of the images, and whatever else depends on the run alone.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// A plan for images in the order of `passes`, or for so many that are shuffled as a whole.
    pub(crate) fn new(
        training: &TrainingConfig,
        passes: impl Into<Passes>,
        devices: usize,
        seed: u64,
    ) -> Self {
        let passes = passes.into();
        Self {
            items: passes.images(),
            passes,
            batch_size: training.batch_size,
            devices,
            own_devices: 0..devices,
            accumulate: training.accumulate,
            steps: training.steps,
            checkpoint_every: training.checkpoint_every,
            seed,
            order: Mutex::new(None),
        }
    }

    /// The same plan for all ranks of a job, each with the same number of devices.
    pub(crate) fn over(self, ranks: &Ranks) -> Self {
        let own = self.devices;
        Self {
            devices: own * ranks.size(),
            own_devices: own * ranks.rank()..own * (ranks.rank() + 1),
            ..self
        }
    }

    /// Images per step, over all devices and micro-batches.
    pub(crate) fn step_images(&self) -> usize {
        self.batch_size * self.devices * self.accumulate
    }

    /// Refuses a step whose batches exceed [`MOST_PASSES_A_STEP`]. `table` names the settings in the error.
    ///
    /// # Errors
    /// [`ExperimentError::Value`] with the numbers, and with a valid one.
    pub(crate) fn check(&self, table: &str) -> Result<(), ExperimentError> {
        let (images, items) = (self.step_images(), self.items.max(1));
        let most = items.saturating_mul(MOST_PASSES_A_STEP);
        if self.accumulate == 1 || images <= most {
            return Ok(());
        }
        let fitting = (most / (self.batch_size * self.devices).max(1)).max(1);
        Err(ExperimentError::Value {
            key: format!("{table}.accumulate"),
            value: self.accumulate.to_string(),
            valid: format!(
                "with batch_size = {} on {} a step would see {images} images, {} times all {items} that there are to train on, and {MOST_PASSES_A_STEP} times are the most: give at most {fitting}",
                self.batch_size,
                counted(self.devices, "device"),
                images / items,
            ),
        })
    }

    /// A warning if a step sees some images more than once.
    pub(crate) fn warning(&self) -> Option<String> {
        let (images, items) = (self.step_images(), self.items);
        (images > items).then(|| {
            format!(
                "a step sees {images} images (batch_size x accumulate x devices), and there are only {items} to train on, so it sees some of them more than once: {} would do",
                self.settings_of_a_pass()
            )
        })
    }

    /// The setting to change, and its value, with which a step sees each image at most once. Batches that fit by themselves
    /// stay as they are.
    fn settings_of_a_pass(&self) -> String {
        let fitting = |together: usize| self.items / together.max(1);
        let accumulate = fitting(self.batch_size * self.devices);
        let batch_size = fitting(self.accumulate * self.devices);
        let with_one = fitting(self.devices);
        match (accumulate, batch_size, with_one) {
            (1.., _, _) => format!("accumulate = {accumulate}"),
            (0, 1.., _) => format!("batch_size = {batch_size}"),
            (0, 0, 1..) => format!("batch_size = {with_one} with accumulate = 1"),
            (0, 0, 0) => {
                let devices = counted(self.items.max(1), "device");
                format!("{devices} with batch_size = 1 and accumulate = 1")
            }
        }
    }

    /// The number of passes over the data in `steps` steps.
    pub(crate) fn passes(&self, steps: usize) -> f64 {
        (steps * self.step_images()) as f64 / self.items.max(1) as f64
    }

    /// Steps of a round, which ends with a validation and a checkpoint.
    pub(crate) fn round(&self) -> usize {
        let asked_for = self.checkpoint_every.count(self.steps_of_a_pass());
        asked_for.min(self.steps)
    }

    fn steps_of_a_pass(&self) -> f64 {
        self.items as f64 / self.step_images() as f64
    }

    /// Rounds in the whole training.
    pub(crate) fn rounds(&self) -> usize {
        self.steps.div_ceil(self.round())
    }

    /// The round, from one, that step `step` belongs to.
    pub(crate) fn round_of(&self, step: usize) -> usize {
        step / self.round() + 1
    }

    /// Whether a round ends, with a validation, after `step` steps.
    pub(crate) fn ends_round(&self, step: usize) -> bool {
        step > 0 && (step == self.steps || step < self.steps && step.is_multiple_of(self.round()))
    }

    /// The rounds that hold this share of the steps.
    pub(crate) fn rounds_of_share(&self, share: f64) -> usize {
        steps_of_share(share, self.steps).div_ceil(self.round())
    }

    /// Rounds that are over after `step` steps; if that round `owes` its validation, those before it.
    pub(crate) fn rounds_before(&self, step: usize, owes: bool) -> usize {
        match owes {
            true => step.div_ceil(self.round()).saturating_sub(1),
            false => self.round_of(step) - 1,
        }
    }

    /// Whether to draw after the round that ended after `steps_done` steps: after each period `every`, and after the
    /// last round. Zero means never.
    pub(crate) fn is_due(&self, steps_done: usize, every: Interval) -> bool {
        let round = self.round();
        let every = every.count(self.steps_of_a_pass() / round as f64);
        every > 0 && (steps_done >= self.steps || steps_done.div_ceil(round).is_multiple_of(every))
    }

    /// 1 / (devices x micro-batches). Burn sums the gradients of both; scaled losses turn the sum into the mean.
    pub(crate) fn loss_scale(&self) -> f64 {
        1.0 / (self.devices * self.accumulate) as f64
    }

    /// The steps from `first` to the end of its round.
    pub(crate) fn rest_of_round(&self, first: usize) -> Range<usize> {
        first..(self.round_of(first) * self.round()).min(self.steps)
    }

    /// The current step after this rank has done `images` of [`Self::own_round_images`] in the round of step `step`.
    /// The last round may be shorter, but counts the same number of images.
    pub(crate) fn step_after(&self, step: usize, images: usize) -> usize {
        let first = step - step % self.round();
        let steps = self.rest_of_round(first).len();
        first + images * steps / self.own_round_images().max(1)
    }

    /// Batches that a device saw in the round of step `step` before that step.
    pub(crate) fn batches_before(&self, step: usize) -> usize {
        step % self.round() * self.accumulate
    }

    /// The devices of this rank.
    pub(crate) fn own_devices(&self) -> Range<usize> {
        self.own_devices.clone()
    }

    /// The number of images that this rank sees in a full round.
    pub(crate) fn own_round_images(&self) -> usize {
        self.round() * self.batch_size * self.own_devices.len() * self.accumulate
    }

    pub(crate) fn accumulate(&self) -> usize {
        self.accumulate
    }

    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The parts of `steps` that belong to device `device`, in order.
    pub(crate) fn shares(
        &self,
        steps: Range<usize>,
        device: usize,
    ) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let (batch_size, devices, accumulate) = (self.batch_size, self.devices, self.accumulate);
        steps.flat_map(move |step| {
            (0..accumulate)
                .map(move |micro_batch| (step, (micro_batch * devices + device) * batch_size))
        })
    }

    /// The images of `batch_size` slots from `first_slot` of step `step`.
    pub(crate) fn share(&self, step: usize, first_slot: usize, flips: bool) -> Share {
        let step_images = self.step_images();
        let images = (first_slot..first_slot + self.batch_size)
            .map(|slot| {
                let position = step * step_images + slot;
                let pass = position / self.items;
                let index = self.in_pass(pass, position % self.items);
                (
                    index,
                    flips && kiln_data::flipped(self.seed, pass, index as usize),
                )
            })
            .collect();
        Share {
            step,
            first_slot,
            step_images,
            images,
        }
    }

    fn in_pass(&self, pass: usize, position: usize) -> u32 {
        let mut order = self
            .order
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut *order {
            Some((known, order)) if *known == pass => order.image(position),
            _ => {
                let mut new = self.passes.order(self.seed, pass);
                let index = new.image(position);
                *order = Some((pass, new));
                index
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(batch_size: usize, devices: usize, accumulate: usize) -> Plan {
        Plan {
            items: 50,
            passes: 50.into(),
            batch_size,
            devices,
            own_devices: 0..devices,
            accumulate,
            steps: 25,
            checkpoint_every: Interval::Every(10),
            seed: 3,
            order: Mutex::new(None),
        }
    }

    fn step_images(plan: &Plan, step: usize) -> Vec<(u32, bool)> {
        let mut parts: Vec<Share> = plan
            .own_devices()
            .flat_map(|device| plan.shares(step..step + 1, device).collect::<Vec<_>>())
            .map(|(step, slot)| plan.share(step, slot, true))
            .collect();
        parts.sort_by_key(|share| share.first_slot);
        parts.into_iter().flat_map(|share| share.images).collect()
    }

    #[test]
    fn a_step_sees_the_same_images_however_it_is_cut() {
        let whole = plan(8, 1, 1);
        for cut in [plan(4, 2, 1), plan(4, 1, 2), plan(2, 2, 2), plan(1, 8, 1)] {
            for step in 0..25 {
                assert_eq!(step_images(&whole, step), step_images(&cut, step));
            }
        }
    }

    #[test]
    fn a_pass_shows_every_image_once() {
        let plan = plan(10, 1, 1);
        let mut seen: Vec<u32> = (0..5)
            .flat_map(|step| step_images(&plan, step))
            .map(|image| image.0)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_step_is_at_most_a_hundred_passes_unless_it_is_one_batch() {
        // 50 images.
        for (batch_size, devices, accumulate) in
            [(50, 1, 100), (25, 2, 100), (1, 1, 5000), (9999, 2, 1)]
        {
            assert!(plan(batch_size, devices, accumulate).check("t").is_ok());
        }
        for (cut, most) in [
            ((50, 1, 101), 100),
            ((25, 2, 101), 100),
            ((4, 1, 100_000), 1250),
            ((9999, 1, 2), 1),
        ] {
            let sentence = plan(cut.0, cut.1, cut.2)
                .check("t")
                .unwrap_err()
                .to_string();
            let (images, advice) = (cut.0 * cut.1 * cut.2, format!("give at most {most}"));
            for part in ["`t.accumulate = ", "all 50", &images.to_string(), &advice] {
                assert!(sentence.contains(part), "{part}: {sentence}");
            }
        }
    }

    #[test]
    fn what_is_too_much_for_a_pass_is_named() {
        // 50 images; batch size, devices, accumulate.
        for (cut, advice) in [
            ((1, 1, 90), ": accumulate = 50 would do"),
            ((20, 2, 2), ": accumulate = 1 would do"),
            ((8, 1, 10), ": accumulate = 6 would do"),
            ((64, 1, 1), ": batch_size = 50 would do"),
            ((64, 2, 5), ": batch_size = 5 would do"),
            (
                (64, 2, 64),
                ": batch_size = 25 with accumulate = 1 would do",
            ),
            (
                (1, 60, 1),
                ": 50 devices with batch_size = 1 and accumulate = 1 would do",
            ),
        ] {
            let warning = plan(cut.0, cut.1, cut.2).warning().unwrap();
            assert!(warning.ends_with(advice), "{cut:?}: {warning}");
        }
        for (batch_size, devices, accumulate) in [(50, 1, 1), (1, 1, 50), (5, 5, 2)] {
            assert_eq!(plan(batch_size, devices, accumulate).warning(), None);
        }
    }

    #[test]
    fn rounds_cover_all_steps() {
        let plan = plan(8, 1, 1);
        assert_eq!(plan.rounds(), 3);
        assert_eq!(plan.rest_of_round(0), 0..10);
        assert_eq!(plan.rest_of_round(13), 13..20);
        assert_eq!(plan.rest_of_round(20), 20..25);
        assert_eq!(plan.round_of(13), 2);
        assert_eq!(plan.batches_before(13), 3);
        let ends = |&step: &usize| plan.ends_round(step);
        assert!([10, 20, 25].iter().all(ends));
        assert!(![0, 3, 13, 24, 26, 30].iter().any(ends));
        let before = |owes| [10, 20, 25].map(|step| plan.rounds_before(step, owes));
        assert_eq!((before(false), before(true)), ([1, 2, 2], [0, 1, 2]));
        assert_eq!(plan.step_after(13, 40), 15, "the round began at step 10");
        assert_eq!(plan.step_after(22, 64), 24, "the last round has five steps");
    }

    #[test]
    fn a_round_can_be_a_number_of_passes() {
        // 50 images: 6.25 steps of 8.
        let every = |passes| Plan {
            checkpoint_every: Interval::Passes(passes),
            ..plan(4, 2, 1)
        };
        assert_eq!(every(1.0).round(), 6);
        assert_eq!(every(2.0).round(), 13);
        assert_eq!(every(0.001).round(), 1);
        let plan = every(1.0);
        let due = |every| [6, 12, 18, 24, 25].map(|step| plan.is_due(step, every));
        let none = Interval::Every(0);
        assert_eq!(due(none), [false; 5]);
        assert_eq!(due(Interval::Passes(1.0)), [true; 5]);
        let every_second = [false, true, false, true, true];
        assert_eq!(due(Interval::Passes(2.0)), every_second);
        assert_eq!(due(Interval::Every(2)), every_second);
    }
}
