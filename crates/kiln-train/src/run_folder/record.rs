//! Reads a run folder, to find how a training went.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use kiln_data::{DataConfig, read_regular};
use kiln_models::free_memory;
use safetensors::SafeTensors;

use crate::learner::checkpoint::CheckpointFolder;

use crate::denoising::latents::check_digest;
use crate::error::TrainError;
use crate::experiment::{Experiment, TrainingConfig};
use crate::learner::log::rows_in;
use crate::run_folder::{RunFolder, StageFolder};
use crate::start::places::find_data;

/// The contents of a run's folder so far.
#[derive(Debug)]
pub struct RunRecord {
    folder: RunFolder,
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

    /// The folder of the finished model, if there is one.
    pub fn model(&self) -> Option<PathBuf> {
        Some(self.folder.model()).filter(|model| model.is_dir())
    }

    /// The folder of the trained VQ-VAE, if there is one.
    pub fn vqvae(&self) -> Option<PathBuf> {
        Some(self.folder.stage_1().model()).filter(|model| model.is_dir())
    }

    /// The first `count` cached validation latents `[batch, channels, height, width]`, not scaled, of the VQ-VAE with
    /// this [hash](kiln_checkpoint::vqvae_hash); `None` if that VQ-VAE's latents are not cached.
    ///
    /// # Errors
    /// [`TrainError::File`] if the cache cannot be read, [`TrainError::Run`] if it is damaged.
    pub fn validation_latents(
        &self,
        vqvae_hash: &str,
        count: usize,
        device: &Device,
    ) -> Result<Option<Tensor<4>>, TrainError> {
        let path = self.folder.latents(vqvae_hash);
        if !path.is_file() {
            return Ok(None);
        }
        let most = free_memory().unwrap_or(u64::MAX);
        let bytes = read_regular(&path, most).map_err(TrainError::file("read", &path))?;
        let damaged = |problem: String| {
            TrainError::Run(format!(
                "the latents in {} are damaged ({problem}): remove the file, and training stage 2 encodes them again",
                path.display()
            ))
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        check_digest(&file, &bytes).map_err(damaged)?;
        let validation = (file.tensor("validation")).map_err(|error| damaged(error.to_string()))?;
        let &[images, variants, channels, height, width] = validation.shape() else {
            return Err(damaged("`validation` has the wrong shape".to_owned()));
        };
        let count = count.min(images);
        // Only the unmirrored images: the first variant of each.
        let image = channels * height * width;
        let values: Vec<f32> = validation
            .data()
            .as_chunks()
            .0
            .chunks((variants * image).max(1))
            .take(count)
            .flat_map(|variants| variants.iter().take(image))
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        if count == 0 || image == 0 || values.len() != count * image {
            return Err(damaged("`validation` has the wrong length".to_owned()));
        }
        let data = TensorData::new(values, [count, channels, height, width]);
        Ok(Some(Tensor::from_data(data, device)))
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
            training: training.clone(),
            rows,
            damage,
        })
    }

    /// Steps done up to the newest row.
    pub fn steps_done(&self) -> usize {
        self.rows.keys().last().copied().unwrap_or_default()
    }

    /// The newest value of a column, such as `loss/valid`.
    pub fn newest(&self, column: &str) -> Option<f64> {
        let mut newest_first = self.rows.values().rev();
        newest_first.find_map(|row| row.get(column).copied())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    fn record(folder: &Path) -> RunRecord {
        let text = include_str!("../../../../configs/mnist-quick.toml");
        RunRecord {
            folder: RunFolder::new(folder),
            experiment: Experiment::parse(text, "mnist-quick", &[]).unwrap(),
            stages: Vec::new(),
        }
    }

    fn write_latents(path: &Path, shape: [usize; 5]) {
        let count: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..count)
            .flat_map(|value| (value as f32).to_le_bytes())
            .collect();
        let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
        let nothing: Option<HashMap<String, String>> = None;
        let bytes = safetensors::serialize([("validation", view)], nothing).unwrap();
        crate::run_folder::write_atomically(path, &bytes).unwrap();
    }

    #[test]
    fn latents_are_found_by_their_vqvae() {
        let place = tempfile::tempdir().unwrap();
        let record = record(place.path());
        write_latents(&record.folder.latents("abc"), [3, 2, 1, 1, 2]);
        let read = |hash, count| {
            let latents = record
                .validation_latents(hash, count, &Device::flex())
                .unwrap()?;
            Some(latents.into_data().iter::<f32>().collect::<Vec<f32>>())
        };
        assert_eq!(read("abc", 2), Some(vec![0.0, 1.0, 4.0, 5.0]));
        assert_eq!(read("abc", 9).map(|values| values.len()), Some(6));
        assert_eq!(read("other", 2), None);
    }

    #[test]
    fn a_damaged_cache_is_named() {
        let place = tempfile::tempdir().unwrap();
        let record = record(place.path());
        let path = record.folder.latents("abc");
        write_latents(&path, [3, 2, 1, 1, 2]);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..4], &whole[..whole.len() - 4], &[]] {
            std::fs::write(&path, bytes).unwrap();
            let error = record.validation_latents("abc", 2, &Device::flex());
            assert!(error.unwrap_err().to_string().contains("abc.safetensors"));
        }
    }

    #[test]
    fn the_newest_number_may_stand_in_an_older_row() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(
            place.path().join("metrics.csv"),
            "step,loss/train,loss/valid\n10,3,4\n20,2,\n",
        )
        .unwrap();
        let stage = StageRecord {
            name: "stage 1",
            training: record(place.path()).experiment.stage_2.training,
            rows: rows_in(&place.path().join("metrics.csv")).unwrap(),
            damage: None,
        };
        assert_eq!(stage.steps_done(), 20);
        assert_eq!(stage.newest("loss/train"), Some(2.0));
        assert_eq!(stage.newest("loss/valid"), Some(4.0));
        assert_eq!(stage.newest("psnr/valid"), None);
    }
}
