//! Consistency distillation: a step of the teacher, and then the student's own answer.

use kiln_diffusion::{Level, Schedule, noise};

use super::teacher::Teacher;
use super::walk::{stepped, trailing};
use super::{ImageDistance, Method, Noisy, Student, Target};
use crate::denoising::noisy_source::Timesteps;
use crate::error::TrainError;

/// Consistency distillation (Song et al. 2023, algorithm 2), with guidance within (latent consistency models, Luo et al.
/// 2023): the teacher walks from each of its levels to the next by a step of DDIM, from z to z', and the student's clean
/// image for z must be its own for z'. For the last step, that is z' itself.
///
/// Without the moving average that the papers take for the second answer: the student itself gives it, as Song and Dhariwal
/// 2023 recommend. What is learnt at low noise then reaches high noise sooner.
#[derive(Debug)]
pub(super) struct ConsistencyDistillation {
    teacher: Teacher,
    /// Of the teacher's walk, down to the clean image.
    levels: Vec<Level>,
}

impl ConsistencyDistillation {
    pub(super) fn new(
        teacher: Teacher,
        schedule: &Schedule,
        steps: usize,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            teacher,
            levels: trailing(schedule, steps)?,
        })
    }

    /// The teacher's steps.
    fn steps(&self) -> usize {
        self.levels.len() - 1
    }
}

impl Timesteps for ConsistencyDistillation {
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64 {
        self.spread(noise::uniform(seed, slot, step), 0)
    }

    fn spread(&self, place: f64, _: usize) -> f64 {
        let step = (place * self.steps() as f64) as usize;
        self.levels[step].timestep
    }
}

impl Method for ConsistencyDistillation {
    fn target(&self, noisy: &Noisy, student: &Student<'_>, _: usize) -> Target {
        let noisy = stepped(&self.levels, noisy, self.teacher.denoise(noisy));
        Target {
            weights: vec![1.0; noisy.levels.len()],
            z0: student.clean(&noisy),
            distance: ImageDistance::PseudoHuber,
        }
    }
}
