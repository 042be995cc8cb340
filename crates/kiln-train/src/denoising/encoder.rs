//! Encodes the images of stage 2 once: the run folder keeps their latents.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use kiln_checkpoint::FirstStage;
use kiln_data::{Datasets, ImageDataset, Progress, ProgressUnit, Task, prefetch};
use kiln_pipeline::Devices;

use super::latent_shards::{LatentFolder, ShardProblem};
use super::latents::{LatentSet, Latents, Values};
use super::spread::Spread;
use crate::error::TrainError;
use crate::experiment::{LatentNumbers, PosteriorLatents};
use crate::learner::images::tensor;
use crate::learner::session::StopSignal;
use crate::ranks::Ranks;

/// The most images that are encoded at once.
const BATCH: usize = 64;

/// The encoder of a data set.
pub(crate) struct Encoder<'a> {
    pub(crate) first_stage: &'a FirstStage,
    /// The most images that fit into memory at once.
    pub(crate) together: usize,
    pub(crate) numbers: LatentNumbers,
    pub(crate) posterior: PosteriorLatents,
    pub(crate) devices: &'a Devices,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) stop: &'a StopSignal,
}

impl Encoder<'_> {
    /// The latents of `datasets`, from the files in `folder`. What is missing there or damaged is encoded by all devices of
    /// all `ranks`, which have the folder in common or each its own.
    ///
    /// # Errors
    /// If the data cannot be read, the files cannot be written, or they belong to another VQ-VAE or other data.
    pub(crate) fn latents(
        &self,
        datasets: &Datasets,
        folder: &Path,
        ranks: &Ranks,
    ) -> Result<Latents, TrainError> {
        let flips = datasets.train.horizontal_flip();
        let train = self.folder(folder, "train", &datasets.train, flips);
        let validation = self.folder(folder, "validation", &datasets.validation, false);
        let of_rank = |number: usize| number % ranks.size() == ranks.rank();
        self.encode_missing(&train, &datasets.train, &of_rank)?;
        self.encode_missing(&validation, &datasets.validation, &of_rank)?;
        ranks.meet()?;
        // Another rank's files may be on another machine.
        ranks.first_then_others(|| {
            Ok(Latents {
                train: self.open(&train, &datasets.train)?,
                validation: self.open(&validation, &datasets.validation)?,
            })
        })
    }

    /// The files of one split.
    fn folder(
        &self,
        folder: &Path,
        split: &'static str,
        images: &ImageDataset,
        flips: bool,
    ) -> LatentFolder {
        let config = self.first_stage.network.config();
        let shape = images.shape();
        let [height, width] =
            [shape.height, shape.width].map(|side| side / config.downscale_factor());
        let with_flips = if flips { " with flips" } else { "" };
        let has_deviations = self.posterior == PosteriorLatents::Sample;
        LatentFolder {
            folder: folder.to_owned(),
            split,
            source: [
                ("vqvae", self.first_stage.hash()),
                ("images", images.fingerprint().to_owned() + with_flips),
            ],
            shape: [
                images.len(),
                (1 + usize::from(flips)) * (1 + usize::from(has_deviations)),
                config.latent_dim(),
                height,
                width,
            ],
            has_deviations,
            numbers: self.numbers,
        }
    }

    /// Encodes the files that are missing or damaged, of those that are `wanted`.
    fn encode_missing(
        &self,
        folder: &LatentFolder,
        images: &ImageDataset,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<(), TrainError> {
        let mut missing = Vec::new();
        for number in (0..folder.files()).filter(|&number| wanted(number)) {
            match folder.check(number, None) {
                Ok(_) => {}
                Err(ShardProblem::Missing) => missing.push(number),
                Err(ShardProblem::Damaged(problem)) => {
                    tracing::warn!(
                        "encoding the latents of {} again, because it is damaged: {problem}",
                        folder.path(number).display()
                    );
                    missing.push(number);
                }
                Err(ShardProblem::Foreign(what)) => {
                    return Err(TrainError::Run(format!(
                        "the latents in {} were made from {what}; remove the folder {} to encode them again",
                        folder.path(number).display(),
                        folder.folder.display()
                    )));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let total: usize = missing
            .iter()
            .map(|&number| folder.images(number).len())
            .sum();
        let total = (total * folder.flips()) as u64;
        let task = Task::begin(
            self.progress,
            "encoding the images",
            ProgressUnit::Images,
            Some(total),
        );
        let devices = self.devices.all();
        std::thread::scope(|scope| {
            let workers: Vec<_> = devices
                .iter()
                .enumerate()
                .map(|(place, device)| {
                    let (missing, task) = (&missing, &task);
                    scope.spawn(move || {
                        let own = missing.iter().skip(place).step_by(devices.len());
                        own.copied().try_for_each(|number| {
                            let values = self.encode(folder, number, images, device, task)?;
                            folder.write(number, &values)
                        })
                    })
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| match worker.join() {
                    Ok(done) => done,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
        })
    }

    /// The latents of one file.
    fn encode(
        &self,
        folder: &LatentFolder,
        number: usize,
        dataset: &ImageDataset,
        device: &Device,
        task: &Task<'_>,
    ) -> Result<Vec<f32>, TrainError> {
        let variants = folder.flips();
        let images: Vec<(u32, bool)> = folder
            .images(number)
            .flat_map(|index| (0..variants).map(move |variant| (index as u32, variant == 1)))
            .collect();
        let together = self.together.clamp(1, BATCH);
        let requests: Vec<_> = images.chunks(together).map(<[_]>::to_vec).collect();
        let network = self.first_stage.network.clone().to_device(device);
        let (mut values, mut deviations) = (Vec::new(), Vec::new());
        for batch in prefetch(dataset.clone(), requests.into_iter()) {
            self.stop.check()?;
            let images = tensor(&batch?, dataset, device);
            let encoded = network.encoded(images);
            task.advance(encoded.dims()[0] as u64);
            if folder.has_deviations
                && let Some(deviation) = network.bottleneck.deviation(encoded.clone())
            {
                deviations.extend(deviation.into_data().iter::<f32>());
            }
            let latents = network.bottleneck.latents(encoded);
            values.extend(latents.into_data().iter::<f32>());
        }
        if !folder.has_deviations {
            return Ok(values);
        }
        let of_image = variants * folder.shape[2..].iter().product::<usize>();
        let pairs = values.chunks(of_image).zip(deviations.chunks(of_image));
        Ok(pairs
            .flat_map(|(mean, deviation)| [mean, deviation].concat())
            .collect())
    }

    /// The latents of one split; a file that is not there is encoded.
    fn open(&self, folder: &LatentFolder, images: &ImageDataset) -> Result<LatentSet, TrainError> {
        let mut kept = folder.is_small().then(Vec::new);
        let mut spread = Spread::default();
        for number in 0..folder.files() {
            let of_file = match folder.check(number, kept.as_mut()) {
                Ok(of_file) => of_file,
                Err(_) => {
                    self.encode_missing(folder, images, &|other| other == number)?;
                    let again = folder.check(number, kept.as_mut());
                    again.map_err(|_| {
                        TrainError::Run(format!(
                            "{} was changed by another program: do not change a run while it is trained",
                            folder.path(number).display()
                        ))
                    })?
                }
            };
            spread = spread.and(of_file);
        }
        Ok(LatentSet {
            shape: folder.shape,
            values: match kept {
                Some(values) => Values::Kept(values),
                None => Values::OnDisk(folder.open()?, folder.images_of_file()),
            },
            spread,
            has_deviations: folder.has_deviations,
            scale: (0.0, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoising::latents::Request;

    #[test]
    fn latents_on_disk_are_scaled_and_mirrored_like_those_in_memory() {
        let place = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..12u8).map(f32::from).collect();
        for numbers in [LatentNumbers::F32, LatentNumbers::F16] {
            let folder = LatentFolder {
                folder: place.path().join("latents/abc"),
                split: "validation",
                source: [("vqvae", "abc".to_owned()), ("images", "def".to_owned())],
                shape: [3, 2, 1, 1, 2],
                has_deviations: false,
                numbers,
            };
            folder.write(0, &values).unwrap();
            let read = |values| {
                let set = LatentSet {
                    shape: folder.shape,
                    values,
                    spread: Spread::default(),
                    has_deviations: false,
                    scale: (0.0, 1.0),
                };
                let request = Request {
                    images: vec![(2, false), (0, true)],
                    seed: 0,
                    first_slot: 0,
                    step: 0,
                };
                let batch = set.scaled(0.0, 2.0).batch(&request, &Device::flex());
                let read: Vec<f32> = batch.unwrap().into_data().iter::<f32>().collect();
                assert_eq!(read, [16.0, 18.0, 4.0, 6.0]);
            };
            read(Values::Kept(values.clone()));
            read(Values::OnDisk(
                folder.open().unwrap(),
                folder.images_of_file(),
            ));
        }
    }
}
