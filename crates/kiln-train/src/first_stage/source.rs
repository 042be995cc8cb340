//! The batches of stage 1.

use std::sync::Arc;

use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Tensor};
use kiln_data::{Datasets, prefetch};
use kiln_models::BatchPosition;

use crate::experiment::{Interval, TrainingConfig};
use crate::learner::held_out::HeldOut;
use crate::learner::images::tensor;
use crate::learner::loader::{BatchSource, Batches, Movable, Shares, moved};
use crate::learner::plan::Plan;

/// One device's images in one micro-batch.
pub(crate) struct ImageTensors {
    /// `[batch, channels, height, width]` in [-1, 1].
    pub(crate) images: Tensor<4>,
    pub(crate) step: usize,
    pub(crate) position: BatchPosition,
}

impl Movable for ImageTensors {
    fn to_device(self, device: &Device) -> Self {
        Self {
            images: moved(self.images, device),
            ..self
        }
    }
}

/// One batch of validation.
pub(crate) struct ValidationImages {
    pub(super) images: Tensor<4>,
    pub(super) step: usize,
    /// Whether to draw these images over their reconstructions.
    pub(super) picture: bool,
}

/// The images of both splits as stage 1's input.
pub(crate) struct ImageSource {
    datasets: Datasets,
    plan: Arc<Plan>,
    seed: u64,
    held_out: HeldOut,
    pictures_every: Interval,
}

impl ImageSource {
    /// The images of `datasets` for `training` with `seed`.
    pub(crate) fn new(
        training: &TrainingConfig,
        seed: u64,
        datasets: Datasets,
        plan: Arc<Plan>,
    ) -> Self {
        Self {
            held_out: HeldOut::new(training, datasets.validation.len(), &plan),
            datasets,
            plan,
            seed,
            pictures_every: training.pictures_every,
        }
    }
}

impl BatchSource for ImageSource {
    type Batch = ImageTensors;
    type Validation = ValidationImages;

    fn flips(&self) -> bool {
        self.datasets.train.horizontal_flip()
    }

    fn batches(&self, shares: impl Shares, device: &Device) -> Batches<ImageTensors> {
        let requests = shares.clone().map(|share| share.images);
        let (dataset, device, seed) = (self.datasets.train.clone(), device.clone(), self.seed);
        let batches = prefetch(dataset.clone(), requests);
        Box::new(shares.zip(batches).map(move |(share, batch)| {
            let images = tensor(&batch.map_err(DatasetError::new)?, &dataset, &device);
            Ok(ImageTensors {
                images,
                step: share.step,
                position: share.position(seed),
            })
        }))
    }

    fn validation(&self, step: usize, device: &Device) -> Batches<ValidationImages> {
        let (dataset, device) = (self.datasets.validation.clone(), device.clone());
        let wanted = self.plan.is_due(step, self.pictures_every);
        let batches = prefetch(dataset.clone(), self.held_out.requests().into_iter());
        Box::new(batches.enumerate().map(move |(index, batch)| {
            let images = tensor(&batch.map_err(DatasetError::new)?, &dataset, &device);
            Ok(ValidationImages {
                images,
                step,
                picture: wanted && index == 0,
            })
        }))
    }

    fn validation_batches(&self) -> usize {
        self.held_out.batches()
    }
}
