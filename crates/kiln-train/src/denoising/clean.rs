//! The target of stage 2: clean images, or their latents.

use std::sync::Arc;

use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Tensor};
use kiln_data::{Datasets, ImageDataset, prefetch};
use kiln_models::Autoencoder;

use crate::denoising::latents::{LatentSet, Latents, Request};
use crate::learner::images::tensor;
use crate::learner::loader::Batches;

/// One split of the data, in the space of stage 2.
#[derive(Debug, Clone)]
pub(crate) struct CleanSet {
    /// The images, with their labels.
    pub(crate) images: ImageDataset,
    /// Their latents; `None` in pixel space.
    latents: Option<Arc<LatentSet>>,
}

/// Both splits.
#[derive(Debug, Clone)]
pub(crate) struct CleanSets {
    pub(crate) train: CleanSet,
    pub(crate) validation: CleanSet,
}

impl CleanSets {
    /// Pixel space: the images as they are, in [-1, 1].
    pub(crate) fn images(datasets: &Datasets) -> Self {
        let as_they_are = |images: &ImageDataset| CleanSet {
            images: images.clone(),
            latents: None,
        };
        Self {
            train: as_they_are(&datasets.train),
            validation: as_they_are(&datasets.validation),
        }
    }

    /// Latent space: the `latents` of all images as the U-Net's input, scaled with the two factors of `autoencoder`.
    pub(crate) fn latents(
        datasets: &Datasets,
        latents: Latents,
        autoencoder: &Autoencoder,
    ) -> Self {
        let config = autoencoder.config();
        let (shift, factor) = (config.shift_factor(), config.scaling_factor());
        let scaled = |images: &ImageDataset, latents: LatentSet| CleanSet {
            images: images.clone(),
            latents: Some(Arc::new(latents.scaled(shift, factor))),
        };
        Self {
            train: scaled(&datasets.train, latents.train),
            validation: scaled(&datasets.validation, latents.validation),
        }
    }
}

impl CleanSet {
    /// The number of images.
    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// z0 `[batch, channels, height, width]` for each request, in order.
    pub(crate) fn batches(
        &self,
        requests: impl Iterator<Item = Request> + Send + 'static,
        device: &Device,
    ) -> Batches<Tensor<4>> {
        let device = device.clone();
        match self.latents.clone() {
            Some(latents) => {
                let batch = move |request| latents.batch(&request, &device);
                Box::new(requests.map(move |request| batch(request).map_err(DatasetError::new)))
            }
            None => {
                let dataset = self.images.clone();
                let images = requests.map(|request| request.images);
                let batches = prefetch(dataset.clone(), images);
                Box::new(batches.map(move |batch| {
                    let batch = batch.map_err(DatasetError::new)?;
                    Ok(tensor(&batch, &dataset, &device))
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_data::ImageShape;

    use super::*;

    #[test]
    fn in_pixel_space_z0_are_the_images_mirrored_as_asked() {
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 2,
        };
        let pixels = vec![0, 255, 255, 255, 0, 0];
        let images = ImageDataset::from_pixels("three", shape, pixels, None).unwrap();
        let datasets = Datasets {
            train: images.clone(),
            validation: images,
        };
        let requests = [vec![(2, false), (0, true)], vec![(1, true)]].map(|images| Request {
            images,
            seed: 0,
            first_slot: 0,
            step: 0,
        });
        let batches = CleanSets::images(&datasets)
            .train
            .batches(requests.into_iter(), &Device::flex());
        let batches: Vec<Vec<f32>> = batches
            .map(|batch| batch.unwrap().into_data().iter::<f32>().collect())
            .collect();
        assert_eq!(batches, [vec![-1.0, -1.0, 1.0, -1.0], vec![1.0, 1.0]]);
    }
}
