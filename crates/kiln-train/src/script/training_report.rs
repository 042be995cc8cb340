//! The result of a stage's training.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::counted;
use crate::error::TrainError;
use crate::experiment::TrainingConfig;
use crate::learner::launch::Outcome;
use crate::learner::plan::Plan;
use crate::script::start::Start;

/// The result of a stage's training.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingReport {
    /// `vqvae`, `latent-diffusion`, `diffusion` or `classifier`.
    pub stage: &'static str,
    /// All steps done.
    pub steps: usize,
    /// The steps that were done now, not before a resume. Zero if the stage was finished before.
    pub new_steps: usize,
    /// The experiment's number of steps.
    pub of_steps: usize,
    /// Whether a requested stop ended it early, be it in the last validation; a checkpoint was saved.
    pub interrupted: bool,
    /// The seconds of this run, including validation and pictures.
    pub seconds: f64,
    /// The seconds of a pass over the training images, at this run's speed; absent if less than a pass was done.
    pub seconds_per_pass: Option<f64>,
    /// The trained network, a folder or the classifier's file, if training is finished.
    pub model: Option<PathBuf>,
    /// The model of the best checkpoint, if drawn images were measured to find one.
    pub best: Option<PathBuf>,
    /// Whether there was nothing to do.
    #[serde(skip)]
    was_finished: bool,
}

impl TrainingReport {
    /// `model` is the destination of the finished network.
    pub(crate) fn new<M>(
        stage: &'static str,
        outcome: &Outcome<M>,
        training: &TrainingConfig,
        plan: &Plan,
        model: PathBuf,
    ) -> Self {
        let finished = outcome.steps_done >= training.steps;
        let passes = plan.passes(outcome.steps);
        Self {
            stage,
            steps: outcome.steps_done,
            new_steps: outcome.steps,
            of_steps: training.steps,
            interrupted: !finished || outcome.owes_validation,
            seconds: outcome.seconds,
            seconds_per_pass: (passes >= 1.0).then_some(outcome.seconds / passes),
            model: finished.then_some(model),
            best: None,
            was_finished: false,
        }
    }

    /// The report if there is nothing left to do: `model` has the network, `trained` for that many steps.
    ///
    /// # Errors
    /// The errors of [`Start::is_finished`].
    pub(crate) fn if_finished_before(
        stage: &'static str,
        start: &Start,
        of_steps: usize,
        model: PathBuf,
        trained: impl FnOnce(&Path) -> Option<usize>,
    ) -> Result<Option<Self>, TrainError> {
        let is_finished = start.is_finished(of_steps, || trained(&model))?;
        Ok(is_finished.then(|| Self {
            stage,
            steps: start.session.steps_done(),
            new_steps: 0,
            of_steps,
            interrupted: false,
            seconds: 0.0,
            seconds_per_pass: None,
            model: Some(model),
            best: None,
            was_finished: true,
        }))
    }
}

impl fmt::Display for TrainingReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stage,
            steps,
            new_steps,
            of_steps,
            seconds,
            ..
        } = self;
        match &self.model {
            Some(model) if self.was_finished => write!(
                formatter,
                "{stage}: finished before, after {}; the model is in {}; more steps than that (--set) would go on",
                counted(*steps, "step"),
                model.display()
            ),
            Some(model) if self.interrupted => write!(
                formatter,
                "{stage}: stopped after its last step, {of_steps}, before the end of the validation, which --resume does; the model is in {}",
                model.display()
            ),
            Some(model) => {
                let unit = if *new_steps == 1 { "step" } else { "steps" };
                match new_steps {
                    0 => write!(formatter, "{stage}: no step was left to do")?,
                    _ => write!(formatter, "{stage}: {new_steps} {unit} in {seconds:.0} s")?,
                }
                if let Some(seconds) = self.seconds_per_pass {
                    write!(formatter, " ({seconds:.1} s a pass over the data)")?;
                }
                if new_steps != steps {
                    write!(formatter, ", {steps} in all")?;
                }
                write!(formatter, "; the model is in {}", model.display())?;
                match &self.best {
                    Some(best) => {
                        write!(
                            formatter,
                            ", that of the best checkpoint in {}",
                            best.display()
                        )
                    }
                    None => Ok(()),
                }
            }
            None => write!(
                formatter,
                "{stage}: stopped and saved after {steps} of {}; --resume continues",
                counted(*of_steps, "step")
            ),
        }
    }
}
