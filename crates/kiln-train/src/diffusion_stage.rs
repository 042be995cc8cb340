//! Stage 2: the U-Net learns to denoise latents.

use std::sync::Arc;

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use kiln_diffusion::noise::{self, ImageNoise};
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{
    Level, LevelOptions, Loss, NetworkDenoiser, NoiseLevels, Prediction, Rates, Schedule, levels,
};
use kiln_kernels::{Precision, on_the_pool, with_precision};
use kiln_models::{UNet2d, VqVae};

use crate::error::TrainError;
use crate::experiment::{Experiment, SamplingConfig};
use crate::latents::{LatentSet, Latents};
use crate::loader::{BatchSource, Batches};
use crate::pictures::{Images, columns_for, grid, save_png};
use crate::plan::{Plan, Share};
use crate::report::{MetricKind, Reading, Report};
use crate::run_folder::StageFolder;
use crate::session::Session;
use crate::update::{Averaged, summed};

/// Sampling draws noise by (seed, image, step), too: training and validation keep away from it by other seeds.
const TRAINING_NOISE: u64 = 0x7472_6169_6e69_6e67;
const VALIDATION_NOISE: u64 = 0x7661_6c69_6461_7465;

/// What stage 2 logs, in the order of [`Report::scalars`]. The components that are not predicted follow from the one that
/// is; the errors of [`COMPONENTS`] are logged, whatever the loss is.
pub(crate) const METRICS: [MetricKind; 4] = [
    MetricKind {
        name: crate::log::LOSS,
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(0),
    },
    MetricKind {
        name: "noise mse",
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(1),
    },
    MetricKind {
        name: "signal mse",
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(2),
    },
    MetricKind {
        name: "velocity mse",
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(3),
    },
];

/// The components whose errors [`METRICS`] has after the loss.
const COMPONENTS: [Prediction; 3] = [Prediction::Noise, Prediction::Signal, Prediction::Velocity];

/// The module that Burn's Learner trains in stage 2.
#[derive(Module, Debug)]
pub(crate) struct DiffusionTrainee {
    unet: Averaged<UNet2d>,
    #[module(skip)]
    lesson: Arc<Lesson>,
}

/// What does not change while stage 2 trains.
#[derive(Debug)]
struct Lesson {
    schedule: Schedule,
    objective: Loss,
    /// 1 / (devices x micro-batches): Burn sums gradients, and their mean is wanted.
    loss_scale: f64,
    precision: Precision,
    sampling: SamplingConfig,
    seed: u64,
    vqvae: VqVae,
    latent_shape: [usize; 3],
    border: usize,
    folder: StageFolder,
    session: Session,
}

/// Clean latents, the noise to hide them in, and how deep.
pub(crate) struct NoisyLatents {
    pub(crate) step: usize,
    /// `[batch, channels, height, width]`, scaled to a standard deviation of one.
    pub(crate) z0: Tensor<4>,
    /// Standard normal, of the same shape.
    pub(crate) noise: Tensor<4>,
    /// One an image.
    pub(crate) timesteps: Vec<f64>,
}

/// One item of a validation.
pub(crate) enum Validation {
    /// Measure the loss.
    Loss(Box<NoisyLatents>),
    /// Draw a picture.
    Picture {
        /// After this step.
        step: usize,
    },
}

impl DiffusionTrainee {
    pub(crate) fn new(
        experiment: &Experiment,
        network: UNet2d,
        vqvae: VqVae,
        border: usize,
        plan: &Plan,
        folder: StageFolder,
        session: Session,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            unet: Averaged::new(network, &experiment.stage_2.training, session.clone()),
            lesson: Arc::new(Lesson {
                schedule: experiment.build_schedule()?,
                objective: experiment.stage_2.objective(),
                loss_scale: plan.loss_scale(),
                precision: experiment.stage_2.training.precision,
                sampling: experiment.sampling.clone(),
                seed: experiment.seed,
                vqvae,
                latent_shape: experiment.latent_shape(),
                border,
                folder,
                session,
            }),
        })
    }

    /// The trained U-Net.
    pub(crate) fn into_trained(self) -> UNet2d {
        self.unet.into_best()
    }
}

impl Lesson {
    /// The scalars of [`METRICS`] for `network` on a batch; the first is the loss, with its gradient.
    fn losses(&self, network: &UNet2d, batch: &NoisyLatents) -> [Tensor<1>; 4] {
        let NoisyLatents {
            z0,
            noise,
            timesteps,
            ..
        } = batch;
        let device = z0.device();
        let levels: Vec<Rates> = (timesteps.iter())
            .map(|&timestep| self.schedule.rates(timestep))
            .collect();
        let rates = Rates::batch(&levels, &device);
        let zt = rates.add_noise(z0.clone(), noise.clone());
        let conditioning: Vec<f32> = timesteps.iter().map(|&timestep| timestep as f32).collect();
        let conditioning =
            Tensor::from_data(TensorData::new(conditioning, [timesteps.len()]), &device);

        let output = network.forward(zt, conditioning, None);
        let prediction = self.objective.prediction;
        let target = prediction.target(z0.clone(), noise.clone(), &rates);
        let loss = (self.objective).between(output.clone(), target.clone(), &levels);
        let (output, target) = (output.without_autodiff(), target.without_autodiff());
        let [noise, signal, velocity] =
            (self.objective).squared_errors(COMPONENTS, output, target, &levels);
        [loss, noise, signal, velocity]
    }

    /// Draws a grid of samples.
    fn draw(&self, network: &UNet2d, step: usize, device: &Device) -> Result<(), TrainError> {
        let count = self.sampling.count;
        let images = (0..count as u64).collect();
        let noise = ImageNoise {
            seed: self.seed,
            images,
            shape: self.latent_shape,
            device: device.clone(),
        };
        let denoiser = NetworkDenoiser {
            network: |zt: Tensor<4>, level: Level| {
                let timesteps = level.timesteps(&zt);
                network.forward(zt, timesteps, None)
            },
            prediction: self.objective.prediction,
            clip: self.sampling.clip,
        };
        let options = LevelOptions {
            spacing: self.sampling.spacing,
            ..Default::default()
        };
        let levels = levels(&self.schedule, self.sampling.steps, options)?;
        let sampler = Sampler::Ddim {
            eta: self.sampling.eta,
        };
        let latents = sampler.sample(
            &denoiser,
            noise.draw(0),
            &levels,
            &mut |step| noise.draw(step),
            &mut |_| {},
        )?;
        let images = self
            .vqvae
            .decode(latents.div_scalar(self.vqvae.scaling_factor()));

        let [_, channels, height, width] = images.dims();
        let mut pictured = Images::empty(channels, height, width);
        pictured.extend_from_tensor(images)?;
        let path = self.folder.picture("samples", step);
        Ok(save_png(
            &grid(&pictured.cropped(self.border), columns_for(count)),
            &path,
        )?)
    }
}

impl DiffusionTrainee {
    /// The losses of a batch, and their gradients.
    fn gradients(&self, batch: NoisyLatents) -> TrainOutput<Report> {
        let scalars = self.lesson.losses(&self.unet.network, &batch);
        let gradients = scalars[0]
            .clone()
            .mul_scalar(self.lesson.loss_scale)
            .backward();
        let gradients = GradientsParams::from_grads(gradients, self);
        let scalars = scalars.into_iter().map(Tensor::without_autodiff).collect();
        let item = Report::new(batch.step, batch.timesteps.len(), scalars, None);
        TrainOutput {
            grads: gradients,
            item,
        }
    }
}

impl TrainStep for DiffusionTrainee {
    type Input = NoisyLatents;
    type Output = Report;

    fn step(&self, batch: NoisyLatents) -> TrainOutput<Report> {
        on_the_pool(|| with_precision(self.lesson.precision, || self.gradients(batch)))
    }

    fn optimize(
        mut self,
        optim: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        self.unet = self.unet.updated(optim, rate, grads);
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

impl InferenceStep for DiffusionTrainee {
    type Input = Validation;
    type Output = Report;

    fn step(&self, item: Validation) -> Report {
        with_precision(self.lesson.precision, || self.validate(item))
    }
}

impl DiffusionTrainee {
    fn validate(&self, item: Validation) -> Report {
        let network = self.unet.best();
        match item {
            Validation::Loss(batch) => {
                let scalars = self.lesson.losses(network, &batch).to_vec();
                Report::new(batch.step, batch.timesteps.len(), scalars, None)
            }
            Validation::Picture { step } => {
                let device = self
                    .devices()
                    .into_iter()
                    .next()
                    .unwrap_or_else(Device::flex);
                if let Err(error) = self.lesson.draw(network, step, &device) {
                    self.lesson.session.fail(error);
                }
                Report::empty(step, &device)
            }
        }
    }
}

/// The latents of both splits as stage 2 sees them.
pub(crate) struct LatentSource {
    latents: Arc<Latents>,
    plan: Arc<Plan>,
    flips: bool,
    scale: f32,
    schedule: Schedule,
    noise_levels: NoiseLevels,
    seed: u64,
    validation_images: usize,
    pictures_every: usize,
}

impl LatentSource {
    pub(crate) fn new(
        experiment: &Experiment,
        latents: Latents,
        flips: bool,
        scaling_factor: f64,
        plan: Arc<Plan>,
    ) -> Result<Self, TrainError> {
        let training = &experiment.stage_2.training;
        let validation_images = training.validated(latents.validation.len());
        Ok(Self {
            latents: Arc::new(latents),
            plan,
            flips,
            scale: scaling_factor as f32,
            schedule: experiment.build_schedule()?,
            noise_levels: experiment.stage_2.noise_levels,
            seed: experiment.seed,
            validation_images,
            pictures_every: training.pictures_every,
        })
    }
}

/// Latents with noise: `drawn` gives each image's noise and timestep.
fn noisy(
    latents: &LatentSet,
    images: &[(u32, bool)],
    scale: f32,
    step: usize,
    device: &Device,
    drawn: impl Fn(usize) -> (Vec<f32>, f64),
) -> NoisyLatents {
    let [channels, height, width] = latents.latent_shape();
    let mut noise = Vec::with_capacity(images.len() * channels * height * width);
    let mut timesteps = Vec::with_capacity(images.len());
    for slot in 0..images.len() {
        let (values, timestep) = drawn(slot);
        noise.extend(values);
        timesteps.push(timestep);
    }
    let shape = [images.len(), channels, height, width];
    let noise = Tensor::from_data(TensorData::new(noise, shape), device);
    NoisyLatents {
        step,
        z0: latents.batch(images, scale, device),
        noise,
        timesteps,
    }
}

impl BatchSource for LatentSource {
    type Batch = NoisyLatents;
    type Validation = Validation;

    fn flips(&self) -> bool {
        self.flips
    }

    fn batches(&self, shares: Vec<Share>, device: &Device) -> Batches<NoisyLatents> {
        let (latents, device) = (self.latents.clone(), device.clone());
        let (scale, seed) = (self.scale, self.seed ^ TRAINING_NOISE);
        let (schedule, noise_levels) = (self.schedule.clone(), self.noise_levels);
        let length: usize = latents.train.latent_shape().iter().product();
        Box::new(shares.into_iter().map(move |share| {
            let drawn = |slot: usize| {
                let (slot, step) = ((share.first_slot + slot) as u64, share.step as u64);
                (
                    noise::normal(seed, slot, step, length),
                    noise_levels.timestep(&schedule, seed, slot, step),
                )
            };
            Ok(noisy(
                &latents.train,
                &share.images,
                scale,
                share.step,
                &device,
                drawn,
            ))
        }))
    }

    /// Always the same noise, and timesteps spread evenly over the schedule whatever the training's noise levels, so that
    /// losses can be compared.
    fn validation(&self, step: usize, device: &Device) -> Batches<Validation> {
        let (latents, device) = (self.latents.clone(), device.clone());
        let (scale, total, seed) = (
            self.scale,
            self.schedule.num_train_timesteps(),
            self.seed ^ VALIDATION_NOISE,
        );
        let (count, size) = (self.validation_images, self.plan.batch_size());
        let length: usize = latents.validation.latent_shape().iter().product();
        let losses = (0..count).step_by(size).map(move |first| {
            let images: Vec<_> = (first..(first + size).min(count))
                .map(|index| (index as u32, false))
                .collect();
            let drawn = |slot: usize| {
                let index = first + slot;
                // The golden ratio's multiples fill [0, 1) evenly, whatever their number.
                let even = (index as f64 * 0.618_033_988_749_894_9).fract();
                (
                    noise::normal(seed, index as u64, 0, length),
                    (even * total as f64).floor(),
                )
            };
            let batch = noisy(&latents.validation, &images, scale, step, &device, drawn);
            Ok(Validation::Loss(Box::new(batch)))
        });
        let picture = self
            .plan
            .wants_picture(step, self.pictures_every)
            .then_some(Ok(Validation::Picture { step }));
        Box::new(losses.chain(picture))
    }

    fn validation_batches(&self) -> usize {
        self.validation_images.div_ceil(self.plan.batch_size())
    }
}
