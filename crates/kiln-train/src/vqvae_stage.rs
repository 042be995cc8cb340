//! Stage 1: the VQ-VAE learns to compress images into latents.

use std::sync::Arc;

use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use kiln_data::{Datasets, ImageBatch, ImageDataset, Progress, ProgressUnit, Task, prefetch};
use kiln_kernels::{Precision, on_the_pool, with_precision};
use kiln_models::Autoencoder;
use kiln_models::bottleneck::vq::{
    BatchPosition, CODEBOOK, COMMITMENT, CodebookConfig, CodebookTraining, VectorQuantizer,
};

use crate::error::TrainError;
use crate::experiment::{FirstStageConfig, Interval, TrainingConfig};
use crate::loader::{BatchSource, Batches, Shares};
use crate::objective::{RECONSTRUCTION, Stage1Objective, Terms, psnr};
use crate::pictures::{Images, columns_for, grid, save_png};
use crate::plan::Plan;
use crate::ranks::over_ranks;
use crate::report::{MetricKind, Reading, Report};
use crate::run_folder::StageFolder;
use crate::session::{Session, StopSignal};
use crate::update::{Averaged, summed};

/// Images in a picture of reconstructions.
const PICTURED: usize = 32;
/// Images whose encoder outputs k-means starts from.
const KMEANS_IMAGES: usize = 256;
const KMEANS_ITERATIONS: usize = 20;

/// What stage 1 logs, in the order of [`Report::scalars`].
pub(crate) const METRICS: [MetricKind; 7] = [
    MetricKind {
        name: crate::log::LOSS,
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(0),
    },
    MetricKind {
        name: RECONSTRUCTION,
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(1),
    },
    MetricKind {
        name: CODEBOOK,
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(2),
    },
    MetricKind {
        name: COMMITMENT,
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(3),
    },
    MetricKind {
        name: "psnr",
        unit: Some("dB"),
        higher_is_better: true,
        reading: Reading::Mean(4),
    },
    MetricKind {
        name: "perplexity",
        unit: None,
        higher_is_better: true,
        reading: Reading::Perplexity,
    },
    MetricKind {
        name: "codes in use",
        unit: Some("%"),
        higher_is_better: true,
        reading: Reading::CodesInUse,
    },
];

/// The module that Burn's Learner trains in stage 1.
#[derive(Module, Debug)]
pub(crate) struct VqVaeTrainee {
    vqvae: Averaged<Autoencoder>,
    codebook: Option<CodebookTraining>,
    #[module(skip)]
    lesson: Arc<Lesson>,
}

/// What does not change while stage 1 trains.
#[derive(Debug)]
struct Lesson {
    objective: Stage1Objective,
    codebook: CodebookConfig,
    /// 1 / (devices x micro-batches): Burn sums gradients, and their mean is wanted.
    loss_scale: f64,
    precision: Precision,
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

impl VqVaeTrainee {
    /// Trains `network` as `first_stage` says, on images with a `border`.
    pub(crate) fn new(
        first_stage: &FirstStageConfig<'_>,
        mut network: Autoencoder,
        border: usize,
        plan: &Plan,
        folder: StageFolder,
        session: Session,
    ) -> Self {
        let FirstStageConfig {
            codebook, stage_1, ..
        } = first_stage;
        let training = &stage_1.training;
        network.bottleneck = (network.bottleneck).with_quantizer(|codes| codebook.prepare(codes));
        Self {
            codebook: network.bottleneck.quantizer().map(CodebookTraining::new),
            vqvae: Averaged::new(network, training, plan.round(), session.clone()),
            lesson: Arc::new(Lesson {
                objective: Stage1Objective::new(stage_1, codebook.update),
                codebook: codebook.clone(),
                loss_scale: plan.loss_scale(),
                precision: training.precision,
                folder,
                session,
                border,
            }),
        }
    }

    /// The trained VQ-VAE.
    pub(crate) fn into_trained(self) -> Autoencoder {
        let mut network = self.vqvae.into_best();
        network.bottleneck = (network.bottleneck).with_quantizer(VectorQuantizer::into_plain);
        network
    }
}

impl VqVaeTrainee {
    /// The losses of a batch, and their gradients.
    fn gradients(&self, batch: ImageTensors) -> TrainOutput<Report> {
        let ImageTensors {
            images,
            step,
            position,
        } = batch;
        let network = &self.vqvae.network;
        let encoded = network.encoded(images.clone());
        let passed = network.bottleneck.pass(encoded.clone(), None);
        let reconstructions = network.decode_passed(passed.latents.clone());
        let objective = &self.lesson.objective;
        let terms = objective.terms(images.clone(), reconstructions.clone(), &passed);

        let mut loss = terms.total.clone().mul_scalar(self.lesson.loss_scale);
        let mut code_counts = None;
        let quantizer = network.bottleneck.quantizer();
        if let (Some(quantizer), Some(codes), Some(codebook)) =
            (quantizer, passed.codes, &self.codebook)
        {
            // The statistics travel as gradients, so whatever sums those over devices sums these, too.
            let statistics = quantizer.statistics(encoded, codes, position);
            code_counts = Some(statistics.counts.clone());
            loss = loss + codebook.carry(statistics);
        }
        let gradients = GradientsParams::from_grads(loss.backward(), self);

        let [count, ..] = images.dims();
        let psnr = psnr(
            images.without_autodiff(),
            reconstructions.without_autodiff(),
        );
        let scalars = scalars(terms, psnr);
        let scalars = scalars.into_iter().map(Tensor::without_autodiff).collect();
        TrainOutput {
            grads: gradients,
            item: Report::new(step, count, scalars, code_counts),
        }
    }
}

impl TrainStep for VqVaeTrainee {
    type Input = ImageTensors;
    type Output = Report;

    fn step(&self, batch: ImageTensors) -> TrainOutput<Report> {
        on_the_pool(|| with_precision(self.lesson.precision, || self.gradients(batch)))
    }

    fn optimize(
        mut self,
        optim: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        let mut grads = over_ranks(&self, grads, &self.lesson.session);
        let codebook = self.codebook.as_ref();
        let statistics = codebook.and_then(|codebook| codebook.take(&mut grads));
        self.vqvae = self.vqvae.updated(optim, rate, grads);
        let bottleneck = self.vqvae.network.bottleneck;
        self.vqvae.network.bottleneck = bottleneck.with_quantizer(|quantizer| {
            let (Some(codebook), Some(statistics)) = (self.codebook.take(), statistics) else {
                return quantizer;
            };
            let config = &self.lesson.codebook;
            let (codebook, quantizer) = codebook.update(config, quantizer, statistics);
            self.codebook = Some(codebook);
            quantizer
        });
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

impl InferenceStep for VqVaeTrainee {
    type Input = ValidationImages;
    type Output = Report;

    fn step(&self, batch: ValidationImages) -> Report {
        let ValidationImages {
            images,
            step,
            picture,
        } = batch;
        let network = self.vqvae.best();
        let (reconstructions, passed) = with_precision(self.lesson.precision, || {
            network.forward(images.clone(), None)
        });
        let objective = &self.lesson.objective;
        let terms = objective.terms(images.clone(), reconstructions.clone(), &passed);
        if picture
            && let Err(error) = self
                .lesson
                .draw(step, images.clone(), reconstructions.clone())
        {
            self.lesson.session.fail(error);
        }
        let [count, ..] = images.dims();
        let quantizer = network.bottleneck.quantizer().zip(passed.codes);
        let counts = quantizer.map(|(quantizer, codes)| quantizer.counts(codes));
        let scalars = scalars(terms, psnr(images, reconstructions));
        Report::new(step, count, scalars, counts)
    }
}

/// The scalars of [`METRICS`], in their order.
fn scalars(Terms { total, terms }: Terms, psnr: Tensor<1>) -> Vec<Tensor<1>> {
    let terms = terms.into_iter().map(|(_, term)| term);
    [total].into_iter().chain(terms).chain([psnr]).collect()
}

impl Lesson {
    /// Rows of originals, each over the row of their reconstructions.
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

/// `network` with codes at the k-means centres of what its encoder makes of some of `images`.
pub(crate) fn with_kmeans_codes(
    mut network: Autoencoder,
    codebook: &CodebookConfig,
    seed: u64,
    images: &ImageDataset,
    device: &Device,
    progress: &dyn Progress,
    stop: &StopSignal,
) -> Result<Autoencoder, TrainError> {
    let order = kiln_data::shuffled(images.len(), seed, 0);
    let first = order.iter().take(KMEANS_IMAGES);
    let batch = first_batch(images, first.map(|&index| (index, false)).collect())?;
    let latents = network.valid().encode(tensor(&batch, images, device));
    let bottleneck = (network.bottleneck).with_quantizer(|codes| codebook.prepare(codes));
    let quantizer = bottleneck.quantizer();
    let codes = quantizer.map_or(0, |quantizer| quantizer.embedding.weight.dims()[0]);
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
    network.bottleneck = bottleneck.with_quantizer(|quantizer| {
        quantizer.with_kmeans(latents, KMEANS_ITERATIONS, seed, advance)
    });
    stop.check()?;
    Ok(network)
}

/// The images of both splits as stage 1 sees them.
pub(crate) struct ImageSource {
    datasets: Datasets,
    plan: Arc<Plan>,
    seed: u64,
    validation_images: Vec<u32>,
    pictures_every: Interval,
}

impl ImageSource {
    /// The images of `datasets` for `training` under `seed`.
    pub(crate) fn new(
        training: &TrainingConfig,
        seed: u64,
        datasets: Datasets,
        plan: Arc<Plan>,
    ) -> Self {
        let validation_images = training.validated(datasets.validation.len());
        Self {
            datasets,
            plan,
            seed,
            validation_images,
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
        let requests: Vec<Vec<(u32, bool)>> = self
            .validation_images
            .chunks(self.plan.batch_size())
            .map(|images| images.iter().map(|&index| (index, false)).collect())
            .collect();
        let wanted = self.plan.is_due(step, self.pictures_every);
        let batches = prefetch(dataset.clone(), requests.into_iter());
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
        self.validation_images
            .len()
            .div_ceil(self.plan.batch_size())
    }
}

fn first_batch(dataset: &ImageDataset, images: Vec<(u32, bool)>) -> Result<ImageBatch, TrainError> {
    let batch = prefetch(dataset.clone(), std::iter::once(images)).next();
    Ok(batch.unwrap_or_else(|| {
        Err(kiln_data::DataError::PrefetchStopped(
            "it gave no batch".into(),
        ))
    })?)
}

/// `[batch, channels, height, width]` on `device`.
pub(crate) fn tensor(batch: &ImageBatch, dataset: &ImageDataset, device: &Device) -> Tensor<4> {
    let shape = dataset.shape();
    let shape = [
        batch.indices.len(),
        shape.channels,
        shape.height,
        shape.width,
    ];
    Tensor::from_data(TensorData::new(batch.pixels.clone(), shape), device)
}
