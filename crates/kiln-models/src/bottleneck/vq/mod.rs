//! The codebook between encoder and decoder: look-up, straight-through gradients, and how it is trained.
//!
//! [`VectorQuantizer`] is diffusers' `VectorQuantizer` (van den Oord et al. 2017, "Neural Discrete Representation
//! Learning"): it replaces every latent position by its nearest code. A model's file stores only its
//! `embedding.weight`.
//!
//! # How a codebook is trained
//!
//! Codes follow either the gradient of the codebook loss or an exponential moving average of the latents that chose
//! them (appendix A.1 of the paper); [`CodebookConfig`] says which. Both need sums over the *whole* batch of an
//! optimizer step, which may be spread over several devices and micro-batches. So the work has two parts:
//! [`CodeStatistics`] are plain sums over one shard, and [`CodebookTraining`] turns their sum over all shards into the
//! next codebook.
//!
//! 1. Before training: quantizer = [`CodebookConfig::prepare`] (gradient off for `ema`, normalisation on for
//!    `l2_normalize`); with `kmeans_start`, encode a few batches and call [`VectorQuantizer::with_kmeans`];
//!    then `state = CodebookTraining::new(&config, codes)`, kept in the trained module so that it is checkpointed.
//! 2. On every shard: `quantizer.statistics(latents, codes, position)`, from which [`CodebookTraining::carry`] makes a
//!    term of the loss that is zero and has them as its gradient. Burn then sums them over micro-batches and devices,
//!    with any strategy.
//! 3. At the optimizer step, *before* clipping: [`CodebookTraining::take`] removes the sum from the gradients;
//!    after the optimizer has moved the weights: `(state, codes) = state.update(&config, codes, sum)`.
//! 4. At the end: [`VectorQuantizer::into_plain`], whose codes diffusers reads directly.

mod codebook;
mod kmeans;
mod quantizer;
mod statistics;

use burn::tensor::{Int, Tensor};

use super::{Layer, Passed};
use crate::BatchPosition;

pub use codebook::{CodebookConfig, CodebookConfigError, CodebookTraining, CodebookUpdate};
pub use kmeans::kmeans;
pub use quantizer::{CODEBOOK, COMMITMENT, Quantized, VectorQuantizer};
pub(super) use quantizer::{flatten, unflatten};
pub(crate) use statistics::count;
pub use statistics::{CodeStatistics, codes_in_use, perplexity};

impl Layer for VectorQuantizer {
    fn decodable(&self, latents: Tensor<4>) -> Tensor<4> {
        self.quantize(latents).quantized
    }

    fn pass(&self, encoded: Tensor<4>, _noise: Option<Tensor<4>>) -> Passed {
        let quantized = self.quantize(encoded);
        Passed {
            latents: quantized.quantized,
            codes: Some(quantized.codes.unsqueeze_dim(1)),
            terms: vec![
                (CODEBOOK, quantized.codebook_loss),
                (COMMITMENT, quantized.commitment_loss),
            ],
        }
    }

    fn term_names(&self) -> &'static [&'static str] {
        &[CODEBOOK, COMMITMENT]
    }

    fn codes(&self) -> Option<usize> {
        let [codes, _] = self.embedding.weight.dims();
        Some(codes)
    }

    fn chosen(&self, latents: Tensor<4>) -> Option<Tensor<4, Int>> {
        Some(self.nearest(latents).unsqueeze_dim(1))
    }

    fn codebook(&self) -> Option<Tensor<2>> {
        Some(self.embedding.weight.val())
    }

    fn set_codebook(&mut self, vectors: Tensor<2>) {
        *self = self.clone().with_codes(vectors);
    }

    fn statistics(
        &self,
        encoded: Tensor<4>,
        codes: Tensor<4, Int>,
        position: BatchPosition,
    ) -> Option<CodeStatistics> {
        let codes = codes.squeeze_dim(1);
        Some(VectorQuantizer::statistics(self, encoded, codes, position))
    }

    fn start_with_kmeans(
        &mut self,
        latents: Tensor<4>,
        iterations: usize,
        seed: u64,
        advance: &mut dyn FnMut(u64) -> bool,
    ) {
        *self = (self.clone()).with_kmeans(latents, iterations, seed, advance);
    }

    fn prepare(&mut self, training: &CodebookConfig) {
        *self = training.prepare(self.clone());
    }

    fn finish(&mut self) {
        *self = self.clone().into_plain();
    }
}

#[cfg(test)]
mod tests;
