//! Stage 2: the U-Net learns to denoise latents or, without a first stage, images. Or it learns from a trained U-Net to
//! do so in few steps.

pub(crate) mod classes;
pub(crate) mod clean;
pub(crate) mod distillation;
mod encoder;
pub mod evaluation;
mod latent_shards;
mod latents;

mod noisy_images;
pub(crate) mod noisy_source;
mod power_averages;
mod spread;
pub(crate) mod stage;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_checkpoint::{DiffusionModel, FirstStage, Metadata};
use kiln_diffusion::{Loss, Schedule, SchedulerConfig};
use kiln_kernels::Precision;
use kiln_models::ema::shadow_of;
use kiln_models::{BatchPosition, UNet2d, with_dropout_at};
use kiln_pipeline::pictures::{Images, columns_for, grid, save_png};
use kiln_pipeline::{Classes, Moment, Pipeline, SampleOptions, Wanted};

use crate::denoising::distillation::{Beside, Distillation};
use crate::denoising::evaluation::Evaluator;
use crate::denoising::noisy_images::NoisyImages;
use crate::denoising::power_averages::PowerAverages;
use crate::error::TrainError;
use crate::experiment::{DistillationConfig, Experiment, Stage2Config, TrainingConfig};
use crate::learner::loader::{Movable, moved};
use crate::learner::losses::Losses;
use crate::learner::plan::Plan;
use crate::learner::recipe::{Recipe, Trainee};
use crate::learner::recorded_step::Recordable;
use crate::learner::report::{LOSS, MetricKind, Reading, StepReport};
use crate::learner::session::Session;
use crate::learner::update::{Averaged, Update};
use crate::run_folder::StageFolder;

/// The name of the loss of the network that learns beside a student.
const AUXILIARY: &str = "auxiliary loss";

/// The metrics that stage 2 logs: the loss, the errors of the components if the network learns to denoise, and what is
/// measured on drawn images.
pub(crate) fn metrics(config: &Stage2Config) -> Vec<MetricKind> {
    let errors = match config.distillation {
        None => config.loss.names_of_errors().to_vec(),
        Some(_) => Vec::new(),
    };
    let auxiliary = (config.distillation.as_ref())
        .and_then(DistillationConfig::auxiliary_rate)
        .map(|_| AUXILIARY);
    let names = [LOSS].into_iter().chain(auxiliary).chain(errors);
    let means = names.map(|name| MetricKind::new(name, Reading::Mean));
    let of_images = evaluation::metrics(config.evaluation.as_ref());
    means.chain(of_images.iter().copied()).collect()
}

/// The trained networks of stage 2.
#[derive(Module, Debug)]
pub(crate) struct DenoisingNetworks {
    unet: Averaged<UNet2d>,
    /// In a distillation where students become teachers: the last one that did.
    teacher: Option<UNet2d>,
    /// In a distillation by moment matching: the network that learns from the student's images.
    auxiliary: Option<Averaged<UNet2d>>,
    /// One for each of `stage_2.power_averages`.
    averages: Vec<UNet2d>,
}

/// What the network learns.
#[derive(Debug)]
enum Objective {
    /// To denoise.
    Denoising(Loss),
    /// To do what its teacher does, in fewer steps.
    Distillation(Distillation),
}

/// The constant parts of stage 2's training.
#[derive(Debug)]
pub(crate) struct DenoisingRecipe {
    schedule: Schedule,
    objective: Objective,
    averages: PowerAverages,
    /// The learning rate of the auxiliary network in units of the U-Net's.
    auxiliary_rate: f64,
    /// The scheduler for drawing.
    scheduler: SchedulerConfig,
    /// Images in a picture.
    count: usize,
    seed: u64,
    precision: Precision,
    pictured: Pictured,
    folder: StageFolder,
    session: Session,
}

/// Clean latents or images, their noise, and their timesteps.
pub(crate) struct NoisyBatch {
    pub(crate) position: BatchPosition,
    /// `[batch, channels, height, width]`: latents scaled to a standard deviation of one, or images in [-1, 1].
    pub(crate) z0: Tensor<4>,
    /// Standard normal, of the same shape.
    pub(crate) noise: Tensor<4>,
    /// One per image.
    pub(crate) timesteps: Vec<f64>,
    /// One class per image, for a conditional network.
    pub(crate) labels: Option<Vec<usize>>,
}

impl Movable for NoisyBatch {
    fn to_device(self, device: &Device) -> Self {
        Self {
            z0: moved(self.z0, device),
            noise: moved(self.noise, device),
            ..self
        }
    }
}

/// The parts that make a network in training a model that draws, and the evaluator of its images.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pictured {
    /// The first stage; `None` in pixel space.
    pub(crate) first_stage: Option<FirstStage>,
    /// The network's metadata in the model's files.
    pub(crate) metadata: Metadata,
    /// Measures many drawn images now and then.
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

/// Stage 2 of `network`, as described by `experiment`, with its `distillation` if it learns from a teacher.
///
/// # Errors
/// If the experiment's schedule cannot be built.
pub(crate) fn trainee(
    experiment: &Experiment,
    network: UNet2d,
    distillation: Option<Distillation>,
    pictured: Pictured,
    plan: &Plan,
    folder: StageFolder,
    session: Session,
) -> Result<Trainee<DenoisingRecipe>, TrainError> {
    let training = &experiment.stage_2.training;
    let replaces_teacher = (experiment.stage_2.distillation.as_ref())
        .is_some_and(DistillationConfig::replaces_teacher);
    let averages = PowerAverages::new(&experiment.stage_2, plan, &folder);
    let auxiliary_rate =
        (experiment.stage_2.distillation.as_ref()).and_then(DistillationConfig::auxiliary_rate);
    let auxiliary = distillation
        .as_ref()
        .and_then(|distillation| distillation.auxiliary(&network));
    let auxiliary = auxiliary.map(|auxiliary| {
        let without_average = TrainingConfig {
            ema: None,
            ..training.clone()
        };
        Averaged::new(auxiliary, &without_average, plan.round(), session.clone())
    });
    let networks = DenoisingNetworks {
        auxiliary,
        teacher: replaces_teacher.then(|| shadow_of(&network)),
        averages: averages.shadows(&network),
        unet: Averaged::new(network, training, plan.round(), session.clone()),
    };
    let recipe = DenoisingRecipe {
        schedule: experiment.build_schedule()?,
        objective: match distillation {
            None => Objective::Denoising(experiment.stage_2.objective()),
            Some(distillation) => Objective::Distillation(distillation),
        },
        averages,
        auxiliary_rate: auxiliary_rate.unwrap_or(1.0),
        scheduler: experiment.scheduler(),
        count: experiment.sampling.count,
        seed: experiment.seed,
        precision: training.precision,
        pictured,
        folder,
        session: session.clone(),
    };
    Ok(Trainee::new(recipe, networks, training, plan, session))
}

impl DenoisingNetworks {
    fn beside(&self) -> Beside<'_> {
        Beside {
            teacher: self.teacher.as_ref(),
            auxiliary: (self.auxiliary.as_ref()).map(|auxiliary| &auxiliary.network),
        }
    }

    /// The trained U-Net.
    pub(crate) fn into_trained(self) -> UNet2d {
        self.unet.into_best()
    }
}

impl DenoisingRecipe {
    /// The loss of `network`, and of the one that learns beside it, on a batch, with its gradient; and its report.
    fn loss(
        &self,
        network: &UNet2d,
        beside: Beside<'_>,
        batch: &NoisyBatch,
    ) -> (Tensor<1>, StepReport) {
        match &self.objective {
            Objective::Denoising(loss) => {
                NoisyImages::new(batch, &self.schedule, *loss, network).losses(network)
            }
            Objective::Distillation(distillation) => {
                let losses = distillation.loss(network, beside, batch);
                let of_auxiliary = losses.auxiliary.clone().map(|loss| (AUXILIARY, loss));
                let scalars = [(LOSS, losses.student.clone())];
                let scalars = scalars.into_iter().chain(of_auxiliary).collect();
                let step = batch.position.step as usize;
                let report = StepReport::new(step, batch.timesteps.len(), scalars, None);
                // Each network's gradients are of its own loss alone.
                let total = match losses.auxiliary {
                    Some(auxiliary) => losses.student + auxiliary,
                    None => losses.student,
                };
                (total, report)
            }
        }
    }

    /// The model with `network`, and its options for drawing.
    fn pipeline(
        &self,
        network: &UNet2d,
        device: &Device,
    ) -> Result<(Pipeline, SampleOptions), TrainError> {
        let model = DiffusionModel {
            first_stage: self.pictured.first_stage.clone(),
            unet: network.clone(),
            guide: None,
            scheduler: self.scheduler.clone(),
            metadata: self.pictured.metadata.clone(),
        };
        let pipeline = Pipeline::from_model("the model in training".to_owned(), model, device)?;
        let options = SampleOptions {
            seed: self.seed,
            precision: self.precision,
            ..pipeline.default_options()
        };
        Ok((pipeline, options))
    }

    /// Draws a grid of samples. A conditional network gets a row for each class.
    fn draw(&self, network: &UNet2d, step: usize, device: &Device) -> Result<(), TrainError> {
        let (pipeline, options) = self.pipeline(network, device)?;
        let classes = pipeline.classes().map(Classes::count);
        let columns = match classes {
            Some(rows) => (self.count / rows).max(1),
            None => columns_for(self.count),
        };
        let count = classes.map_or(self.count, |rows| rows * columns);
        let wanted = wanted(count, classes, |image, _| image / columns);
        let options = SampleOptions {
            batch: count,
            ..options
        };
        let images = self.drawn(&pipeline, &wanted, &options)?;
        let path = self.folder.picture("samples", step);
        Ok(save_png(&grid(&images, columns), &path)?)
    }

    /// Draws the evaluator's number of images, of all classes in turn, and measures them.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] if somebody waits for the program to end, and the errors of drawing.
    fn measure(&self, network: &UNet2d, device: &Device) -> Result<Figures, TrainError> {
        let Some(evaluator) = &self.pictured.evaluator else {
            return Ok(Vec::new());
        };
        let (pipeline, options) = self.pipeline(network, device)?;
        let classes = pipeline.classes().map(Classes::count);
        let wanted = wanted(evaluator.images, classes, |image, classes| image % classes);
        let images = self.drawn(&pipeline, &wanted, &options)?;
        evaluator.measure(&images, || self.session.check())
    }

    /// # Errors
    /// [`TrainError::Stopped`] if somebody waits for the program to end, and the errors of drawing.
    fn drawn(
        &self,
        pipeline: &Pipeline,
        wanted: &[Wanted],
        options: &SampleOptions,
    ) -> Result<Images, TrainError> {
        let observer = &mut |_: Moment<'_>| match self.session.wants_to_stop_now() {
            true => Err(kiln_pipeline::Error::Stopped),
            false => Ok(()),
        };
        let images = pipeline.sample_wanted(wanted, options.observed(observer));
        images.map_err(|error| match error {
            kiln_pipeline::Error::Stopped => TrainError::Stopped,
            error => error.into(),
        })
    }
}

/// Images by their numbers from 0. `class` gives an image's class from the number of classes.
fn wanted(
    count: usize,
    classes: Option<usize>,
    class: impl Fn(usize, usize) -> usize,
) -> Vec<Wanted> {
    let of_image = |image| Wanted {
        image: image as u64,
        class: classes.map(|classes| class(image, classes)),
    };
    (0..count).map(of_image).collect()
}

/// Whether the network drew nothing that can be shown. Training goes on, because this happens to a network that has
/// learnt little or diverges.
fn is_no_picture(error: &TrainError) -> bool {
    use kiln_pipeline::Error::{Memory, NetworkNotFinite, NotFinite};
    matches!(
        error,
        TrainError::Drawing(NetworkNotFinite { .. } | NotFinite(_) | Memory { .. })
    )
}

/// Figures of drawn images, by name.
type Figures = Vec<(&'static str, f64)>;

impl Recipe for DenoisingRecipe {
    type Networks = DenoisingNetworks;
    type Batch = NoisyBatch;
    type Validation = Validation;

    fn losses(&self, networks: &DenoisingNetworks, batch: NoisyBatch) -> Losses {
        let (total, report) = with_dropout_at(batch.position, || {
            self.loss(&networks.unet.network, networks.beside(), &batch)
        });
        Losses {
            total,
            carried: None,
            report,
        }
    }

    fn recordable(
        &self,
        networks: &DenoisingNetworks,
        batch: &NoisyBatch,
    ) -> Option<Recordable<DenoisingNetworks>> {
        let Objective::Denoising(loss) = self.objective else {
            return None;
        };
        let network = &networks.unet.network;
        if !network.is_recordable() {
            return None;
        }
        let images = NoisyImages::new(batch, &self.schedule, loss, network);
        Some(Recordable {
            step: batch.position.step as usize,
            numbers: images.tensors()?,
            losses: Box::new(move |networks, numbers| {
                let (total, report) = (images.clone().with(numbers)).losses(&networks.unet.network);
                Losses {
                    total,
                    carried: None,
                    report,
                }
            }),
        })
    }

    fn learners(&self, networks: &DenoisingNetworks) -> DenoisingNetworks {
        DenoisingNetworks {
            unet: networks.unet.without_state(),
            teacher: None,
            auxiliary: None,
            averages: Vec::new(),
        }
    }

    fn updated(
        &self,
        mut networks: DenoisingNetworks,
        mut update: Update<'_>,
    ) -> DenoisingNetworks {
        networks.auxiliary = networks.auxiliary.map(|auxiliary| {
            let own = update.of(&auxiliary.network, self.auxiliary_rate);
            auxiliary.updated(own)
        });
        networks.unet = networks.unet.updated(update);
        let (steps, averages) = (networks.unet.steps_done(), networks.averages);
        networks.averages = (self.averages).updated(averages, &networks.unet.network, steps);
        if self.session.ranks().is_first()
            && let Err(error) = self.averages.keep(&networks.averages, steps)
        {
            self.session.fail(error);
        }
        if let Objective::Distillation(distillation) = &self.objective
            && (distillation.new_teachers_after()).contains(&networks.unet.steps_done())
        {
            networks.teacher = Some(shadow_of(networks.unet.best()));
        }
        networks
    }

    fn validate(&self, networks: &DenoisingNetworks, item: Validation) -> StepReport {
        let network = networks.unet.best();
        let devices = network.devices();
        let device = devices.into_iter().next().unwrap_or_else(Device::flex);
        let (step, figures) = match item {
            Validation::Loss(batch) => {
                return self.loss(network, networks.beside(), &batch).1;
            }
            Validation::Picture { step } => {
                let drawn = match self.draw(network, step, &device) {
                    Err(error) if is_no_picture(&error) => {
                        tracing::warn!("there is no picture of step {step}: {error}");
                        Ok(())
                    }
                    drawn => drawn,
                };
                (step, drawn.map(|()| Figures::new()))
            }
            Validation::Evaluation { step } => (step, self.measure(network, &device)),
        };
        let figures = figures.unwrap_or_else(|error| {
            // A stop request interrupted it, and a resume does it again: not a failure.
            if !matches!(error, TrainError::Stopped) {
                self.session.fail(error);
            }
            Figures::new()
        });
        StepReport::of_drawn(step, figures, &device)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{ModuleMapper, Param};
    use burn::train::InferenceStep;

    use super::*;
    use crate::learner::session::StopSignal;
    use crate::run_folder::RunFolder;

    const EXPERIMENT: &str = r#"
        [data]
        dataset = "folder"
        size = 8
        channels = 1
        [unet]
        in_channels = 1
        out_channels = 1
        down_block_types = ["DownBlock2D"]
        up_block_types = ["UpBlock2D"]
        block_out_channels = [4]
        layers_per_block = 1
        norm_num_groups = 2
        add_attention = false
        [schedule]
        [stage_2.training]
        steps = 10
        batch_size = 4
        learning_rate = 1e-3
        checkpoint_every = 10
        [sampling]
        steps = 2
        count = 4
    "#;

    struct Spoilt;

    impl ModuleMapper for Spoilt {
        fn map_float<const D: usize>(&mut self, weights: Param<Tensor<D>>) -> Param<Tensor<D>> {
            weights.map(|weights| weights * f32::NAN)
        }
    }

    /// Whether a validation leaves a picture of `network`, and the error if there is one.
    fn pictured(network: UNet2d, experiment: &Experiment) -> (bool, Option<TrainError>) {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(place.path()).stage_2();
        let session = Session::new(0, StopSignal::default());
        let plan = Plan::new(&experiment.stage_2.training, 4, 1, 0);
        let trainee = trainee(
            experiment,
            network,
            None,
            Pictured::default(),
            &plan,
            folder.clone(),
            session.clone(),
        );
        let _ = InferenceStep::step(&trainee.unwrap(), Validation::Picture { step: 1 });
        let picture = folder.picture("samples", 1);
        (picture.exists(), session.take_failure())
    }

    #[test]
    fn a_network_that_draws_nothing_that_can_be_shown_goes_on_learning() {
        let experiment = Experiment::parse(EXPERIMENT, "test", &[]).unwrap();
        let network = experiment.unet.init(&Device::flex(), 0).unwrap();
        let (exists, failure) = pictured(network.clone(), &experiment);
        assert!(exists && failure.is_none(), "{failure:?}");
        let (exists, failure) = pictured(network.map(&mut Spoilt), &experiment);
        assert!(!exists && failure.is_none(), "{failure:?}");
    }
}
