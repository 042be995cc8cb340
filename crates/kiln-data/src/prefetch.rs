//! Batches, prepared on all cores ahead of their consumer.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use rayon::prelude::*;

use crate::dataset::ImageDataset;
use crate::error::DataError;

/// The largest number of finished batches that wait; one more is being prepared.
const BATCHES_AHEAD: usize = 4;

/// Some images of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageBatch {
    /// The indices of these images in the set.
    pub indices: Vec<u32>,
    /// The pixels as `[batch, channels, height, width]` in [-1, 1].
    pub pixels: Vec<f32>,
    /// The class of each image, if the set has labels.
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
        // A copy is faster than waking another thread.
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
) -> Ahead<ImageBatch, DataError> {
    let batches = requests.map(move |request| read_batch(&dataset, &request));
    ahead(batches, BATCHES_AHEAD, DataError::PrefetchStopped)
}

/// The same items, made by a thread that works ahead until `most` of them wait, or one if `most` is zero.
///
/// The first error ends it. If the thread panics or cannot be started, the last item is what `stopped` makes of the
/// reason. Dropping the iterator stops the thread.
pub fn ahead<T: Send + 'static, E: Send + 'static>(
    items: impl Iterator<Item = Result<T, E>> + Send + 'static,
    most: usize,
    stopped: fn(String) -> E,
) -> Ahead<T, E> {
    let (sender, receiver) = sync_channel(most.max(1));
    let failed = sender.clone();
    let worker = thread::Builder::new()
        .name("kiln-prefetch".to_owned())
        .spawn(move || {
            for item in items {
                let is_last = item.is_err();
                // Sending fails when the consumer is gone.
                if sender.send(item).is_err() || is_last {
                    return;
                }
            }
        });
    let worker = match worker {
        Ok(worker) => Some(worker),
        Err(error) => {
            // There is room: nothing was sent yet.
            let advice = format!("{error}; run this again, with fewer other programs running");
            let _ = failed.try_send(Err(stopped(advice)));
            None
        }
    };
    Ahead {
        receiver: Some(receiver),
        worker,
        stopped,
    }
}

/// The items of [`ahead`].
#[derive(Debug)]
pub struct Ahead<T, E> {
    /// `None` once the consumer is done: the thread notices at its next item.
    receiver: Option<Receiver<Result<T, E>>>,
    worker: Option<JoinHandle<()>>,
    stopped: fn(String) -> E,
}

impl<T, E> Iterator for Ahead<T, E> {
    type Item = Result<T, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Ok(item) = self.receiver.as_ref()?.recv() {
            return Some(item);
        }
        self.receiver = None;
        let panicked = self.worker.take()?.join().is_err();
        panicked.then(|| {
            Err((self.stopped)(
                "it panicked, which is kiln's fault".to_owned(),
            ))
        })
    }
}

impl<T, E> Drop for Ahead<T, E> {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::DataConfig;
    use crate::dataset_kind::DatasetKind;
    use crate::image_shape::ImageShape;
    use crate::progress::NoProgress;
    use crate::{examples, folder, loading};
    use proptest::prelude::*;

    const SHAPE: ImageShape = ImageShape {
        channels: 1,
        height: 2,
        width: 3,
    };

    fn dataset(images: usize) -> ImageDataset {
        let pixels = (0..images * 6).map(|value| (value * 7) as u8).collect();
        let labels = (0..images as u32).map(|index| index % 5).collect();
        ImageDataset::from_pixels("test", SHAPE, pixels, Some(labels)).unwrap()
    }

    proptest! {
        #[test]
        fn batches_are_what_reading_one_image_after_the_other_gives(
            requests in prop::collection::vec(prop::collection::vec((0u32..20, any::<bool>()), 0..9), 0..20)
        ) {
            let dataset = dataset(20);
            let batches: Vec<_> = prefetch(dataset.clone(), requests.clone().into_iter()).collect();
            prop_assert_eq!(batches.len(), requests.len());
            for (batch, request) in batches.into_iter().zip(requests) {
                let batch = batch.unwrap();
                let mut pixels = Vec::new();
                for &(index, flipped) in &request {
                    pixels.extend(dataset.image(index as usize, flipped).unwrap());
                }
                prop_assert_eq!(batch.pixels, pixels);
                prop_assert_eq!(batch.indices, request.iter().map(|entry| entry.0).collect::<Vec<_>>());
                let labels = request.iter().map(|entry| entry.0 as usize % 5).collect();
                prop_assert_eq!(batch.labels, Some(labels));
            }
        }
    }

    #[test]
    fn files_are_decoded_in_order_too() {
        let folder = examples::classes(&["cat", "dog"], 20).folder();
        let config = DataConfig::new(DatasetKind::Folder, 8, 3);
        let found = folder::find(folder.path(), 0.25).unwrap();
        let dataset = loading::load(found, &config, 0, &NoProgress).unwrap().train;
        assert!(!dataset.is_decoded());
        let order = crate::shuffled(dataset.len(), 1, 0);
        let requests: Vec<Vec<(u32, bool)>> = order
            .chunks(7)
            .map(|chunk| chunk.iter().map(|&index| (index, index % 2 == 0)).collect())
            .collect();
        for (batch, request) in
            prefetch(dataset.clone(), requests.clone().into_iter()).zip(requests)
        {
            assert_eq!(batch.unwrap(), read_batch(&dataset, &request).unwrap());
        }
    }

    #[test]
    fn a_set_without_labels_gives_none() {
        let dataset = ImageDataset::from_pixels("test", SHAPE, vec![0; 12], None).unwrap();
        let batch = prefetch(dataset, std::iter::once(vec![(1, false)]))
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(batch.labels, None);
    }

    #[test]
    fn it_works_ahead_by_a_bounded_number_of_batches_and_stops_when_dropped() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let requests = std::iter::repeat_with(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            vec![(0, false)]
        });
        let mut batches = prefetch(dataset(1), requests);
        for taken in 1..=10 {
            batches.next().unwrap().unwrap();
            // Taken, waiting, being sent, and the next request.
            assert!(asked.load(Ordering::SeqCst) <= taken + BATCHES_AHEAD + 2);
        }
        drop(batches);
        // The thread was joined: it owned the other counter.
        assert_eq!(Arc::strong_count(&asked), 1);
    }

    #[test]
    fn the_first_error_ends_it() {
        let requests = vec![vec![(0, false)], vec![(9, false)], vec![(1, false)]];
        let mut batches = prefetch(dataset(2), requests.into_iter());
        assert!(batches.next().unwrap().is_ok());
        assert!(matches!(
            batches.next(),
            Some(Err(DataError::Index { index: 9, len: 2 }))
        ));
        assert!(batches.next().is_none() && batches.next().is_none());
    }

    #[test]
    fn a_panic_among_the_requests_is_an_error() {
        let requests = (0..3).map(|index| {
            if index < 2 {
                vec![(index, false)]
            } else {
                panic!("expected")
            }
        });
        let results: Vec<_> = prefetch(dataset(2), requests).collect();
        assert!(matches!(
            results[..],
            [Ok(_), Ok(_), Err(DataError::PrefetchStopped(_))]
        ));
    }
}
