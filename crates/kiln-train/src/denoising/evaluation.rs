//! Distances between drawn and real images. The U-Net's training measures them now and then, and `kiln evaluate` does,
//! too.

use std::path::Path;

use burn::tensor::Device;
use kiln_data::{ImageDataset, Progress, cache_folder};
use kiln_eval::{EvalError, FeatureKind, Judge, Reference, Seen};
use kiln_pipeline::pictures::Images;

use crate::error::TrainError;
use crate::experiment::{Best, EvaluationConfig};
use crate::learner::report::{LOSS, MetricKind, Reading};

/// Images per batch of a judge.
const BATCH: usize = 64;

/// The judge's features of images. After each batch `observe` gets the number of finished images, and may stop the
/// work.
///
/// # Errors
/// [`TrainError::Evaluation`] for images that the judge cannot read, or if there are none; the error of `observe`.
pub fn seen_in(
    judge: &Judge,
    images: &Images,
    device: &Device,
    mut observe: impl FnMut(usize) -> Result<(), TrainError>,
) -> Result<Seen, TrainError> {
    let mut all: Option<Seen> = None;
    let mut done = 0;
    for batch in images.batches(BATCH) {
        let seen = judge.see(batch.to_tensor(device))?;
        all = Some(match all {
            None => seen,
            Some(mut all) => {
                all.append(seen)?;
                all
            }
        });
        done += batch.len();
        observe(done)?;
    }
    Ok(all.ok_or(EvalError::TooFew {
        what: "a measurement",
        given: 0,
        needed: 1,
    })?)
}

/// [`seen_in`] `count` images of a data set, spread evenly over it and without their border. The user's cache keeps the
/// result, and later evaluations read it there.
///
/// The file is named by the pixels, the number of images and the judge's weights.
///
/// # Errors
/// [`TrainError::Data`] if an image's file is gone, [`TrainError::Evaluation`] for images that the judge cannot read.
pub fn seen_in_dataset(
    judge: &Judge,
    dataset: &ImageDataset,
    count: usize,
    device: &Device,
    mut observe: impl FnMut(usize),
) -> Result<Seen, TrainError> {
    let count = count.min(dataset.len());
    let name = format!("{:.16}-{count}-{}", dataset.fingerprint(), judge.identity());
    let file = Path::new("features").join(format!("{name}.safetensors"));
    let file = cache_folder().map(|cache| cache.join(file));
    match file.as_deref().map(Seen::load).transpose() {
        Ok(kept) => {
            let kept = kept.flatten();
            if let Some(seen) = kept.filter(|seen| seen.features().count() == count) {
                return Ok(seen);
            }
        }
        Err(error) => tracing::warn!("computing the features of the real images again: {error}"),
    }
    let images = Images::of_dataset(dataset, count)?.cropped(dataset.border());
    let seen = seen_in(judge, &images, device, |done| {
        observe(done);
        Ok(())
    })?;
    // If the home cannot be written to, the next evaluation only takes longer.
    if let Some(Err(error)) = file.map(|file| seen.save(&file)) {
        tracing::warn!("the features of the real images are not stored: {error}");
    }
    Ok(seen)
}

/// Measures the images that a U-Net in training draws.
#[derive(Debug)]
pub(crate) struct Evaluator {
    judge: Judge,
    metrics: &'static [MetricKind],
    reference: Reference,
    device: Device,
    /// Seeds the choice of subsets.
    seed: u64,
    /// Images to draw for one measurement.
    pub(crate) images: usize,
}

impl Evaluator {
    /// Reads the features of `count` of the `held_out` images on `device`.
    ///
    /// # Errors
    /// The errors of [`Judge::open`] and [`seen_in_dataset`].
    pub(crate) fn new(
        config: &EvaluationConfig,
        held_out: &ImageDataset,
        count: usize,
        seed: u64,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let held = held_out.len();
        if held < 2 {
            return Err(TrainError::Run(format!(
                "[stage_2.evaluation] compares drawn images with held-out ones, but {} has only {held}; it needs at least 2, better hundreds: hold out more (data.validation_fraction), or leave the table out",
                held_out.name()
            )));
        }
        let weights = config.feature_weights.as_deref();
        let side = config.feature_size;
        let judge = Judge::open(config.features, weights, side, device, progress)?;
        let seen = seen_in_dataset(&judge, held_out, count, device, |_| {})?;
        let reference = Reference::new(seen, judge.names_of_distances())?;
        Ok(Self {
            judge,
            metrics: metrics(Some(config)),
            reference,
            device: device.clone(),
            seed,
            images: config.images,
        })
    }

    /// The figures of [`metrics`], by name. `check` decides between batches whether to go on.
    ///
    /// # Errors
    /// [`TrainError::Evaluation`] for images that are not finite, for example after a divergence; the error of `check`.
    pub(crate) fn measure(
        &self,
        images: &Images,
        check: impl Fn() -> Result<(), TrainError>,
    ) -> Result<Vec<(&'static str, f64)>, TrainError> {
        let seen = seen_in(&self.judge, images, &self.device, |_| check())?;
        let distances = self.reference.distances(&seen, self.seed)?;
        let mut figures: Vec<f64> = distances.map(|figure| figure.value).into();
        if let Seen::Digits(readings) = &seen {
            figures.push(readings.confident());
        }
        let names = self.metrics.iter().map(|metric| metric.name);
        Ok(names.zip(figures).collect())
    }
}

const FRECHET: MetricKind = MetricKind::new("frechet", Reading::Figure);
const KERNEL: MetricKind = MetricKind::new("kernel", Reading::Figure);
const CONFIDENT: MetricKind = MetricKind::new("confident", Reading::Figure).higher_is_better();
const FID: MetricKind = MetricKind::new("fid", Reading::Figure);
const KID: MetricKind = MetricKind::new("kid", Reading::Figure);

/// The logged metrics of drawn images, in the judge's order; empty if no images are measured.
pub(crate) fn metrics(config: Option<&EvaluationConfig>) -> &'static [MetricKind] {
    match config.map(|config| config.features) {
        None => &[],
        Some(FeatureKind::Digits) => &[FRECHET, KERNEL, CONFIDENT],
        Some(FeatureKind::Inception(_)) => &[FID, KID],
    }
}

/// The metric that is smallest at the best checkpoint.
pub(crate) fn best_by(config: Option<&EvaluationConfig>) -> &'static str {
    let Some(config) = config else {
        return LOSS;
    };
    match (config.best_by, config.features) {
        (Best::Loss, _) => LOSS,
        (Best::Frechet, FeatureKind::Digits) => FRECHET.name,
        (Best::Frechet, FeatureKind::Inception(_)) => FID.name,
        (Best::Kernel, FeatureKind::Digits) => KERNEL.name,
        (Best::Kernel, FeatureKind::Inception(_)) => KID.name,
    }
}
