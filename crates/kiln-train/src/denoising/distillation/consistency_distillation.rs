//! Consistency distillation: a step of the teacher, and then the student's own answer.

use kiln_diffusion::sampler::end_of_segment;
use kiln_diffusion::{Level, Schedule, noise, trailing_levels};

use super::teacher::Teacher;
use super::walk::{leads_to, stepped};
use super::{ImageDistance, Method, Noisy, Student, Target};
use crate::denoising::noisy_source::Timesteps;
use crate::error::TrainError;

/// Consistency distillation (Song et al. 2023, algorithm 2), with guidance within (latent consistency models, Luo et al.
/// 2023): the teacher walks from each of its levels to the next by a step of DDIM, from z to z', and the student's clean
/// image for z must be its own for z'. For the last step, that is z' itself.
///
/// With more than one segment, these are multistep consistency models (Heek et al. 2024): the walk is cut into pieces, and
/// the student must agree with itself only on where a piece ends. Its clean image for z is the one by which one step of DDIM
/// leads where a step with its own clean image for z' does: to the end of their piece.
///
/// Without the moving average that the papers take for the second answer: the student itself gives it, as Song and Dhariwal
/// 2023 recommend. What is learnt at low noise then reaches high noise sooner.
#[derive(Debug)]
pub(super) struct ConsistencyDistillation {
    teacher: Teacher,
    /// Of the teacher's walk, down to the clean image.
    walk: Vec<Level>,
    /// The ends of the student's segments: some of the teacher's levels.
    ends: Vec<Level>,
}

impl ConsistencyDistillation {
    /// From `steps` of the teacher to one step of the student in each of so many `segments`, which divide them.
    pub(super) fn new(
        teacher: Teacher,
        schedule: &Schedule,
        steps: usize,
        segments: usize,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            teacher,
            walk: trailing_levels(schedule, steps)?,
            ends: trailing_levels(schedule, segments)?,
        })
    }

    /// The teacher's steps.
    fn steps(&self) -> usize {
        self.walk.len() - 1
    }
}

impl Timesteps for ConsistencyDistillation {
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64 {
        self.spread(noise::uniform(seed, slot, step), 0)
    }

    fn spread(&self, place: f64, _: usize) -> f64 {
        let step = (place * self.steps() as f64) as usize;
        self.walk[step].timestep
    }
}

impl Method for ConsistencyDistillation {
    fn target(&self, noisy: &Noisy, student: &Student<'_>) -> Target {
        let next = stepped(&self.walk, noisy, self.teacher.denoise(noisy));
        let ends = noisy.levels.iter();
        let ends = (ends.map(|&level| end_of_segment(&self.ends, level))).collect();
        // Where z' is the end of its segment already, this leaves it as it is.
        let end = next.led_to(ends, student.denoise(&next));
        Target {
            weights: vec![1.0; noisy.levels.len()],
            z0: leads_to(noisy, &end),
            distance: ImageDistance::PseudoHuber,
            auxiliary_loss: None,
        }
    }
}
