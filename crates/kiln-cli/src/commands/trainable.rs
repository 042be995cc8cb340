//! What an experiment's file trains, whatever that is.

use std::path::Path;

use anyhow::bail;
use kiln_train::{
    ClassifierExperiment, Experiment, Preview, describes_classifier, preview_classifier,
    preview_diffusion, preview_vqvae,
};

use super::expectations::StageOutlook;
use super::next_commands::Kind;
use crate::terminal::DataProgress;

/// What can be trained.
pub enum Trainable {
    /// A diffusion model, with its first stage if it has one, or a student.
    Model(Box<Experiment>),
    /// A classifier.
    Classifier(Box<ClassifierExperiment>),
}

impl Trainable {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Classifier(_) => Kind::Classifier,
            Self::Model(experiment) if experiment.stage_2.distillation.is_some() => {
                Kind::Distillation
            }
            Self::Model(experiment) if experiment.first_stage.is_some() => Kind::LatentDiffusion,
            Self::Model(_) => Kind::Diffusion,
        }
    }

    /// Whether the classes of images matter to it.
    pub fn uses_classes(&self) -> bool {
        match self {
            Self::Classifier(_) => true,
            Self::Model(experiment) => experiment.unet.num_class_embeds.is_some(),
        }
    }

    /// Its stages, in the order in which they are trained.
    ///
    /// # Errors
    /// Those with which a stage would be refused.
    pub fn outlooks(&self, preview: &Preview) -> anyhow::Result<Vec<StageOutlook>> {
        let progress = DataProgress::default();
        let outlooks = match self {
            Self::Classifier(experiment) => {
                vec![preview_classifier(experiment, preview, &progress)?]
            }
            Self::Model(experiment) => {
                let has_own = self.kind() == Kind::LatentDiffusion;
                let first = has_own.then(|| preview_vqvae(experiment, preview, &progress));
                let first = first.transpose()?;
                let second = preview_diffusion(experiment, preview, &progress)?;
                first.into_iter().chain([second]).collect()
            }
        };
        Ok(outlooks.into_iter().map(StageOutlook::of).collect())
    }
}

/// Reads the experiment in `config`, whatever it trains, with `overrides` of its keys; that of a student over what its
/// `teacher` is.
///
/// # Errors
/// The errors of its training; and if a student has no teacher, or another experiment has one.
pub fn load(
    config: &Path,
    overrides: &[String],
    teacher: Option<&Path>,
) -> anyhow::Result<Trainable> {
    let text = kiln_data::read_text(config).unwrap_or_default();
    if describes_classifier(&text) {
        if teacher.is_some() {
            bail!(
                "{} describes a classifier, which has no teacher: leave out --model",
                config.display()
            );
        }
        let experiment = ClassifierExperiment::load(config, overrides)?;
        return Ok(Trainable::Classifier(Box::new(experiment)));
    }
    if let Some(teacher) = teacher {
        let experiment = Experiment::load_student(config, overrides, teacher)?;
        return Ok(Trainable::Model(Box::new(experiment)));
    }
    let without_teacher = || {
        format!(
            "{} describes a student ([stage_2.distillation]), and its teacher is unknown: name it, as in `kiln check {} --model runs/mnist/model`",
            config.display(),
            config.display()
        )
    };
    if describes_student(&text) {
        bail!(without_teacher());
    }
    let experiment = Experiment::load(config, overrides)?;
    if experiment.stage_2.distillation.is_some() {
        bail!(without_teacher());
    }
    Ok(Trainable::Model(Box::new(experiment)))
}

/// Whether an experiment's text has a table `[stage_2.distillation]`.
pub fn describes_student(text: &str) -> bool {
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let stage_2 = table.get("stage_2");
    stage_2.is_some_and(|table| table.get("distillation").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_config_that_ships_is_known_by_its_tables() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs"));
        let Ok(configs) = std::fs::read_dir(folder) else {
            return println!("skipped: a package has no configs/ of the repository");
        };
        for config in configs {
            let path = config.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            match load(&path, &[], None) {
                Ok(trainable) => {
                    let is_classifier = trainable.kind() == Kind::Classifier;
                    assert_eq!(is_classifier, name.contains("classifier"), "{name}");
                }
                Err(error) => {
                    assert!(name.contains("few-steps"), "{name}: {error}");
                    assert!(error.to_string().contains("--model"), "{error}");
                }
            }
        }
    }
}
