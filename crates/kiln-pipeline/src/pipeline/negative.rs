//! Whether an image is a negative of what the model knows: a black pen on white paper, for a model of white digits on black.

use burn::tensor::Tensor;
use kiln_diffusion::{Denoiser, noise::ImageNoise};

use super::model::Pipeline;
use crate::Error;
use crate::pictures::Images;

/// How much better the model must know the negative than the image, by the mean squared error of the noise that it finds.
const CLEARLY: f64 = 2.0;
/// Noises that an image is mixed with.
const NOISES: u64 = 8;
/// Steps of the trajectory that the levels are taken from: neither nearly clean nor nearly noise.
const STEPS: usize = 10;
const LEVELS: std::ops::Range<usize> = 4..9;

impl Pipeline {
    /// Whether the model knows the negative of the one gray image `image` far better than the image itself: noise over it is
    /// found with less error. Never of images with colours.
    ///
    /// # Errors
    /// Those of [`Self::encode`], and [`Error::Compute`] when the device fails.
    pub fn is_negative(&self, image: &Images) -> Result<bool, Error> {
        if self.image_shape().channels != 1 {
            return Ok(false);
        }
        let as_it_is = self.error_of_noise(image)?;
        let negative = self.error_of_noise(&image.clone().negated())?;
        Ok(as_it_is > CLEARLY * negative)
    }

    /// The mean squared error of the noise that the network finds in an image with noise over it.
    fn error_of_noise(&self, image: &Images) -> Result<f64, Error> {
        let mut options = self.default_options();
        options.steps = STEPS;
        let levels = self.trajectory(&options)?;
        let class = match &self.classes {
            Some(classes) if !classes.has_null_class() => Some(0),
            _ => None,
        };
        let noise = ImageNoise {
            seed: 0,
            images: (0..NOISES).collect(),
            shape: self.latent_shape,
            device: self.device.clone(),
        }
        .draw(0);
        let z0 = self.encode(image)?.expand(noise.dims());
        let denoiser = self.denoiser(&[class; NOISES as usize], &options)?;
        let errors = levels[LEVELS].iter().map(|level| {
            let zt = level.rates.add_noise(z0.clone(), noise.clone());
            (denoiser.denoise(zt, *level).noise - noise.clone())
                .square()
                .mean()
        });
        let error: Tensor<1> = Tensor::cat(errors.collect(), 0).mean();
        Ok(error
            .try_into_data_as::<f32>()?
            .iter::<f32>()
            .map(f64::from)
            .sum())
    }
}
