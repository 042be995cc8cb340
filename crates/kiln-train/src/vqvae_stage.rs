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
use kiln_models::VqVae;
use kiln_models::quantizer::{BatchPosition, CodebookConfig, CodebookTraining};

use crate::error::TrainError;
use crate::experiment::{FirstStageConfig, Interval, TrainingConfig};
use crate::loader::{BatchSource, Batches, Shares};
use crate::objective::{Stage1Objective, psnr};
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
        name: "reconstruction",
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(1),
    },
    MetricKind {
        name: "codebook",
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(2),
    },
    MetricKind {
        name: "commitment",
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
    vqvae: Averaged<VqVae>,
    codebook: CodebookTraining,
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
        mut network: VqVae,
        border: usize,
        plan: &Plan,
        folder: StageFolder,
        session: Session,
    ) -> Self {
        let FirstStageConfig {
            codebook, stage_1, ..
        } = first_stage;
        let training = &stage_1.training;
        network.quantize = codebook.prepare(network.quantize);
        Self {
            codebook: CodebookTraining::new(&network.quantize),
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
    pub(crate) fn into_trained(self) -> VqVae {
        let mut network = self.vqvae.into_best();
        network.quantize = network.quantize.into_plain();
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
        let latents = self.vqvae.network.encode(images.clone());
        let quantized = self.vqvae.network.quantize(latents.clone());
        let reconstructions = self
            .vqvae
            .network
            .decode_quantized(quantized.quantized.clone());
        let terms =
            self.lesson
                .objective
                .terms(images.clone(), reconstructions.clone(), &quantized);
        let statistics = self
            .vqvae
            .network
            .quantize
            .statistics(latents, quantized.codes, position);
        let code_counts = statistics.counts.clone();

        // The statistics travel as gradients, so whatever sums those over devices sums these, too.
        let loss = terms.total.clone().mul_scalar(self.lesson.loss_scale)
            + self.codebook.carry(statistics);
        let gradients = GradientsParams::from_grads(loss.backward(), self);

        let scalars = [
            terms.total,
            terms.reconstruction,
            terms.codebook,
            terms.commitment,
        ];
        let mut scalars: Vec<_> = scalars.into_iter().map(Tensor::without_autodiff).collect();
        let [count, ..] = images.dims();
        scalars.push(psnr(
            images.without_autodiff(),
            reconstructions.without_autodiff(),
        ));
        TrainOutput {
            grads: gradients,
            item: Report::new(step, count, scalars, Some(code_counts)),
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
        let statistics = self.codebook.take(&mut grads);
        self.vqvae = self.vqvae.updated(optim, rate, grads);
        if let Some(statistics) = statistics {
            let quantizer = self.vqvae.network.quantize;
            (self.codebook, self.vqvae.network.quantize) =
                self.codebook
                    .update(&self.lesson.codebook, quantizer, statistics);
        }
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
        let (reconstructions, quantized) =
            with_precision(self.lesson.precision, || network.forward(images.clone()));
        let terms =
            self.lesson
                .objective
                .terms(images.clone(), reconstructions.clone(), &quantized);
        if picture
            && let Err(error) = self
                .lesson
                .draw(step, images.clone(), reconstructions.clone())
        {
            self.lesson.session.fail(error);
        }
        let [count, ..] = images.dims();
        let counts = network.quantize.counts(quantized.codes);
        let psnr = psnr(images, reconstructions);
        let scalars = vec![
            terms.total,
            terms.reconstruction,
            terms.codebook,
            terms.commitment,
            psnr,
        ];
        Report::new(step, count, scalars, Some(counts))
    }
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
    mut network: VqVae,
    config: &FirstStageConfig<'_>,
    seed: u64,
    images: &ImageDataset,
    device: &Device,
    progress: &dyn Progress,
    stop: &StopSignal,
) -> Result<VqVae, TrainError> {
    let order = kiln_data::shuffled(images.len(), seed, 0);
    let first: Vec<_> = (order.iter().take(KMEANS_IMAGES))
        .map(|&index| (index, false))
        .collect();
    // As many as are trained on together, which fit into memory.
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
    let quantizer = config.codebook.prepare(network.quantize);
    let [codes, _] = quantizer.embedding.weight.dims();
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
    network.quantize = quantizer.with_kmeans(latents, KMEANS_ITERATIONS, seed, advance);
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
