//! The subject of an examination: a model, with information about its training.

use std::path::{Path, PathBuf};

use anyhow::bail;
use burn::tensor::{Device, Tensor};
use kiln::Autoencoder;
use kiln::pictures::Images;
use kiln_checkpoint::{CheckpointError, DiffusionModel, FirstStage, ModelSource};
use kiln_diffusion::SchedulerConfig;
use kiln_models::WeightsError;
use kiln_train::{ClassifierRecord, FolderKind, RunRecord, StageRecord, load_model};

use super::finding::Finding;
use crate::pretrained;

/// The number of images whose latents are examined.
const LATENTS: usize = 512;
/// Why a check that needs latents cannot be made.
pub(super) const NO_LATENTS: &str =
    "it needs latents: a run folder, or images (--config or --data)";
/// Images that are encoded together.
const BATCH: usize = 64;

/// A model or a run, with everything that could be read from it.
pub struct Patient {
    pub(super) name: String,
    pub(super) device: Device,
    /// The whole model, without a first stage in pixel space.
    pub(super) model: Option<DiffusionModel>,
    /// The model that the whole model was distilled from, if it was given.
    pub(super) teacher: Option<DiffusionModel>,
    /// Whether a classifier is all there is, trained to its end.
    pub(super) is_classifier: bool,
    /// The VQ-VAE if there is no whole model.
    pub(super) first_stage: Option<FirstStage>,
    pub(super) scheduler: Option<SchedulerConfig>,
    /// Whether it is a run whose experiment has no first stage.
    pub(super) run_is_in_pixel_space: bool,
    /// The stages of the run.
    pub(super) stages: Vec<StageRecord>,
    /// The U-Net's data, `[batch, channels, height, width]`, not scaled.
    pub(super) latents: Option<Tensor<4>>,
    /// The folder of the model or of the VQ-VAE, if it is in one.
    pub(super) folder: Option<PathBuf>,
    /// Why some parts on disk could not be read.
    pub(super) damage: Vec<Finding>,
}

impl Patient {
    /// Reads what is at `path`: a run folder, a model in the diffusers layout, a checkpoint of a U-Net, or a VQ-VAE alone.
    ///
    /// Parts that are damaged are findings, not errors.
    ///
    /// # Errors
    /// If `path` is something else, and if the run's config or the checkpoint cannot be read.
    pub fn open(path: &Path, device: &Device) -> anyhow::Result<Self> {
        let mut patient = Self::unknown(path.display().to_string(), device);
        match FolderKind::of(path) {
            Some(FolderKind::Run) => patient.read_run(path)?,
            Some(FolderKind::Model) => patient.read_model(&ModelSource::Folder(path.to_owned())),
            Some(FolderKind::Network) => patient.read_first_stage(path),
            Some(FolderKind::Checkpoint) => patient.take_model(load_model(path, device)?),
            None => bail!(
                "{} is neither a model nor a run: give a folder with a model_index.json or config.json, or a run folder, which has a config.toml",
                path.display()
            ),
        }
        Ok(patient)
    }

    /// The model that is compiled in.
    ///
    /// # Errors
    /// If the program has no model inside.
    pub fn pretrained(device: &Device) -> anyhow::Result<Self> {
        let source = pretrained::default_model()?;
        let mut patient = Self::unknown(source.place(), device);
        patient.read_model(&source);
        Ok(patient)
    }

    /// A patient without any data yet.
    pub(super) fn unknown(name: String, device: &Device) -> Self {
        Self {
            name,
            device: device.clone(),
            model: None,
            teacher: None,
            is_classifier: false,
            first_stage: None,
            scheduler: None,
            run_is_in_pixel_space: false,
            stages: Vec::new(),
            latents: None,
            folder: None,
            damage: Vec::new(),
        }
    }

    /// The same, to be compared with the model that it was distilled from.
    pub fn with_teacher(self, teacher: DiffusionModel) -> Self {
        Self {
            teacher: Some(teacher),
            ..self
        }
    }

    /// A description of the model's or run's source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the latents that the model was trained with are known.
    pub fn has_latents(&self) -> bool {
        self.latents.is_some()
    }

    /// The side of the training images, with their padding, and their channels.
    pub fn image_shape(&self) -> Option<(usize, usize)> {
        if let Some(first_stage) = self.first_stage() {
            let network = &first_stage.network;
            return Some((
                network.config().sample_size(),
                network.config().in_channels(),
            ));
        }
        let config = self.model.as_ref()?.unet.config();
        let [height, _] = config.sample_size?.height_and_width();
        Some((height, config.in_channels))
    }

    /// Encodes images like the training images, instead of using its run's latents.
    ///
    /// # Errors
    /// Those of [`Autoencoder::check_image`] for images that the VQ-VAE does not accept.
    pub fn with_images(mut self, images: &Images) -> anyhow::Result<Self> {
        if images.is_empty() {
            return Ok(self);
        }
        let images = images.first(LATENTS);
        let latents = match self.first_stage() {
            Some(first_stage) => {
                let network = &first_stage.network;
                Autoencoder::from_model(self.name.clone(), first_stage.clone(), &self.device)
                    .check_image(images.channels(), images.height(), images.width())?;
                let batches = images.batches(BATCH);
                let encoded = batches.map(|batch| network.encode(batch.to_tensor(&self.device)));
                Tensor::cat(encoded.collect(), 0)
            }
            None => images.to_tensor(&self.device),
        };
        self.latents = Some(latents);
        Ok(self)
    }

    /// Whether it is known to have no first stage.
    pub(super) fn is_in_pixel_space(&self) -> bool {
        let model = self.model.as_ref();
        model.is_some_and(|model| model.first_stage.is_none()) || self.run_is_in_pixel_space
    }

    /// The training of stage 1, if this is a run with one.
    pub(super) fn stage_1(&self) -> Option<&StageRecord> {
        self.stages.iter().find(|stage| stage.name == "stage 1")
    }

    pub(super) fn first_stage(&self) -> Option<&FirstStage> {
        let of_model = self
            .model
            .as_ref()
            .and_then(|model| model.first_stage.as_ref());
        of_model.or(self.first_stage.as_ref())
    }

    /// The factor of the latents before the U-Net: 1 in pixel space.
    pub(super) fn scaling_factor(&self) -> f64 {
        self.first_stage().map_or(1.0, |first_stage| {
            first_stage.network.config().scaling_factor()
        })
    }

    fn read_run(&mut self, path: &Path) -> anyhow::Result<()> {
        if let Some(run) = ClassifierRecord::open(path) {
            match run.check_weights(&self.device) {
                Ok(is_finished) => self.is_classifier = is_finished,
                Err(error) => self.damage.push(damage(error.to_string())),
            }
            self.stages = run.stage.into_iter().collect();
            return Ok(());
        }
        let run = RunRecord::open(path)?;
        self.scheduler = Some(run.experiment.scheduler());
        self.run_is_in_pixel_space = run.experiment.first_stage.is_none();
        match (run.model(), run.vqvae()) {
            (Some(model), _) => self.read_model(&ModelSource::Folder(model)),
            (None, Some(vqvae)) => self.read_first_stage(&vqvae),
            (None, None) => {}
        }
        if let Err(error) = run.check_discriminator(&self.device) {
            self.damage.push(Finding::warning(
                error.to_string(),
                "restore the file; drawing does not need it, but a training with --initial-weights of this run would begin with a discriminator that has learnt nothing",
            ));
        }
        for (checkpoint, problem) in run.damaged_checkpoints() {
            self.damage.push(Finding::warning(
                format!("the checkpoint {} is damaged: {problem}", checkpoint.display()),
                "restore the file or remove the folder; --resume goes on from the newest one that is good",
            ));
        }
        if let Some(first_stage) = self.first_stage() {
            let hash = first_stage.hash();
            match run.validation_latents(&hash, LATENTS, &self.device) {
                Ok(latents) => self.latents = latents,
                Err(error) => self.damage.push(damage(error.to_string())),
            }
        }
        self.stages = run.stages;
        Ok(())
    }

    fn read_model(&mut self, source: &ModelSource) {
        if let ModelSource::Folder(folder) = source {
            self.folder = Some(folder.clone());
        }
        match DiffusionModel::load(source, &self.device) {
            Ok(model) => self.take_model(model),
            Err(error) => self.damage.push(damage_of_model(&error)),
        }
    }

    fn take_model(&mut self, model: DiffusionModel) {
        self.scheduler = Some(model.scheduler.clone());
        self.model = Some(model);
    }

    fn read_first_stage(&mut self, folder: &Path) {
        self.folder = Some(folder.to_owned());
        match FirstStage::load(&ModelSource::Folder(folder.to_owned()), &self.device) {
            Ok(first_stage) => self.first_stage = Some(first_stage),
            Err(error) => self.damage.push(damage_of_model(&error)),
        }
    }
}

fn damage_of_model(error: &CheckpointError) -> Finding {
    match error {
        CheckpointError::Weights {
            problem: WeightsError::NotFinite { .. },
            ..
        } => Finding::broken(
            error.to_string(),
            "train again from the last good checkpoint (--resume), with a lower learning_rate or clip_norm",
        ),
        _ => damage(error.to_string()),
    }
}

fn damage(what: String) -> Finding {
    Finding::broken(what, "restore the file, or train that part again")
}
