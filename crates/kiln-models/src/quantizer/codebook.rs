//! The codebook's training: its settings, its state, and the update at each optimizer step.

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{CodeStatistics, VectorQuantizer};
use crate::ema::replace_value;

/// Epsilon of the Laplace smoothing of usages: van den Oord et al. 2017 as released in Sonnet.
const SMOOTHING: f64 = 1e-5;

/// What moves the codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodebookUpdate {
    /// The moving average of the latents that chose them (appendix A.1 of the paper). The codebook loss is
    /// then only reported.
    #[default]
    Ema,
    /// The optimizer, through the codebook loss.
    Gradient,
}

/// How the codebook is trained: the table `[vqvae.codebook]` of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodebookConfig {
    /// What moves the codes: `"ema"` (default) or `"gradient"`.
    pub update: CodebookUpdate,
    /// Share of the old value that the moving averages of usage (and for `"ema"` of the codes) keep at each
    /// step, in [0, 1); default 0.99.
    pub decay: f64,
    /// A code used less than this share of the average usage starts again at a latent of the batch;
    /// in [0, 1), 0 never restarts; default 0.02.
    pub restart_below: f64,
    /// Whether the codes start as k-means centres of the encoder's first outputs; default true.
    pub kmeans_start: bool,
    /// Whether latents and codes are compared by direction only (ViT-VQGAN, Yu et al. 2021); default false.
    pub l2_normalize: bool,
}

/// A setting of `[vqvae.codebook]` that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CodebookConfigError {
    /// `decay` is not a share.
    #[error(
        "vqvae.codebook.decay is {0}; it must be at least 0 and less than 1, for instance 0.99"
    )]
    Decay(f64),
    /// `restart_below` is not a share.
    #[error(
        "vqvae.codebook.restart_below is {0}; it must be at least 0 (never) and less than 1, for instance 0.02"
    )]
    RestartBelow(f64),
}

impl Default for CodebookConfig {
    fn default() -> Self {
        Self {
            update: CodebookUpdate::Ema,
            decay: 0.99,
            restart_below: 0.02,
            kmeans_start: true,
            l2_normalize: false,
        }
    }
}

impl CodebookConfig {
    /// Refuses settings that cannot work.
    pub fn validate(&self) -> Result<(), CodebookConfigError> {
        if !(0.0..1.0).contains(&self.decay) {
            return Err(CodebookConfigError::Decay(self.decay));
        }
        if !(0.0..1.0).contains(&self.restart_below) {
            return Err(CodebookConfigError::RestartBelow(self.restart_below));
        }
        Ok(())
    }

    /// The quantizer as it is trained under these settings: with normalisation or without, and out of the
    /// optimizer's reach if a moving average moves its codes.
    pub fn prepare(&self, quantizer: VectorQuantizer) -> VectorQuantizer {
        let by_gradient = self.update == CodebookUpdate::Gradient;
        quantizer
            .with_l2_normalize(self.l2_normalize)
            .set_require_grad(by_gradient)
    }
}

/// Moving averages over the codes: what has to be kept from one optimizer step to the next.
///
/// A Burn module, so that a checkpoint of the model it sits in holds it. Its parameters take no gradient.
#[derive(Module, Debug)]
pub struct CodebookTraining {
    /// Moving average of how many positions choose each code in a step, `[codes]`: N in appendix A.1.
    usage: Param<Tensor<1>>,
    /// Moving average of the sum of these latents, `[codes, dimension]`: m in appendix A.1.
    sums: Param<Tensor<2>>,
}

impl CodebookTraining {
    /// The state before the first step: each code as if used once, by a latent equal to it.
    pub fn new(quantizer: &VectorQuantizer) -> Self {
        let weight = quantizer.embedding.weight.val();
        let codes = quantizer.codes();
        let [code_count, _] = codes.dims();
        let usage = Tensor::<1>::ones([code_count], &codes.device());
        // Parameters live on an autodiff device if the codes do, without taking gradients.
        let (usage, sums) = if weight.is_autodiff() {
            (usage.autodiff(), codes.autodiff())
        } else {
            (usage, codes)
        };
        Self {
            usage: Param::from_tensor(usage).set_require_grad(false),
            sums: Param::from_tensor(sums).set_require_grad(false),
        }
    }

    /// How many positions chose each code in a step, on average over the last `1 / (1 - decay)` steps: `[codes]`.
    pub fn usage(&self) -> Tensor<1> {
        self.usage.val().without_autodiff()
    }

    /// Hands statistics on as if they were a parameter's gradient, which Burn's accumulator and its
    /// multi-device strategies sum. Must come after the real gradients were collected and scaled.
    pub fn register(&self, statistics: CodeStatistics, gradients: &mut GradientsParams) {
        gradients.register(self.sums.id, statistics.packed());
    }

    /// Takes the summed statistics back out of the gradients. Must come before clipping and the optimizer.
    ///
    /// `None` if no shard registered any.
    pub fn take(&self, gradients: &mut GradientsParams) -> Option<CodeStatistics> {
        let packed = gradients.remove::<2>(self.sums.id)?;
        Some(CodeStatistics::unpacked(packed.without_autodiff()))
    }

    /// One step: the averages move towards the statistics of the whole batch; with `"ema"` the codes follow
    /// them; codes that are hardly used start again at a latent of the batch.
    pub fn update(
        self,
        config: &CodebookConfig,
        quantizer: VectorQuantizer,
        statistics: CodeStatistics,
    ) -> (Self, VectorQuantizer) {
        let CodeStatistics {
            counts,
            sums: new_sums,
            candidates,
        } = statistics;
        let [code_count, dimension] = candidates.dims();
        let (old, new) = (config.decay, 1.0 - config.decay);
        let mut usage = self.usage().mul_scalar(old) + counts.mul_scalar(new);
        let mut sums =
            self.sums.val().without_autodiff().mul_scalar(old) + new_sums.mul_scalar(new);

        let mut codes = match config.update {
            CodebookUpdate::Gradient => quantizer.embedding.weight.val().without_autodiff(),
            CodebookUpdate::Ema => {
                // e = m / N, where N is smoothed so that an unused code does not divide by zero.
                let total = usage.clone().sum();
                let smoothed = usage.clone().add_scalar(SMOOTHING)
                    / total.clone().add_scalar(SMOOTHING * code_count as f64)
                    * total;
                sums.clone() / smoothed.unsqueeze_dim(1)
            }
        };

        if config.restart_below > 0.0 {
            let threshold = usage.clone().mean().mul_scalar(config.restart_below);
            let dead = usage.clone().lower(threshold.clone().expand([code_count]));
            let dead_rows = dead
                .clone()
                .unsqueeze_dim::<2>(1)
                .expand([code_count, dimension]);
            // An unused code's usage falls by e in 1 / (1 - decay) steps: it gets as long to be found.
            let fresh = threshold.mul_scalar(std::f64::consts::E);
            let fresh_sums = candidates.clone() * fresh.clone().unsqueeze_dim(1);
            usage = usage.mask_where(dead, fresh.expand([code_count]));
            sums = sums.mask_where(dead_rows.clone(), fresh_sums);
            codes = codes.mask_where(dead_rows, candidates);
        }

        let state = Self {
            usage: replace_value(self.usage, usage),
            sums: replace_value(self.sums, sums),
        };
        let quantizer = quantizer.with_codes(codes);
        // With normalisation the stored codes have length one, too.
        let normalized = quantizer.codes();
        let quantizer = match config.update {
            CodebookUpdate::Ema => quantizer.with_codes(normalized),
            CodebookUpdate::Gradient => quantizer,
        };
        (state, quantizer)
    }
}
