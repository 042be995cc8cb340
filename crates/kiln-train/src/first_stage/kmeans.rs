//! Codes that begin at the centres of the encoder's first outputs.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_data::{ImageDataset, Progress, ProgressUnit, Task, prefetch};
use kiln_models::Autoencoder;

use crate::error::TrainError;
use crate::experiment::FirstStageConfig;
use crate::learner::images::tensor;
use crate::learner::session::StopSignal;

/// The number of images whose encoder outputs are the input of k-means.
const KMEANS_IMAGES: usize = 256;
const KMEANS_ITERATIONS: usize = 20;

/// `network` with codes at the k-means centres of its encoder's output for some of the `images`.
pub(crate) fn with_kmeans_codes(
    mut network: Autoencoder,
    config: &FirstStageConfig,
    seed: u64,
    images: &ImageDataset,
    device: &Device,
    progress: &dyn Progress,
    stop: &StopSignal,
) -> Result<Autoencoder, TrainError> {
    let order = kiln_data::shuffled(images.len(), seed, 0);
    let first: Vec<_> = (order.iter().take(KMEANS_IMAGES))
        .map(|&index| (index, false))
        .collect();
    // The batch size of the training fits into memory.
    let batches: Vec<_> = (first.chunks(config.stage_1.training.batch_size.max(1)))
        .map(<[_]>::to_vec)
        .collect();
    let encoder = network.valid();
    let mut latents = Vec::new();
    for batch in prefetch(images.clone(), batches.into_iter()) {
        stop.check()?;
        latents.push(encoder.encode(tensor(&batch?, images, device)));
    }
    let latents = Tensor::cat(latents, 0);
    let bottleneck = network.bottleneck.prepared(&config.codebook);
    let codes = bottleneck.codes().unwrap_or_default();
    let work = codes as u64 * (1 + KMEANS_ITERATIONS as u64);
    let task = Task::begin(
        progress,
        "placing the codes",
        ProgressUnit::Work,
        Some(work),
    );
    let advance = &mut |work| {
        task.advance(work);
        stop.check().is_ok()
    };
    network.bottleneck = bottleneck.with_kmeans(latents, KMEANS_ITERATIONS, seed, advance);
    stop.check()?;
    Ok(network)
}
