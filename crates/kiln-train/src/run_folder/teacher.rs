//! The experiment of a student, which takes over from its teacher what its own file does not say.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_checkpoint::DiffusionModel;
use serde::Serialize;
use toml::{Table, Value};

use crate::error::TrainError;
use crate::experiment::{DistillationConfig, Experiment, ExperimentError, key_of_override};
use crate::run_folder::RunFolder;
use crate::run_folder::drawable::load_model;
use crate::run_folder::record::RunRecord;

/// Tables that only the record of a model's training has.
const RECORDED: [&str; 5] = ["data", "vqvae", "autoencoder_kl", "codebook", "stage_1"];

impl Experiment {
    /// Reads the experiment of a student at `path`, with `overrides` as in [`Experiment::load`]. Keys that it has not are
    /// those of the model `teacher`: of its network, schedule and prediction and, if the model has the record of its
    /// training (`config.toml`), of its first stage, its data and its share of dropped labels.
    ///
    /// # Errors
    /// [`TrainError::Model`] if there is no such model; [`TrainError::Config`] for an experiment that cannot work, or one
    /// without a distillation; [`TrainError::Run`] for a teacher that is a student itself, if the method asks it.
    pub fn load_student(
        path: &Path,
        overrides: &[String],
        teacher: &Path,
    ) -> Result<Self, TrainError> {
        let text = kiln_data::read_text(path).map_err(|source| ExperimentError::Read {
            path: path.to_owned(),
            source,
        })?;
        let origin = path.display().to_string();
        let model = load_model(teacher, &Device::flex())?;
        let tables = tables_of(teacher, &model)?;
        let experiment = Self::parse_over(&tables, &text, &origin, overrides)?;
        let Some(distillation) = &experiment.stage_2.distillation else {
            return Err(TrainError::Run(format!(
                "{origin} does not say how to distil: it needs a table [stage_2.distillation] with a `method`"
            )));
        };
        refuse_useless_keys(&text, overrides)?;
        let own = table(&experiment)?;
        let of_first_stage = RECORDED.iter().filter(|&&name| name != "data");
        for name in of_first_stage.filter(|&&name| tables.contains_key(name)) {
            if own.get(*name) != tables.get(*name) {
                return Err(TrainError::Run(format!(
                    "a student keeps the first stage of its teacher, and [{name}] describes another one: leave that table out"
                )));
            }
        }
        let asks_teacher = !matches!(distillation, DistillationConfig::ConsistencyTuning { .. });
        if let Some(method) = model.metadata.distilled_by().filter(|_| asks_teacher) {
            return Err(TrainError::Run(format!(
                "{} was itself distilled ({method}), so its small steps lead nowhere: name the model that it came from, or tune it further with `stage_2.distillation.method = \"consistency-tuning\"`",
                teacher.display()
            )));
        }
        Ok(experiment)
    }
}

/// The text of the record of a model's training (`config.toml`), if there is one in its folder or in its run's.
pub fn record_of_model(model: &Path) -> Option<String> {
    kiln_data::read_text(&record_of(model)?).ok()
}

fn record_of(model: &Path) -> Option<PathBuf> {
    let run = RunRecord::folder_around(model);
    let folders = [Some(model), run.as_deref()].into_iter().flatten();
    let mut records = folders.map(|folder| RunFolder::new(folder).config());
    records.find(|record| record.is_file())
}

/// Refuses keys of the loss that a network has which learns to denoise: each method of distillation has its own.
fn refuse_useless_keys(text: &str, overrides: &[String]) -> Result<(), TrainError> {
    let file: Table = toml::from_str(text).unwrap_or_default();
    let stage_2 = file.get("stage_2").and_then(Value::as_table);
    for key in ["loss", "loss_on", "loss_weight"] {
        let whole = format!("stage_2.{key}");
        let is_set = |text: &String| key_of_override(text) == whole;
        if stage_2.is_some_and(|table| table.contains_key(key)) || overrides.iter().any(is_set) {
            return Err(TrainError::Run(format!(
                "`{whole}` does nothing in a distillation, whose methods have losses of their own: leave it out"
            )));
        }
    }
    Ok(())
}

/// The tables and keys that a student takes over from the `model` in `teacher`.
fn tables_of(teacher: &Path, model: &DiffusionModel) -> Result<Table, TrainError> {
    let mut tables = Table::new();
    let mut stage_2 = Table::new();
    if let Some(record) = record_of(teacher) {
        let recorded = Experiment::load(&record, &[])?;
        let mut recorded = table(&recorded)?;
        for name in RECORDED {
            tables.extend(recorded.remove_entry(name));
        }
        let dropout = recorded
            .get("stage_2")
            .and_then(|stage| stage.get("label_dropout"));
        stage_2.extend(dropout.map(|dropout| ("label_dropout".to_owned(), dropout.clone())));
    }
    let scheduler = &model.scheduler;
    let prediction = scheduler.prediction.name();
    stage_2.insert("prediction".to_owned(), prediction.into());
    tables.insert("unet".to_owned(), Value::Table(table(model.unet.config())?));
    tables.insert(
        "schedule".to_owned(),
        Value::Table(table(&scheduler.schedule)?),
    );
    tables.insert("stage_2".to_owned(), Value::Table(stage_2));
    Ok(tables)
}

fn table(config: &impl Serialize) -> Result<Table, TrainError> {
    let written = toml::to_string(config).map_err(|error| error.to_string());
    let read = written.and_then(|text| toml::from_str(&text).map_err(|error| error.to_string()));
    read.map_err(|problem| TrainError::Run(format!("cannot write the teacher as TOML: {problem}")))
}
