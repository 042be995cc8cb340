//! `kiln distill`: a student that draws in few steps.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use kiln_train::{Experiment, train_diffusion, train_latent_diffusion};

use super::drawing::MODEL;
use super::training::{TrainedModels, TrainingArguments};

/// Tune a trained diffusion model into one that draws in 1 to 8 steps.
///
/// The student begins with the teacher's weights and learns to reach in one step what takes the teacher many, with the
/// teacher's guidance if it has one. The config says how ([stage_2.distillation]). What it leaves out is as in the teacher:
/// networks, schedule, prediction and, if the model has the record of its training, the data. The run folder gets what
/// train-latent-diffusion writes; `kiln sample --model RUN/model` then takes 4 steps. Ctrl-C saves a checkpoint and stops;
/// --resume goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln distill --model runs/mnist/model --config configs/mnist-few-steps.toml
  kiln distill --model runs/mnist/model --config configs/mnist-few-steps.toml --set 'stage_2.distillation={method=\"progressive\"}' --out runs/halved")]
pub struct Distill {
    /// The teacher: a trained model, in a folder or on the Hub
    #[arg(long, help_heading = MODEL, value_name = "PATH|ORG/REPO[@REVISION]", required_unless_present = "resume")]
    model: Option<PathBuf>,

    /// Begin with the weights of this student of the same teacher, not with the teacher's: a second distillation, such as
    /// moment matching after consistency distillation
    #[arg(long, help_heading = MODEL, value_name = "PATH|ORG/REPO[@REVISION]", requires = "model")]
    student: Option<PathBuf>,

    #[command(flatten)]
    training: TrainingArguments,
}

impl Distill {
    /// Trains to the end, or until it is interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        if self.model.is_none() && self.training.names_experiment() {
            bail!(
                "a config does not describe a student without its teacher: name the teacher with --model, or leave out --config, because --resume --out RUN knows both"
            );
        }
        let teacher = self.model.map(|place| self.training.model(&place));
        let teacher = teacher.transpose()?;
        // The record of a run, from which it goes on, has everything that was the teacher's.
        let described = teacher.clone().filter(|_| self.training.names_experiment());
        let models = TrainedModels {
            initial_weights: teacher,
            student: self.student,
            ..TrainedModels::default()
        };
        self.training.train(
            "stage_2.training",
            &models,
            move |path, overrides| match &described {
                Some(teacher) => Experiment::load_student(path, overrides, teacher),
                None => Ok(Experiment::load(path, overrides)?),
            },
            |experiment, options, progress| match &experiment.first_stage {
                Some(_) => train_latent_diffusion(experiment, options, progress),
                None => train_diffusion(experiment, options, progress),
            },
        )
    }
}
