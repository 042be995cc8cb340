//! Detects an image that is a negative of the model's images, such as a black pen on white paper for a model of white
//! digits on black.

use burn::tensor::Tensor;
use kiln_diffusion::{Denoiser, noise::ImageNoise};

use super::model::Pipeline;
use crate::Error;
use crate::pictures::Images;

/// The least ratio between the model's mean squared errors of the noise: in the image, and in its negative.
const CLEARLY: f64 = 2.0;
/// The number of noises that are added to an image.
const NOISES: u64 = 8;
/// The number of steps of the trajectory that gives the levels, which are neither nearly clean nor nearly noise.
const STEPS: usize = 10;
const LEVELS: std::ops::Range<usize> = 4..9;

impl Pipeline {
    /// Whether the model predicts noise far better in the negative of the one gray image `image` than in the image
    /// itself. Always false for images with colours.
    ///
    /// # Errors
    /// The errors of [`Self::encode`], and [`Error::Compute`] if the device fails.
    pub fn is_negative(&self, image: &Images) -> Result<bool, Error> {
        if self.image_shape().channels != 1 {
            return Ok(false);
        }
        let as_it_is = self.error_of_noise(image)?;
        let negative = self.error_of_noise(&image.clone().negated())?;
        Ok(as_it_is > CLEARLY * negative)
    }

    /// The mean squared error of the noise that the network predicts in a noisy image.
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
