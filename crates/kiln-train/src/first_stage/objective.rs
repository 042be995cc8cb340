//! The objective of stage 1, and the measure of its reconstructions.

use burn::tensor::Tensor;
use kiln_diffusion::Distance;
use kiln_models::bottleneck::vq::{CODEBOOK, COMMITMENT, CodebookUpdate};
use kiln_models::bottleneck::{Bottleneck, Passed};

use crate::experiment::Stage1Config;

/// The first stage's objective: a weighted sum of terms, each under its name.
#[derive(Debug, Clone)]
pub(crate) struct Stage1Objective {
    reconstruction: Distance,
    /// The weights of the bottleneck's terms, by name.
    of_bottleneck: Vec<(&'static str, f64)>,
}

/// The name of the distance between images and reconstructions.
pub(crate) const RECONSTRUCTION: &str = "reconstruction";

/// The weighted sum of the terms of [`Stage1Objective`], and the terms, unweighted, by name: all `[1]`.
pub(crate) struct Terms {
    pub(crate) total: Tensor<1>,
    pub(crate) terms: Vec<(&'static str, Tensor<1>)>,
}

impl Stage1Objective {
    pub(crate) fn new(stage: &Stage1Config, update: CodebookUpdate) -> Self {
        // If a moving average moves the codes, the codebook's term is only reported.
        let by_gradient = if update.is_by_gradient() { 1.0 } else { 0.0 };
        let &Stage1Config {
            reconstruction,
            commitment,
            training: _,
        } = stage;
        Self {
            reconstruction,
            of_bottleneck: vec![(COMMITMENT, commitment), (CODEBOOK, by_gradient)],
        }
    }

    /// The names of [`Self::terms`], in their order.
    pub(crate) fn term_names(bottleneck: &Bottleneck) -> Vec<&'static str> {
        let mut names = vec![RECONSTRUCTION];
        names.extend(bottleneck.term_names());
        names
    }

    /// With a codebook `L = distance(x, x') + |sg[z] - e|^2 + beta |z - sg[e]|^2` (van den Oord et al. 2017, equation
    /// 3), without the second term if a moving average moves the codes.
    pub(crate) fn terms(
        &self,
        images: Tensor<4>,
        reconstructions: Tensor<4>,
        passed: &Passed,
    ) -> Terms {
        let reconstruction = self.reconstruction.between(reconstructions, images);
        let mut total = reconstruction.clone();
        for &(name, weight) in &self.of_bottleneck {
            if let Some(term) = passed.term(name)
                && weight != 0.0
            {
                total = total + term * weight;
            }
        }
        let mut terms = vec![(RECONSTRUCTION, reconstruction)];
        terms.extend(passed.terms.iter().cloned());
        Terms { total, terms }
    }
}

/// The mean of [`kiln_eval::psnr`] over images `[batch, channels, height, width]` in [-1, 1], computed on their device:
/// `[1]`.
pub(crate) fn psnr(images: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
    let [batch, ..] = images.dims();
    let difference = (images - reconstructions.clamp(-1.0, 1.0)).mul_scalar(0.5);
    let errors = difference.square().reshape([batch as i32, -1]).mean_dim(1);
    // A perfect image would be infinite, and one of them would hide the others, so the limit is 100 dB.
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
    use kiln_models::bottleneck::vq::VectorQuantizer;
    use kiln_pipeline::pictures::Images;

    #[test]
    fn every_term_is_named() {
        let device = Device::flex();
        let bottleneck = Bottleneck::Vq(VectorQuantizer::new(3, 2, &device));
        let passed = bottleneck.pass(Tensor::zeros([1, 2, 2, 2], &device), None);
        let objective = Stage1Objective {
            reconstruction: Distance::default(),
            of_bottleneck: Vec::new(),
        };
        let images = Tensor::<4>::zeros([1, 1, 4, 4], &device);
        let Terms { terms, .. } = objective.terms(images.clone(), images, &passed);
        let names: Vec<_> = terms.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, Stage1Objective::term_names(&bottleneck));
    }

    #[test]
    fn psnr_is_that_of_the_images_one_by_one() {
        let images = Tensor::<4>::zeros([3, 1, 4, 4], &Device::flex());
        let worse = Tensor::<4>::full([1, 1, 4, 4], 0.2, &Device::flex());
        let better = Tensor::<4>::full([1, 1, 4, 4], -0.02, &Device::flex());
        let perfect = Tensor::<4>::zeros([1, 1, 4, 4], &Device::flex());
        let given_back = Tensor::cat(vec![worse, better, perfect], 0);
        let [originals, on_host] =
            [&images, &given_back].map(|images| Images::from_tensor(images.clone()).unwrap());
        let expected = kiln_eval::mean_psnr(originals.iter(), on_host.iter());
        let value = psnr(images, given_back).into_scalar::<f32>();
        assert!(
            (f64::from(value) - expected).abs() < 1e-3,
            "{value} {expected}"
        );
    }
}
