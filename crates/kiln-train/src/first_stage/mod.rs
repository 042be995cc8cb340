//! Stage 1: the VQ-VAE learns to compress images into latents.

mod objective;
pub(crate) mod stage;

use std::sync::Arc;

use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_data::{Datasets, ImageDataset, Progress, ProgressUnit, Task, prefetch};
use kiln_models::Autoencoder;
use kiln_models::bottleneck::Bottleneck;
use kiln_models::bottleneck::vq::{BatchPosition, CodebookConfig, CodebookTraining};

use crate::error::TrainError;
use crate::experiment::{FirstStageConfig, Interval, TrainingConfig};
use crate::first_stage::objective::{Stage1Objective, Terms, psnr};
use crate::learner::held_out::HeldOut;
use crate::learner::images::tensor;
use crate::learner::loader::{BatchSource, Batches, Shares};
use crate::learner::plan::Plan;
use crate::learner::recipe::{Losses, Recipe, Trainee};
use crate::learner::report::{LOSS, MetricKind, Reading, Report};
use crate::learner::session::{Session, StopSignal};
use crate::learner::update::{Averaged, Update};
use crate::run_folder::StageFolder;
use kiln_pipeline::pictures::{Images, columns_for, grid, save_png};

/// Images in a picture of reconstructions.
const PICTURED: usize = 32;
/// The number of images whose encoder outputs are the input of k-means.
const KMEANS_IMAGES: usize = 256;
const KMEANS_ITERATIONS: usize = 20;

const PSNR: MetricKind = MetricKind::new("psnr", Reading::Mean)
    .in_unit("dB")
    .higher_is_better();
const PERPLEXITY: MetricKind =
    MetricKind::new("perplexity", Reading::Perplexity).higher_is_better();
const CODES_IN_USE: MetricKind = MetricKind::new("codes in use", Reading::CodesInUse)
    .in_unit("%")
    .higher_is_better();

/// What stage 1 logs of an autoencoder with this bottleneck.
pub(crate) fn metrics(bottleneck: &Bottleneck) -> Vec<MetricKind> {
    let terms = Stage1Objective::term_names(bottleneck);
    let means = [LOSS].into_iter().chain(terms);
    let mut metrics: Vec<_> = means
        .map(|name| MetricKind::new(name, Reading::Mean))
        .collect();
    metrics.push(PSNR);
    if bottleneck.codes().is_some() {
        metrics.extend([PERPLEXITY, CODES_IN_USE]);
    }
    metrics
}

/// The trained networks of stage 1.
#[derive(Module, Debug)]
pub(crate) struct FirstStageNetworks {
    vqvae: Averaged<Autoencoder>,
    codebook: Option<CodebookTraining>,
}

/// The constant parts of stage 1's training.
#[derive(Debug)]
pub(crate) struct FirstStageRecipe {
    objective: Stage1Objective,
    codebook: CodebookConfig,
    folder: StageFolder,
    session: Session,
    border: usize,
}

/// One device's images in one micro-batch.
pub(crate) struct ImageTensors {
    /// `[batch, channels, height, width]` in [-1, 1].
    pub(crate) images: Tensor<4>,
    pub(crate) step: usize,
    pub(crate) position: BatchPosition,
}

/// One batch of validation.
pub(crate) struct ValidationImages {
    images: Tensor<4>,
    step: usize,
    /// Whether to draw these images over their reconstructions.
    picture: bool,
}

/// Stage 1 of `network`, as described by `first_stage`, on images with a `border`.
pub(crate) fn trainee(
    first_stage: &FirstStageConfig,
    mut network: Autoencoder,
    border: usize,
    plan: &Plan,
    folder: StageFolder,
    session: Session,
) -> Trainee<FirstStageRecipe> {
    let FirstStageConfig {
        codebook, stage_1, ..
    } = first_stage;
    let training = &stage_1.training;
    network.bottleneck = network.bottleneck.prepared(codebook);
    let update = network.bottleneck.codebook_update(codebook.update);
    let vectors = network.bottleneck.codebook();
    let networks = FirstStageNetworks {
        codebook: vectors.map(|vectors| CodebookTraining::new(codebook, vectors)),
        vqvae: Averaged::new(network, training, plan.round(), session.clone()),
    };
    let recipe = FirstStageRecipe {
        objective: Stage1Objective::new(stage_1, update),
        codebook: (*codebook).clone(),
        folder,
        session: session.clone(),
        border,
    };
    Trainee::new(recipe, networks, training, plan, session)
}

impl FirstStageNetworks {
    /// The trained autoencoder.
    pub(crate) fn into_trained(self) -> Autoencoder {
        let mut network = self.vqvae.into_best();
        network.bottleneck = network.bottleneck.finished();
        network
    }
}

impl Recipe for FirstStageRecipe {
    type Networks = FirstStageNetworks;
    type Batch = ImageTensors;
    type Validation = ValidationImages;

    fn losses(&self, networks: &FirstStageNetworks, batch: ImageTensors) -> Losses {
        let ImageTensors {
            images,
            step,
            position,
        } = batch;
        let network = &networks.vqvae.network;
        let encoded = network.encoded(images.clone());
        let passed = network.bottleneck.pass(encoded.clone(), None);
        let reconstructions = network.decode_passed(passed.latents.clone());
        let terms = (self.objective).terms(images.clone(), reconstructions.clone(), &passed);

        let code_counts = (passed.codes.clone()).and_then(|codes| network.bottleneck.counts(codes));
        let mut carried = None;
        if let (Some(codes), Some(codebook)) = (passed.codes, &networks.codebook) {
            // The statistics travel as gradients, so the code that sums gradients over devices also sums them.
            let statistics = (network.bottleneck).statistics(encoded, codes, position);
            carried = statistics.map(|statistics| codebook.carry(statistics));
        }
        Losses {
            total: terms.total.clone(),
            carried,
            report: report(step, images, reconstructions, terms, code_counts),
        }
    }

    fn updated(
        &self,
        mut networks: FirstStageNetworks,
        mut update: Update<'_>,
    ) -> FirstStageNetworks {
        let codebook = networks.codebook.as_ref();
        let statistics = codebook.and_then(|codebook| codebook.take(&mut update.gradients));
        networks.vqvae = networks.vqvae.updated(update);
        let bottleneck = networks.vqvae.network.bottleneck;
        networks.vqvae.network.bottleneck = match (statistics, bottleneck.codebook()) {
            (Some(statistics), Some(vectors)) => {
                let (codebook, vectors) = match networks.codebook {
                    Some(codebook) => {
                        let updated = codebook.update(&self.codebook, vectors, statistics);
                        (Some(updated.0), updated.1)
                    }
                    None => (None, vectors),
                };
                networks.codebook = codebook;
                bottleneck.with_codebook(vectors)
            }
            _ => bottleneck,
        };
        networks
    }

    fn validate(&self, networks: &FirstStageNetworks, item: ValidationImages) -> Report {
        let ValidationImages {
            images,
            step,
            picture,
        } = item;
        let network = networks.vqvae.best();
        let (reconstructions, passed) = network.forward(images.clone(), None);
        let terms = (self.objective).terms(images.clone(), reconstructions.clone(), &passed);
        if picture && let Err(error) = self.draw(step, images.clone(), reconstructions.clone()) {
            self.session.fail(error);
        }
        let counts = (passed.codes).and_then(|codes| network.bottleneck.counts(codes));
        report(step, images, reconstructions, terms, counts)
    }
}

fn report(
    step: usize,
    images: Tensor<4>,
    reconstructions: Tensor<4>,
    Terms { total, terms }: Terms,
    code_counts: Option<Tensor<1>>,
) -> Report {
    let [count, ..] = images.dims();
    let psnr = psnr(
        images.without_autodiff(),
        reconstructions.without_autodiff(),
    );
    let scalars = [(LOSS, total)].into_iter().chain(terms);
    let scalars = scalars.chain([(PSNR.name, psnr)]).collect();
    Report::new(step, count, scalars, code_counts)
}

impl FirstStageRecipe {
    /// Draws rows of originals, each over the row of their reconstructions.
    fn draw(
        &self,
        step: usize,
        images: Tensor<4>,
        reconstructions: Tensor<4>,
    ) -> Result<(), TrainError> {
        let [count, channels, height, width] = images.dims();
        let count = count.min(PICTURED);
        let columns = columns_for(2 * count).min(count);
        let mut pictured = Images::empty(channels, height, width);
        for first in (0..count).step_by(columns) {
            let range = first..(first + columns).min(count);
            for tensor in [&images, &reconstructions] {
                pictured.extend_from_tensor(tensor.clone().slice([range.clone()]))?;
            }
        }
        let path = self.folder.picture("reconstructions", step);
        Ok(save_png(
            &grid(&pictured.cropped(self.border), columns),
            &path,
        )?)
    }
}

/// `network` with codes at the k-means centres of its encoder's output for some of the `images`.
pub(crate) fn with_kmeans_codes(
    mut network: Autoencoder,
    config: &FirstStageConfig,
    seed: u64,
    images: &ImageDataset,
    device: &Device,
    progress: &dyn Progress,
    stop: &StopSignal,
) -> Result<Autoencoder, TrainError> {
    let order = kiln_data::shuffled(images.len(), seed, 0);
    let first: Vec<_> = (order.iter().take(KMEANS_IMAGES))
        .map(|&index| (index, false))
        .collect();
    // The batch size of the training fits into memory.
    let batches: Vec<_> = (first.chunks(config.stage_1.training.batch_size.max(1)))
        .map(<[_]>::to_vec)
        .collect();
    let encoder = network.valid();
    let mut latents = Vec::new();
    for batch in prefetch(images.clone(), batches.into_iter()) {
        stop.check()?;
        latents.push(encoder.encode(tensor(&batch?, images, device)));
    }
    let latents = Tensor::cat(latents, 0);
    let bottleneck = network.bottleneck.prepared(&config.codebook);
    let codes = bottleneck.codes().unwrap_or_default();
    let work = codes as u64 * (1 + KMEANS_ITERATIONS as u64);
    let task = Task::begin(
        progress,
        "placing the codes",
        ProgressUnit::Work,
        Some(work),
    );
    let advance = &mut |work| {
        task.advance(work);
        stop.check().is_ok()
    };
    network.bottleneck = bottleneck.with_kmeans(latents, KMEANS_ITERATIONS, seed, advance);
    stop.check()?;
    Ok(network)
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
            let position = BatchPosition {
                seed,
                step: share.step as u64,
                first_image: share.first_slot,
                total_images: share.step_images,
            };
            let images = tensor(&batch.map_err(DatasetError::new)?, &dataset, &device);
            Ok(ImageTensors {
                images,
                step: share.step,
                position,
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
