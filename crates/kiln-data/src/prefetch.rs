//! Batches, prepared on all cores ahead of whoever consumes them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rayon::prelude::*;

use crate::dataset::ImageDataset;
use crate::error::DataError;

/// How many batches wait to be consumed at most; one more is being prepared.
const BATCHES_AHEAD: usize = 4;

/// Some images of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageBatch {
    /// Which images of the set they are.
    pub indices: Vec<u32>,
    /// The pixels as `[batch, channels, height, width]` in [-1, 1].
    pub pixels: Vec<f32>,
    /// The class of each image, where the set has labels.
    pub labels: Option<Vec<usize>>,
}

/// Reads the images `request` (index, and whether it is mirrored) of `dataset` into one batch.
fn read_batch(dataset: &ImageDataset, request: &[(u32, bool)]) -> Result<ImageBatch, DataError> {
    let elements = dataset.shape().elements();
    let mut pixels = vec![0.0; request.len() * elements];
    let read = |(target, &(index, flipped)): (&mut [f32], &(u32, bool))| {
        dataset.read_into(index as usize, flipped, target)
    };
    if dataset.is_decoded() {
        // A copy is over sooner than another thread has woken up.
        pixels
            .chunks_mut(elements)
            .zip(request)
            .try_for_each(read)?;
    } else {
        pixels
            .par_chunks_mut(elements)
            .zip(request)
            .try_for_each(read)?;
    }
    Ok(ImageBatch {
        indices: request.iter().map(|&(index, _)| index).collect(),
        pixels,
        labels: request
            .iter()
            .map(|&(index, _)| dataset.label(index as usize))
            .collect(),
    })
}

/// Answers `requests` in order, each a list of (image index, whether it is mirrored), from a thread that works ahead
/// by up to four batches and decodes on all cores.
///
/// The first error ends it. Dropping the iterator stops the thread.
pub fn prefetch(
    dataset: ImageDataset,
    requests: impl Iterator<Item = Vec<(u32, bool)>> + Send + 'static,
) -> Prefetch {
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    let failed = sender.clone();
    let worker = thread::Builder::new()
        .name("kiln-prefetch".to_owned())
        .spawn(move || answer(&dataset, requests, &sender));
    let worker = match worker {
        Ok(worker) => Some(worker),
        Err(error) => {
            // There is room for it: nothing was sent yet.
            let _ = failed.try_send(Err(DataError::PrefetchStopped(error.to_string())));
            None
        }
    };
    Prefetch {
        receiver: Some(receiver),
        worker,
    }
}

fn answer(
    dataset: &ImageDataset,
    requests: impl Iterator<Item = Vec<(u32, bool)>>,
    sender: &SyncSender<Result<ImageBatch, DataError>>,
) {
    for request in requests {
        let batch = read_batch(dataset, &request);
        let is_last = batch.is_err();
        // Sending fails when the consumer is gone.
        if sender.send(batch).is_err() || is_last {
            return;
        }
    }
}

/// The batches of [`prefetch`].
#[derive(Debug)]
pub struct Prefetch {
    /// None once the consumer is done: the thread notices at its next batch.
    receiver: Option<Receiver<Result<ImageBatch, DataError>>>,
    worker: Option<JoinHandle<()>>,
}

impl Iterator for Prefetch {
    type Item = Result<ImageBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Ok(batch) = self.receiver.as_ref()?.recv() {
            return Some(batch);
        }
        self.receiver = None;
        let panicked = self.worker.take()?.join().is_err();
        panicked.then(|| Err(DataError::PrefetchStopped("it panicked".to_owned())))
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
