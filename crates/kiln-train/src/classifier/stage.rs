//! The training of the digit classifier from beginning to end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_data::{DataConfig, Datasets, read_regular};
use kiln_eval::DigitClassifier;
use kiln_models::WeightsType;
use safetensors::SafeTensors;

use super::{ClassifierRecipe, DigitSource, METRICS, trainee};
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

impl Stage for ClassifierExperiment {
    type Recipe = ClassifierRecipe;
    type Source = DigitSource;
    type Found = ();

    fn name(&self) -> &'static str {
        "classifier"
    }

    fn training(&self) -> &TrainingConfig {
        &self.training
    }

    fn table(&self) -> &'static str {
        "training"
    }

    fn data(&self) -> &DataConfig {
        &self.data
    }

    fn seed(&self) -> u64 {
        self.seed
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

    fn start<'a>(
        &self,
        options: &'a RunOptions,
        run: &'a RunFolder,
        folder: &StageFolder,
    ) -> Result<Start<'a>, TrainError> {
        let reread = |text: &str| Self::parse(text, BEFORE, &[])?.to_toml();
        let config = self.to_toml()?;
        Start::new(options, run, folder, OF_THE_CLASSIFIER, config, reread)
    }

    fn steps_of(&self, model: &Path) -> Option<usize> {
        steps_in(&facts_in(model)?)
    }

    fn find(&self, _: &Start<'_>, _: &RunFolder) -> Result<Found<()>, TrainError> {
        Ok(Found {
            networks: (),
            vqvae: None,
            begun_with: None,
        })
    }

    fn check_data(&self, datasets: &Datasets) -> Result<(), TrainError> {
        for set in [&datasets.train, &datasets.validation] {
            let digit = |image| {
                set.label(image)
                    .filter(|&label| label < DigitClassifier::CLASSES)
            };
            if !(0..set.len()).all(|image| digit(image).is_some()) {
                return Err(TrainError::Run(format!(
                    "the images of {} have no labels from 0 to 9 for the classifier to learn: give it MNIST, or a relative of ten classes",
                    set.name()
                )));
            }
        }
        Ok(())
    }

    fn prepare<'a>(
        &'a self,
        (): (),
        scene: &'a Scene<'a>,
    ) -> Result<Prepared<'a, ClassifierRecipe, DigitSource>, TrainError> {
        let Scene { datasets, plan, .. } = scene;
        let device = scene.options.devices.first();
        Ok(Prepared {
            title: "digit classifier",
            trainee: trainee(self, plan, scene.session.clone(), &device),
            source: DigitSource::new(self, datasets.clone(), plan),
            metrics: METRICS.to_vec(),
            best_by: LOSS,
            save: Box::new(move |networks, steps| {
                let facts = training_facts(self.seed, datasets, steps);
                let (classifier, path) = (networks.into_trained(), self.model(scene.run));
                kiln_models::save_weights(&classifier, &path, WeightsType::F16, &facts)?;
                Ok(None)
            }),
        })
    }
}

/// Many times the size of a classifier's weights, in bytes.
const LARGEST_CLASSIFIER: u64 = 64 << 20;

/// The facts in the header of the classifier's weights, if it has any.
fn facts_in(weights: &Path) -> Option<BTreeMap<String, String>> {
    let bytes = read_regular(weights, LARGEST_CLASSIFIER).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    Some(header.metadata().clone()?.into_iter().collect())
}
