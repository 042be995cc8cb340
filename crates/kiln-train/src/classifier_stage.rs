//! Training the digit classifier.

use std::sync::Arc;

use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use kiln_data::{Datasets, ImageBatch, ImageDataset, prefetch};
use kiln_eval::DigitClassifier;
use kiln_kernels::{Precision, on_the_pool, with_precision};

use crate::distortion::distort;
use crate::experiment::{Augmentation, ClassifierExperiment};
use crate::loader::{BatchSource, Batches, Shares};
use crate::plan::Plan;
use crate::ranks::over_ranks;
use crate::report::{MetricKind, Reading, Report};
use crate::session::Session;
use crate::update::{Averaged, summed};
use crate::vqvae_stage::tensor;

/// What is logged, in the order of [`Report::scalars`].
pub(crate) const METRICS: [MetricKind; 2] = [
    MetricKind {
        name: crate::log::LOSS,
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(0),
    },
    MetricKind {
        name: "accuracy",
        unit: Some("%"),
        higher_is_better: true,
        reading: Reading::Mean(1),
    },
];

/// The module that Burn's Learner trains.
#[derive(Module, Debug)]
pub(crate) struct ClassifierTrainee {
    classifier: Averaged<DigitClassifier>,
    #[module(skip)]
    lesson: Lesson,
}

/// What does not change while the classifier trains.
#[derive(Debug, Clone)]
struct Lesson {
    session: Session,
    /// 1 / (devices x micro-batches): Burn sums gradients, and their mean is wanted.
    loss_scale: f64,
    precision: Precision,
}

/// Digits and what they show.
pub(crate) struct LabelledImages {
    /// `[batch, 1, 28, 28]` in [-1, 1].
    images: Tensor<4>,
    /// `[batch, 1]`
    labels: Tensor<2, Int>,
    step: usize,
}

impl ClassifierTrainee {
    /// A new classifier, with initial weights from the experiment's seed.
    pub(crate) fn new(
        experiment: &ClassifierExperiment,
        plan: &Plan,
        session: Session,
        device: &Device,
    ) -> Self {
        let classifier = DigitClassifier::new(&device.clone().autodiff(), experiment.seed);
        Self {
            classifier: Averaged::new(
                classifier,
                &experiment.training,
                plan.round(),
                session.clone(),
            ),
            lesson: Lesson {
                session,
                loss_scale: plan.loss_scale(),
                precision: experiment.training.precision,
            },
        }
    }

    /// The trained classifier.
    pub(crate) fn into_trained(self) -> DigitClassifier {
        self.classifier.into_best()
    }
}

/// The mean of `-ln softmax(logits)[label]`, and the share of images in percent whose largest logit is the label's: both `[1]`.
fn loss_and_accuracy(classifier: &DigitClassifier, batch: &LabelledImages) -> [Tensor<1>; 2] {
    let logits = classifier.forward(batch.images.clone()).logits;
    let right = logits.clone().argmax(1).equal(batch.labels.clone());
    let log_probabilities = log_softmax(logits, 1).gather(1, batch.labels.clone());
    [
        log_probabilities.mean().neg(),
        right.float().without_autodiff().mean() * 100.0,
    ]
}

impl ClassifierTrainee {
    /// The loss of a batch, and its gradients.
    fn gradients(&self, batch: &LabelledImages) -> TrainOutput<Report> {
        let [loss, accuracy] = loss_and_accuracy(&self.classifier.network, batch);
        let scaled = loss.clone().mul_scalar(self.lesson.loss_scale);
        let gradients = GradientsParams::from_grads(scaled.backward(), self);
        let [images, ..] = batch.images.dims();
        let scalars = vec![loss.without_autodiff(), accuracy];
        TrainOutput {
            grads: gradients,
            item: Report::new(batch.step, images, scalars, None),
        }
    }
}

impl TrainStep for ClassifierTrainee {
    type Input = LabelledImages;
    type Output = Report;

    fn step(&self, batch: LabelledImages) -> TrainOutput<Report> {
        on_the_pool(|| with_precision(self.lesson.precision, || self.gradients(&batch)))
    }

    fn optimize(
        mut self,
        optim: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        let grads = over_ranks(&self, grads, &self.lesson.session);
        self.classifier = self.classifier.updated(optim, rate, grads);
        self
    }

    fn optimize_multi(
        self,
        optim: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        grads: MultiGradientsParams,
    ) -> Self {
        let grads = summed(&self, grads);
        self.optimize(optim, rate, grads)
    }
}

impl InferenceStep for ClassifierTrainee {
    type Input = LabelledImages;
    type Output = Report;

    fn step(&self, batch: LabelledImages) -> Report {
        with_precision(self.lesson.precision, || {
            let scalars = loss_and_accuracy(self.classifier.best(), &batch);
            let [images, ..] = batch.images.dims();
            Report::new(batch.step, images, scalars.into(), None)
        })
    }
}

/// The digits of both splits, those to train on distorted.
pub(crate) struct DigitSource {
    datasets: Datasets,
    plan: Arc<Plan>,
    seed: u64,
    augmentation: Augmentation,
    validation_images: Vec<u32>,
}

impl DigitSource {
    pub(crate) fn new(
        experiment: &ClassifierExperiment,
        datasets: Datasets,
        plan: Arc<Plan>,
    ) -> Self {
        Self {
            validation_images: experiment.training.validated(datasets.validation.len()),
            seed: experiment.seed,
            augmentation: experiment.augmentation,
            datasets,
            plan,
        }
    }
}

impl BatchSource for DigitSource {
    type Batch = LabelledImages;
    type Validation = LabelledImages;

    fn flips(&self) -> bool {
        false // a mirrored digit is none
    }

    fn batches(&self, shares: impl Shares, device: &Device) -> Batches<LabelledImages> {
        let requests = shares.clone().map(|share| share.images);
        let (dataset, device) = (self.datasets.train.clone(), device.clone());
        let (seed, augmentation) = (self.seed, self.augmentation);
        let batches = prefetch(dataset.clone(), requests);
        Box::new(shares.zip(batches).map(move |(share, batch)| {
            let mut batch = batch.map_err(DatasetError::new)?;
            let side = DigitClassifier::SIDE;
            for (slot, image) in batch.pixels.chunks_mut(side * side).enumerate() {
                let slot = (share.first_slot + slot) as u64;
                distort(image, side, augmentation, seed, slot, share.step as u64);
            }
            Ok(labelled(&batch, &dataset, share.step, &device))
        }))
    }

    fn validation(&self, step: usize, device: &Device) -> Batches<LabelledImages> {
        let (dataset, device) = (self.datasets.validation.clone(), device.clone());
        let requests: Vec<Vec<(u32, bool)>> = self
            .validation_images
            .chunks(self.plan.batch_size())
            .map(|images| images.iter().map(|&index| (index, false)).collect())
            .collect();
        let batches = prefetch(dataset.clone(), requests.into_iter());
        Box::new(batches.map(move |batch| {
            let batch = batch.map_err(DatasetError::new)?;
            Ok(labelled(&batch, &dataset, step, &device))
        }))
    }

    fn validation_batches(&self) -> usize {
        self.validation_images
            .len()
            .div_ceil(self.plan.batch_size())
    }
}

fn labelled(
    batch: &ImageBatch,
    dataset: &ImageDataset,
    step: usize,
    device: &Device,
) -> LabelledImages {
    // That there are labels, of ten classes, was checked before the training began.
    let labels = batch.labels.iter().flatten();
    let labels: Vec<i64> = labels.map(|&label| label as i64).collect();
    let shape = [labels.len(), 1];
    LabelledImages {
        images: tensor(batch, dataset, device),
        labels: Tensor::from_data(TensorData::new(labels, shape), device),
        step,
    }
}
