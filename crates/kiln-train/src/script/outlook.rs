//! What a training will be like, before it starts.

use std::path::PathBuf;
use std::time::Duration;

use kiln_data::{Datasets, Progress};
use kiln_hub::HubSettings;
use kiln_pipeline::Devices;
use serde::Serialize;

use crate::error::TrainError;
use crate::learner::plan::Plan;
use crate::run_folder::RunFolder;
use crate::script::Stage;
use crate::script::options::RunOptions;
use crate::script::trial::{Pace, trial};

/// How a training is looked at before it starts.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The training's images, opened as its `[data]` says.
    pub datasets: Datasets,
    /// The devices that will compute.
    pub devices: Devices,
    /// The source of what may have to be fetched: a frozen network's weights.
    pub hub: HubSettings,
    /// The trained model that a distillation learns from.
    pub teacher: Option<PathBuf>,
    /// For about how long steps are timed. `None` times none, and loads no teacher and no frozen network.
    pub measure: Option<Duration>,
}

/// What a training will be like.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Outlook {
    /// As in [`TrainingReport::stage`](crate::TrainingReport::stage).
    pub stage: &'static str,
    /// The networks that it trains.
    pub networks: Vec<NetworkWeights>,
    /// The estimated peak memory of the process without its images, in bytes; absent if there is no estimate, as on a GPU.
    pub memory: Option<f64>,
    /// Images of a step, over all devices.
    pub step_images: usize,
    /// Updates of the weights in the whole training.
    pub steps: usize,
    /// Steps in which each training image is seen once, as a mean.
    pub steps_per_pass: f64,
    /// Passes over the training images.
    pub passes: f64,
    /// The measured speed, if it was to be measured.
    pub pace: Option<Pace>,
}

/// A network to train.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkWeights {
    /// Its table in the config, such as `unet`.
    pub name: &'static str,
    /// The number of its weights.
    pub parameters: usize,
}

impl Outlook {
    /// The seconds of all steps, if their speed was measured: without validations, pictures and checkpoints.
    pub fn seconds(&self) -> Option<f64> {
        Some(self.pace?.seconds_per_step * self.steps as f64)
    }

    /// The seconds of a pass over the training images, if the speed was measured.
    pub fn seconds_per_pass(&self) -> Option<f64> {
        Some(self.pace?.seconds_per_step * self.steps_per_pass)
    }
}

/// Looks at the training of `stage`, with the checks of a training. Its speed is still to be measured.
///
/// # Errors
/// Those with which the training would be refused.
pub(crate) fn outlook<S: Stage>(stage: &S, preview: &Preview) -> Result<Outlook, TrainError> {
    let Preview {
        datasets, devices, ..
    } = preview;
    let training = stage.training();
    devices.check_precision(training.precision)?;
    stage.check_memory(devices)?;
    stage.check_data(datasets)?;
    let passes = datasets.train.passes();
    let plan = Plan::new(training, passes, devices.all().len(), stage.seed());
    plan.check(stage.table())?;
    if let Some(warning) = plan.warning() {
        tracing::warn!("{}: {warning}", stage.table());
    }
    let networks = stage.weights(datasets)?.into_iter();
    Ok(Outlook {
        stage: stage.name(),
        networks: networks
            .map(|(name, parameters)| NetworkWeights { name, parameters })
            .collect(),
        memory: stage.memory(devices)?,
        step_images: plan.step_images(),
        steps: training.steps,
        steps_per_pass: 1.0 / plan.passes(1),
        passes: plan.passes(training.steps),
        pace: None,
    })
}

/// Times steps of `stage` from step `first` on, on `datasets`, in a folder that is gone afterwards, if `preview` is to
/// measure. `furnish` puts into that folder what the stage needs to find there.
///
/// # Errors
/// Those of the training's start and of its steps.
pub(crate) fn pace<S: Stage>(
    stage: &S,
    preview: &Preview,
    datasets: impl FnOnce() -> Result<Datasets, TrainError>,
    first: usize,
    furnish: impl FnOnce(&RunFolder) -> Result<(), TrainError>,
    progress: &dyn Progress,
) -> Result<Option<Pace>, TrainError> {
    let Some(limit) = preview.measure else {
        return Ok(None);
    };
    let folder = tempfile::tempdir();
    let folder = folder.map_err(TrainError::file("make a folder in", &std::env::temp_dir()))?;
    furnish(&RunFolder::new(folder.path()))?;
    let options = RunOptions {
        data: Some(datasets()?),
        devices: preview.devices.clone(),
        hub: preview.hub.clone(),
        initial_weights: preview.teacher.clone(),
        ..RunOptions::new(folder.path())
    };
    trial(stage, &options, first, limit, progress).map(Some)
}
