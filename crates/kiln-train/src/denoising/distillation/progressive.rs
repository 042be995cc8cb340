//! Progressive distillation: one step in place of two, again and again.

use kiln_diffusion::{Level, Schedule, noise, trailing_levels};

use super::teacher::Teacher;
use super::walk::{leads_to, stepped};
use super::{ImageDistance, Method, Noisy, Student, Target};
use crate::denoising::noisy_source::Timesteps;
use crate::error::TrainError;

/// Progressive distillation (Salimans and Ho 2022, algorithm 2): two steps of DDIM by the teacher lead from z by z' to z''.
/// The student's clean image for z must be the one by which a single step leads there:
///
/// ```text
/// x = (z'' - b''/b z) / (a'' - b''/b a),    with the weight max(a² / b², 1)
/// ```
#[derive(Debug)]
pub(super) struct Progressive {
    /// The first teacher. The others are students.
    teacher: Teacher,
    /// For each student in turn, its teacher's levels: every second one is the student's.
    walks: Vec<Vec<Level>>,
    /// The training steps after which a student becomes the teacher of the next one.
    new_teachers_after: Vec<usize>,
}

impl Progressive {
    /// From a student with `first_steps` to one with `last_steps`, each with `halve_every` training steps.
    pub(super) fn new(
        teacher: Teacher,
        schedule: &Schedule,
        [first_steps, last_steps]: [usize; 2],
        halve_every: usize,
    ) -> Result<Self, TrainError> {
        let (walks, new_teachers_after) = walks(schedule, [first_steps, last_steps], halve_every)?;
        Ok(Self {
            teacher,
            walks,
            new_teachers_after,
        })
    }

    /// The number of the student that learns in training step `step`.
    fn student(&self, step: usize) -> usize {
        student_in(&self.new_teachers_after, step)
    }
}

/// The walks of all teachers, and the training steps after which a student becomes the next one.
fn walks(
    schedule: &Schedule,
    [first_steps, last_steps]: [usize; 2],
    halve_every: usize,
) -> Result<(Vec<Vec<Level>>, Vec<usize>), TrainError> {
    let students = std::iter::successors(Some(first_steps), |steps| Some(steps / 2));
    let students = students.take_while(|&steps| steps >= last_steps.max(1));
    let walks = students.map(|steps| trailing_levels(schedule, 2 * steps));
    let walks = walks.collect::<Result<Vec<_>, _>>()?;
    let changes = (1..walks.len()).map(|number| number * halve_every);
    Ok((walks, changes.collect()))
}

/// The number of the student that learns in training step `step`.
fn student_in(new_teachers_after: &[usize], step: usize) -> usize {
    let before = new_teachers_after.iter();
    before.filter(|&&steps| steps <= step).count()
}

impl Timesteps for Progressive {
    fn drawn(&self, seed: u64, slot: u64, step: u64) -> f64 {
        self.spread(noise::uniform(seed, slot, step), step as usize)
    }

    fn spread(&self, place: f64, step: usize) -> f64 {
        let walk = &self.walks[self.student(step)];
        let step = (place * (walk.len() / 2) as f64) as usize;
        walk[2 * step].timestep
    }
}

impl Method for Progressive {
    fn target(&self, noisy: &Noisy, student: &Student<'_>) -> Target {
        let number = self.student(noisy.position.step as usize);
        let walk = &self.walks[number];
        let ask = |noisy: &Noisy| match student.teacher.filter(|_| number > 0) {
            Some(before) => noisy.denoised_by(before, student.prediction),
            None => self.teacher.denoise(noisy),
        };
        let middle = stepped(walk, noisy, ask(noisy));
        let end = stepped(walk, &middle, ask(&middle));
        Target {
            z0: leads_to(noisy, &end),
            weights: noisy
                .levels
                .iter()
                .map(|level| snr(level).max(1.0))
                .collect(),
            distance: ImageDistance::Squared,
            auxiliary_loss: None,
        }
    }

    fn new_teachers_after(&self) -> &[usize] {
        &self.new_teachers_after
    }
}

/// a² / b²
fn snr(level: &Level) -> f64 {
    (level.rates.signal / level.rates.noise).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoising::distillation::tests::schedule;

    #[test]
    fn students_follow_each_other_and_learn_at_their_own_levels() {
        let steps = |walks: &[Vec<Level>]| {
            walks
                .iter()
                .map(|walk| (walk.len() - 1) / 2)
                .collect::<Vec<_>>()
        };
        let (walks, changes) = walks(&schedule(), [16, 4], 50).unwrap();
        assert_eq!(steps(&walks), [16, 8, 4]);
        assert_eq!(changes, [50, 100]);
        for (step, expected) in [(0, 0), (49, 0), (50, 1), (99, 1), (100, 2), (1000, 2)] {
            assert_eq!(student_in(&changes, step), expected);
        }
        // The levels of a student are those that it draws from.
        let drawn: Vec<f64> = walks[2]
            .iter()
            .step_by(2)
            .map(|level| level.timestep)
            .collect();
        let draws = trailing_levels(&schedule(), 4).unwrap();
        assert_eq!(
            drawn,
            draws.iter().map(|level| level.timestep).collect::<Vec<_>>()
        );
        assert_eq!(drawn[..4], [999.0, 749.0, 499.0, 249.0]);
    }
}
