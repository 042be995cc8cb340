//! The layer between encoder and decoder, which defines the latents.
//!
//! | bottleneck | the latents | the decoder's input |
//! | --- | --- | --- |
//! | [`vq`] | the encoder's output | the nearest codes |
//! | [`fsq`] | the encoder's output | bounded, and rounded channel by channel |
//! | [`sim_vq`] | the encoder's output | the nearest codes, which one matrix moves together |
//! | [`residual`] | the encoder's output | sums of the nearest codes of several tables |
//! | [`kl`] | the mean of a normal distribution | the latents themselves; in training, a sample |
//!
//! For another bottleneck, add a file here with a `Layer`, a variant of [`Bottleneck`] and, for a quantizer, one of
//! [`QuantizerConfig`]: the rest of kiln asks only those.

mod config;
#[cfg(test)]
mod fixtures;
pub mod fsq;
mod gradient;
pub mod kl;
pub mod residual;
pub mod sim_vq;
pub mod vq;

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::BatchPosition;

pub use config::QuantizerConfig;
pub use gradient::CodeGradient;

use fsq::Fsq;
use kl::Posterior;
use residual::ResidualQuantizer;
use sim_vq::SimVq;
use vq::{CodeStatistics, CodebookConfig, CodebookUpdate, VectorQuantizer};

/// The bottleneck of an autoencoder.
#[derive(Module, Debug)]
#[non_exhaustive]
pub enum Bottleneck {
    /// A codebook (van den Oord et al. 2017).
    Vq(VectorQuantizer),
    /// A normal distribution (Kingma and Welling 2014).
    Kl(Posterior),
    /// A grid (Mentzer et al. 2023).
    Fsq(Fsq),
    /// A codebook that moves as a whole (Zhu et al. 2024).
    SimVq(SimVq),
    /// Codebooks for what is left over (Lee et al. 2022).
    Residual(ResidualQuantizer),
}

/// The result of a bottleneck for the encoder's output.
#[derive(Clone, Debug)]
pub struct Passed {
    /// For the decoder: `[batch, latent_dim, height, width]`, with gradients for the encoder.
    pub latents: Tensor<4>,
    /// The codes at each position, `[batch, tables, height, width]`, if there are codes: see [`Bottleneck::chosen`].
    pub codes: Option<Tensor<4, Int>>,
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

/// What a kind of bottleneck does. [`Bottleneck`] has the methods' documentation.
trait Layer {
    fn latents(&self, encoded: Tensor<4>) -> Tensor<4> {
        encoded
    }

    fn decodable(&self, latents: Tensor<4>) -> Tensor<4>;

    fn pass(&self, encoded: Tensor<4>, noise: Option<Tensor<4>>) -> Passed;

    fn samples(&self) -> bool {
        false
    }

    fn term_names(&self) -> &'static [&'static str] {
        &[]
    }

    fn codes(&self) -> Option<usize> {
        None
    }

    fn chosen(&self, _latents: Tensor<4>) -> Option<Tensor<4, Int>> {
        None
    }

    fn codebook(&self) -> Option<Tensor<2>> {
        None
    }

    fn set_codebook(&mut self, _vectors: Tensor<2>) {}

    fn statistics(
        &self,
        _encoded: Tensor<4>,
        _codes: Tensor<4, Int>,
        _position: BatchPosition,
    ) -> Option<CodeStatistics> {
        None
    }

    fn start_with_kmeans(
        &mut self,
        _latents: Tensor<4>,
        _iterations: usize,
        _seed: u64,
        _advance: &mut dyn FnMut(u64) -> bool,
    ) {
    }

    /// See [`Bottleneck::prepared`].
    fn prepare(&mut self, _training: &CodebookConfig) {}

    /// See [`Bottleneck::finished`].
    fn finish(&mut self) {}
}

impl Bottleneck {
    fn layer(&self) -> &dyn Layer {
        match self {
            Self::Vq(layer) => layer,
            Self::Kl(layer) => layer,
            Self::Fsq(layer) => layer,
            Self::SimVq(layer) => layer,
            Self::Residual(layer) => layer,
        }
    }

    fn changed(mut self, change: impl FnOnce(&mut dyn Layer)) -> Self {
        change(match &mut self {
            Self::Vq(layer) => layer,
            Self::Kl(layer) => layer,
            Self::Fsq(layer) => layer,
            Self::SimVq(layer) => layer,
            Self::Residual(layer) => layer,
        });
        self
    }

    /// The latents `[batch, latent_dim, height, width]`, from the encoder's output
    /// `[batch, encoded_channels, height, width]`.
    pub fn latents(&self, encoded: Tensor<4>) -> Tensor<4> {
        self.layer().latents(encoded)
    }

    /// The decoder's input for latents `[batch, latent_dim, height, width]`, in the same shape.
    pub fn decodable(&self, latents: Tensor<4>) -> Tensor<4> {
        self.layer().decodable(latents)
    }

    /// The path from encoder to decoder with everything that training needs. `noise` is standard normal, in the
    /// latents' shape, for a bottleneck that samples; without it the bottleneck returns the mean.
    pub fn pass(&self, encoded: Tensor<4>, noise: Option<Tensor<4>>) -> Passed {
        self.layer().pass(encoded, noise)
    }

    /// The standard deviation of each latent, `[batch, latent_dim, height, width]`, from the encoder's output; `None` for a
    /// bottleneck that does not sample. [`Self::latents`] gives the mean.
    pub fn deviation(&self, encoded: Tensor<4>) -> Option<Tensor<4>> {
        match self {
            Self::Kl(posterior) => Some(posterior.deviation(encoded)),
            _ => None,
        }
    }

    /// Whether [`Self::pass`] draws samples if it gets noise.
    pub fn samples(&self) -> bool {
        self.layer().samples()
    }

    /// The latents that [`Self::decodable`] made the decoder's input from in this pass of the `encoded` images: the
    /// encoder's output where codes replace it, otherwise the sample.
    pub fn before_quantization(&self, encoded: &Tensor<4>, passed: &Passed) -> Tensor<4> {
        match self.samples() {
            true => passed.latents.clone(),
            false => encoded.clone(),
        }
    }

    /// The names of the terms that [`Self::pass`] gives, in its order.
    pub fn term_names(&self) -> &'static [&'static str] {
        self.layer().term_names()
    }

    /// How many codes there are to choose from in all tables together, where there are codes.
    pub fn codes(&self) -> Option<usize> {
        self.layer().codes()
    }

    /// The codes that latents `[batch, latent_dim, height, width]` go through: `[batch, tables, height, width]`, where there
    /// are codes.
    ///
    /// Only residual quantization has several tables. Their codes are numbered one table after the other, from 0 to
    /// [`Self::codes`], so that counts, perplexity and the share of codes in use treat them as one list. With `n` evenly used
    /// tables of `m` codes the perplexity is `n * m`.
    pub fn chosen(&self, latents: Tensor<4>) -> Option<Tensor<4, Int>> {
        self.layer().chosen(latents)
    }

    /// How many positions chose each code, `[codes]`, of codes `[batch, tables, height, width]`.
    pub fn counts(&self, codes: Tensor<4, Int>) -> Option<Tensor<1>> {
        Some(vq::count(codes.flatten(0, 3), self.codes()?))
    }

    /// The vectors that k-means, moving averages and restarts move, `[codes, latent_dim]`, where there are such.
    pub fn codebook(&self) -> Option<Tensor<2>> {
        self.layer().codebook()
    }

    /// The bottleneck with other vectors in place of its [`Self::codebook`]; without one, unchanged.
    pub fn with_codebook(self, vectors: Tensor<2>) -> Self {
        self.changed(|layer| layer.set_codebook(vectors))
    }

    /// One shard's contribution to the training of the [`Self::codebook`], if there is one: from the encoder's output, the
    /// codes of it, and the position of these images in the whole batch.
    pub fn statistics(
        &self,
        encoded: Tensor<4>,
        codes: Tensor<4, Int>,
        position: BatchPosition,
    ) -> Option<CodeStatistics> {
        self.layer().statistics(encoded, codes, position)
    }

    /// The bottleneck with the k-means centres of `latents` as its [`Self::codebook`]; without one, unchanged. `advance` is
    /// told the work that is done, of `codes * (1 + iterations)` in total, and returns whether to go on.
    pub fn with_kmeans(
        self,
        latents: Tensor<4>,
        iterations: usize,
        seed: u64,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Self {
        self.changed(|layer| layer.start_with_kmeans(latents, iterations, seed, advance))
    }

    /// The bottleneck for training with these settings, those that it [has](QuantizerConfig::codebook_keys).
    pub fn prepared(self, training: &CodebookConfig) -> Self {
        self.changed(|layer| layer.prepare(training))
    }

    /// How the codes move in a training that asks for `wanted`: a bottleneck without a [`Self::codebook`] has only
    /// gradients.
    pub fn codebook_update(&self, wanted: CodebookUpdate) -> CodebookUpdate {
        match self.codebook() {
            Some(_) => wanted,
            None => CodebookUpdate::Gradient,
        }
    }

    /// The trained bottleneck for a model's file, without the settings of [`Self::prepared`].
    pub fn finished(self) -> Self {
        self.changed(|layer| layer.finish())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn a_bottleneck_passes_what_it_says() {
        let device = Device::flex();
        let quantizers = [
            (QuantizerConfig::Vq, 5),
            (QuantizerConfig::Fsq { levels: vec![3, 4] }, 12),
            (QuantizerConfig::SimVq, 5),
            (QuantizerConfig::Residual { tables: 3 }, 15),
        ]
        .map(|(config, codes)| (config.init(5, 2, &device), 2, Some(codes)));
        let kl = (Bottleneck::Kl(Posterior::new(2)), 4, None);
        for (bottleneck, channels, codes) in quantizers.into_iter().chain([kl]) {
            let encoded = Tensor::<4>::random([3, channels, 4, 4], Distribution::Default, &device);
            let passed = bottleneck.pass(encoded.clone(), None);
            assert_eq!(passed.latents.dims(), [3, 2, 4, 4]);
            let names: Vec<_> = passed.terms.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, bottleneck.term_names());
            assert_eq!(bottleneck.codes(), codes);
            let latents = bottleneck.latents(encoded);
            let difference = passed.latents - bottleneck.decodable(latents.clone());
            assert!(difference.abs().max().into_scalar::<f32>() < 1e-5);
            let chosen = bottleneck.chosen(latents.clone());
            assert_eq!(passed.codes.is_some(), codes.is_some());
            assert_eq!(chosen.is_some(), codes.is_some());
            let (Some(passed), Some(chosen), Some(codes)) = (passed.codes, chosen, codes) else {
                continue;
            };
            assert_eq!(passed.to_data(), chosen.into_data());
            let [_, tables, _, _] = passed.dims();
            let counts = bottleneck.counts(passed.clone()).unwrap();
            assert_eq!(counts.dims(), [codes]);
            assert_eq!(
                counts.clone().sum().into_scalar::<f32>(),
                48.0 * tables as f32
            );
            let position = BatchPosition {
                seed: 0,
                step: 0,
                first_image: 0,
                total_images: 3,
            };
            let statistics = bottleneck.statistics(latents, passed, position);
            let codebook = bottleneck.codebook();
            assert_eq!(statistics.is_some(), codebook.is_some());
            if let (Some(statistics), Some(codebook)) = (statistics, codebook) {
                assert_eq!(codebook.dims(), [codes, 2]);
                assert_eq!(statistics.candidates.dims(), [codes, 2]);
                assert_eq!(statistics.counts.into_data(), counts.into_data());
                let twice = bottleneck.with_codebook(codebook.clone() * 2.0);
                assert_eq!(
                    twice.codebook().unwrap().into_data(),
                    (codebook * 2.0).into_data()
                );
            }
        }
    }
}
