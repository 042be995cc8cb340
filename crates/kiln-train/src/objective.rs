//! What stage 1 minimises, and how its reconstructions are measured.

use burn::tensor::Tensor;
use kiln_diffusion::Distance;
use kiln_models::quantizer::{CodebookUpdate, Quantized};

use crate::experiment::Stage1Config;

/// The first stage's objective. A further term (perceptual, adversarial) is a further field of [`Terms`] and a
/// further summand of its total.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage1Objective {
    reconstruction: Distance,
    commitment: f64,
    codebook_by_gradient: bool,
}

/// The terms of [`Stage1Objective`], unweighted, and their weighted sum: all `[1]`.
pub(crate) struct Terms {
    pub(crate) reconstruction: Tensor<1>,
    pub(crate) codebook: Tensor<1>,
    pub(crate) commitment: Tensor<1>,
    pub(crate) total: Tensor<1>,
}

impl Stage1Objective {
    pub(crate) fn new(stage: &Stage1Config, update: CodebookUpdate) -> Self {
        Self {
            reconstruction: stage.reconstruction,
            commitment: stage.commitment,
            codebook_by_gradient: update == CodebookUpdate::Gradient,
        }
    }

    /// `L = distance(x, x') + |sg[z] - e|^2 + beta |z - sg[e]|^2` (van den Oord et al. 2017, equation 3). Without the
    /// second term where a moving average moves the codes.
    pub(crate) fn terms(
        &self,
        images: Tensor<4>,
        reconstructions: Tensor<4>,
        quantized: &Quantized,
    ) -> Terms {
        let reconstruction = self.reconstruction.between(reconstructions, images);
        let codebook = quantized.codebook_loss.clone();
        let commitment = quantized.commitment_loss.clone();
        let mut total = reconstruction.clone() + commitment.clone().mul_scalar(self.commitment);
        if self.codebook_by_gradient {
            total = total + codebook.clone();
        }
        Terms {
            reconstruction,
            codebook,
            commitment,
            total,
        }
    }
}

/// The mean of [`kiln_eval::psnr`] over images `[batch, channels, height, width]` in [-1, 1], computed where they are:
/// `[1]`.
pub(crate) fn psnr(images: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
    let [batch, ..] = images.dims();
    let difference = (images - reconstructions.clamp(-1.0, 1.0)).mul_scalar(0.5);
    let errors = difference.square().reshape([batch as i32, -1]).mean_dim(1);
    // A perfect image would be infinitely good, and one of them would hide the others: 100 dB at most.
    errors
        .clamp_min(1e-10)
        .log()
        .mul_scalar(-10.0 / std::f64::consts::LN_10)
        .mean()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::pictures::Images;

    #[test]
    fn psnr_is_that_of_the_images_one_by_one() {
        let images = Tensor::<4>::zeros([3, 1, 4, 4], &Device::flex());
        let worse = Tensor::<4>::full([1, 1, 4, 4], 0.2, &Device::flex());
        let better = Tensor::<4>::full([1, 1, 4, 4], -0.02, &Device::flex());
        let perfect = Tensor::<4>::zeros([1, 1, 4, 4], &Device::flex());
        let given_back = Tensor::cat(vec![worse, better, perfect], 0);
        let expected = Images::from_tensor(images.clone()).unwrap();
        let expected = expected.psnr(&Images::from_tensor(given_back.clone()).unwrap());
        let value = psnr(images, given_back).into_scalar::<f32>();
        assert!(
            (f64::from(value) - expected).abs() < 1e-3,
            "{value} {expected}"
        );
    }
}
