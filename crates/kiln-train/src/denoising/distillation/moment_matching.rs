//! Moment matching: after each of its few random steps, the student's images must look to the teacher as to a network that
//! knows nothing but them.
//!
//! A step begins at a real image with noise, or where the student's own steps have led, as when it draws ("backward simulation",
//! Yin et al. 2024, "Improved Distribution Matching Distillation", section 4.4). From real images alone it would not learn to
//! correct its own errors.

use std::iter::repeat_n;

use burn::tensor::{Tensor, TensorData, s};
use kiln_diffusion::sampler::{PosteriorMean, Variance, step_variance};
use kiln_diffusion::{Level, Schedule, noise, per_image, trailing_levels};
use kiln_models::BatchPosition;

use super::teacher::Teacher;
use super::{Denoise, ImageDistance, Method, Noisy, Student, Target, chosen, image_means};
use crate::denoising::noisy_source::Timesteps;
use crate::error::TrainError;

/// Multistep moment matching (Salimans et al. 2024, algorithm 2): from a noisy image z, the student gives a clean image x, and a
/// step of DDPM with x goes to a level in its step, z'. There the guided teacher and an auxiliary network, which learns from the
/// student's images alone, say which clean image they expect, T(z') and A(z'). If the student's images were distributed as the
/// teacher's, both would say the same. So
///
/// ```text
/// student:    w mean(x (A(z') - T(z')))                    whose gradient for x is the difference of the two moments
/// auxiliary:  w (mean((A(z') - x)²) + mean((A(z') - T(z'))²))
/// w = 1 / max(b'², 0.05)                                   of an error of the velocity, but for small noise
/// ```
///
/// Gradients flow neither through z' nor through the teacher. Both networks learn in the same training step, from the same
/// images. The auxiliary network begins as the teacher without guidance.
#[derive(Debug)]
pub(super) struct MomentMatching {
    teacher: Teacher,
    schedule: Schedule,
    /// The student's steps in all its walks.
    steps: Vec<Step>,
    /// The share of the images that the student's own steps have led to their levels.
    simulated: f64,
}

/// A step of a walk.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    /// The timesteps of the walk from pure noise to where the step begins.
    way: Vec<f64>,
    /// The timestep where it ends.
    end: f64,
}

impl Step {
    fn begin(&self) -> f64 {
        self.way.last().copied().unwrap_or_default()
    }
}

/// The least noise power b'² that a weight divides by.
const LEAST_NOISE: f64 = 0.05;

/// The numbers drawn here are others than those of the batch.
const SEED: u64 = 0x6d6f_6d65_6e74_735f;
const SIMULATION: u64 = 0x7369_6d75_6c61_7465;

impl MomentMatching {
    /// For a student that draws in `most` steps, and in half as many, down to the `fewest`.
    pub(super) fn new(
        teacher: Teacher,
        schedule: &Schedule,
        [most, fewest]: [usize; 2],
        simulated: f64,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            teacher,
            steps: steps_of_walks(schedule, [most, fewest])?,
            schedule: schedule.clone(),
            simulated,
        })
    }

    /// For each image the step that the student takes: one that begins at its level.
    fn steps_of<'a>(&'a self, noisy: &'a Noisy) -> impl Iterator<Item = Option<&'a Step>> {
        (0..).zip(&noisy.levels).map(|(image, level)| {
            let begins = |step: &&Step| step.begin() == level.timestep;
            let steps: Vec<_> = self.steps.iter().filter(begins).collect();
            let which = noise::uniform(
                seed(noisy.position),
                slot(noisy.position, image),
                2 * noisy.position.step,
            );
            steps.get((which * steps.len() as f64) as usize).copied()
        })
    }

    /// For each image a level in its step.
    fn levels_in_step(&self, noisy: &Noisy) -> Vec<Level> {
        let images = (0..).zip(&noisy.levels).zip(self.steps_of(noisy));
        let levels = images.map(|((image, level), step)| {
            let place = noise::uniform(
                seed(noisy.position),
                slot(noisy.position, image),
                2 * noisy.position.step + 1,
            );
            let timestep = match step {
                Some(step) => (step.end + place * (step.begin() - step.end)).floor(),
                None => level.timestep,
            };
            self.schedule.level(timestep)
        });
        levels.collect()
    }

    /// The ways of the images to which the student's own steps lead: the image's place in the batch, and the timesteps.
    fn ways<'a>(&'a self, noisy: &'a Noisy) -> Vec<(usize, &'a [f64])> {
        let steps = self.steps_of(noisy).enumerate();
        let ways = steps.filter_map(|(image, step)| Some((image, step?.way.as_slice())));
        let is_simulated = |&(image, way): &(usize, &[f64])| {
            let seed = seed(noisy.position) ^ SIMULATION;
            let place = noise::uniform(seed, slot(noisy.position, image), noisy.position.step);
            way.len() > 1 && place < self.simulated
        };
        ways.filter(is_simulated).collect()
    }
}

/// The steps of all walks from the one with `most` to the one with the `fewest`, each as often as makes the walks equally long.
fn steps_of_walks(
    schedule: &Schedule,
    [most, fewest]: [usize; 2],
) -> Result<Vec<Step>, TrainError> {
    let counts = std::iter::successors(Some(most), |steps| Some(steps / 2));
    let mut steps = Vec::new();
    for count in counts.take_while(|&count| count >= fewest.max(1)) {
        let walk = trailing_levels(schedule, count)?;
        // A level below the first timestep is the clean image, in which nothing is left to match.
        let walk: Vec<f64> = walk.iter().map(|level| level.timestep.max(0.0)).collect();
        let walk: Vec<Step> = (1..walk.len())
            .map(|end| Step {
                way: walk[..end].to_vec(),
                end: walk[end],
            })
            .collect();
        steps.extend(repeat_n(walk, most / count).flatten());
    }
    Ok(steps)
}

fn seed(position: BatchPosition) -> u64 {
    position.seed ^ SEED
}

/// The place in the whole training step of an image of this batch.
fn slot(position: BatchPosition, image: usize) -> u64 {
    (position.first_image + image) as u64
}

/// Standard normal numbers `[batch, channels, height, width]` for the images at these places of the batch.
fn fresh_noise(
    seed: u64,
    position: BatchPosition,
    images: &[usize],
    like: &Tensor<4>,
) -> Tensor<4> {
    let [_, channels, height, width] = like.dims();
    let numbers = images.iter().flat_map(|&image| {
        let slot = slot(position, image);
        noise::normal(seed, slot, position.step, channels * height * width)
    });
    let data = TensorData::new(numbers.collect(), [images.len(), channels, height, width]);
    Tensor::from_data(data, &like.device())
}

/// `noisy` images at less noisy `levels`, by a step of DDPM for which the clean images are `z0`, all `[batch, channels, height,
/// width]`, as the `fresh` noise is.
fn ancestors(noisy: &Noisy, z0: &Tensor<4>, levels: Vec<Level>, fresh: Tensor<4>) -> Noisy {
    let device = z0.device();
    let pairs = || {
        noisy
            .levels
            .iter()
            .zip(&levels)
            .map(|(from, to)| (from.rates, to.rates))
    };
    let means: Vec<PosteriorMean> = pairs()
        .map(|(from, to)| PosteriorMean::between(from, to))
        .collect();
    let of_each = |numbers: Vec<f64>| per_image(numbers, &device);
    let deviations = pairs().map(|(from, to)| step_variance(from, to, Variance::Small).sqrt());
    let zt = z0.clone() * of_each(means.iter().map(|mean| mean.of_z0).collect())
        + noisy.zt.clone() * of_each(means.iter().map(|mean| mean.of_zt).collect())
        + fresh * of_each(deviations.collect());
    noisy.moved_to(zt, levels)
}

/// A batch with other images at these places.
fn with_images(batch: Tensor<4>, places: &[usize], images: Tensor<4>) -> Tensor<4> {
    (places.iter().enumerate()).fold(batch, |batch, (from, &to)| {
        batch.slice_assign(s![to..to + 1], images.clone().narrow(0, from, 1))
    })
}

impl Timesteps for MomentMatching {
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64 {
        self.spread(noise::uniform(seed, slot, step), 0)
    }

    fn spread(&self, place: f64, _: usize) -> f64 {
        self.steps[(place * self.steps.len() as f64) as usize].begin()
    }
}

impl Method for MomentMatching {
    /// Some of the images are led to their levels by the student's own steps, from pure noise.
    fn seen(&self, noisy: Noisy, student: Denoise<'_>) -> Noisy {
        let mut ways = self.ways(&noisy);
        if ways.is_empty() {
            return noisy;
        }
        let places =
            |ways: &[(usize, _)]| -> Vec<usize> { ways.iter().map(|&(place, _)| place).collect() };
        let images = places(&ways);
        let pure_noise = chosen(&noisy.noise, &images);
        let mut zt = with_images(noisy.zt.clone(), &images, pure_noise);
        for end in 1.. {
            ways.retain(|(_, way)| way.len() > end);
            if ways.is_empty() {
                break;
            }
            let images = places(&ways);
            let levels = |at: usize| -> Vec<Level> {
                let level = |(_, way): &(usize, &[f64])| self.schedule.level(way[at]);
                ways.iter().map(level).collect()
            };
            let walking = noisy.some(&images, &zt, levels(end - 1));
            let z0 = student(&walking).z0;
            let seed = seed(noisy.position) ^ SIMULATION.rotate_left(end as u32);
            let fresh = fresh_noise(seed, noisy.position, &images, &z0);
            let reached = ancestors(&walking, &z0, levels(end), fresh);
            zt = with_images(zt, &images, reached.zt);
        }
        let levels = noisy.levels.clone();
        noisy.moved_to(zt, levels)
    }

    fn target(&self, noisy: &Noisy, student: &Student<'_>) -> Target {
        let z0 = &student.answer;
        let images: Vec<usize> = (0..noisy.levels.len()).collect();
        let fresh = fresh_noise(seed(noisy.position), noisy.position, &images, z0);
        let reached = ancestors(noisy, z0, self.levels_in_step(noisy), fresh);
        let of_teacher = self.teacher.denoise(&reached).z0;
        let auxiliary = student.auxiliary.unwrap_or(student.network);
        let own = reached.denoised_by(auxiliary, student.prediction).z0;

        let powers = reached.levels.iter().map(|level| level.rates.noise_power());
        let weights: Vec<f64> = powers.map(|power| 1.0 / power.max(LEAST_NOISE)).collect();
        let error = |expected: &Tensor<4>| image_means((own.clone() - expected.clone()).square());
        let errors = error(z0) + error(&of_teacher);
        let difference = own.clone().without_autodiff() - of_teacher.clone();
        Target {
            auxiliary_loss: Some((errors * per_image(weights.clone(), &z0.device())).mean()),
            // The gradient of mean(d²) / 2 at this distance is d.
            z0: z0.clone() - difference,
            weights,
            distance: ImageDistance::Squared,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_checkpoint::DiffusionModel;
    use kiln_diffusion::sampler::ddpm;
    use kiln_diffusion::{Denoised, Prediction};

    use super::*;
    use crate::denoising::distillation::teacher::tests::{config, model, network};
    use crate::denoising::distillation::tests::{assert_close, images, noisy, schedule};

    fn method(teacher: DiffusionModel) -> MomentMatching {
        let teacher = Teacher::new(teacher, &config("")).unwrap();
        MomentMatching::new(teacher, &schedule(), [4, 2], 0.0).unwrap()
    }

    #[test]
    fn a_student_learns_the_steps_of_all_its_walks() {
        let steps = |walks| steps_of_walks(&schedule(), walks).unwrap();
        let walk = |timesteps: &[f64]| -> Vec<Step> {
            let step = |end: usize| Step {
                way: timesteps[..end].to_vec(),
                end: timesteps[end],
            };
            (1..timesteps.len()).map(step).collect()
        };
        let in_four = walk(&[999.0, 749.0, 499.0, 249.0, 0.0]);
        let in_two = walk(&[999.0, 499.0, 0.0]);
        assert_eq!(steps([4, 2]), [&in_four[..], &in_two, &in_two].concat());
        assert_eq!(steps([4, 4]), in_four);
    }

    #[test]
    fn levels_lie_in_a_step_that_begins_at_the_images_own() {
        let method = method(model(None, false));
        let noisy = noisy(&[999.0, 749.0, 249.0].repeat(100));
        let levels = method.levels_in_step(&noisy);
        for (least, most, first) in [(499.0, 998.0, 0), (499.0, 748.0, 1), (0.0, 248.0, 2)] {
            let timesteps = levels
                .iter()
                .skip(first)
                .step_by(3)
                .map(|level| level.timestep);
            let (low, high) = timesteps.fold((f64::MAX, 0.0_f64), |(low, high), timestep| {
                (low.min(timestep), high.max(timestep))
            });
            let edge = 0.1 * (most - least);
            assert!(least <= low && low < least + edge, "{first}: {low}");
            assert!(most - edge < high && high <= most, "{first}: {high}");
        }
    }

    #[test]
    fn images_reach_their_levels_by_ddpm() {
        let noisy = noisy(&[999.0, 499.0]);
        let z0 = images(3, 2);
        let reached = ancestors(
            &noisy,
            &z0,
            [700.0, 30.0]
                .map(|timestep| schedule().level(timestep))
                .to_vec(),
            fresh_noise(seed(noisy.position), noisy.position, &[0, 1], &z0),
        );
        for (image, (from, to)) in noisy.levels.iter().zip(&reached.levels).enumerate() {
            let alone = |images: &Tensor<4>| images.clone().narrow(0, image, 1);
            let denoiser = |zt: Tensor<4>, _: Level| Denoised {
                z0: alone(&z0),
                noise: zt,
            };
            let mut fresh = |_: usize| {
                let position = noisy.position;
                let numbers = noise::normal(seed(position), image as u64, position.step, 4);
                Tensor::from_data(TensorData::new(numbers, [1, 1, 2, 2]), &Device::flex())
            };
            let mut steps = Vec::new();
            ddpm(
                &denoiser,
                alone(&noisy.zt),
                &[*from, *to, schedule().level(0.0)],
                Variance::Small,
                &mut fresh,
                &mut |taken| steps.push(taken.z.clone()),
            );
            assert_close(alone(&reached.zt), steps[0].clone(), 1e-5);
        }
    }

    #[test]
    fn a_simulated_image_is_where_the_students_walk_leads() {
        let mut method = method(model(None, false));
        method.simulated = 1.0;
        let noisy = noisy(&[749.0, 999.0, 249.0]);
        let student = network(None, 3);
        let denoise = |noisy: &Noisy| noisy.denoised_by(&student, Prediction::Velocity);
        let seen = method.seen(noisy.clone(), &denoise);
        let image = |images: &Tensor<4>, at| images.clone().narrow(0, at, 1);
        // The walk of the last image: three steps from pure noise, each with its own new noise.
        let walk = [999.0, 749.0, 499.0, 249.0].map(|timestep| schedule().level(timestep));
        let mut walking = noisy.some(&[2], &noisy.noise, vec![walk[0]]);
        for (step, level) in (1..).zip(&walk[1..]) {
            let z0 = denoise(&walking).z0;
            let seed = seed(noisy.position) ^ SIMULATION.rotate_left(step);
            let fresh = fresh_noise(seed, noisy.position, &[2], &z0);
            walking = ancestors(&walking, &z0, vec![*level], fresh);
        }
        assert_close(image(&seen.zt, 2), walking.zt, 1e-5);
        // A walk begins with the second one, and the first is one step away.
        assert_close(image(&seen.zt, 1), image(&noisy.zt, 1), 1e-6);
        let apart = (image(&seen.zt, 0) - image(&noisy.zt, 0)).abs().max();
        assert!(apart.into_scalar::<f32>() > 0.1);
        assert_eq!(seen.levels, noisy.levels);
        method.simulated = 0.0;
        assert_close(method.seen(noisy.clone(), &denoise).zt, noisy.zt, 1e-9);
    }

    /// If the auxiliary network knows as much as the teacher, nothing is to be learnt; otherwise the answer moves by the
    /// difference of the two.
    #[test]
    fn answers_move_by_what_the_teacher_sees_otherwise() {
        let mut teacher = model(None, false);
        teacher.scheduler.clip = None;
        let method = method(teacher);
        let noisy = noisy(&[999.0, 499.0, 249.0]);
        let [own, other] = [network(None, 1), network(None, 5)];
        let answer = images(3, 3);
        let target = |auxiliary| {
            let student = Student {
                network: &other,
                teacher: None,
                auxiliary: Some(auxiliary),
                prediction: Prediction::Velocity,
                answer: answer.clone(),
            };
            method.target(&noisy, &student)
        };
        assert_close(target(&own).z0, answer.clone(), 1e-5);
        let moved = target(&other);
        let fresh = fresh_noise(seed(noisy.position), noisy.position, &[0, 1, 2], &answer);
        let reached = ancestors(&noisy, &answer, method.levels_in_step(&noisy), fresh);
        let difference = reached.denoised_by(&other, Prediction::Velocity).z0
            - method.teacher.denoise(&reached).z0;
        assert_close(answer.clone() - difference, moved.z0, 1e-5);
        assert!((0..3).all(|image| (1.0..=20.0).contains(&moved.weights[image])));
    }
}
