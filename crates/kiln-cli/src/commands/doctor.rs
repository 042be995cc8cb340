//! `kiln doctor`: reports what is wrong with a model or a run, and what to do about it.

use std::path::{Path, PathBuf};

use anyhow::bail;
use burn::tensor::Device;
use clap::Args;
use kiln::pictures::Images;
use kiln_data::{DataConfig, DatasetKind, Datasets};
use kiln_train::{Experiment, FolderKind, RunRecord, load_model};
use serde::Serialize;

use super::{hub_arguments::HubArguments, training::overrides};
use crate::doctor::{Examination, Patient, Severity, examine};
use crate::terminal::{self, DataProgress};

/// Images for the examination of a model.
const IMAGES: usize = 256;

/// Find what is wrong with a model or a run, and what to do about it.
///
/// Looks for damaged or infinite weights, a schedule that leaves signal at its end, latents of another scale than the
/// noise, unused codes, a collapsed posterior, a discriminator that ruins its first stage, a moving average that is too
/// young, timesteps at which the network predicts nothing useful, a student far from its teacher (--teacher), and
/// validation losses that rise. A run folder has the latents and metrics for all of this; a model alone needs images
/// like those of its training (--config or --data) for some of it. Exits with 1 if something is broken, with 0
/// otherwise.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln doctor runs/mnist
  kiln doctor runs/mnist/model --config configs/mnist.toml
  kiln doctor --json")]
pub struct Examine {
    /// A run folder, a model, a checkpoint or a VQ-VAE alone, or one on the Hub; without it, the digits model inside this program
    #[arg(value_name = "PATH|ORG/REPO[@REVISION]")]
    path: Option<PathBuf>,

    #[command(flatten)]
    hub: HubArguments,

    /// Examine with the validation images of this experiment's data set
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Examine with a folder, zip or tar of images, or the files of MNIST, CIFAR-10 or Flowers 102; with --config, where that
    /// data set is
    #[arg(long, value_name = "PATH|hf:ORG/DATASET")]
    data: Option<PathBuf>,

    /// The model that this one was distilled from: compares what both draw from the same noise
    #[arg(long, value_name = "PATH|ORG/REPO[@REVISION]")]
    teacher: Option<PathBuf>,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The findings, for `--json`.
#[derive(Serialize)]
struct Outcome {
    patient: String,
    /// Whether there are no findings.
    healthy: bool,
    /// Whether something is broken, which is also the exit code.
    broken: bool,
    examinations: Vec<Examination>,
}

impl Examine {
    /// Examines the patient and prints the findings; fails if something is broken.
    pub fn run(self) -> anyhow::Result<()> {
        let device = Device::flex();
        let mut patient = match &self.path {
            Some(place) => Patient::open(&self.hub.run_or_model(place)?, &device)?,
            None => Patient::pretrained(&device)?,
        };
        if let Some(images) = self.images(&patient)? {
            patient = patient.with_images(&images)?;
        }
        if let Some(place) = &self.teacher {
            patient = patient.with_teacher(load_model(&self.hub.model(place)?, &device)?);
        }
        let outcome = Outcome::new(patient.name(), examine(&patient));
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)?;
        if outcome.broken {
            bail!("{} is broken: see what to do above", outcome.patient);
        }
        Ok(())
    }

    /// The data set to take images from: the one that the arguments name, the built-in model's, or that of a run whose
    /// latents are not cached.
    fn data_set(&self, patient: &Patient) -> anyhow::Result<Option<DataConfig>> {
        let is_run = |path: &Path| FolderKind::of(path) == Some(FolderKind::Run);
        let in_shape = |dataset| {
            let (size, channels) = patient.image_shape()?;
            Some(DataConfig::new(dataset, size, channels))
        };
        Ok(match (&self.config, &self.data, &self.path) {
            (Some(config), data, _) => {
                Some(Experiment::load(config, &overrides(&[], data.as_deref()))?.data)
            }
            (None, Some(data), _) => in_shape(DatasetKind::at(data)?).map(|config| DataConfig {
                path: Some(data.clone()),
                ..config
            }),
            (None, None, None) => in_shape(DatasetKind::Mnist10k),
            (None, None, Some(path)) => {
                let needs_images = patient.image_shape().is_some() && !patient.has_latents();
                let run = (needs_images && is_run(path)).then(|| RunRecord::open(path));
                run.transpose()?.map(|run| run.data())
            }
        })
    }

    /// The first images of the data set, if there is one: validation images, and for a folder the others, too.
    fn images(&self, patient: &Patient) -> anyhow::Result<Option<Images>> {
        let Some(config) = self.data_set(patient)? else {
            return Ok(None);
        };
        let Datasets { train, validation } = match kiln_hub::open_data_set(
            &config,
            &self.hub.settings(),
            &DataProgress::default(),
        ) {
            Ok(datasets) => datasets,
            Err(error) if self.config.is_some() || self.data.is_some() => {
                return Err(error.into());
            }
            // The user did not ask for this data set, and most checks work without it.
            Err(error) => {
                terminal::note(&format!("examining without images, because {error}"));
                return Ok(None);
            }
        };
        let mut images = Images::empty(config.channels, config.size, config.size);
        let whole_folder = self.config.is_none().then_some(train);
        for dataset in [validation].into_iter().chain(whole_folder) {
            for index in 0..dataset.len().min(IMAGES - images.len()) {
                images.extend(&dataset.image(index, false)?);
            }
        }
        Ok(Some(images))
    }
}

impl Outcome {
    fn new(patient: &str, examinations: Vec<Examination>) -> Self {
        let findings = || examinations.iter().flat_map(|examined| &examined.findings);
        Self {
            patient: patient.to_owned(),
            healthy: findings().all(|finding| finding.severity == Severity::Note),
            broken: findings().any(|finding| finding.severity == Severity::Broken),
            examinations,
        }
    }

    fn in_words(&self) -> String {
        let mut text = format!("{}\n", self.patient);
        for examined in &self.examinations {
            let check = examined.check;
            if let Some(reason) = &examined.not_examined {
                text += &format!("  {check:<18} not examined: {reason}\n");
            } else if examined.findings.is_empty() {
                text += &format!("  {check:<18} ok\n");
            }
            for finding in &examined.findings {
                let severity = match finding.severity {
                    Severity::Note => "ok",
                    Severity::Warning => "WARNING",
                    Severity::Broken => "BROKEN",
                };
                text += &format!("  {check:<18} {severity}: {}\n", finding.what);
                if let Some(remedy) = &finding.remedy {
                    text += &format!("  {:<18} what to do: {remedy}\n", "");
                }
            }
        }
        if self.healthy {
            let mut examinations = self.examinations.iter();
            text += match examinations.any(|examined| examined.not_examined.is_some()) {
                true => "found nothing wrong in what was examined\n",
                false => "found nothing wrong\n",
            };
        }
        text
    }
}
