//! A denoiser: anything that can separate image and noise at a given level.

use burn::tensor::Tensor;

use crate::{Clip, Denoised, Level, Prediction};

/// Answers (z0, noise) for noisy images at any level. A sampler knows nothing else of a network.
///
/// A closure `|zt, level| Denoised { .. }` is a denoiser too.
pub trait Denoiser {
    /// Splits `zt` `[batch, channels, height, width]`, whose noise level is `level`.
    fn denoise(&self, zt: Tensor<4>, level: Level) -> Denoised;
}

impl<F: Fn(Tensor<4>, Level) -> Denoised> Denoiser for F {
    fn denoise(&self, zt: Tensor<4>, level: Level) -> Denoised {
        self(zt, level)
    }
}

/// Makes a [`Denoiser`] of a network, whatever it predicts.
///
/// ```
/// use burn::tensor::Tensor;
/// use kiln_diffusion::{Level, NetworkDenoiser, Prediction};
/// # fn unet(sample: Tensor<4>, timesteps: Tensor<1>) -> Tensor<4> { sample }
///
/// let denoiser = NetworkDenoiser {
///     network: |zt: Tensor<4>, level: Level| {
///         let timesteps = level.timesteps(&zt);
///         unet(zt, timesteps)
///     },
///     prediction: Prediction::Velocity,
///     clip: None,
/// };
/// ```
pub struct NetworkDenoiser<N> {
    /// From noisy images `[batch, channels, height, width]` and their level to an output of the
    /// same shape.
    pub network: N,
    /// The meaning of that output.
    pub prediction: Prediction,
    /// Keeps z0 in the data's range in pixel space; `None` for latents. The noise stays as predicted,
    /// as in diffusers.
    pub clip: Option<Clip>,
}

impl<N: Fn(Tensor<4>, Level) -> Tensor<4>> Denoiser for NetworkDenoiser<N> {
    fn denoise(&self, zt: Tensor<4>, level: Level) -> Denoised {
        let output = (self.network)(zt.clone(), level);
        let Denoised { z0, noise } = self.prediction.denoised(output, zt, &level.rates);
        let z0 = match self.clip {
            Some(clip) => clip.apply(z0),
            None => z0,
        };
        Denoised { z0, noise }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::Rates;

    #[test]
    fn clipping_bounds_the_image_and_leaves_the_noise() {
        let zt = Tensor::<4>::from_floats([[[[-9.0, -0.5, 0.0, 9.0]]]], &Device::flex());
        let level = Level {
            timestep: 3.0,
            rates: Rates {
                signal: 0.8,
                noise: 0.6,
            },
        };
        let denoise = |clip| {
            let network = |zt: Tensor<4>, level: Level| zt * level.timestep;
            NetworkDenoiser {
                network,
                prediction: Prediction::Signal,
                clip,
            }
            .denoise(zt.clone(), level)
        };
        let (free, clipped) = (denoise(None), denoise(Some(Clip::Range(2.0))));
        assert_eq!(
            free.z0.into_data().try_to_vec::<f32>().unwrap(),
            [-27.0, -1.5, 0.0, 27.0]
        );
        assert_eq!(
            clipped.z0.into_data().try_to_vec::<f32>().unwrap(),
            [-2.0, -1.5, 0.0, 2.0]
        );
        assert_eq!(free.noise.into_data(), clipped.noise.into_data());
    }
}
