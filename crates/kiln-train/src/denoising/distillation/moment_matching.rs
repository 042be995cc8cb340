//! Moment matching: after each of its few random steps, the student's images must look to the teacher as to a network that
//! knows nothing but them.

use burn::tensor::{Tensor, TensorData};
use kiln_diffusion::sampler::{PosteriorMean, Variance, step_variance};
use kiln_diffusion::{Level, Schedule, noise, per_image, trailing_levels};
use kiln_models::BatchPosition;

use super::teacher::Teacher;
use super::{ImageDistance, Method, Noisy, Student, Target, image_means};
use crate::denoising::noisy_source::Timesteps;
use crate::error::TrainError;

/// Multistep moment matching (Salimans et al. 2024, algorithm 2): from the noise z of a real image, the student gives a clean
/// image x, and a step of DDPM with x goes to a level in its step, z'. There the guided teacher and an auxiliary network,
/// which learns from the student's images alone, say which clean image they expect, T(z') and A(z'). If the student's images
/// were distributed as the teacher's, both would say the same. So
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
    /// The student's steps in all its walks: the timesteps where they begin and end.
    steps: Vec<[f64; 2]>,
}

/// The least noise power b'² that a weight divides by.
const LEAST_NOISE: f64 = 0.05;

/// The numbers drawn here are others than those of the batch.
const SEED: u64 = 0x6d6f_6d65_6e74_735f;

impl MomentMatching {
    /// For a student that draws in `most` steps, and in half as many, down to the `fewest`.
    pub(super) fn new(
        teacher: Teacher,
        schedule: &Schedule,
        [most, fewest]: [usize; 2],
    ) -> Result<Self, TrainError> {
        Ok(Self {
            teacher,
            steps: steps_of_walks(schedule, [most, fewest])?,
            schedule: schedule.clone(),
        })
    }

    /// For each image a level in a step that begins at its own.
    fn levels_in_step(&self, noisy: &Noisy) -> Vec<Level> {
        let images = (0..).zip(&noisy.levels);
        let levels = images.map(|(image, level)| {
            let begin = |[from, _]: &&[f64; 2]| *from == level.timestep;
            let steps: Vec<_> = self.steps.iter().filter(begin).collect();
            let slot = slot(noisy.position, image);
            // Two numbers for each image and training step.
            let [which, place] = [0, 1].map(|number| {
                noise::uniform(seed(noisy.position), slot, 2 * noisy.position.step + number)
            });
            let timestep = match steps.get((which * steps.len() as f64) as usize) {
                Some([from, to]) => (to + place * (from - to)).floor(),
                None => level.timestep,
            };
            self.schedule.level(timestep)
        });
        levels.collect()
    }
}

/// The steps of all walks from the one with `most` to the one with the `fewest`, each as often as makes the walks equally long.
fn steps_of_walks(
    schedule: &Schedule,
    [most, fewest]: [usize; 2],
) -> Result<Vec<[f64; 2]>, TrainError> {
    let counts = std::iter::successors(Some(most), |steps| Some(steps / 2));
    let mut steps = Vec::new();
    for count in counts.take_while(|&count| count >= fewest.max(1)) {
        let walk = trailing_levels(schedule, count)?;
        // A level below the first timestep is the clean image, in which nothing is left to match.
        let timestep = |level: &Level| level.timestep.max(0.0);
        let walk = walk.array_windows();
        let walk: Vec<_> = (walk.map(|[from, to]| [timestep(from), timestep(to)])).collect();
        steps.extend(walk.repeat(most / count));
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

/// `noisy` images at less noisy `levels`, by a step of DDPM for which the clean images are `z0`, `[batch, channels, height,
/// width]`.
fn ancestors(noisy: &Noisy, z0: &Tensor<4>, levels: Vec<Level>) -> Noisy {
    let (dims, device) = (z0.dims(), z0.device());
    let [_, channels, height, width] = dims;
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
    let fresh = (0..levels.len()).flat_map(|image| {
        let slot = slot(noisy.position, image);
        noise::normal(
            seed(noisy.position),
            slot,
            noisy.position.step,
            channels * height * width,
        )
    });
    let fresh = Tensor::from_data(TensorData::new(fresh.collect(), dims), &device);
    let deviations = pairs().map(|(from, to)| step_variance(from, to, Variance::Small).sqrt());
    let zt = z0.clone() * of_each(means.iter().map(|mean| mean.of_z0).collect())
        + noisy.zt.clone() * of_each(means.iter().map(|mean| mean.of_zt).collect())
        + fresh * of_each(deviations.collect());
    noisy.moved_to(zt, levels)
}

impl Timesteps for MomentMatching {
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64 {
        self.spread(noise::uniform(seed, slot, step), 0)
    }

    fn spread(&self, place: f64, _: usize) -> f64 {
        let [from, _] = self.steps[(place * self.steps.len() as f64) as usize];
        from
    }
}

impl Method for MomentMatching {
    fn target(&self, noisy: &Noisy, student: &Student<'_>) -> Target {
        let z0 = &student.answer;
        let reached = ancestors(noisy, z0, self.levels_in_step(noisy));
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
        MomentMatching::new(teacher, &schedule(), [4, 2]).unwrap()
    }

    #[test]
    fn a_student_learns_the_steps_of_all_its_walks() {
        let steps = steps_of_walks(&schedule(), [4, 2]).unwrap();
        let in_four = [[999.0, 749.0], [749.0, 499.0], [499.0, 249.0], [249.0, 0.0]];
        let in_two = [[999.0, 499.0], [499.0, 0.0]];
        assert_eq!(steps, [&in_four[..], &in_two, &in_two].concat());
        assert_eq!(steps_of_walks(&schedule(), [4, 4]).unwrap(), in_four);
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
        let reached = ancestors(&noisy, &answer, method.levels_in_step(&noisy));
        let difference = reached.denoised_by(&other, Prediction::Velocity).z0
            - method.teacher.denoise(&reached).z0;
        assert_close(answer.clone() - difference, moved.z0, 1e-5);
        assert!((0..3).all(|image| (1.0..=20.0).contains(&moved.weights[image])));
    }
}
