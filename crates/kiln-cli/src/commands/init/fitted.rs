//! Makes an experiment that fits a data set and this machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kiln_data::{DataConfig, Datasets};
use kiln_hub::HubSettings;
use kiln_models::free_memory;
use kiln_train::{Experiment, Preview, memory_of_training};

use super::choices::{Choices, Space, Wishes};
use super::experiment::Written;
use super::length::Lengths;
use super::look::Look;
use crate::commands::expectations::StageOutlook;
use crate::commands::trainable::Trainable;
use crate::terminal::DataProgress;

/// For about how long steps are timed, over all stages.
const MEASURED: Duration = Duration::from_secs(10);
/// The largest share of the free memory that a training may need.
const SHARE_OF_MEMORY: f64 = 0.5;

/// An experiment that was made for a data set.
pub struct Fitted {
    /// The TOML.
    pub text: String,
    /// What the TOML says.
    pub trainable: Trainable,
    /// The images.
    pub datasets: Datasets,
    /// What its stages will be like, with their time.
    pub stages: Vec<StageOutlook>,
    /// The choices.
    pub choices: Choices,
    /// In bytes, if the system tells.
    pub free_memory: Option<u64>,
}

/// Makes an experiment for what was found by `look`. `origin` is the command that asks for it, `config` the file that the
/// experiment will be in, and `arguments` are those of its trainings.
///
/// # Errors
/// If the data cannot be trained on, or a step fails.
pub fn fitted(
    look: &Look,
    wishes: &Wishes,
    hub: &HubSettings,
    origin: &str,
    config: &Path,
    arguments: &[String],
) -> anyhow::Result<Fitted> {
    let mut choices = Choices::for_images(look, wishes)?;
    let data = DataConfig {
        size: choices.size,
        channels: choices.channels,
        ..look.data.clone()
    };
    let opened = DataConfig {
        stream: look.takes_long_to_decode().then_some(true),
        ..data.clone()
    };
    let datasets = kiln_hub::open_data_set(&opened, hub, &DataProgress::default())?;
    choices.suit(&datasets);
    let mut preview = Preview {
        datasets,
        devices: wishes.devices.clone(),
        hub: hub.clone(),
        teacher: None,
        measure: None,
    };
    let free = free_memory();
    let write = |choices: &Choices, lengths: &Lengths| {
        let written = Written {
            look,
            data: &data,
            datasets: &preview.datasets,
            choices,
            lengths,
            free_memory: free,
            threads: rayon::current_num_threads(),
            origin,
            config,
            arguments,
        };
        let text = written.text();
        let experiment = Experiment::parse(&text, "the experiment that kiln made", &[]);
        let experiment =
            experiment.context("a bug in kiln init: it made an experiment that cannot be")?;
        Ok::<_, anyhow::Error>((text, experiment))
    };

    let experiment = loop {
        let (_, experiment) = write(&choices, &Lengths::wanted(&choices))?;
        let needed = memory_of_training(&experiment, &wishes.devices)?;
        let is_too_much = needed
            .zip(free)
            .is_some_and(|(needed, free)| needed > SHARE_OF_MEMORY * free as f64);
        if !(is_too_much && choices.halve_batch()) {
            break Trainable::Model(Box::new(experiment));
        }
    };
    let stages = if choices.space == Space::Latent { 2 } else { 1 };
    let timed = Preview {
        measure: Some(MEASURED / stages),
        ..preview.clone()
    };
    let measured = experiment.outlooks(&timed)?;
    let paces: Vec<f64> = measured
        .iter()
        .filter_map(|stage| Some(stage.outlook.pace?.seconds_per_step))
        .collect();
    let lengths = Lengths::wanted(&choices).within_a_night(&paces);
    let (text, experiment) = write(&choices, &lengths)?;
    let trainable = Trainable::Model(Box::new(experiment));
    preview.measure = None;
    let stages = trainable.outlooks(&preview)?.into_iter().zip(&measured);
    let stages = stages
        .map(|(stage, measured)| stage.with_pace_of(measured))
        .collect();
    Ok(Fitted {
        text,
        trainable,
        datasets: preview.datasets,
        stages,
        choices,
        free_memory: free,
    })
}
