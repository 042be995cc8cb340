//! SimVQ (Zhu et al. 2024, "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer"): the
//! codes are random vectors that stay as they are, times one matrix that learns. The gradient of any code moves all of
//! them, so none is left behind.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use kiln_kernels::nearest_codes;

use super::gradient::CodeGradient;
use super::vq::{CODEBOOK, COMMITMENT, CodebookConfig, flatten, unflatten};
use super::{Layer, Passed};

/// A codebook of `codes` vectors of `dimension` numbers: `frozen_codebook` times `code_transform`.
#[derive(Module, Debug)]
pub struct SimVq {
    /// `[codes, dimension]`, drawn once from a normal distribution with the variance 1 / `dimension`; not trained.
    frozen_codebook: Param<Tensor<2>>,
    /// From `dimension` to `dimension`, without a bias.
    code_transform: Linear,
    #[module(skip)]
    gradient: CodeGradient,
}

impl SimVq {
    /// Random codes and a random matrix.
    pub fn new(codes: usize, dimension: usize, device: &Device) -> Self {
        let normal = Initializer::Normal {
            mean: 0.0,
            std: Self::deviation(dimension),
        };
        let frozen_codebook: Param<Tensor<2>> = normal.init([codes, dimension], device);
        Self {
            frozen_codebook: frozen_codebook.set_require_grad(false),
            code_transform: LinearConfig::new(dimension, dimension)
                .with_bias(false)
                .init(device),
            gradient: CodeGradient::default(),
        }
    }

    /// The standard deviation of the frozen codes.
    pub(crate) fn deviation(dimension: usize) -> f64 {
        (dimension.max(1) as f64).sqrt().recip()
    }

    /// The codes that latents are compared with, `[codes, dimension]`.
    fn vectors(&self) -> Tensor<2> {
        self.code_transform.forward(self.frozen_codebook.val())
    }

    /// The index of each row's nearest vector, `[rows]`. Neither argument needs a gradient.
    fn nearest(rows: Tensor<2>, vectors: Tensor<2>) -> Tensor<1, Int> {
        nearest_codes(rows.without_autodiff(), vectors.without_autodiff())
    }
}

impl Layer for SimVq {
    fn decodable(&self, latents: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = latents.dims();
        let vectors = self.vectors();
        let codes = Self::nearest(flatten(latents), vectors.clone());
        unflatten(vectors.select(0, codes), [batch, height, width])
    }

    fn pass(&self, encoded: Tensor<4>, _noise: Option<Tensor<4>>) -> Passed {
        let [batch, _, height, width] = encoded.dims();
        let latents = flatten(encoded);
        let vectors = self.vectors();
        let codes = Self::nearest(latents.clone(), vectors.clone());
        let chosen = vectors.select(0, codes.clone());
        let codebook = (chosen.clone() - latents.clone().without_autodiff()).square();
        let commitment = (latents.clone() - chosen.clone().without_autodiff()).square();
        let passed = self.gradient.through(latents, chosen);
        Passed {
            latents: unflatten(passed, [batch, height, width]),
            codes: Some(codes.reshape([batch, 1, height, width])),
            terms: vec![(CODEBOOK, codebook.mean()), (COMMITMENT, commitment.mean())],
        }
    }

    fn term_names(&self) -> &'static [&'static str] {
        &[CODEBOOK, COMMITMENT]
    }

    fn codes(&self) -> Option<usize> {
        let [codes, _] = self.frozen_codebook.dims();
        Some(codes)
    }

    fn chosen(&self, latents: Tensor<4>) -> Option<Tensor<4, Int>> {
        let [batch, _, height, width] = latents.dims();
        let codes = Self::nearest(flatten(latents), self.vectors());
        Some(codes.reshape([batch, 1, height, width]))
    }

    fn prepare(&mut self, training: &CodebookConfig) {
        self.gradient = training.gradient;
    }

    fn finish(&mut self) {
        self.gradient = CodeGradient::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottleneck::fixtures::{Fixture, integers};

    fn from(fixture: &Fixture) -> SimVq {
        let mut simvq = SimVq::new(24, 3, fixture.device());
        simvq.frozen_codebook =
            Param::from_tensor(fixture.floats("simvq.frozen")).set_require_grad(false);
        // PyTorch keeps the matrix transposed.
        simvq.code_transform.weight =
            Param::from_tensor(fixture.floats::<2>("simvq.transform").transpose());
        simvq
    }

    #[test]
    fn equals_the_reference_with_either_gradient() {
        let fixture = Fixture::others(&Device::flex().autodiff());
        for (name, gradient) in [
            ("simvq", CodeGradient::StraightThrough),
            ("simvq-rotation", CodeGradient::Rotation),
        ] {
            let mut simvq = from(&fixture);
            simvq.prepare(&CodebookConfig {
                gradient,
                ..CodebookConfig::default()
            });
            let latents = fixture.floats::<4>("latents").require_grad();
            let passed = simvq.pass(latents.clone(), None);
            fixture.assert_close(&format!("{name}.quantized"), passed.latents.clone());
            let codes = integers(passed.codes.clone().expect("codes"));
            assert_eq!(codes, fixture.integers(&format!("{name}.chosen")));
            let [codebook, commitment] = [CODEBOOK, COMMITMENT].map(|term| {
                let term = passed.term(term);
                term.expect("a term")
            });
            let loss = codebook + commitment * 0.25;
            fixture.assert_close(&format!("{name}.loss"), loss.clone());
            let objective = (passed.latents * fixture.floats("upstream")).sum() + loss;
            let gradients = objective.backward();
            let of_latents = latents.grad(&gradients).expect("a gradient");
            fixture.assert_close(&format!("{name}.latents_gradient"), of_latents);
            let of_matrix = simvq.code_transform.weight.grad(&gradients);
            let of_matrix = of_matrix.expect("a gradient").transpose();
            fixture.assert_close(&format!("{name}.transform_gradient"), of_matrix);
            assert!(simvq.frozen_codebook.grad(&gradients).is_none());
        }
    }

    #[test]
    fn decoding_finds_the_codes_of_training() {
        let fixture = Fixture::others(&Device::flex());
        let simvq = from(&fixture);
        fixture.assert_close(
            "simvq.quantized",
            simvq.decodable(fixture.floats("latents")),
        );
        let chosen = simvq.chosen(fixture.floats("latents")).expect("codes");
        assert_eq!(integers(chosen), fixture.integers("simvq.chosen"));
    }
}
