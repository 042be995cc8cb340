//! Checkpoints as models: for drawing before a training is finished, or from a step before the last.
//!
//! A checkpoint has everything that training needs to continue; drawing needs only its U-Net. The other parts of a
//! model do not change during training, and are stored once: `diffusion/start` is the model at the beginning of
//! training.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_models::UNet2d;

use crate::error::TrainError;
use crate::experiment::{DistillationConfig, Experiment};
use crate::run_folder::RunFolder;
use crate::run_folder::checkpoints::{CheckpointFolder, GoodCheckpoint};
use crate::run_folder::kind::FolderKind;
use crate::run_folder::record::RunRecord;

/// The trained module, under the names in its record: see `DenoisingNetworks`. Drawing needs its U-Net.
#[derive(Module, Debug)]
struct Recorded {
    unet: RecordedUNet,
    teacher: Option<UNet2d>,
    auxiliary: Option<RecordedUNet>,
    averages: Vec<UNet2d>,
}

/// The network and, if the training has one, its average: see `Averaged`.
#[derive(Module, Debug)]
struct RecordedUNet {
    network: UNet2d,
    average: Option<UNet2d>,
}

/// Reads a model in the diffusers layout from a folder, or from a checkpoint in `RUN/diffusion/checkpoints`, with the
/// averaged weights if the training has them.
///
/// # Errors
/// [`TrainError::Model`] if the folder has no model or a damaged one, [`TrainError::Run`] for a checkpoint that is
/// damaged or does not have a U-Net.
pub fn load_model(folder: &Path, device: &Device) -> Result<DiffusionModel, TrainError> {
    if FolderKind::of(folder) == Some(FolderKind::Checkpoint) {
        model_of_checkpoint(folder, device)
    } else {
        let source = ModelSource::Folder(folder.to_owned());
        Ok(DiffusionModel::load(&source, device)?)
    }
}

fn model_of_checkpoint(folder: &Path, device: &Device) -> Result<DiffusionModel, TrainError> {
    let refused = |problem| cannot_draw(folder, problem);
    let run = run_of_checkpoint(folder)?;
    let checkpoint = GoodCheckpoint::open(folder).map_err(refused)?;
    let experiment = Experiment::load(&run.config(), &[])?;
    let mut model = DiffusionModel::load(&ModelSource::Folder(run.stage_2().start()), device)?;
    let stage_2 = &experiment.stage_2;
    let averages = stage_2.training.ema.is_some();
    let distillation = stage_2.distillation.as_ref();
    let replaces_teacher = distillation.is_some_and(DistillationConfig::replaces_teacher);
    let auxiliary = distillation.and_then(DistillationConfig::auxiliary_rate);
    let recorded = Recorded {
        unet: RecordedUNet {
            average: averages.then(|| model.unet.clone()),
            network: model.unet.clone(),
        },
        teacher: replaces_teacher.then(|| model.unet.clone()),
        auxiliary: auxiliary.map(|_| RecordedUNet {
            network: model.unet.clone(),
            average: None,
        }),
        averages: vec![model.unet; stage_2.power_averages.len()],
    };
    let record = (checkpoint.module())
        .and_then(|bytes| ModuleRecord::from_bytes(bytes).map_err(|error| error.to_string()));
    let recorded = record.and_then(|record| {
        let loaded = recorded.try_load_record(record);
        loaded.map_err(|error| format!("it does not belong to the U-Net in config.toml ({error})"))
    });
    let RecordedUNet { network, average } = recorded.map_err(refused)?.unet;
    model.unet = average.unwrap_or(network);
    // The guide of a teacher is for its student's training.
    model.guide = None;
    let steps = checkpoint.step.to_string();
    model.metadata.training.insert("steps".to_owned(), steps);
    Ok(model)
}

/// The run of the checkpoint in `folder`. The checkpoint must have a U-Net, and the run the other parts of the model.
fn run_of_checkpoint(folder: &Path) -> Result<RunFolder, TrainError> {
    let place = (folder.canonicalize()).map_err(TrainError::file("open", folder))?;
    // RUN/diffusion/checkpoints/step-N
    let run = RunFolder::new(place.ancestors().nth(3).unwrap_or(&place));
    let stage = run.stage_2();
    if place.parent() != Some(&stage.checkpoints()) {
        let first_stage = run.stage_1();
        let problem = match place.parent() == Some(&first_stage.checkpoints()) {
            true => format!(
                "it is one of stage 1, whose model is {} once it is trained",
                first_stage.model().display()
            ),
            false => {
                "only those in the folder diffusion/checkpoints of a run are of a U-Net".to_owned()
            }
        };
        return Err(cannot_draw(folder, problem));
    }
    if !stage.start().is_dir() {
        return Err(cannot_draw(
            folder,
            format!(
                "{} is not there, as in the runs of older versions of kiln; resume the run once to create it",
                stage.start().display()
            ),
        ));
    }
    Ok(run)
}

fn cannot_draw(checkpoint: &Path, problem: String) -> TrainError {
    TrainError::Run(format!(
        "cannot draw from the checkpoint {}: {problem}",
        checkpoint.display()
    ))
}

impl RunRecord {
    /// The folder of the finished model of the run at `path`.
    ///
    /// # Errors
    /// [`TrainError::Run`] if there is none yet; it names the checkpoint that can be drawn from.
    pub fn finished_model(path: &Path) -> Result<PathBuf, TrainError> {
        let run = RunFolder::new(path);
        if run.model().is_dir() {
            return Ok(run.model());
        }
        let folder = run;
        let (run, stage) = (path.display(), folder.stage_2());
        let checkpoints = CheckpointFolder::new(stage.checkpoints());
        let newest = checkpoints
            .steps()
            .last()
            .map(|&step| checkpoints.path(step));
        Err(TrainError::Run(match newest {
            Some(newest) => {
                let best = (checkpoints.best())
                    .map(|step| checkpoints.path(step))
                    .filter(|best| *best != newest)
                    .map(|best| format!(" or, the best one so far, {}", best.display()));
                format!(
                    "the run {run} has no finished model yet: go on with --resume, or name a checkpoint, {}{}",
                    newest.display(),
                    best.unwrap_or_default()
                )
            }
            None => {
                let first_stage = folder.stage_1().model();
                let instead = match first_stage.is_dir() {
                    true => format!("; its trained first stage is {}", first_stage.display()),
                    false => String::new(),
                };
                format!(
                    "the run {run} has neither a finished model nor a checkpoint of its U-Net: train stage 2 first{instead}"
                )
            }
        }))
    }

    /// The folder of the model at the beginning of stage 2. Its VQ-VAE belongs to the U-Net's `checkpoint`.
    ///
    /// # Errors
    /// [`TrainError::Run`] for a checkpoint of anything else.
    pub fn start_of(checkpoint: &Path) -> Result<PathBuf, TrainError> {
        Ok(run_of_checkpoint(checkpoint)?.stage_2().start())
    }

    /// The folder of the trained first stage of the run at `path`: stage 1's own or, if the run began with another one,
    /// that of its finished model.
    ///
    /// # Errors
    /// [`TrainError::Run`] if there is neither.
    pub fn finished_first_stage(path: &Path) -> Result<PathBuf, TrainError> {
        let run = RunFolder::new(path);
        let finished = [run.stage_1().model(), run.model()];
        let found = finished.into_iter().find(|model| model.is_dir());
        found.ok_or_else(|| {
            TrainError::Run(format!(
                "the run {} has no trained VQ-VAE yet: run `kiln train-vqvae` to its end first",
                path.display()
            ))
        })
    }
}
