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
//!    then `state = CodebookTraining::new(&quantizer)`, kept in the trained module so that it is checkpointed.
//! 2. On every shard: `quantizer.statistics(latents, codes, position)`, from which [`CodebookTraining::carry`] makes a
//!    term of the loss that is zero and has them as its gradient. Burn then sums them over micro-batches and devices,
//!    with any strategy.
//! 3. At the optimizer step, *before* clipping: [`CodebookTraining::take`] removes the sum from the gradients;
//!    after the optimizer has moved the weights: `(state, quantizer) = state.update(&config, quantizer, sum)`.
//! 4. At the end: [`VectorQuantizer::into_plain`], whose codes diffusers reads directly.

mod codebook;
mod kmeans;
mod quantizer;
mod statistics;

pub use codebook::{CodebookConfig, CodebookConfigError, CodebookTraining, CodebookUpdate};
pub use kmeans::kmeans;
pub use quantizer::{CODEBOOK, COMMITMENT, Quantized, VectorQuantizer};
pub(crate) use statistics::count;
pub use statistics::{BatchPosition, CodeStatistics, codes_in_use, perplexity};

#[cfg(test)]
mod tests;
