//! Distillation: the U-Net learns from a trained one, its teacher, to draw in few steps.
//!
//! At a noise level of an image, a [`Method`] says which clean image the student must give. A method is one file:
//!
//! | file | the clean image to give | who is asked |
//! | --- | --- | --- |
//! | `consistency_tuning` | the student's own, at a lower level with the same noise | the student |
//! | `consistency_distillation` | the student's own, where a step of the teacher leads; or the one that leads to the same end of a segment | the student, the guided teacher |
//! | `moment_matching` | its own, moved so that the teacher sees in the student's images what a network sees that knows only them | the guided teacher, an auxiliary network |
//! | `progressive` | the one from which one step leads as far as two steps of the teacher | the teacher |
//!
//! All of them compare clean images, whatever the network predicts.

mod consistency_distillation;
mod consistency_tuning;
mod moment_matching;
mod progressive;
mod teacher;
mod walk;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_checkpoint::{DISTILLED_BY, DiffusionModel, Metadata};
use kiln_diffusion::{Denoised, Level, Prediction, Rates, Schedule, per_image};
use kiln_models::ema::{self, twin_of};
use kiln_models::{BatchPosition, UNet2d};

use crate::denoising::NoisyBatch;
use crate::denoising::classes::index_tensor;
use crate::denoising::noisy_source::{OfSchedule, Timesteps};
use crate::error::TrainError;
use crate::experiment::{DistillationConfig, Experiment};
use consistency_distillation::ConsistencyDistillation;
use consistency_tuning::ConsistencyTuning;
use moment_matching::MomentMatching;
use progressive::Progressive;
use teacher::Teacher;

/// How a student learns.
#[derive(Debug, Clone)]
pub(crate) struct Distillation {
    method: Arc<dyn Method>,
    schedule: Schedule,
    prediction: Prediction,
    facts: BTreeMap<String, String>,
    /// The teacher, for a method with an auxiliary network, which begins with its weights.
    auxiliary: Option<Box<UNet2d>>,
}

/// What a student must answer, and at which levels it learns.
trait Method: Timesteps + Debug {
    /// The noisy images in which the student answers, at the levels of those of the batch.
    fn seen(&self, noisy: Noisy, _student: Denoise<'_>) -> Noisy {
        noisy
    }

    /// The answer for `noisy` images. No gradients flow through it to the student.
    fn target(&self, noisy: &Noisy, student: &Student<'_>) -> Target;

    /// The training steps after which the student becomes the teacher, if any.
    fn new_teachers_after(&self) -> &[usize] {
        &[]
    }
}

/// What a network sees in noisy images.
type Denoise<'a> = &'a dyn Fn(&Noisy) -> Denoised;

/// Noisy images, without gradients.
#[derive(Clone)]
struct Noisy {
    /// `[batch, channels, height, width]`: the clean images.
    z0: Tensor<4>,
    /// Of the same shape.
    noise: Tensor<4>,
    /// Both together.
    zt: Tensor<4>,
    /// One level per image.
    levels: Vec<Level>,
    /// One class per image, for a conditional network.
    labels: Option<Vec<usize>>,
    /// The place of the images in the training.
    position: BatchPosition,
}

/// The networks of a student in training, without gradients.
struct Student<'a> {
    network: &'a UNet2d,
    /// The last network that became the teacher, for methods that replace the teacher.
    teacher: Option<&'a UNet2d>,
    /// For methods that have one, with its gradients in training.
    auxiliary: Option<&'a UNet2d>,
    prediction: Prediction,
    /// The student's clean images for the noisy ones.
    answer: Tensor<4>,
}

/// The answer that a student must give, and what an error costs.
struct Target {
    /// `[batch, channels, height, width]`: clean images.
    z0: Tensor<4>,
    /// One factor per image.
    weights: Vec<f64>,
    distance: ImageDistance,
    /// `[1]`: what the auxiliary network learns by, if there is one.
    auxiliary_loss: Option<Tensor<1>>,
}

/// What the networks of a distillation learn by, `[1]` each.
pub(crate) struct DistillationLoss {
    pub(crate) student: Tensor<1>,
    pub(crate) auxiliary: Option<Tensor<1>>,
}

/// The networks beside the student.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    /// The last network that became the teacher, if one did.
    pub(crate) teacher: Option<&'a UNet2d>,
    pub(crate) auxiliary: Option<&'a UNet2d>,
}

/// The distance of two images with the differences d.
#[derive(Debug, Clone, Copy)]
enum ImageDistance {
    /// mean(d²)
    Squared,
    /// sqrt(mean(d²) + c²) - c: the pseudo-Huber distance of consistency models (Song and Dhariwal 2023, section 3.3),
    /// divided by the root of the number of values. A far image pulls no more than a near one.
    PseudoHuber,
}

/// c of the pseudo-Huber distance.
const PSEUDO_HUBER: f64 = 0.00054;

impl Distillation {
    /// The distillation of `teacher`, whose networks are on a device without gradients.
    ///
    /// # Errors
    /// If the experiment wants guidance that the teacher has not.
    pub(crate) fn of(
        experiment: &Experiment,
        config: DistillationConfig,
        teacher: DiffusionModel,
    ) -> Result<Self, TrainError> {
        let schedule = experiment.build_schedule()?;
        let steps = experiment.stage_2.training.steps;
        let prediction = experiment.stage_2.prediction;
        if !matches!(config, DistillationConfig::ConsistencyTuning { .. }) {
            require_same(experiment, &schedule, &teacher)?;
        }
        let auxiliary = config
            .auxiliary_rate()
            .map(|_| Box::new(teacher.unet.clone()));
        let mut facts = BTreeMap::from([(DISTILLED_BY.to_owned(), config.name().to_owned())]);
        let mut guided = |teacher: DiffusionModel| {
            let teacher = Teacher::new(teacher, &config)?;
            Metadata::note_guidance_learnt(&mut facts, teacher.guidance());
            Ok::<_, TrainError>(teacher)
        };
        let method: Arc<dyn Method> = match config {
            DistillationConfig::ConsistencyTuning { halve_every } => Arc::new(ConsistencyTuning {
                levels: OfSchedule {
                    schedule: schedule.clone(),
                    noise_levels: experiment.stage_2.noise_levels,
                },
                halve_every: halve_every.of(steps),
            }),
            DistillationConfig::ConsistencyDistillation {
                teacher_steps,
                segments,
                ..
            } => Arc::new(ConsistencyDistillation::new(
                guided(teacher)?,
                &schedule,
                teacher_steps,
                segments,
            )?),
            DistillationConfig::MomentMatching {
                student_steps,
                fewest_steps,
                simulated,
                ..
            } => Arc::new(MomentMatching::new(
                guided(teacher)?,
                &schedule,
                [student_steps, fewest_steps.unwrap_or(student_steps)],
                simulated,
            )?),
            DistillationConfig::Progressive {
                first_steps,
                last_steps,
                halve_every,
                ..
            } => Arc::new(Progressive::new(
                guided(teacher)?,
                &schedule,
                [first_steps, last_steps],
                halve_every.of(steps),
            )?),
        };
        Ok(Self {
            method,
            schedule,
            prediction,
            facts,
            auxiliary,
        })
    }

    /// What the student's files say about it: the method, and the guidance that it has learnt.
    pub(crate) fn facts(&self) -> BTreeMap<String, String> {
        self.facts.clone()
    }

    /// The network that learns beside the student `network`, as it begins, if there is one.
    pub(crate) fn auxiliary(&self, network: &UNet2d) -> Option<UNet2d> {
        let teacher = self.auxiliary.as_deref()?;
        Some(ema::update(twin_of(network), teacher, 0.0))
    }

    /// The levels at which the student learns.
    pub(crate) fn timesteps(&self) -> Arc<dyn Timesteps> {
        self.method.clone()
    }

    /// The training steps after which the student becomes the teacher.
    pub(crate) fn new_teachers_after(&self) -> &[usize] {
        self.method.new_teachers_after()
    }

    /// The losses of the student `network`, and of the network that learns `beside` it, on a batch.
    pub(crate) fn loss(
        &self,
        network: &UNet2d,
        beside: Beside<'_>,
        batch: &NoisyBatch,
    ) -> DistillationLoss {
        let NoisyBatch {
            position,
            z0,
            noise,
            timesteps,
            labels,
        } = batch;
        let levels: Vec<Level> = (timesteps.iter())
            .map(|&timestep| self.schedule.level(timestep))
            .collect();
        let [z0, noise] = [z0, noise].map(|images| images.clone().without_autodiff());
        let noisy = Noisy {
            zt: batch_rates(&levels, &z0.device()).add_noise(z0.clone(), noise.clone()),
            z0,
            noise,
            levels,
            labels: labels.clone(),
            position: *position,
        };
        let (own, teacher) = (network.valid(), beside.teacher.map(Module::valid));
        let denoise = |noisy: &Noisy| noisy.denoised_by(&own, self.prediction);
        let noisy = self.method.seen(noisy, &denoise);
        let answer = noisy.denoised_by(network, self.prediction).z0;
        let student = Student {
            network: &own,
            teacher: teacher.as_ref(),
            auxiliary: beside.auxiliary,
            prediction: self.prediction,
            answer: answer.clone().without_autodiff(),
        };
        let target = self.method.target(&noisy, &student);
        DistillationLoss {
            auxiliary: target.auxiliary_loss.clone(),
            student: target.loss(answer),
        }
    }
}

/// Refuses an experiment that would misread its teacher.
fn require_same(
    experiment: &Experiment,
    schedule: &Schedule,
    teacher: &DiffusionModel,
) -> Result<(), TrainError> {
    let differs = |key: &str, own: &dyn std::fmt::Display, teachers: &dyn std::fmt::Display| {
        Err(TrainError::Run(format!(
            "the student cannot learn from its teacher with {key} = {own}, because the teacher has {teachers}: leave the key out"
        )))
    };
    let (own, teachers) = (experiment.stage_2.prediction, teacher.scheduler.prediction);
    if own != teachers {
        return differs("stage_2.prediction", &own.name(), &teachers.name());
    }
    let teachers = Schedule::new(teacher.scheduler.schedule.clone())?;
    let last = (schedule.num_train_timesteps() - 1) as f64;
    let is_same = schedule.num_train_timesteps() == teachers.num_train_timesteps()
        && (0..=10).all(|tenth| {
            let [one, other] =
                [schedule, &teachers].map(|it| it.level(last * f64::from(tenth) / 10.0));
            (one.rates.noise_power() - other.rates.noise_power()).abs() < 1e-3
        });
    match is_same {
        true => Ok(()),
        false => differs("this [schedule]", &"as it is", &"another one"),
    }
}

impl Noisy {
    /// What `network` sees in the noisy images, with its gradients.
    fn denoised_by(&self, network: &UNet2d, prediction: Prediction) -> Denoised {
        let zt = self.zt.clone();
        let labels = self.labels.as_deref();
        denoised(network, prediction, zt, &self.levels, labels)
    }

    /// The same images after a step of DDIM to other levels, with what was `seen` in them.
    fn led_to(&self, levels: Vec<Level>, seen: Denoised) -> Self {
        let rates = batch_rates(&levels, &self.zt.device());
        self.moved_to(rates.add_noise(seen.z0, seen.noise), levels)
    }

    /// Some images of the batch, with these of `zt` and at these levels.
    fn some(&self, images: &[usize], zt: &Tensor<4>, levels: Vec<Level>) -> Self {
        let label = |labels: &Vec<usize>| images.iter().map(|&image| labels[image]).collect();
        Self {
            z0: chosen(&self.z0, images),
            noise: chosen(&self.noise, images),
            zt: chosen(zt, images),
            levels,
            labels: self.labels.as_ref().map(label),
            position: self.position,
        }
    }

    /// The same images at other levels.
    fn moved_to(&self, zt: Tensor<4>, levels: Vec<Level>) -> Self {
        Self {
            zt,
            levels,
            z0: self.z0.clone(),
            noise: self.noise.clone(),
            labels: self.labels.clone(),
            position: self.position,
        }
    }
}

impl Student<'_> {
    /// What the student sees in noisy images.
    fn denoise(&self, noisy: &Noisy) -> Denoised {
        noisy.denoised_by(self.network, self.prediction)
    }
}

impl Target {
    /// The loss `[1]` of the student's clean images, `[batch, channels, height, width]`.
    fn loss(self, z0: Tensor<4>) -> Tensor<1> {
        let device = self.z0.device();
        let means = image_means((z0 - self.z0).square());
        let distances = match self.distance {
            ImageDistance::Squared => means,
            ImageDistance::PseudoHuber => {
                (means + PSEUDO_HUBER * PSEUDO_HUBER).sqrt() - PSEUDO_HUBER
            }
        };
        (distances * per_image(self.weights, &device)).mean()
    }
}

/// The images of a batch at these places.
fn chosen(batch: &Tensor<4>, places: &[usize]) -> Tensor<4> {
    (batch.clone()).select(0, index_tensor(places, &batch.device()))
}

/// The mean over each image, `[batch, 1, 1, 1]`.
fn image_means(images: Tensor<4>) -> Tensor<4> {
    images.mean_dim(1).mean_dim(2).mean_dim(3)
}

/// The image and the noise that `network` sees in `zt` `[batch, channels, height, width]`, which has a level and perhaps
/// a label for each image.
fn denoised(
    network: &UNet2d,
    prediction: Prediction,
    zt: Tensor<4>,
    levels: &[Level],
    labels: Option<&[usize]>,
) -> Denoised {
    let device = zt.device();
    let labels = labels.map(|labels| index_tensor(labels, &device));
    let places = (levels.iter()).map(|level| (level.timestep, level.rates.noise_power()));
    let output = network.forward_at_each(zt.clone(), places, labels);
    prediction.denoised(output, zt, &batch_rates(levels, &device))
}

/// The rates of each image: two tensors `[batch, 1, 1, 1]`.
fn batch_rates(levels: &[Level], device: &Device) -> Rates<Tensor<4>> {
    let rates: Vec<Rates> = levels.iter().map(|level| level.rates).collect();
    Rates::batch(&rates, device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use kiln_diffusion::{ScheduleConfig, ScheduleKind, noise};

    use super::*;

    pub(super) fn schedule() -> Schedule {
        Schedule::new(ScheduleConfig::of(ScheduleKind::Cosine)).unwrap()
    }

    /// Standard normal numbers `[images, 1, 2, 2]`.
    pub(super) fn images(seed: u64, images: usize) -> Tensor<4> {
        let numbers = noise::normal(seed, 0, 0, images * 4);
        Tensor::from_data(TensorData::new(numbers, [images, 1, 2, 2]), &Device::flex())
    }

    /// Noisy images at these timesteps.
    pub(super) fn noisy(timesteps: &[f64]) -> Noisy {
        let levels: Vec<Level> = (timesteps.iter())
            .map(|&timestep| schedule().level(timestep))
            .collect();
        let (z0, noise) = (images(1, timesteps.len()), images(2, timesteps.len()));
        Noisy {
            zt: batch_rates(&levels, &z0.device()).add_noise(z0.clone(), noise.clone()),
            z0,
            noise,
            levels,
            labels: None,
            position: BatchPosition {
                seed: 0,
                step: 0,
                first_image: 0,
                total_images: timesteps.len(),
            },
        }
    }

    pub(super) fn assert_close(one: Tensor<4>, other: Tensor<4>, tolerance: f32) {
        let apart = (one - other).abs().max().into_scalar::<f32>();
        assert!(apart < tolerance, "{apart}");
    }

    #[test]
    fn distances_of_known_images() {
        let z0 = Tensor::<4>::zeros([2, 1, 2, 2], &Device::flex());
        // The differences of the images are 3 and 0.
        let answer = Tensor::<4>::from_floats([[[[3.0]]], [[[0.0]]]], &Device::flex());
        let answer = answer.expand([2, 1, 2, 2]);
        for (distance, expected) in [
            (ImageDistance::Squared, 9.0),
            (ImageDistance::PseudoHuber, 3.0 - PSEUDO_HUBER),
        ] {
            let target = Target {
                z0: z0.clone(),
                weights: vec![4.0, 1.0],
                distance,
                auxiliary_loss: None,
            };
            let loss = f64::from(target.loss(answer.clone()).into_scalar::<f32>());
            assert!(
                (loss - 4.0 * expected / 2.0).abs() < 1e-5,
                "{distance:?}: {loss}"
            );
        }
    }
}
