//! The training of the digit classifier.

mod distortion;
mod stage;

use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_data::{Datasets, ImageBatch, ImageDataset, prefetch};
use kiln_eval::DigitClassifier;

use crate::classifier::distortion::distort;
use crate::experiment::{Augmentation, ClassifierExperiment};
use crate::learner::held_out::HeldOut;
use crate::learner::images::tensor;
use crate::learner::loader::{BatchSource, Batches, Shares};
use crate::learner::plan::Plan;
use crate::learner::recipe::{Losses, Recipe, Trainee};
use crate::learner::report::{LOSS, MetricKind, Reading, Report};
use crate::learner::session::Session;
use crate::learner::update::{Averaged, Update};

const ACCURACY: MetricKind = MetricKind::new("accuracy", Reading::Mean)
    .in_unit("%")
    .higher_is_better();

/// The logged metrics.
pub(crate) const METRICS: [MetricKind; 2] = [MetricKind::new(LOSS, Reading::Mean), ACCURACY];

/// The trained networks.
#[derive(Module, Debug)]
pub(crate) struct ClassifierNetworks {
    classifier: Averaged<DigitClassifier>,
}

/// The recipe of the digit classifier.
#[derive(Debug)]
pub(crate) struct ClassifierRecipe;

/// Digits and their labels.
pub(crate) struct LabelledImages {
    /// `[batch, 1, 28, 28]` in [-1, 1].
    images: Tensor<4>,
    /// `[batch, 1]`
    labels: Tensor<2, Int>,
    step: usize,
}

/// A new classifier, with initial weights from the experiment's seed.
pub(crate) fn trainee(
    experiment: &ClassifierExperiment,
    plan: &Plan,
    session: Session,
    device: &Device,
) -> Trainee<ClassifierRecipe> {
    let training = &experiment.training;
    let classifier = DigitClassifier::new(&device.clone().autodiff(), experiment.seed);
    let networks = ClassifierNetworks {
        classifier: Averaged::new(classifier, training, plan.round(), session.clone()),
    };
    Trainee::new(ClassifierRecipe, networks, training, plan, session)
}

impl ClassifierNetworks {
    /// The trained classifier.
    pub(crate) fn into_trained(self) -> DigitClassifier {
        self.classifier.into_best()
    }
}

impl Recipe for ClassifierRecipe {
    type Networks = ClassifierNetworks;
    type Batch = LabelledImages;
    type Validation = LabelledImages;

    fn losses(&self, networks: &ClassifierNetworks, batch: LabelledImages) -> Losses {
        let (total, report) = loss(&networks.classifier.network, &batch);
        Losses {
            total,
            carried: None,
            report,
        }
    }

    fn updated(&self, mut networks: ClassifierNetworks, update: Update<'_>) -> ClassifierNetworks {
        networks.classifier = networks.classifier.updated(update);
        networks
    }

    fn validate(&self, networks: &ClassifierNetworks, batch: LabelledImages) -> Report {
        loss(networks.classifier.best(), &batch).1
    }
}

/// The mean of `-ln softmax(logits)[label]`, `[1]`, and its report, which also has the percentage of images whose
/// largest logit is the label's.
fn loss(classifier: &DigitClassifier, batch: &LabelledImages) -> (Tensor<1>, Report) {
    let logits = classifier.forward(batch.images.clone()).logits;
    let right = logits.clone().argmax(1).equal(batch.labels.clone());
    let accuracy = right.float().without_autodiff().mean() * 100.0;
    let log_probabilities = log_softmax(logits, 1).gather(1, batch.labels.clone());
    let loss = log_probabilities.mean().neg();
    let scalars = vec![(LOSS, loss.clone()), (ACCURACY.name, accuracy)];
    let [images, ..] = batch.images.dims();
    (loss, Report::new(batch.step, images, scalars, None))
}

/// The digits of both splits. The training digits are distorted.
pub(crate) struct DigitSource {
    datasets: Datasets,
    seed: u64,
    augmentation: Augmentation,
    held_out: HeldOut,
}

impl DigitSource {
    pub(crate) fn new(experiment: &ClassifierExperiment, datasets: Datasets, plan: &Plan) -> Self {
        Self {
            held_out: HeldOut::new(&experiment.training, datasets.validation.len(), plan),
            seed: experiment.seed,
            augmentation: experiment.augmentation,
            datasets,
        }
    }
}

impl BatchSource for DigitSource {
    type Batch = LabelledImages;
    type Validation = LabelledImages;

    fn flips(&self) -> bool {
        false // a mirrored digit is not a digit
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
        let batches = prefetch(dataset.clone(), self.held_out.requests().into_iter());
        Box::new(batches.map(move |batch| {
            let batch = batch.map_err(DatasetError::new)?;
            Ok(labelled(&batch, &dataset, step, &device))
        }))
    }

    fn validation_batches(&self) -> usize {
        self.held_out.batches()
    }
}

fn labelled(
    batch: &ImageBatch,
    dataset: &ImageDataset,
    step: usize,
    device: &Device,
) -> LabelledImages {
    // The labels, of ten classes, were checked before the training began.
    let labels = batch.labels.iter().flatten();
    let labels: Vec<i64> = labels.map(|&label| label as i64).collect();
    let shape = [labels.len(), 1];
    LabelledImages {
        images: tensor(batch, dataset, device),
        labels: Tensor::from_data(TensorData::new(labels, shape), device),
        step,
    }
}
