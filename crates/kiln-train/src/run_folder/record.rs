//! Reads a run folder, to find how a training went.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_data::DataConfig;

use crate::error::TrainError;
use crate::experiment::{Experiment, ExperimentError, TrainingConfig, overrides_in};
use crate::run_folder::checkpoints::{CheckpointFolder, GoodCheckpoint};
use crate::run_folder::manifest::Manifest;
use crate::run_folder::metrics_table::rows_in;
use crate::run_folder::places::find_data;
use crate::run_folder::{PICTURES, RunFolder, StageFolder};

/// The overrides, as for `--set`, of the run in the folder `run` when it began or was last resumed. Empty if there is
/// no run.
///
/// # Errors
/// [`ExperimentError`] if the run's `config.toml` cannot be read.
pub fn overrides_of_run(run: &Path) -> Result<Vec<String>, ExperimentError> {
    let config = RunFolder::new(run).config();
    match config.exists() {
        true => overrides_in(&config),
        false => Ok(Vec::new()),
    }
}

/// The contents of a run's folder so far.
#[derive(Debug)]
pub struct RunRecord {
    pub(crate) folder: RunFolder,
    /// The experiment.
    pub experiment: Experiment,
    /// The stages with at least some training, in order.
    pub stages: Vec<StageRecord>,
}

/// The record of one stage's training.
#[derive(Debug, Clone)]
pub struct StageRecord {
    /// `stage 1` or `stage 2`, or `the classifier`; pixel space is also `stage 2`.
    pub name: &'static str,
    /// The folder of the stage.
    pub folder: PathBuf,
    /// The training's settings.
    pub training: TrainingConfig,
    /// The rows of `metrics.csv` by step: values by column, such as `loss/train` and `loss/valid`.
    pub rows: BTreeMap<usize, BTreeMap<String, f64>>,
    /// What keeps `metrics.csv` from being read, if something does. There are no rows then.
    pub damage: Option<String>,
}

impl RunRecord {
    /// Reads the experiment and the metrics of the run at `path`.
    ///
    /// # Errors
    /// [`TrainError::Config`] if there is no `config.toml`, or if it is not ours.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let folder = RunFolder::new(path);
        let experiment = Experiment::load(&folder.config(), &[])?;
        let first_stage = experiment.first_stage.iter();
        let stages = first_stage
            .map(|config| StageRecord::read("stage 1", &folder.stage_1(), &config.stage_1.training))
            .chain([StageRecord::read(
                "stage 2",
                &folder.stage_2(),
                &experiment.stage_2.training,
            )])
            .flatten()
            .collect();
        Ok(Self {
            folder,
            experiment,
            stages,
        })
    }

    /// The run folder that contains a model: `runs/mnist` for `runs/mnist/model`, for a checkpoint inside it, and for
    /// itself.
    pub fn folder_around(model: &Path) -> Option<PathBuf> {
        let places = [Some(model.to_owned()), model.canonicalize().ok()];
        places.into_iter().flatten().find_map(|place| {
            let mut outwards = place.ancestors().take(4);
            let run = outwards.find(|folder| RunFolder::new(folder).is_ours());
            run.map(Path::to_owned)
        })
    }

    /// The training data set, with its path as seen from here.
    pub fn data(&self) -> DataConfig {
        find_data(&self.experiment.data, || {
            let stages = [self.folder.stage_2(), self.folder.stage_1()];
            let identities = stages.into_iter().filter_map(|stage| {
                CheckpointFolder::new(stage.checkpoints())
                    .newest_good()?
                    .identity
            });
            identities.filter_map(|identity| identity.data).next()
        })
    }

    /// The checkpoints that no training can go on from, and why, oldest first.
    pub fn damaged_checkpoints(&self) -> Vec<(PathBuf, String)> {
        let stages = [self.folder.stage_1(), self.folder.stage_2()];
        let folders = stages.map(|stage| CheckpointFolder::new(stage.checkpoints()));
        let places = folders.iter().flat_map(|folder| {
            let steps = folder.steps().into_iter();
            steps.map(|step| folder.path(step))
        });
        places
            .filter_map(|place| {
                let problem = GoodCheckpoint::open(&place).err()?;
                Some((place, problem))
            })
            .collect()
    }

    /// The folder of the finished model, if there is one.
    pub fn model(&self) -> Option<PathBuf> {
        Some(self.folder.model()).filter(|model| model.is_dir())
    }

    /// The folder of the trained VQ-VAE, if there is one.
    pub fn vqvae(&self) -> Option<PathBuf> {
        Some(self.folder.stage_1().model()).filter(|model| model.is_dir())
    }
}

impl StageRecord {
    /// The record in a stage's folder; `None` if there has been no training.
    pub(crate) fn read(
        name: &'static str,
        stage: &StageFolder,
        training: &TrainingConfig,
    ) -> Option<Self> {
        // What was learnt can be said without its curves.
        let (rows, damage) = match rows_in(&stage.metrics()) {
            Ok(rows) => (rows, None),
            Err(TrainError::Metrics { path, problem }) => {
                let what = format!("{} is damaged, {problem}", path.display());
                (BTreeMap::new(), Some(what))
            }
            Err(error) => (BTreeMap::new(), Some(error.to_string())),
        };
        let has_begun = !rows.is_empty() || damage.is_some();
        has_begun.then(|| Self {
            name,
            folder: stage.path().to_owned(),
            training: training.clone(),
            rows,
            damage,
        })
    }

    /// Steps done up to the newest row.
    pub fn steps_done(&self) -> usize {
        self.rows.keys().last().copied().unwrap_or_default()
    }

    /// The checkpoints that are there, by step.
    pub fn checkpoints(&self) -> BTreeMap<usize, PathBuf> {
        let folder = CheckpointFolder::new(StageFolder::new(&self.folder).checkpoints());
        let steps = folder.steps().into_iter();
        steps.map(|step| (step, folder.path(step))).collect()
    }

    /// Where the training computed up to the newest checkpoint, as in `cpu:2`, if that is known.
    pub fn devices(&self) -> Option<String> {
        let newest = self.checkpoints().into_values().next_back()?;
        Manifest::read(&newest).ok()?.devices
    }

    /// The pictures that the training drew or reconstructed, by step.
    pub fn pictures(&self) -> BTreeMap<usize, PathBuf> {
        let folders = PICTURES.map(|folder| self.folder.join(folder));
        let entries = folders
            .iter()
            .flat_map(|folder| folder.read_dir())
            .flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        let at_step = paths.filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let step = name.strip_prefix("step-")?.strip_suffix(".png")?.parse();
            Some((step.ok()?, path))
        });
        at_step.collect()
    }

    /// The time of a step up to the newest checkpoint, with its share of the validation and the pictures, if that is known.
    pub fn step_time(&self) -> Option<Duration> {
        let newest = self.checkpoints().into_values().next_back()?;
        let seconds = Manifest::read(&newest).ok()?.seconds_a_step?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// The time since the newest row was written.
    pub fn age(&self) -> Option<Duration> {
        let metrics = StageFolder::new(&self.folder).metrics();
        metrics.metadata().ok()?.modified().ok()?.elapsed().ok()
    }

    /// The columns of `metrics.csv`.
    pub fn columns(&self) -> BTreeSet<String> {
        self.rows
            .values()
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect()
    }

    /// The newest value of a column, such as `loss/valid`.
    pub fn newest(&self, column: &str) -> Option<f64> {
        let mut newest_first = self.rows.values().rev();
        newest_first.find_map(|row| row.get(column).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_number_may_stand_in_an_older_row() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(
            place.path().join("metrics.csv"),
            "step,loss/train,loss/valid\n10,3,4\n20,2,\n",
        )
        .unwrap();
        let text = include_str!("../../../../configs/mnist-quick.toml");
        let experiment = Experiment::parse(text, "mnist-quick", &[]);
        let stage = StageRecord {
            name: "stage 1",
            folder: place.path().to_owned(),
            training: experiment.unwrap().stage_2.training,
            rows: rows_in(&place.path().join("metrics.csv")).unwrap(),
            damage: None,
        };
        assert_eq!(stage.steps_done(), 20);
        assert_eq!(stage.newest("loss/train"), Some(2.0));
        assert_eq!(stage.newest("loss/valid"), Some(4.0));
        assert_eq!(stage.newest("psnr/valid"), None);
        assert_eq!(stage.step_time(), None);
        assert!(stage.age().is_some());

        std::fs::create_dir(place.path().join("samples")).unwrap();
        for name in ["step-0000020.png", "step-0000010.png", "notes.png"] {
            std::fs::write(place.path().join("samples").join(name), "").unwrap();
        }
        let steps: Vec<usize> = stage.pictures().into_keys().collect();
        assert_eq!(steps, [10, 20]);
    }
}
