//! The layer between encoder and decoder, which defines the latents.
//!
//! | bottleneck | the latents | the decoder's input |
//! | --- | --- | --- |
//! | [`vq`] | the encoder's output | the nearest codes |
//! | [`kl`] | the mean of a normal distribution | the latents themselves; in training, a sample |
//!
//! For another bottleneck, add a file here and a variant of [`Bottleneck`].

pub mod kl;
pub mod vq;

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use kl::Posterior;
use vq::VectorQuantizer;

/// The bottleneck of an autoencoder.
#[derive(Module, Debug)]
#[non_exhaustive]
pub enum Bottleneck {
    /// A codebook (van den Oord et al. 2017).
    Vq(VectorQuantizer),
    /// A normal distribution (Kingma and Welling 2014).
    Kl(Posterior),
}

/// The result of a bottleneck for the encoder's output.
#[derive(Clone, Debug)]
pub struct Passed {
    /// For the decoder: `[batch, latent_dim, height, width]`, with gradients for the encoder.
    pub latents: Tensor<4>,
    /// The code at each position, `[batch, height, width]`, if there are codes.
    pub codes: Option<Tensor<3, Int>>,
    /// The terms that a bottleneck adds to the loss, unweighted, `[1]` each: [`vq::CODEBOOK`] and [`vq::COMMITMENT`], or
    /// [`kl::KL`].
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

impl Passed {
    /// The term of this name, `[1]`; `None` if the bottleneck has no such term.
    pub fn term(&self, name: &str) -> Option<Tensor<1>> {
        let mut terms = self.terms.iter();
        let (_, term) = terms.find(|(own, _)| *own == name)?;
        Some(term.clone())
    }
}

impl Bottleneck {
    /// The latents `[batch, latent_dim, height, width]`, from the encoder's output
    /// `[batch, encoded_channels, height, width]`.
    pub fn latents(&self, encoded: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Vq(_) => encoded,
            Self::Kl(posterior) => posterior.mean(encoded),
        }
    }

    /// The decoder's input for latents `[batch, latent_dim, height, width]`, in the same shape.
    pub fn decodable(&self, latents: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Vq(quantizer) => quantizer.quantize(latents).quantized,
            Self::Kl(_) => latents,
        }
    }

    /// The path from encoder to decoder with everything that training needs. `noise` is standard normal, in the
    /// latents' shape, for a bottleneck that samples; without it the bottleneck returns the mean.
    pub fn pass(&self, encoded: Tensor<4>, noise: Option<Tensor<4>>) -> Passed {
        match self {
            Self::Vq(quantizer) => {
                let quantized = quantizer.quantize(encoded);
                Passed {
                    latents: quantized.quantized,
                    codes: Some(quantized.codes),
                    terms: vec![
                        (vq::CODEBOOK, quantized.codebook_loss),
                        (vq::COMMITMENT, quantized.commitment_loss),
                    ],
                }
            }
            Self::Kl(posterior) => Passed {
                terms: vec![(kl::KL, posterior.divergence(encoded.clone()))],
                latents: match noise {
                    Some(noise) => posterior.sample(encoded, noise),
                    None => posterior.mean(encoded),
                },
                codes: None,
            },
        }
    }

    /// The latents that a pass of the `encoded` images makes [decodable](Self::decodable): the encoder's output where codes replace
    /// them, otherwise the sample.
    pub fn before_quantization(&self, encoded: &Tensor<4>, passed: &Passed) -> Tensor<4> {
        match self {
            Self::Vq(_) => encoded.clone(),
            Self::Kl(_) => passed.latents.clone(),
        }
    }

    /// The names of the terms that [`Self::pass`] gives, in its order.
    pub fn term_names(&self) -> &'static [&'static str] {
        match self {
            Self::Vq(_) => &[vq::CODEBOOK, vq::COMMITMENT],
            Self::Kl(_) => &[kl::KL],
        }
    }

    /// How many codes there are to choose from, where there are codes.
    pub fn codes(&self) -> Option<usize> {
        match self {
            Self::Vq(quantizer) => Some(quantizer.embedding.weight.dims()[0]),
            Self::Kl(_) => None,
        }
    }

    /// The codes that latents `[batch, latent_dim, height, width]` go through: `[batch, height, width]`, where there are codes.
    pub fn chosen(&self, latents: Tensor<4>) -> Option<Tensor<3, Int>> {
        match self {
            Self::Vq(quantizer) => Some(quantizer.nearest(latents)),
            Self::Kl(_) => None,
        }
    }

    /// How many positions chose each code, `[codes]`, of codes `[batch, height, width]`.
    pub fn counts(&self, codes: Tensor<3, Int>) -> Option<Tensor<1>> {
        Some(vq::count(codes.flatten(0, 2), self.codes()?))
    }

    /// The codebook, if there is one.
    pub fn quantizer(&self) -> Option<&VectorQuantizer> {
        match self {
            Self::Vq(quantizer) => Some(quantizer),
            Self::Kl(_) => None,
        }
    }

    /// The bottleneck with its codebook changed by `change`; without a codebook, unchanged.
    pub fn with_quantizer(self, change: impl FnOnce(VectorQuantizer) -> VectorQuantizer) -> Self {
        match self {
            Self::Vq(quantizer) => Self::Vq(change(quantizer)),
            Self::Kl(posterior) => Self::Kl(posterior),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn a_bottleneck_passes_what_it_says() {
        let device = Device::flex();
        for (bottleneck, channels) in [
            (Bottleneck::Vq(VectorQuantizer::new(5, 2, &device)), 2),
            (Bottleneck::Kl(Posterior::new(2)), 4),
        ] {
            let encoded = Tensor::<4>::random([3, channels, 4, 4], Distribution::Default, &device);
            let passed = bottleneck.pass(encoded.clone(), None);
            let names: Vec<_> = passed.terms.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, bottleneck.term_names());
            let chosen = bottleneck.chosen(bottleneck.latents(encoded));
            assert_eq!(passed.codes.is_some(), bottleneck.codes().is_some());
            assert_eq!(chosen.is_some(), bottleneck.codes().is_some());
            if let (Some(passed), Some(chosen)) = (passed.codes, chosen) {
                assert_eq!(passed.clone().into_data(), chosen.into_data());
                let counts = bottleneck.counts(passed).unwrap();
                assert_eq!(counts.dims(), [bottleneck.codes().unwrap()]);
                assert_eq!(counts.sum().into_scalar::<f32>(), 48.0);
            }
        }
    }
}
