//! Reads the run folder of a classifier, to find how its training went.

use std::path::Path;

use burn::tensor::Device;
use kiln_data::read_regular;
use kiln_eval::{DigitClassifier, ImageClassifier};

use super::stage::LARGEST_CLASSIFIER;
use crate::error::TrainError;
use crate::experiment::ClassifierExperiment;
use crate::run_folder::record::StageRecord;
use crate::run_folder::{RunFolder, StageFolder};

/// The contents of a classifier's run folder so far.
#[derive(Debug)]
pub struct ClassifierRecord {
    folder: RunFolder,
    /// The experiment.
    pub experiment: ClassifierExperiment,
    /// The training, if there has been some.
    pub stage: Option<StageRecord>,
}

impl ClassifierRecord {
    /// Reads the run at `path`; `None` if its experiment is not a classifier's.
    pub fn open(path: &Path) -> Option<Self> {
        let folder = RunFolder::new(path);
        let experiment = ClassifierExperiment::load(&folder.config(), &[]).ok()?;
        let stage: StageFolder = folder.classifier();
        Some(Self {
            stage: StageRecord::read("the classifier", &stage, &experiment.training),
            experiment,
            folder,
        })
    }

    /// Reads the weights of the finished training. `Ok(false)` if it is not finished.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn check_weights(&self, device: &Device) -> Result<bool, TrainError> {
        let path = self.folder.classifier_weights();
        if !path.exists() {
            return Ok(false);
        }
        if self.experiment.classifier.is_some() {
            let read = ImageClassifier::load(&path, device);
            return match read {
                Ok(_) => Ok(true),
                Err(problem) => Err(TrainError::Run(problem.to_string())),
            };
        }
        let bytes =
            read_regular(&path, LARGEST_CLASSIFIER).map_err(TrainError::file("read", &path))?;
        let read = DigitClassifier::from_bytes(&bytes, device);
        read.map_err(|problem| TrainError::Run(format!("{}: {problem}", path.display())))?;
        Ok(true)
    }
}
