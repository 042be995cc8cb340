//! Stage 2 from beginning to end, in the latents of a first stage or in pixel space.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, FirstStage, Metadata, ModelSource, weights_hash};
use kiln_data::{DataConfig, Datasets, Progress};
use kiln_models::{FeatureMaps, UNet2d, WeightsType};
use kiln_pipeline::Devices;

use super::classes::Labelling;
use super::clean::CleanSets;
use super::distillation::Distillation;
use super::encoder::Encoder;
use super::evaluation::{self, Evaluator};
use super::noisy_source::{NoisySource, OfSchedule};
use super::{DenoisingRecipe, Pictured, metrics, trainee};
use crate::error::TrainError;
use crate::experiment::{DistillationConfig, Experiment, TrainingConfig};
use crate::run_folder::changed_keys::OF_STAGE_2;
use crate::run_folder::checkpoints::CheckpointFolder;
use crate::run_folder::drawable::load_model;
use crate::run_folder::facts::{EarlierSteps, metadata, steps_in};
use crate::run_folder::identity::VqVaeIdentity;
use crate::run_folder::kind::FolderKind;
use crate::run_folder::places::absolute;
use crate::run_folder::record::RunRecord;
use crate::run_folder::{RunFolder, StageFolder};
use crate::script::initial_weights;
use crate::script::memory::Trained;
use crate::script::options::RunOptions;
use crate::script::start::Start;
use crate::script::{Found, Prepared, Scene, Stage};

/// The training of an experiment's U-Net.
pub(crate) struct Stage2<'a> {
    experiment: &'a Experiment,
}

/// The networks at the beginning of stage 2.
pub(crate) struct Networks {
    /// `None` in pixel space.
    first_stage: Option<FirstStage>,
    /// Initial weights, if not random ones.
    unet: Option<UNet2d>,
    distillation: Option<Distillation>,
    /// The model that the network learns from, if it does.
    teacher: Option<DiffusionModel>,
}

impl<'a> Stage2<'a> {
    pub(crate) fn of(experiment: &'a Experiment) -> Self {
        Self { experiment }
    }

    fn in_pixel_space(&self) -> bool {
        self.experiment.first_stage.is_none()
    }

    /// The teacher and the way to learn from it, if the experiment is a distillation. A resumed run has its teacher: the
    /// model at its beginning.
    ///
    /// # Errors
    /// If there is no teacher, or it differs from the network of the experiment.
    fn find_teacher(
        &self,
        run: &RunFolder,
        start: &Start<'_>,
        device: &Device,
    ) -> Result<Option<(DiffusionModel, Distillation)>, TrainError> {
        let Some(config) = self.experiment.stage_2.distillation else {
            return Ok(None);
        };
        let begun = start.resume.is_some().then(|| run.stage_2().start());
        let Some(folder) = begun.map_or_else(|| start.begins_with(), |begun| Ok(Some(begun)))?
        else {
            return Err(TrainError::Run(
                "[stage_2.distillation] needs a trained model to learn from: name it by `kiln distill --model`".to_owned(),
            ));
        };
        let teacher = load_model(&folder, device)?;
        let distillation = Distillation::of(self.experiment, config, teacher.clone())?;
        Ok(Some((teacher, distillation)))
    }

    fn trained(&self) -> Result<Trained<'_>, TrainError> {
        let unet = &self.experiment.unet;
        let [_, height, width] = self.experiment.sample_shape();
        let distillation = self.experiment.stage_2.distillation.as_ref();
        let auxiliary = distillation.and_then(DistillationConfig::auxiliary_rate);
        // An auxiliary network is as large as the U-Net, and learns at the same time.
        let learners = 1 + usize::from(auxiliary.is_some());
        let maps = FeatureMaps::of_unet(unet, [height, width]);
        Ok(Trained {
            network: "unet",
            weights: learners * unet.num_weights()?,
            maps: FeatureMaps {
                training: learners as f64 * maps.training,
                ..maps
            },
            table: self.table(),
            training: self.training(),
        })
    }
}

impl Stage for Stage2<'_> {
    type Recipe = DenoisingRecipe;
    type Source = NoisySource;
    type Found = Networks;

    fn name(&self) -> &'static str {
        match (self.experiment.stage_2.distillation, self.in_pixel_space()) {
            (Some(_), _) => "distillation",
            (None, true) => "diffusion",
            (None, false) => "latent-diffusion",
        }
    }

    fn training(&self) -> &TrainingConfig {
        &self.experiment.stage_2.training
    }

    fn table(&self) -> &'static str {
        "stage_2.training"
    }

    fn data(&self) -> &DataConfig {
        &self.experiment.data
    }

    fn seed(&self) -> u64 {
        self.experiment.seed
    }

    fn folder(&self, run: &RunFolder) -> StageFolder {
        run.stage_2()
    }

    fn model(&self, run: &RunFolder) -> PathBuf {
        run.model()
    }

    fn check_memory(&self, devices: &Devices) -> Result<(), TrainError> {
        let trained = self.trained()?;
        trained.check_memory(devices)?;
        Ok(trained.check_pictures(self.experiment, devices)?)
    }

    fn memory(&self, devices: &Devices) -> Result<Option<f64>, TrainError> {
        let trained = self.trained()?;
        let with_pictures = trained.with_pictures(self.experiment, devices);
        Ok(with_pictures.or_else(|| trained.needed(devices)))
    }

    fn weights(&self, _: &Datasets) -> Result<Vec<(&'static str, usize)>, TrainError> {
        Ok(vec![("unet", self.experiment.unet.num_weights()?)])
    }

    fn start<'a>(
        &self,
        options: &'a RunOptions,
        run: &'a RunFolder,
        folder: &StageFolder,
    ) -> Result<Start<'a>, TrainError> {
        Start::of_experiment(self.experiment, options, run, folder, OF_STAGE_2)
    }

    fn steps_of(&self, model: &Path) -> Option<usize> {
        let model = DiffusionModel::load(&ModelSource::Folder(model.to_owned()), &Device::flex());
        steps_in(&model.ok()?.metadata.training)
    }

    fn find(
        &self,
        start: &Start<'_>,
        run: &RunFolder,
        _: &dyn Progress,
    ) -> Result<Found<Networks>, TrainError> {
        let device = start.options.devices.first();
        let first_stage = match self.in_pixel_space() {
            true => None,
            false => {
                let is_student = self.experiment.stage_2.distillation.is_some();
                Some(find_first_stage(run, start, is_student, &device)?)
            }
        };
        let (first_stage, vqvae) = first_stage.unzip();
        if let Some(first_stage) = &first_stage {
            self.experiment.check_first_stage(&first_stage.network)?;
        }
        let learning = device.clone().autodiff();
        let student = start.begins_with_student()?;
        let (unet, mut begun_with) = start.initial_weights(|folder| {
            let folder = student.as_deref().unwrap_or(folder);
            initial_weights::unet(folder, self.experiment, first_stage.as_ref(), &learning)
        })?;
        if let (Some(begun_with), Some(_)) = (&mut begun_with, &unet) {
            begun_with.student = student.as_deref().and_then(absolute);
        }
        if let Some(warning) = self.experiment.build_schedule()?.warning() {
            tracing::warn!("{warning}");
        }
        let (teacher, distillation) = self.find_teacher(run, start, &device)?.unzip();
        if let (Some(teacher), Some(begun_with)) = (&teacher, &mut begun_with) {
            let now = hash_of_teacher(teacher);
            match &begun_with.teacher {
                Some(before) if *before != now => {
                    return Err(TrainError::Run(format!(
                        "the teacher in {} is not the one that this run began with: restore that folder, or begin again with another --out",
                        run.stage_2().start().display()
                    )));
                }
                _ => begun_with.teacher = Some(now),
            }
        }
        Ok(Found {
            networks: Networks {
                first_stage,
                unet,
                distillation,
                teacher,
            },
            vqvae,
            perceptual: None,
            begun_with,
        })
    }

    fn check_data(&self, datasets: &Datasets) -> Result<(), TrainError> {
        Labelling::of(self.experiment, datasets)?;
        Ok(())
    }

    fn prepare<'a>(
        &'a self,
        Networks {
            first_stage,
            unet,
            distillation,
            teacher,
        }: Networks,
        scene: &'a Scene<'a>,
    ) -> Result<Prepared<'a, DenoisingRecipe, NoisySource>, TrainError> {
        let experiment = self.experiment;
        let Scene {
            options,
            datasets,
            plan,
            session,
            folder,
            ..
        } = scene;
        let (device, ranks) = (options.devices.first(), &options.ranks);
        let measured = experiment.stage_2.evaluation.as_ref();
        // Rank 0 alone validates. What is missing for it is told before the latents are encoded.
        let evaluator = measured.filter(|_| ranks.is_first()).map(|config| {
            let held_out = &datasets.validation;
            let count = self.training().validated(held_out.len()).len();
            let (seed, progress) = (experiment.seed, scene.progress);
            Evaluator::new(config, held_out, count, seed, &device, progress).map(Arc::new)
        });
        let evaluator = evaluator.transpose()?;
        let (clean, first_stage) = match first_stage {
            Some(first_stage) => {
                ranks.require_same("VQ-VAE", first_stage.hash())?;
                let (clean, scaled) = latent_space(experiment, first_stage, scene)?;
                (clean, Some(scaled))
            }
            None => (CleanSets::images(datasets), None),
        };
        let network = match unet {
            Some(network) => network,
            None => (experiment.unet).init(&device.clone().autodiff(), experiment.seed)?,
        };

        let classes = Labelling::of(experiment, datasets)?;
        let title = match (&first_stage, &distillation) {
            (_, Some(_)) => "distillation",
            (Some(_), None) => "stage 2: latent diffusion",
            (None, None) => "diffusion in pixel space",
        };
        let of_images = first_stage.clone();
        let of_distillation = distillation.as_ref().map(Distillation::facts);
        let facts = move |steps| {
            let first_stage = of_images.as_ref();
            let mut metadata = unet_metadata(
                experiment,
                datasets,
                first_stage,
                scene.earlier_steps(),
                steps,
            );
            metadata
                .training
                .extend(of_distillation.clone().unwrap_or_default());
            metadata
        };
        let pictured = Pictured {
            first_stage: first_stage.clone().map(|stage| FirstStage {
                // The border of these images, because drawn images are compared with them. The first stage may have
                // learnt from others.
                metadata: Metadata {
                    border: datasets.train.border(),
                    ..stage.metadata
                },
                ..stage
            }),
            metadata: facts(0),
            evaluator,
        };
        let model = move |unet, steps| DiffusionModel {
            metadata: facts(steps),
            first_stage: first_stage.clone(),
            unet,
            guide: None,
            scheduler: experiment.scheduler(),
        };
        let at_start = folder.start();
        if ranks.is_first() && !(at_start.is_dir() && session.steps_done() > 0) {
            // A resumed distillation finds its teacher here.
            let (unet, guide) = match &teacher {
                Some(teacher) => (teacher.unet.clone(), teacher.guide.clone()),
                None => (network.clone(), None),
            };
            let start = DiffusionModel {
                guide,
                ..model(unet, 0)
            };
            start.save(&at_start, WeightsType::F32)?;
        }
        let checkpoints = CheckpointFolder::new(folder.checkpoints());
        let (folder, session) = (folder.clone(), session.clone());
        let timesteps = match &distillation {
            Some(distillation) => distillation.timesteps(),
            None => Arc::new(OfSchedule {
                schedule: experiment.build_schedule()?,
                noise_levels: experiment.stage_2.noise_levels,
            }),
        };
        let trainee = trainee(
            experiment,
            network,
            distillation,
            pictured,
            plan,
            folder,
            session.clone(),
        )?;
        Ok(Prepared {
            title,
            trainee,
            source: NoisySource::new(experiment, clean, classes, plan.clone(), timesteps),
            metrics: metrics(&experiment.stage_2),
            best_by: evaluation::best_by(measured),
            watch: |_| Vec::new(),
            save: Box::new(move |networks, steps| {
                let run = scene.run;
                model(networks.into_trained(), steps).save(&run.model(), WeightsType::F32)?;
                // Without the last measurement it is not known which one is best.
                let is_known = measured.is_some() && !session.owes_validation();
                let Some(step) = checkpoints.best().filter(|_| is_known) else {
                    return Ok(None);
                };
                let best = load_model(&checkpoints.path(step), &device)?;
                best.save(&run.best(), WeightsType::F32)?;
                Ok(Some(run.best()))
            }),
        })
    }
}

/// The latents of the images, scaled to a standard deviation of one over the training set, and the first stage with
/// that scale.
fn latent_space(
    experiment: &Experiment,
    mut first_stage: FirstStage,
    scene: &Scene<'_>,
) -> Result<(CleanSets, FirstStage), TrainError> {
    let datasets = &scene.datasets;
    let cache = scene.run.latents(&first_stage.hash());
    let encoder = Encoder {
        first_stage: &first_stage,
        // The training has this many images in memory at once, so they fit here, too.
        together: (experiment.first_stage.as_ref())
            .map_or(1, |stage| stage.stage_1.training.batch_size),
        numbers: experiment.stage_2.latents,
        posterior: experiment.stage_2.posterior,
        devices: &scene.options.devices,
        progress: scene.progress,
        stop: &scene.options.stop,
    };
    let latents = encoder.latents(datasets, &cache, &scene.options.ranks)?;
    let deviation = latents.train.standard_deviation();
    if !(deviation.is_finite() && deviation > 0.0) {
        return Err(TrainError::Run(format!(
            "the latents of this first stage have a standard deviation of {deviation}, so there is nothing to learn from them: train stage 1 again"
        )));
    }
    let factor = 1.0 / deviation;
    first_stage.network = first_stage.network.with_scaling_factor(factor);
    let clean = CleanSets::latents(datasets, latents, &first_stage.network);
    Ok((clean, first_stage))
}

/// The VQ-VAE for stage 2: the named one, or the one of the run so far, or the run folder's own, or the one of the
/// model with the initial weights. A student that goes on takes it from the run folder, as its teacher.
///
/// # Errors
/// If there is none, or if it differs from the one of the run so far.
fn find_first_stage(
    run: &RunFolder,
    start: &Start<'_>,
    is_student: bool,
    device: &Device,
) -> Result<(FirstStage, VqVaeIdentity), TrainError> {
    let (options, before) = (start.options, start.before());
    let own = run.stage_1().model();
    let known = before.and_then(|before| before.vqvae.as_ref()?.place.clone());
    // A run that has begun holds it, too.
    let at_start = run.stage_2().start();
    let at_start = (start.resume.is_some() && at_start.is_dir()).then_some(at_start);
    let places = [
        options.vqvae.clone(),
        at_start.clone().filter(|_| is_student),
        known.clone().filter(|place| place.exists()),
        own.exists().then(|| own.clone()),
        at_start.clone(),
        start.begins_with()?.map(model_of).transpose()?,
    ];
    if options.vqvae.is_none()
        && let Some(lost) = known.filter(|place| !place.exists())
        && !own.exists()
        && at_start.is_none()
    {
        return Err(TrainError::Run(format!(
            "the VQ-VAE that this run began with is no longer in {}: give its new place with --vqvae",
            lost.display()
        )));
    }
    let Some(folder) = places.into_iter().flatten().next() else {
        return Err(TrainError::Run(format!(
            "{} has no trained VQ-VAE yet: run `kiln train-vqvae` with the same --out first, or name one with --vqvae",
            run.path().display()
        )));
    };
    let first_stage = FirstStage::load(&ModelSource::Folder(folder.clone()), device)?;
    let hash = first_stage.hash();
    if let Some(before) = before {
        before.require_vqvae(&hash, &folder, &run.stage_2().start())?;
    }
    let place = Some(folder.as_path())
        .filter(|&folder| folder != own)
        .and_then(absolute);
    Ok((first_stage, VqVaeIdentity { hash, place }))
}

/// The model with all parts of the one in `folder`, which may be a checkpoint with the U-Net alone.
fn model_of(folder: PathBuf) -> Result<PathBuf, TrainError> {
    match FolderKind::of(&folder) {
        Some(FolderKind::Checkpoint) => RunRecord::start_of(&folder),
        _ => Ok(folder),
    }
}

/// Of the weights of its U-Net and of its guide.
fn hash_of_teacher(teacher: &DiffusionModel) -> String {
    let guide = teacher.guide.as_ref();
    let guide = guide.map_or_else(String::new, |guide| weights_hash(&guide.unet));
    weights_hash(&teacher.unet) + &guide
}

/// Facts about a U-Net after `steps` steps of `experiment` on `datasets`, in the latents of `first_stage`.
fn unet_metadata(
    experiment: &Experiment,
    datasets: &Datasets,
    first_stage: Option<&FirstStage>,
    earlier: Option<EarlierSteps>,
    steps: usize,
) -> Metadata {
    let mut metadata = metadata(experiment, datasets, steps, earlier);
    metadata.sampling_steps = Some(experiment.sampling.steps);
    metadata.sampling_count = Some(experiment.sampling.count);
    let scheduler = experiment.scheduler();
    let mut add = |name: &str, value| metadata.training.insert(name.to_owned(), value);
    add("schedule", scheduler.schedule.kind.name().to_owned());
    add("prediction", scheduler.prediction.name().to_owned());
    if let Some(first_stage) = first_stage {
        let factor = first_stage.network.config().scaling_factor();
        add("scaling_factor", factor.to_string());
    }
    metadata
}
