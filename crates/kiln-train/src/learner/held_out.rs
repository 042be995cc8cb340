//! The held-out images for a stage's validation, always the same ones in the same batches.

use crate::experiment::TrainingConfig;
use crate::learner::plan::Plan;

/// Held-out images by their indices in the split, and their batch size.
#[derive(Debug, Clone)]
pub(crate) struct HeldOut {
    images: Vec<u32>,
    pub(crate) batch_size: usize,
}

impl HeldOut {
    /// The images that `training` chooses from the `available` ones, in batches as large as the plan's.
    pub(crate) fn new(training: &TrainingConfig, available: usize, plan: &Plan) -> Self {
        Self {
            images: training.validated(available),
            batch_size: plan.batch_size(),
        }
    }

    /// The number of batches.
    pub(crate) fn batches(&self) -> usize {
        self.images.len().div_ceil(self.batch_size)
    }

    /// The images of each batch, none of them mirrored.
    pub(crate) fn requests(&self) -> Vec<Vec<(u32, bool)>> {
        let batches = self.images.chunks(self.batch_size);
        let as_they_are = |images: &[u32]| images.iter().map(|&image| (image, false)).collect();
        batches.map(as_they_are).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_each_image_once_and_only_the_last_may_be_smaller() {
        for (images, batch_size, sizes) in [
            (7, 3, &[3, 3, 1][..]),
            (6, 3, &[3, 3]),
            (2, 3, &[2]),
            (0, 3, &[]),
        ] {
            let held_out = HeldOut {
                images: (0..images).collect(),
                batch_size,
            };
            let requests = held_out.requests();
            let found: Vec<usize> = requests.iter().map(Vec::len).collect();
            assert_eq!((found.as_slice(), held_out.batches()), (sizes, sizes.len()));
            let all: Vec<(u32, bool)> = (0..images).map(|image| (image, false)).collect();
            assert_eq!(requests.concat(), all);
        }
    }
}
