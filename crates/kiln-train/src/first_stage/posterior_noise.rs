//! The noise of a first stage that learns on samples of its latents.

use burn::tensor::Tensor;
use kiln_diffusion::noise::ImageNoise;
use kiln_models::Autoencoder;
use kiln_models::BatchPosition;

/// Standard normal noise for the latents of the `encoded` images, if the bottleneck draws samples. It depends on the
/// images' places in the whole step, and so not on how devices, micro-batches and ranks share the step.
pub(super) fn posterior_noise(
    network: &Autoencoder,
    encoded: &Tensor<4>,
    position: &BatchPosition,
) -> Option<Tensor<4>> {
    if !network.bottleneck.samples() {
        return None;
    }
    let [images, _, height, width] = encoded.dims();
    let first = position.first_image as u64;
    let noise = ImageNoise {
        seed: position.seed,
        images: (first..first + images as u64).collect(),
        shape: [network.config().latent_dim(), height, width],
        device: encoded.device().without_autodiff(),
    };
    Some(noise.draw(position.step as usize))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_models::{AutoencoderKlConfig, VqVaeConfig};

    use super::*;

    fn of(network: &Autoencoder, first_image: usize, images: usize, step: u64) -> Option<Vec<f32>> {
        let position = BatchPosition {
            seed: 7,
            step,
            first_image,
            total_images: 6,
        };
        let encoded = Tensor::<4>::zeros([images, 8, 2, 3], &Device::flex());
        let noise = posterior_noise(network, &encoded, &position)?;
        assert_eq!(noise.dims(), [images, 4, 2, 3]);
        Some(noise.into_data().iter::<f32>().collect())
    }

    #[test]
    fn noise_belongs_to_a_place_in_the_step() {
        let config = AutoencoderKlConfig {
            block_out_channels: vec![4],
            norm_num_groups: 2,
            ..AutoencoderKlConfig::default()
        };
        let network = config.init(&Device::flex(), 0).unwrap();
        let of = |first, images, step| of(&network, first, images, step).unwrap();
        let whole = of(0, 6, 3);
        assert_eq!([of(0, 2, 3), of(2, 3, 3), of(5, 1, 3)].concat(), whole);
        assert_ne!(of(0, 6, 4), whole);
        assert_ne!(whole[..24], whole[24..48]);
    }

    #[test]
    fn codes_need_none() {
        let config = VqVaeConfig {
            block_out_channels: vec![4],
            norm_num_groups: 2,
            ..VqVaeConfig::default()
        };
        let network = config.init(&Device::flex(), 0).unwrap();
        assert_eq!(of(&network, 0, 6, 3), None);
    }
}
