//! Distances by the features of a classifier that kiln trained.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_kernels::unit_distance;

use crate::{EvalError, ImageClassifier};

/// Features of a smaller norm count as none: kiln's levels end in sums around 1.
const SMALLEST: f32 = 1e-3;

/// The distance by an [`ImageClassifier`]'s features: after each level they are divided by their norm at each position,
/// and squared differences are averaged over channels and positions and summed over the levels.
///
/// Images may be larger or smaller than those that it was trained on. Gray images are shown to a classifier of colour
/// images in three equal channels, and colour images to a gray one as their mean.
#[derive(Module, Debug)]
pub struct ClassifierFeatures {
    network: ImageClassifier,
    #[module(skip)]
    sha256: String,
}

impl ClassifierFeatures {
    /// Reads the `model.safetensors` of `kiln train-classifier`.
    ///
    /// # Errors
    /// [`EvalError::File`] if it cannot be read, [`EvalError::NotAClassifier`] if it holds something else.
    pub fn load(path: &Path, device: &Device) -> Result<Self, EvalError> {
        let bytes = crate::read(path)?;
        let network = ImageClassifier::from_bytes(&bytes, device);
        let network = network.map_err(|reason| EvalError::NotAClassifier {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self {
            network: network.no_grad(),
            sha256: kiln_data::sha256(&bytes),
        })
    }

    /// The SHA-256 of the weights' file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Refuses images that it cannot read: of other than 1 or 3 channels, or none.
    ///
    /// # Errors
    /// [`EvalError::Shape`].
    pub fn check(&self, channels: usize, height: usize, width: usize) -> Result<(), EvalError> {
        if matches!(channels, 1 | 3) && height * width > 0 {
            return Ok(());
        }
        Err(EvalError::Shape {
            what: "the classifier",
            channels,
            height,
            width,
            expected: "gray or RGB images".to_owned(),
        })
    }

    /// The distance of each image, `[batch]`: see [`super::PerceptualNetwork::distances`].
    ///
    /// # Panics
    /// If [`Self::check`] refuses the images.
    pub fn distances(&self, images: Tensor<4>, others: Tensor<4>) -> Tensor<1> {
        let maps = self
            .network
            .features(self.in_its_channels(images))
            .into_iter();
        let others = self.network.features(self.in_its_channels(others));
        let levels = maps.zip(others).map(|(maps, others)| {
            let [.., channels] = maps.dims();
            let mean = Tensor::full([channels], 1.0 / channels as f64, &maps.device());
            unit_distance(maps, others, mean, SMALLEST)
        });
        // A classifier has at least one level.
        levels
            .reduce(|sum, level| sum + level)
            .unwrap_or_else(|| unreachable!("no level"))
    }

    fn in_its_channels(&self, images: Tensor<4>) -> Tensor<4> {
        let [_, channels, ..] = images.dims();
        match (self.network.config().in_channels, channels) {
            (3, 1) => images.repeat_dim(1, 3),
            (1, 3) => images.mean_dim(1),
            _ => images,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::Distribution;

    use super::super::{PerceptualKind, PerceptualNetwork};
    use super::*;
    use crate::{ImageClassifierConfig, ResidualConfig};

    fn features(in_channels: usize) -> ClassifierFeatures {
        let config = ImageClassifierConfig {
            in_channels,
            sample_size: 16,
            num_classes: 3,
            network: ResidualConfig {
                block_out_channels: vec![8, 16],
                ..ResidualConfig::default()
            },
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let device = Device::flex();
        let classifier = ImageClassifier::new(config, &device, 1);
        classifier.save(&path, &BTreeMap::new()).unwrap();
        ClassifierFeatures::load(&path, &device).unwrap()
    }

    fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
    }

    /// The definition, number by number.
    #[test]
    fn the_distance_is_the_documented_one() {
        let (network, device) = (features(3), Device::flex());
        let [one, other] = [0, 1].map(|_| random([1, 3, 6, 5], &device));
        let mut expected = 0.0;
        let maps = |images: &Tensor<4>| network.network.features(images.clone());
        for (one, other) in maps(&one).into_iter().zip(maps(&other)) {
            let [.., channels] = one.dims();
            let numbers = |maps: Tensor<4>| maps.into_data().iter::<f64>().collect::<Vec<_>>();
            let (one, other) = (numbers(one), numbers(other));
            let norm = |place: &[f64]| place.iter().map(|x| x * x).sum::<f64>().sqrt();
            let mut sum = 0.0;
            for (one, other) in one.chunks(channels).zip(other.chunks(channels)) {
                let pairs = one.iter().zip(other);
                sum += pairs
                    .map(|(f, g)| (f / norm(one) - g / norm(other)).powi(2))
                    .sum::<f64>();
            }
            expected += sum / one.len() as f64;
        }
        let found = network.distances(one, other).into_scalar::<f64>();
        assert!((found / expected - 1.0).abs() < 1e-4, "{found} {expected}");
    }

    #[test]
    fn any_size_and_colour_is_compared_and_only_the_images_get_gradients() {
        let device = Device::flex().autodiff();
        for (own, channels, height, width) in [(3, 3, 16, 16), (3, 1, 40, 8), (1, 3, 5, 7)] {
            let network = PerceptualNetwork::Classifier(features(own));
            assert_eq!(network.kind(), PerceptualKind::Classifier);
            network.check(channels, height, width).unwrap();
            let shape = [2, channels, height, width];
            let images = random(shape, &device).require_grad();
            let same = network
                .distances(images.clone(), images.clone())
                .into_data();
            assert_eq!(same.iter::<f32>().collect::<Vec<_>>(), [0.0, 0.0]);
            let others = random(shape, &Device::flex());
            let gradients = network.distance(images.clone(), others).backward();
            let gradient = images.grad(&gradients).unwrap();
            assert!(gradient.clone().abs().max().into_scalar::<f32>() > 0.0);
            assert!(gradient.sum().into_scalar::<f32>().is_finite());
            // Its own parameters ask for none, on a training device neither.
            let moved = network.train();
            let images = random(shape, &device).require_grad();
            let gradients = moved.distance(images, random(shape, &device)).backward();
            let found = burn::optim::GradientsParams::from_grads(gradients, &moved);
            assert!(found.is_empty());
        }
    }

    #[test]
    fn a_black_image_has_a_finite_gradient() {
        let device = Device::flex().autodiff();
        let network = features(3);
        let black = Tensor::<4>::full([1, 3, 8, 8], -1.0, &device).require_grad();
        let others = random([1, 3, 8, 8], &device);
        let gradients = network.distances(black.clone(), others).sum().backward();
        let largest = black
            .grad(&gradients)
            .unwrap()
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(largest < 100.0, "{largest}");
    }
}
