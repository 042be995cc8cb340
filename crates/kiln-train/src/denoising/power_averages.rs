//! Averages of the U-Net's weights that are kept at each checkpoint: post-hoc EMA (Karras et al. 2024, EDM2).

use std::path::PathBuf;

use kiln_models::UNet2d;
use kiln_models::ema::{shadow_of, update};
use kiln_models::power_average::PowerAverage;

use crate::error::TrainError;
use crate::experiment::Stage2Config;
use crate::learner::plan::Plan;
use crate::run_folder::StageFolder;
use crate::run_folder::averages::keep;

/// The averages of a training. Their networks are among the trained ones, so that checkpoints have them.
#[derive(Debug)]
pub(super) struct PowerAverages {
    profiles: Vec<PowerAverage>,
    /// As the experiment writes them.
    lengths: Vec<f64>,
    /// The steps from one checkpoint to the next, and of the training.
    round: usize,
    steps: usize,
    folder: PathBuf,
}

impl PowerAverages {
    pub(super) fn new(stage_2: &Stage2Config, plan: &Plan, folder: &StageFolder) -> Self {
        let lengths = &stage_2.power_averages;
        Self {
            // The experiment was checked.
            profiles: lengths
                .iter()
                .filter_map(|&length| PowerAverage::of_length(length))
                .collect(),
            lengths: lengths.clone(),
            round: plan.round(),
            steps: stage_2.training.steps,
            folder: folder.averages(),
        }
    }

    /// The averages before the first step.
    pub(super) fn shadows(&self, network: &UNet2d) -> Vec<UNet2d> {
        self.profiles.iter().map(|_| shadow_of(network)).collect()
    }

    /// The averages after training step `steps`, from 1, which led to `network`.
    pub(super) fn updated(
        &self,
        averages: Vec<UNet2d>,
        network: &UNet2d,
        steps: usize,
    ) -> Vec<UNet2d> {
        let pairs = averages.into_iter().zip(&self.profiles);
        pairs
            .map(|(average, profile)| update(average, network, profile.decay_at(steps as u64)))
            .collect()
    }

    /// Writes the averages after `steps` training steps, if they end a round or the training.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn keep(&self, averages: &[UNet2d], steps: usize) -> Result<(), TrainError> {
        if !(steps.is_multiple_of(self.round) || steps == self.steps) {
            return Ok(());
        }
        for (average, &length) in averages.iter().zip(&self.lengths) {
            keep(&self.folder, average, steps, length)?;
        }
        Ok(())
    }
}
