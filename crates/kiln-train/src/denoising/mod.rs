//! Stage 2: the U-Net learns to denoise latents or, without a first stage, the images themselves.

pub(crate) mod classes;
pub(crate) mod clean;
pub mod evaluation;
pub(crate) mod latents;
pub(crate) mod noisy_source;
pub(crate) mod stage;

use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use kiln_diffusion::noise::ImageNoise;
use kiln_diffusion::{
    Distance, Level, LevelOptions, Loss, NetworkDenoiser, Prediction, Rates, Schedule, levels,
};
use kiln_models::{Autoencoder, UNet2d};

use crate::denoising::classes::{Classes, label_tensor};
use crate::denoising::evaluation::Evaluator;
use crate::error::TrainError;
use crate::experiment::{Experiment, SamplingConfig};
use crate::learner::log::LOSS;
use crate::learner::plan::Plan;
use crate::learner::recipe::{Losses, Recipe, Trainee};
use crate::learner::report::{MetricKind, Reading, Report};
use crate::learner::session::Session;
use crate::learner::update::{Averaged, Update};
use crate::pictures::{Images, columns_for, grid, save_png};
use crate::run_folder::StageFolder;

/// The components whose errors are logged beside the loss, in the loss's measure. Those that are not predicted follow from the
/// one that is.
const COMPONENTS: [Prediction; 3] = [Prediction::Noise, Prediction::Signal, Prediction::Velocity];

/// The names of the errors of [`COMPONENTS`].
fn names_of_errors(measure: Distance) -> [&'static str; 3] {
    match measure {
        Distance::Mse => ["noise mse", "signal mse", "velocity mse"],
        Distance::Mae => ["noise mae", "signal mae", "velocity mae"],
        Distance::Huber => ["noise huber", "signal huber", "velocity huber"],
    }
}

/// What stage 2 logs with this measure.
pub(crate) fn metrics(measure: Distance) -> Vec<MetricKind> {
    let names = [LOSS].into_iter().chain(names_of_errors(measure));
    names
        .map(|name| MetricKind::new(name, Reading::Mean))
        .collect()
}

/// Images of a measurement that are drawn at a time.
const DRAWN_TOGETHER: usize = 64;

/// What is trained in stage 2.
#[derive(Module, Debug)]
pub(crate) struct DenoisingNetworks {
    unet: Averaged<UNet2d>,
}

/// What does not change while stage 2 trains.
#[derive(Debug)]
pub(crate) struct DenoisingRecipe {
    schedule: Schedule,
    objective: Loss,
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

/// Stage 2 of `network` as `experiment` says.
///
/// # Errors
/// If the experiment's schedule cannot be built.
pub(crate) fn trainee(
    experiment: &Experiment,
    network: UNet2d,
    pictured: Pictured,
    plan: &Plan,
    folder: StageFolder,
    session: Session,
) -> Result<Trainee<DenoisingRecipe>, TrainError> {
    let training = &experiment.stage_2.training;
    let networks = DenoisingNetworks {
        unet: Averaged::new(network, training, plan.round(), session.clone()),
    };
    let recipe = DenoisingRecipe {
        schedule: experiment.build_schedule()?,
        objective: experiment.stage_2.objective(),
        sampling: experiment.sampling.clone(),
        seed: experiment.seed,
        sample_shape: experiment.sample_shape(),
        pictured,
        folder,
        session: session.clone(),
    };
    Ok(Trainee::new(recipe, networks, training, plan, session))
}

impl DenoisingNetworks {
    /// The trained U-Net.
    pub(crate) fn into_trained(self) -> UNet2d {
        self.unet.into_best()
    }
}

impl DenoisingRecipe {
    /// The loss of `network` on a batch, with its gradient, and what is told of it.
    fn loss(&self, network: &UNet2d, batch: &NoisyBatch) -> (Tensor<1>, Report) {
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
        let errors = (self.objective).errors(COMPONENTS, output, target, &levels);
        let errors = names_of_errors(self.objective.distance)
            .into_iter()
            .zip(errors);
        let scalars = [(LOSS, loss.clone())].into_iter().chain(errors).collect();
        let report = Report::new(batch.step, batch.timesteps.len(), scalars, None);
        (loss, report)
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
    ///
    /// # Errors
    /// [`TrainError::Stopped`] where somebody waits for the program to end, and what goes wrong.
    fn measure(&self, network: &UNet2d, device: &Device) -> Result<Figures, TrainError> {
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
        evaluator.measure(&images, || self.session.check())
    }

    /// Draws the images with these numbers, as pictures show them. `label` gives the class of an image among so many
    /// classes, where the network has any.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] where somebody waits for the program to end, and what goes wrong.
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
                if self.session.wants_to_stop_now() {
                    return zt; // the rest of the walk is soon over
                }
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
        self.session.check()?;
        let images = match autoencoder {
            Some(autoencoder) => autoencoder.decode(autoencoder.denormalised(samples)),
            None => samples,
        };
        Ok(Images::from_tensor(images)?.cropped(*border))
    }
}

/// Figures of drawn images, by name.
type Figures = Vec<(&'static str, f64)>;

impl Recipe for DenoisingRecipe {
    type Networks = DenoisingNetworks;
    type Batch = NoisyBatch;
    type Validation = Validation;

    fn losses(&self, networks: &DenoisingNetworks, batch: NoisyBatch) -> Losses {
        let (total, report) = self.loss(&networks.unet.network, &batch);
        Losses {
            total,
            carried: None,
            report,
        }
    }

    fn updated(&self, mut networks: DenoisingNetworks, update: Update<'_>) -> DenoisingNetworks {
        networks.unet = networks.unet.updated(update);
        networks
    }

    fn validate(&self, networks: &DenoisingNetworks, item: Validation) -> Report {
        let network = networks.unet.best();
        let devices = network.devices();
        let device = devices.into_iter().next().unwrap_or_else(Device::flex);
        let (step, figures) = match item {
            Validation::Loss(batch) => return self.loss(network, &batch).1,
            Validation::Picture { step } => {
                let drawn = self.draw(network, step, &device);
                (step, drawn.map(|()| Figures::new()))
            }
            Validation::Evaluation { step } => (step, self.measure(network, &device)),
        };
        let figures = figures.unwrap_or_else(|error| {
            // What was begun as somebody told the program to end is missing, which is no failure.
            if !matches!(error, TrainError::Stopped) {
                self.session.fail(error);
            }
            Figures::new()
        });
        Report::of_drawn(step, figures, &device)
    }
}
