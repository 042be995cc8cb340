//! Clean images plus noise: the batches for stage 2's training and validation.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use kiln_diffusion::{NoiseLevels, Schedule, noise};
use kiln_models::BatchPosition;

use crate::denoising::classes::Labelling;
use crate::denoising::clean::CleanSets;
use crate::denoising::latents::Request;
use crate::denoising::{NoisyBatch, Validation};
use crate::experiment::{Experiment, Interval};
use crate::learner::held_out::HeldOut;
use crate::learner::loader::{BatchSource, Batches, Shares};
use crate::learner::plan::Plan;

/// Sampling also draws noise by (seed, image, step); training and validation use other seeds.
const TRAINING_NOISE: u64 = 0x7472_6169_6e69_6e67;
const VALIDATION_NOISE: u64 = 0x7661_6c69_6461_7465;

/// The timesteps of the images that a network sees.
pub(crate) trait Timesteps: Send + Sync + 'static {
    /// The timestep of the image in slot `slot` of training step `step`: see [`noise`] for the address.
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64;

    /// The timestep of a held-out image with this place, from 0 to below 1, after `step` training steps. Places are
    /// spread evenly.
    fn spread(&self, place: f64, step: usize) -> f64;
}

/// The timesteps of a network that learns to denoise. Validation spreads them over the whole schedule, independent of
/// the training's noise levels.
#[derive(Debug)]
pub(crate) struct OfSchedule {
    pub(crate) schedule: Schedule,
    pub(crate) noise_levels: NoiseLevels,
}

impl Timesteps for OfSchedule {
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64 {
        (self.noise_levels).timestep(&self.schedule, seed, slot, step)
    }

    fn spread(&self, place: f64, _: usize) -> f64 {
        (place * self.schedule.num_train_timesteps() as f64).floor()
    }
}

/// Both splits as stage 2's input.
pub(crate) struct NoisySource {
    clean: CleanSets,
    classes: Option<Labelling>,
    plan: Arc<Plan>,
    timesteps: Arc<dyn Timesteps>,
    seed: u64,
    held_out: HeldOut,
    pictures_every: Interval,
    evaluations_every: Interval,
}

impl NoisySource {
    pub(crate) fn new(
        experiment: &Experiment,
        clean: CleanSets,
        classes: Option<Labelling>,
        plan: Arc<Plan>,
        timesteps: Arc<dyn Timesteps>,
    ) -> Self {
        let training = &experiment.stage_2.training;
        Self {
            held_out: HeldOut::new(training, clean.validation.len(), &plan),
            clean,
            classes,
            plan,
            timesteps,
            seed: experiment.seed,
            pictures_every: training.pictures_every,
            evaluations_every: (experiment.stage_2.evaluation.as_ref())
                .map_or(Interval::Every(0), |config| config.every),
        }
    }
}

/// Adds noise: for each slot of the batch `drawn` gives that many standard normal numbers and a timestep.
fn noisy(
    z0: Tensor<4>,
    labels: Option<Vec<usize>>,
    position: BatchPosition,
    drawn: impl Fn(usize, usize) -> (Vec<f32>, f64),
) -> NoisyBatch {
    let [batch, channels, height, width] = z0.dims();
    let length = channels * height * width;
    let mut noise = Vec::with_capacity(batch * length);
    let mut timesteps = Vec::with_capacity(batch);
    for slot in 0..batch {
        let (values, timestep) = drawn(slot, length);
        noise.extend(values);
        timesteps.push(timestep);
    }
    let noise = TensorData::new(noise, z0.dims());
    NoisyBatch {
        position,
        noise: Tensor::from_data(noise, &z0.device()),
        z0,
        timesteps,
        labels,
    }
}

impl BatchSource for NoisySource {
    type Batch = NoisyBatch;
    type Validation = Validation;

    fn flips(&self) -> bool {
        self.clean.train.images.horizontal_flip()
    }

    fn batches(&self, shares: impl Shares, device: &Device) -> Batches<NoisyBatch> {
        let run_seed = self.seed;
        let seed = run_seed ^ TRAINING_NOISE;
        let requests = shares.clone().map(move |share| Request {
            images: share.images,
            seed,
            first_slot: share.first_slot as u64,
            step: share.step as u64,
        });
        let clean = self.clean.train.batches(requests, device);
        let (images, classes) = (self.clean.train.images.clone(), self.classes);
        let timesteps = self.timesteps.clone();
        Box::new(shares.zip(clean).map(move |(share, z0)| {
            let labels = classes.map(|classes| {
                let told = |(place, &(index, _)): (usize, &(u32, bool))| {
                    let label = classes.label(&images, index);
                    classes.shown(label, share.first_slot + place, share.step)
                };
                share.images.iter().enumerate().map(told).collect()
            });
            let drawn = |slot: usize, length: usize| {
                let (slot, step) = ((share.first_slot + slot) as u64, share.step as u64);
                (
                    noise::normal(seed, slot, step, length),
                    timesteps.drawn(seed, slot, step),
                )
            };
            Ok(noisy(z0?, labels, share.position(run_seed), drawn))
        }))
    }

    /// Uses always the same noise, timesteps that are spread evenly, and the true labels, so that losses can be compared.
    fn validation(&self, step: usize, device: &Device) -> Batches<Validation> {
        let size = self.held_out.batch_size;
        let requests = self.held_out.requests();
        let seed = self.seed ^ VALIDATION_NOISE;
        let total_images = requests.iter().map(Vec::len).sum();
        let of_batch = move |(number, images): (usize, Vec<(u32, bool)>)| Request {
            images,
            seed,
            first_slot: (number * size) as u64,
            step: 0,
        };
        let batches = requests.clone().into_iter().enumerate().map(of_batch);
        let clean = self.clean.validation.batches(batches, device);
        let (images, classes) = (self.clean.validation.images.clone(), self.classes);
        let timesteps = self.timesteps.clone();
        let batches = requests.into_iter().zip(clean).enumerate();
        let losses = batches.map(move |(number, (request, z0))| {
            let labels = classes.map(|classes| {
                let of_image = |&(index, _): &(u32, bool)| classes.label(&images, index);
                request.iter().map(of_image).collect()
            });
            let drawn = |slot: usize, length: usize| {
                let place = number * size + slot;
                // Any number of multiples of the golden ratio fills [0, 1) evenly.
                let even = (place as f64 * 0.618_033_988_749_894_9).fract();
                (
                    noise::normal(seed, place as u64, 0, length),
                    timesteps.spread(even, step),
                )
            };
            let position = BatchPosition {
                seed,
                step: step as u64,
                first_image: number * size,
                total_images,
            };
            let batch = noisy(z0?, labels, position, drawn);
            Ok(Validation::Loss(Box::new(batch)))
        });
        let due = |every, item| self.plan.is_due(step, every).then_some(Ok(item));
        let picture = due(self.pictures_every, Validation::Picture { step });
        let evaluation = due(self.evaluations_every, Validation::Evaluation { step });
        Box::new(losses.chain(picture).chain(evaluation))
    }

    fn validation_batches(&self) -> usize {
        self.held_out.batches()
    }
}
