//! The training of a classifier: of digits, or of any images with labels.

mod distortion;
pub(crate) mod network;
pub(crate) mod record;
pub(crate) mod stage;

use std::fmt;
use std::marker::PhantomData;

use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_data::{Datasets, ImageBatch, ImageDataset, prefetch};

use crate::classifier::distortion::{Distortion, Surroundings};
use crate::classifier::network::Classifier;
use crate::experiment::{Augmentation, ClassifierExperiment};
use crate::learner::held_out::HeldOut;
use crate::learner::images::tensor;
use crate::learner::loader::{BatchSource, Batches, Movable, Shares, moved};
use crate::learner::losses::Losses;
use crate::learner::plan::Plan;
use crate::learner::recipe::{Recipe, Trainee};
use crate::learner::report::{LOSS, MetricKind, Reading, StepReport};
use crate::learner::session::Session;
use crate::learner::update::{Averaged, Update};

const ACCURACY: MetricKind = MetricKind::new("accuracy", Reading::Mean)
    .in_unit("%")
    .higher_is_better();

/// The logged metrics.
pub(crate) const METRICS: [MetricKind; 2] = [MetricKind::new(LOSS, Reading::Mean), ACCURACY];

/// The trained networks.
#[derive(Module, Debug)]
pub(crate) struct ClassifierNetworks<C: Module> {
    classifier: Averaged<C>,
}

/// The recipe of a classifier.
pub(crate) struct ClassifierRecipe<C>(PhantomData<fn() -> C>);

impl<C> fmt::Debug for ClassifierRecipe<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClassifierRecipe")
    }
}

/// Images and their labels.
pub(crate) struct LabelledImages {
    /// `[batch, channels, height, width]` in [-1, 1].
    images: Tensor<4>,
    /// `[batch, 1]`
    labels: Tensor<2, Int>,
    step: usize,
}

impl Movable for LabelledImages {
    fn to_device(self, device: &Device) -> Self {
        Self {
            images: moved(self.images, device),
            labels: moved(self.labels, device),
            ..self
        }
    }
}

/// A new classifier, with initial weights from the experiment's seed.
pub(crate) fn trainee<C: Classifier>(
    experiment: &ClassifierExperiment,
    datasets: &Datasets,
    plan: &Plan,
    session: Session,
    device: &Device,
) -> Trainee<ClassifierRecipe<C>> {
    let training = &experiment.training;
    let classifier = C::untrained(experiment, datasets, &device.clone().autodiff());
    let networks = ClassifierNetworks {
        classifier: Averaged::new(classifier, training, plan.round(), session.clone()),
    };
    Trainee::new(
        ClassifierRecipe(PhantomData),
        networks,
        training,
        plan,
        session,
    )
}

impl<C: Module> ClassifierNetworks<C> {
    /// The trained classifier.
    pub(crate) fn into_trained(self) -> C {
        self.classifier.into_best()
    }
}

impl<C: Classifier> Recipe for ClassifierRecipe<C> {
    type Networks = ClassifierNetworks<C>;
    type Batch = LabelledImages;
    type Validation = LabelledImages;

    fn losses(&self, networks: &ClassifierNetworks<C>, batch: LabelledImages) -> Losses {
        let (total, report) = loss(&networks.classifier.network, &batch);
        Losses {
            total,
            carried: None,
            report,
        }
    }

    fn updated(
        &self,
        mut networks: ClassifierNetworks<C>,
        update: Update<'_>,
    ) -> ClassifierNetworks<C> {
        networks.classifier = networks.classifier.updated(update);
        networks
    }

    fn validate(&self, networks: &ClassifierNetworks<C>, batch: LabelledImages) -> StepReport {
        loss(networks.classifier.best(), &batch).1
    }
}

/// The mean of `-ln softmax(logits)[label]`, `[1]`, and its report, which also has the percentage of images whose
/// largest logit is the label's.
fn loss(classifier: &impl Classifier, batch: &LabelledImages) -> (Tensor<1>, StepReport) {
    let logits = classifier.logits(batch.images.clone());
    let right = logits.clone().argmax(1).equal(batch.labels.clone());
    let accuracy = right.float().without_autodiff().mean() * 100.0;
    let log_probabilities = log_softmax(logits, 1).gather(1, batch.labels.clone());
    let loss = log_probabilities.mean().neg();
    let scalars = vec![(LOSS, loss.clone()), (ACCURACY.name, accuracy)];
    let [images, ..] = batch.images.dims();
    (loss, StepReport::new(batch.step, images, scalars, None))
}

/// The images of both splits. The training images are distorted.
pub(crate) struct LabelledSource {
    datasets: Datasets,
    seed: u64,
    augmentation: Augmentation,
    surroundings: Surroundings,
    flips: bool,
    held_out: HeldOut,
}

impl LabelledSource {
    pub(crate) fn new<C: Classifier>(
        experiment: &ClassifierExperiment,
        datasets: Datasets,
        plan: &Plan,
    ) -> Self {
        Self {
            surroundings: C::SURROUNDINGS,
            flips: C::FLIPS && datasets.train.horizontal_flip(),
            held_out: HeldOut::new(&experiment.training, datasets.validation.len(), plan),
            seed: experiment.seed,
            augmentation: experiment.augmentation,
            datasets,
        }
    }
}

impl BatchSource for LabelledSource {
    type Batch = LabelledImages;
    type Validation = LabelledImages;

    fn flips(&self) -> bool {
        self.flips
    }

    fn batches(&self, shares: impl Shares, device: &Device) -> Batches<LabelledImages> {
        let requests = shares.clone().map(|share| share.images);
        let (dataset, device) = (self.datasets.train.clone(), device.clone());
        let distortion = Distortion {
            augmentation: self.augmentation,
            surroundings: self.surroundings,
            side: dataset.shape().width,
            seed: self.seed,
        };
        let elements = dataset.shape().elements();
        let batches = prefetch(dataset.clone(), requests);
        Box::new(shares.zip(batches).map(move |(share, batch)| {
            let mut batch = batch.map_err(DatasetError::new)?;
            for (slot, image) in batch.pixels.chunks_mut(elements).enumerate() {
                let slot = (share.first_slot + slot) as u64;
                distortion.apply(image, slot, share.step as u64);
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
    // The labels were checked before the training began.
    let labels = batch.labels.iter().flatten();
    let labels: Vec<i64> = labels.map(|&label| label as i64).collect();
    let shape = [labels.len(), 1];
    LabelledImages {
        images: tensor(batch, dataset, device),
        labels: Tensor::from_data(TensorData::new(labels, shape), device),
        step,
    }
}
