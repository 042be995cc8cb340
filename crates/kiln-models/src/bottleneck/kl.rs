//! The normal distribution of a variational autoencoder (Kingma and Welling 2014), as in latent diffusion: diffusers'
//! `DiagonalGaussianDistribution`.

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Layer, Passed};

/// The name of the term of [`Posterior::divergence`].
pub const KL: &str = "kl";

/// The limits of log-variances.
const LOG_VARIANCES: [f64; 2] = [-30.0, 20.0];

/// Reads the encoder's output `[batch, 2 * latent_dim, height, width]` as means, followed by the logarithms of
/// variances.
#[derive(Module, Debug)]
pub struct Posterior {
    #[module(skip)]
    latent_dim: usize,
}

impl Posterior {
    /// The posterior of latents with so many channels.
    pub fn new(latent_dim: usize) -> Self {
        Self { latent_dim }
    }

    /// `[batch, latent_dim, height, width]`
    pub fn mean(&self, moments: Tensor<4>) -> Tensor<4> {
        moments.narrow(1, 0, self.latent_dim)
    }

    /// `[batch, latent_dim, height, width]`, from -30 to 20.
    pub fn log_variance(&self, moments: Tensor<4>) -> Tensor<4> {
        let [least, most] = LOG_VARIANCES;
        let logarithms = moments.narrow(1, self.latent_dim, self.latent_dim);
        logarithms.clamp(least, most)
    }

    /// The standard deviation, `[batch, latent_dim, height, width]`.
    pub fn deviation(&self, moments: Tensor<4>) -> Tensor<4> {
        (self.log_variance(moments) * 0.5).exp()
    }

    /// `mean + standard deviation * noise`, `[batch, latent_dim, height, width]`: the reparametrised sample for standard normal
    /// `noise` of that shape.
    pub fn sample(&self, moments: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        let deviation = self.deviation(moments.clone());
        self.mean(moments) + deviation * noise
    }

    /// The Kullback-Leibler divergence from the standard normal distribution, `(mean² + variance - 1 - ln variance) / 2` summed
    /// over an image and averaged over images: `[1]`.
    pub fn divergence(&self, moments: Tensor<4>) -> Tensor<1> {
        let [images, ..] = moments.dims();
        let mean = self.mean(moments.clone());
        let log_variance = self.log_variance(moments);
        let terms = mean.square() + log_variance.clone().exp() - log_variance - 1.0;
        terms.sum() / (2.0 * images as f64)
    }
}

impl Layer for Posterior {
    fn latents(&self, encoded: Tensor<4>) -> Tensor<4> {
        self.mean(encoded)
    }

    fn decodable(&self, latents: Tensor<4>) -> Tensor<4> {
        latents
    }

    fn pass(&self, encoded: Tensor<4>, noise: Option<Tensor<4>>) -> Passed {
        Passed {
            terms: vec![(KL, self.divergence(encoded.clone()))],
            latents: match noise {
                Some(noise) => self.sample(encoded, noise),
                None => self.mean(encoded),
            },
            codes: None,
        }
    }

    fn samples(&self) -> bool {
        true
    }

    fn term_names(&self) -> &'static [&'static str] {
        &[KL]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::bottleneck::Bottleneck;

    /// Two images of one position: means 1 and -2, log-variances 0 and ln 4; and the standard normal distribution twice.
    fn moments() -> Tensor<4> {
        let values = [1.0f32, -2.0, 0.0, 4.0f32.ln(), 0.0, 0.0, 0.0, 0.0];
        Tensor::from_data(
            TensorData::new(values.to_vec(), [2, 4, 1, 1]),
            &Device::flex(),
        )
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_sample_is_so_many_standard_deviations_from_the_mean() {
        let posterior = Posterior::new(2);
        let noise = Tensor::<4>::full([2, 2, 1, 1], -3.0, &Device::flex());
        assert_eq!(values(posterior.mean(moments())), [1.0, -2.0, 0.0, 0.0]);
        let sample = values(posterior.sample(moments(), noise));
        for (found, expected) in sample.into_iter().zip([-2.0, -8.0, -3.0, -3.0]) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn only_training_hands_noise_to_the_decoder() {
        let posterior = Bottleneck::Kl(Posterior::new(2));
        assert!(posterior.samples());
        let noise = Tensor::<4>::full([2, 2, 1, 1], -3.0, &Device::flex());
        let trained = posterior.pass(moments(), Some(noise));
        assert_eq!(values(posterior.latents(moments())), [1.0, -2.0, 0.0, 0.0]);
        assert!((values(trained.latents.clone())[1] + 8.0).abs() < 1e-5);
        // What a later term changes together with the image is the sample, too.
        let changed = posterior.before_quantization(&moments(), &trained);
        assert_eq!(values(changed), values(trained.latents));
        let validated = posterior.pass(moments(), None);
        assert_eq!(values(validated.latents), [1.0, -2.0, 0.0, 0.0]);
        let [trained, validated] = [trained.terms, validated.terms].map(|terms| {
            let [(KL, term)] = &terms[..] else {
                panic!("one term")
            };
            values(term.clone())
        });
        assert_eq!(trained, validated);
    }

    #[test]
    fn the_divergence_is_that_of_the_formula_and_zero_for_the_standard_normal() {
        let posterior = Posterior::new(2);
        // (1 + 1 - 1 - 0) / 2 + (4 + 4 - 1 - ln 4) / 2, for one image of two.
        let expected = (0.5 + (7.0 - 4.0f32.ln()) / 2.0) / 2.0;
        let [found] = values(posterior.divergence(moments()))[..] else {
            panic!("one number");
        };
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        let standard = moments().narrow(0, 1, 1);
        assert_eq!(values(posterior.divergence(standard)), [0.0]);
    }

    #[test]
    fn a_variance_that_f32_cannot_hold_is_cut() {
        let moments = Tensor::<4>::full([1, 2, 1, 1], 1e4, &Device::flex());
        let divergence = values(Posterior::new(1).divergence(moments));
        assert!(divergence[0].is_finite(), "{divergence:?}");
    }
}
