//! Stage 2: the U-Net learns to denoise latents or, without a first stage, the images themselves.

use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Device, Int, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use kiln_diffusion::noise::ImageNoise;
use kiln_diffusion::{
    Distance, Level, LevelOptions, Loss, NetworkDenoiser, Prediction, Rates, Schedule, levels,
};
use kiln_kernels::{Precision, on_the_pool, with_precision};
use kiln_models::{Autoencoder, UNet2d};

use crate::classes::{Classes, label_tensor};
use crate::error::TrainError;
use crate::evaluation::Evaluator;
use crate::experiment::{Experiment, SamplingConfig};
use crate::pictures::{Images, columns_for, grid, save_png};
use crate::plan::Plan;
use crate::ranks::over_ranks;
use crate::report::{MetricKind, Reading, Report};
use crate::run_folder::StageFolder;
use crate::session::Session;
use crate::update::{Averaged, summed};

/// What stage 2 logs, in the order of [`Report::scalars`]: the loss, and how far each of [`COMPONENTS`] is from the truth in
/// the loss's measure. The components that are not predicted follow from the one that is.
pub(crate) fn metrics(measure: Distance) -> Vec<MetricKind> {
    let components = match measure {
        Distance::Mse => ["noise mse", "signal mse", "velocity mse"],
        Distance::Mae => ["noise mae", "signal mae", "velocity mae"],
        Distance::Huber => ["noise huber", "signal huber", "velocity huber"],
    };
    let names = [crate::log::LOSS].into_iter().chain(components).enumerate();
    let metric = |(index, name)| MetricKind {
        name,
        unit: None,
        higher_is_better: false,
        reading: Reading::Mean(index),
    };
    names.map(metric).collect()
}

/// The components whose errors [`metrics`] have after the loss.
const COMPONENTS: [Prediction; 3] = [Prediction::Noise, Prediction::Signal, Prediction::Velocity];

/// Images of a measurement that are drawn at a time.
const DRAWN_TOGETHER: usize = 64;

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
    /// Of what is denoised: `[channels, height, width]`.
    sample_shape: [usize; 3],
    pictured: Pictured,
    folder: StageFolder,
    session: Session,
}

/// Clean latents or images, the noise to hide them in, and how deep.
pub(crate) struct NoisyBatch {
    pub(crate) step: usize,
    /// `[batch, channels, height, width]`: latents scaled to a standard deviation of one, or images in [-1, 1].
    pub(crate) z0: Tensor<4>,
    /// Standard normal, of the same shape.
    pub(crate) noise: Tensor<4>,
    /// One an image.
    pub(crate) timesteps: Vec<f64>,
    /// One an image, for a conditional network: what it is told of it.
    pub(crate) labels: Option<Vec<usize>>,
}

/// How samples become pictures, and who measures those.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pictured {
    /// The first stage; none in pixel space.
    pub(crate) autoencoder: Option<Autoencoder>,
    /// Padding on each side, not to be shown.
    pub(crate) border: usize,
    /// What a conditional network can be asked for.
    pub(crate) classes: Option<Classes>,
    /// Looks at many drawn images now and then.
    pub(crate) evaluator: Option<Arc<Evaluator>>,
}

/// One item of a validation.
pub(crate) enum Validation {
    /// Measure the loss.
    Loss(Box<NoisyBatch>),
    /// Draw a picture.
    Picture {
        /// After this step.
        step: usize,
    },
    /// Draw many images and measure them.
    Evaluation {
        /// After this step.
        step: usize,
    },
}

impl DiffusionTrainee {
    pub(crate) fn new(
        experiment: &Experiment,
        network: UNet2d,
        pictured: Pictured,
        plan: &Plan,
        folder: StageFolder,
        session: Session,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            unet: Averaged::new(
                network,
                &experiment.stage_2.training,
                plan.round(),
                session.clone(),
            ),
            lesson: Arc::new(Lesson {
                schedule: experiment.build_schedule()?,
                objective: experiment.stage_2.objective(),
                loss_scale: plan.loss_scale(),
                precision: experiment.stage_2.training.precision,
                sampling: experiment.sampling.clone(),
                seed: experiment.seed,
                sample_shape: experiment.sample_shape(),
                pictured,
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
    /// The scalars of [`metrics`] for `network` on a batch; the first is the loss, with its gradient.
    fn losses(&self, network: &UNet2d, batch: &NoisyBatch) -> [Tensor<1>; 4] {
        let NoisyBatch {
            z0,
            noise,
            timesteps,
            labels,
            ..
        } = batch;
        let device = z0.device();
        let levels: Vec<Rates> = (timesteps.iter())
            .map(|&timestep| self.schedule.rates(timestep))
            .collect();
        let rates = Rates::batch(&levels, &device);
        let zt = rates.add_noise(z0.clone(), noise.clone());
        let labels = labels.as_ref().map(|labels| label_tensor(labels, &device));

        let noise_powers = levels.iter().map(Rates::noise_power);
        let places = timesteps.iter().copied().zip(noise_powers);
        let output = network.forward_at_each(zt, places, labels);
        let prediction = self.objective.prediction;
        let target = prediction.target(z0.clone(), noise.clone(), &rates);
        let loss = (self.objective).between(output.clone(), target.clone(), &levels);
        let (output, target) = (output.without_autodiff(), target.without_autodiff());
        let [noise, signal, velocity] =
            (self.objective).errors(COMPONENTS, output, target, &levels);
        [loss, noise, signal, velocity]
    }

    /// Draws a grid of samples; those of a conditional network have a row for each class.
    fn draw(&self, network: &UNet2d, step: usize, device: &Device) -> Result<(), TrainError> {
        let count = self.sampling.count;
        let (count, columns) = match self.pictured.classes {
            Some(Classes { count: rows, .. }) => {
                let columns = (count / rows).max(1);
                (rows * columns, columns)
            }
            None => (count, columns_for(count)),
        };
        let images = self.sample(network, 0..count, |image, _| image / columns, device)?;
        let path = self.folder.picture("samples", step);
        Ok(save_png(&grid(&images, columns), &path)?)
    }

    /// Draws as many images as the evaluator wants, of all classes in turn, and measures them.
    fn measure(&self, network: &UNet2d, device: &Device) -> Result<Vec<f64>, TrainError> {
        let Some(evaluator) = &self.pictured.evaluator else {
            return Ok(Vec::new());
        };
        let mut images = Images::empty(0, 0, 0);
        for first in (0..evaluator.images).step_by(DRAWN_TOGETHER) {
            let numbers = first..(first + DRAWN_TOGETHER).min(evaluator.images);
            images.append(self.sample(
                network,
                numbers,
                |image, classes| image % classes,
                device,
            )?);
        }
        Ok(evaluator.measure(&images)?)
    }

    /// Draws the images with these numbers, as pictures show them. `label` gives the class of an image among so many
    /// classes, where the network has any.
    fn sample(
        &self,
        network: &UNet2d,
        numbers: Range<usize>,
        label: impl Fn(usize, usize) -> usize,
        device: &Device,
    ) -> Result<Images, TrainError> {
        let Pictured {
            autoencoder,
            border,
            classes,
            ..
        } = &self.pictured;
        let labels: Option<Tensor<1, Int>> = classes.map(|classes| {
            let labels = numbers.clone().map(|image| label(image, classes.count));
            label_tensor(&labels.collect::<Vec<usize>>(), device)
        });
        let noise = ImageNoise {
            seed: self.seed,
            images: numbers.map(|image| image as u64).collect(),
            shape: self.sample_shape,
            device: device.clone(),
        };
        let denoiser = NetworkDenoiser {
            network: |zt: Tensor<4>, level: Level| {
                let noise_power = level.rates.noise_power();
                network.forward_at(zt, level.timestep, noise_power, labels.clone())
            },
            prediction: self.objective.prediction,
            clip: self.sampling.clip,
        };
        let options = LevelOptions {
            spacing: self.sampling.spacing,
            ..Default::default()
        };
        let levels = levels(&self.schedule, self.sampling.steps, options)?;
        let samples = self.sampling.sampler.sample(
            &denoiser,
            noise.draw(0),
            &levels,
            &self.schedule,
            &mut |step| noise.draw(step),
            &mut |_| {},
        )?;
        let images = match autoencoder {
            Some(autoencoder) => autoencoder.decode(autoencoder.denormalised(samples)),
            None => samples,
        };
        Ok(Images::from_tensor(images)?.cropped(*border))
    }
}

impl DiffusionTrainee {
    /// The losses of a batch, and their gradients.
    fn gradients(&self, batch: NoisyBatch) -> TrainOutput<Report> {
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
    type Input = NoisyBatch;
    type Output = Report;

    fn step(&self, batch: NoisyBatch) -> TrainOutput<Report> {
        on_the_pool(|| with_precision(self.lesson.precision, || self.gradients(batch)))
    }

    fn optimize(
        mut self,
        optim: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        let grads = over_ranks(&self, grads, &self.lesson.session);
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
            Validation::Picture { step } => self.of_drawn(step, |device| {
                self.lesson.draw(network, step, device)?;
                Ok(Vec::new())
            }),
            Validation::Evaluation { step } => {
                self.of_drawn(step, |device| self.lesson.measure(network, device))
            }
        }
    }

    /// A report of the figures that `draw` gives; its failure ends the training.
    fn of_drawn(
        &self,
        step: usize,
        draw: impl FnOnce(&Device) -> Result<Vec<f64>, TrainError>,
    ) -> Report {
        let device = self.devices().into_iter().next();
        let device = device.unwrap_or_else(Device::flex);
        let figures = draw(&device).unwrap_or_else(|error| {
            self.lesson.session.fail(error);
            Vec::new()
        });
        Report::of_drawn(step, figures, &device)
    }
}
