//! Stage 1 from beginning to end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_checkpoint::{FirstStage, ModelSource, PERCEPTUAL_NETWORK};
use kiln_data::{DataConfig, Datasets, Progress};
use kiln_eval::PerceptualNetwork;
use kiln_models::{Autoencoder, AutoencoderConfig, FeatureMaps, WeightsType, save_weights};

use super::diagnosis::discriminator_warnings;
use super::objective::perceptual;
use super::{FirstStageRecipe, ImageSource, Objective, metrics, trainee, with_kmeans_codes};
use crate::error::TrainError;
use crate::experiment::{Experiment, FirstStageConfig, TrainingConfig};
use crate::learner::report::LOSS;
use crate::run_folder::changed_keys::OF_STAGE_1;
use crate::run_folder::discriminator::discriminator_beside;
use crate::run_folder::facts::{metadata, steps_in};
use crate::run_folder::identity::PerceptualIdentity;
use crate::run_folder::places::absolute;
use crate::run_folder::{RunFolder, StageFolder};
use crate::script::initial_weights;
use crate::script::memory::Trained;
use crate::script::options::RunOptions;
use crate::script::start::{BEFORE, Start};
use crate::script::{Found, Prepared, Scene, Stage};
use kiln_pipeline::Devices;

/// The training of an experiment's autoencoder.
pub(crate) struct Stage1<'a> {
    experiment: &'a Experiment,
    config: &'a FirstStageConfig,
}

/// The networks at the beginning of stage 1.
pub(crate) struct Networks {
    /// Initial weights, if not random ones.
    autoencoder: Option<Autoencoder>,
    /// The frozen network of the objective.
    perceptual: Option<PerceptualNetwork>,
}

impl<'a> Stage1<'a> {
    /// # Errors
    /// If the experiment has no first stage.
    pub(crate) fn of(experiment: &'a Experiment) -> Result<Self, TrainError> {
        let config = experiment
            .first_stage
            .as_ref()
            .ok_or(TrainError::NoFirstStage)?;
        Ok(Self { experiment, config })
    }
}

impl Stage for Stage1<'_> {
    type Recipe = FirstStageRecipe;
    type Source = ImageSource;
    type Found = Networks;

    fn name(&self) -> &'static str {
        "vqvae"
    }

    fn training(&self) -> &TrainingConfig {
        &self.config.stage_1.training
    }

    fn table(&self) -> &'static str {
        "stage_1.training"
    }

    fn data(&self) -> &DataConfig {
        &self.experiment.data
    }

    fn seed(&self) -> u64 {
        self.experiment.seed
    }

    fn folder(&self, run: &RunFolder) -> StageFolder {
        run.stage_1()
    }

    fn model(&self, run: &RunFolder) -> PathBuf {
        run.stage_1().model()
    }

    fn check_memory(&self, devices: &Devices) -> Result<(), TrainError> {
        Ok(self.trained()?.check_memory(devices)?)
    }

    fn memory(&self, devices: &Devices) -> Result<Option<f64>, TrainError> {
        Ok(self.trained()?.needed(devices))
    }

    fn weights(&self, _: &Datasets) -> Result<Vec<(&'static str, usize)>, TrainError> {
        let network = (self.config.table(), self.config.network.num_weights()?);
        let discriminator = self.weights_of_discriminator();
        let discriminator = discriminator.map(|weights| ("discriminator", weights));
        Ok([network].into_iter().chain(discriminator).collect())
    }

    fn start<'a>(
        &self,
        options: &'a RunOptions,
        run: &'a RunFolder,
        folder: &StageFolder,
    ) -> Result<Start<'a>, TrainError> {
        Start::of_experiment(self.experiment, options, run, folder, OF_STAGE_1)
    }

    fn steps_of(&self, model: &Path) -> Option<usize> {
        let model = FirstStage::load(&ModelSource::Folder(model.to_owned()), &Device::flex());
        steps_in(&model.ok()?.metadata.training)
    }

    fn find(
        &self,
        start: &Start<'_>,
        run: &RunFolder,
        progress: &dyn Progress,
    ) -> Result<Found<Self::Found>, TrainError> {
        let stage_2 = run.stage_2();
        if start.resume.is_some() && stage_2.start().is_dir() {
            tracing::warn!(
                "stage 2 of this run was trained with the VQ-VAE as it is now: to go on with it afterwards, give it --vqvae {}",
                stage_2.start().display()
            );
        }
        let learning = start.options.devices.first().autodiff();
        self.say_if_the_term_moved(start);
        let (autoencoder, begun_with) = start.initial_weights(|folder| {
            initial_weights::autoencoder(folder, self.config, &learning)
        })?;
        let side = self.experiment.data.size;
        let (perceptual, identity) = find_perceptual(self.config, side, start, progress)?.unzip();
        Ok(Found {
            networks: Networks {
                autoencoder,
                perceptual,
            },
            vqvae: None,
            perceptual: identity,
            begun_with,
        })
    }

    fn check_data(&self, datasets: &Datasets) -> Result<(), TrainError> {
        let (images, side) = (datasets.train.len(), self.experiment.data.size);
        Ok(self.config.check_codes(images, side)?)
    }

    fn prepare<'a>(
        &'a self,
        Networks {
            autoencoder,
            perceptual,
        }: Networks,
        scene: &'a Scene<'a>,
    ) -> Result<Prepared<'a, FirstStageRecipe, ImageSource>, TrainError> {
        let Scene {
            options,
            datasets,
            plan,
            session,
            folder,
            ..
        } = scene;
        let device = options.devices.first();
        let (seed, config) = (self.experiment.seed, &self.config);
        let side = self.experiment.data.size;
        // A resumed run has its own in the checkpoint.
        let begun_with = (scene.begun_with.as_ref()).filter(|_| session.steps_done() == 0);
        let place = begun_with.and_then(|initial| initial.place.as_deref());
        let discriminator = place.and_then(discriminator_beside);
        if let (Some(place), Some(table)) = (place, config.stage_1.adversarial()) {
            match &discriminator {
                Some(file) => tracing::info!("the discriminator begins as in {}", file.display()),
                None => tracing::warn!(
                    "there is no discriminator beside {}, so it begins untrained: it learns alone for {} steps (stage_1.adversarial.head_start) before it counts",
                    place.display(),
                    table.learns_alone(self.training().steps)
                ),
            }
        }
        if let Some(warning) = config
            .stage_1
            .adversarial()
            .and_then(|table| table.warning(self.training().steps))
        {
            tracing::warn!("{warning}");
        }
        let objective = Objective::new(config, side, perceptual, discriminator);
        let network = match autoencoder {
            Some(network) => network,
            None => {
                let network = config.network.init(&device.clone().autodiff(), seed)?;
                let has_codebook = network.bottleneck.codebook().is_some();
                if has_codebook && config.codebook.kmeans_start && session.steps_done() == 0 {
                    let (images, progress) = (&datasets.train, scene.progress);
                    let stop = &options.stop;
                    with_kmeans_codes(network, config, seed, images, &device, progress, stop)?
                } else {
                    network
                }
            }
        };
        let metrics = metrics(&objective, &network.bottleneck);
        let border = datasets.train.border();
        let (folder, session) = (folder.clone(), session.clone());
        let seen_by = objective.seen_by.clone();
        let (place, beside) = (folder.model(), folder.discriminator());
        Ok(Prepared {
            title: match config.network {
                AutoencoderConfig::Vq(_) => "stage 1: VQ-VAE",
                AutoencoderConfig::Kl(_) => "stage 1: KL autoencoder",
            },
            trainee: trainee(config, objective, network, border, plan, folder, session),
            source: ImageSource::new(self.training(), seed, datasets.clone(), plan.clone()),
            metrics,
            best_by: LOSS,
            watch: discriminator_warnings,
            save: Box::new(move |networks, steps| {
                let (network, discriminator) = networks.into_trained();
                if let Some(discriminator) = discriminator {
                    let facts = BTreeMap::new();
                    save_weights(&discriminator, &beside, WeightsType::F32, &facts)?;
                }
                let mut metadata =
                    metadata(self.experiment, datasets, steps, scene.earlier_steps());
                let seen_by = seen_by.map(|identity| (PERCEPTUAL_NETWORK.to_owned(), identity));
                metadata.training.extend(seen_by);
                let first_stage = FirstStage { network, metadata };
                first_stage.save(&place, WeightsType::F32)?;
                Ok(None)
            }),
        })
    }
}

impl Stage1<'_> {
    fn weights_of_discriminator(&self) -> Option<usize> {
        let table = self.config.stage_1.adversarial()?;
        Some(
            table
                .discriminator
                .num_weights(self.experiment.data.channels),
        )
    }

    fn trained(&self) -> Result<Trained<'_>, TrainError> {
        let network = &self.config.network;
        let (channels, size) = (self.experiment.data.channels, self.experiment.data.size);
        let mut maps = FeatureMaps::of_autoencoder(network, [size; 2]);
        if let Some(table) = self.config.stage_1.adversarial() {
            maps = maps.with_discriminator(&table.discriminator, channels, size);
        }
        if let Some(table) = self.config.stage_1.perceptual() {
            maps.training += table.network.numbers_per_pixel() * (size * size) as f64;
        }
        Ok(Trained {
            network: self.config.table(),
            weights: network.num_weights()? + self.weights_of_discriminator().unwrap_or_default(),
            maps,
            table: self.table(),
            training: self.training(),
        })
    }

    /// Warns if the adversarial term counted already and, in a longer training, does not count yet.
    fn say_if_the_term_moved(&self, start: &Start<'_>) {
        let before = start
            .before()
            .and_then(|before| Experiment::parse(&before.config, BEFORE, &[]).ok());
        let before = before.and_then(|before| before.first_stage);
        let counts_from = |config: &FirstStageConfig| {
            let table = config.stage_1.adversarial()?;
            Some(table.start.of(config.stage_1.training.steps))
        };
        let (before, now) = (
            before.as_ref().and_then(counts_from),
            counts_from(self.config),
        );
        if let (Some(before), Some(now), done) = (before, now, start.session.steps_done())
            && before < done
            && done < now
        {
            tracing::warn!(
                "the adversarial term counted from step {before} on, and does not count again until step {now}, because stage_1.adversarial.start is a share of the training: give it in steps, as in --set stage_1.adversarial.start={before}"
            );
        }
    }
}

/// The frozen network of the objective, if it has one: from the config's file or, if that is gone, from the file that the
/// run so far has used.
///
/// # Errors
/// If it cannot be had, cannot see the images, or is not the one of the run so far.
fn find_perceptual(
    config: &FirstStageConfig,
    side: usize,
    start: &Start<'_>,
    progress: &dyn Progress,
) -> Result<Option<(PerceptualNetwork, PerceptualIdentity)>, TrainError> {
    let Some(table) = config.stage_1.perceptual() else {
        return Ok(None);
    };
    let known = (start.before())
        .and_then(|before| before.perceptual.as_ref()?.place.as_deref())
        .filter(|place| place.is_file());
    let weights = match (table.weights.as_deref(), known) {
        (Some(lost), Some(known)) if !lost.exists() => {
            tracing::warn!(
                "there is no {} here: going on with the weights in {}",
                lost.display(),
                known.display()
            );
            Some(known)
        }
        (weights, _) => weights,
    };
    let device = start.options.devices.first();
    let network = perceptual::open(config, table, weights, side, &device, progress)?;
    if !network.is_published() {
        tracing::warn!("stage_1.perceptual sees by {}", network.description());
    }
    let identity = PerceptualIdentity {
        sha256: network.sha256().to_owned(),
        place: weights.and_then(absolute),
    };
    if let Some(before) = start.before() {
        before.require_perceptual(&identity)?;
    }
    Ok(Some((network, identity)))
}
