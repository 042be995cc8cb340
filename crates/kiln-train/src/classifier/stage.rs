//! The training of a classifier from beginning to end.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use kiln_data::{DataConfig, Datasets, Progress, read_regular};
use safetensors::SafeTensors;

use super::network::Classifier;
use super::{ClassifierRecipe, LabelledSource, METRICS, trainee};
use crate::error::TrainError;
use crate::experiment::{ClassifierExperiment, TrainingConfig};
use crate::learner::report::LOSS;
use crate::run_folder::changed_keys::OF_THE_CLASSIFIER;
use crate::run_folder::facts::{steps_in, training_facts};
use crate::run_folder::{RunFolder, StageFolder};
use crate::script::options::RunOptions;
use crate::script::start::{BEFORE, Start};
use crate::script::{Found, Prepared, Scene, Stage};
use kiln_pipeline::Devices;

/// The training of a network of this type.
pub(crate) struct ClassifierStage<'a, C> {
    experiment: &'a ClassifierExperiment,
    network: PhantomData<C>,
}

impl<'a, C: Classifier> ClassifierStage<'a, C> {
    pub(crate) fn of(experiment: &'a ClassifierExperiment) -> Self {
        Self {
            experiment,
            network: PhantomData,
        }
    }
}

impl<C: Classifier> Stage for ClassifierStage<'_, C> {
    type Recipe = ClassifierRecipe<C>;
    type Source = LabelledSource;
    type Found = ();

    fn name(&self) -> &'static str {
        "classifier"
    }

    fn training(&self) -> &TrainingConfig {
        &self.experiment.training
    }

    fn table(&self) -> &'static str {
        "training"
    }

    fn data(&self) -> &DataConfig {
        &self.experiment.data
    }

    fn seed(&self) -> u64 {
        self.experiment.seed
    }

    fn folder(&self, run: &RunFolder) -> StageFolder {
        run.classifier()
    }

    fn model(&self, run: &RunFolder) -> PathBuf {
        run.classifier_weights()
    }

    /// The classifier is small.
    fn check_memory(&self, _: &Devices) -> Result<(), TrainError> {
        Ok(())
    }

    fn memory(&self, _: &Devices) -> Result<Option<f64>, TrainError> {
        Ok(None)
    }

    fn weights(&self, datasets: &Datasets) -> Result<Vec<(&'static str, usize)>, TrainError> {
        let network = C::untrained(self.experiment, datasets, &Device::flex());
        Ok(vec![("classifier", Module::num_params(&network))])
    }

    fn start<'a>(
        &self,
        options: &'a RunOptions,
        run: &'a RunFolder,
        folder: &StageFolder,
    ) -> Result<Start<'a>, TrainError> {
        let reread = |text: &str| ClassifierExperiment::parse(text, BEFORE, &[])?.to_toml();
        let config = self.experiment.to_toml()?;
        Start::new(options, run, folder, OF_THE_CLASSIFIER, config, reread)
    }

    fn steps_of(&self, model: &Path) -> Option<usize> {
        steps_in(&facts_in(model)?)
    }

    fn find(
        &self,
        _: &Start<'_>,
        _: &RunFolder,
        _: &dyn Progress,
    ) -> Result<Found<()>, TrainError> {
        Ok(Found {
            networks: (),
            vqvae: None,
            perceptual: None,
            begun_with: None,
        })
    }

    fn check_data(&self, datasets: &Datasets) -> Result<(), TrainError> {
        C::check_data(datasets)
    }

    fn prepare<'a>(
        &'a self,
        (): (),
        scene: &'a Scene<'a>,
    ) -> Result<Prepared<'a, ClassifierRecipe<C>, LabelledSource>, TrainError> {
        let Scene { datasets, plan, .. } = scene;
        let device = scene.options.devices.first();
        Ok(Prepared {
            title: C::TITLE,
            trainee: trainee(
                self.experiment,
                datasets,
                plan,
                scene.session.clone(),
                &device,
            ),
            source: LabelledSource::new::<C>(self.experiment, datasets.clone(), plan),
            metrics: METRICS.to_vec(),
            best_by: LOSS,
            watch: |_| Vec::new(),
            save: Box::new(move |networks, steps| {
                let facts = training_facts(self.experiment.seed, datasets, steps);
                networks
                    .into_trained()
                    .save(&self.model(scene.run), &facts)?;
                Ok(None)
            }),
        })
    }
}

/// Many times the size of a classifier's weights, in bytes.
pub(super) const LARGEST_CLASSIFIER: u64 = 1 << 30;

/// The facts in the header of the classifier's weights, if it has any.
fn facts_in(weights: &Path) -> Option<BTreeMap<String, String>> {
    let bytes = read_regular(weights, LARGEST_CLASSIFIER).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    Some(header.metadata().clone()?.into_iter().collect())
}
