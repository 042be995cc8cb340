//! The codebook's training: its settings, its state, and the update at each optimizer step.

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::quantizer::{VectorQuantizer, normalized};
use super::statistics::CodeStatistics;
use crate::bottleneck::gradient::CodeGradient;
use crate::ema::replace_value;

/// Epsilon of the Laplace smoothing of usages: van den Oord et al. 2017 as released in Sonnet.
const SMOOTHING: f64 = 1e-5;

/// How the codes move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CodebookUpdate {
    /// The moving average of the latents that chose them (appendix A.1 of the paper). The codebook loss is then only
    /// logged.
    #[default]
    Ema,
    /// The optimizer, through the codebook loss.
    Gradient,
}

impl CodebookUpdate {
    /// Whether the codebook loss moves the codes.
    pub fn is_by_gradient(self) -> bool {
        match self {
            Self::Ema => false,
            Self::Gradient => true,
        }
    }
}

/// How the codebook is trained: the table `[codebook]` of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodebookConfig {
    /// How the codes move: `"ema"` (default) or `"gradient"`.
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
    /// What the encoder gets of the decoder's gradient: `"straight-through"` (default, which files do not write) or
    /// `"rotation"`.
    #[serde(skip_serializing_if = "CodeGradient::is_default")]
    pub gradient: CodeGradient,
}

/// A setting of `[codebook]` that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodebookConfigError {
    /// `decay` is not a share.
    #[error("codebook.decay is {0}; it must be at least 0 and less than 1, for instance 0.99")]
    Decay(f64),
    /// `restart_below` is not a share.
    #[error(
        "codebook.restart_below is {0}; it must be at least 0 (never) and less than 1, for instance 0.02"
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
            gradient: CodeGradient::StraightThrough,
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

    /// The quantizer for training with these settings: with or without normalisation, with its way of passing gradients,
    /// and frozen for the optimizer if a moving average moves its codes.
    pub fn prepare(&self, quantizer: VectorQuantizer) -> VectorQuantizer {
        let by_gradient = self.update.is_by_gradient();
        quantizer
            .with_l2_normalize(self.l2_normalize)
            .with_gradient(self.gradient)
            .set_require_grad(by_gradient)
    }

    /// Rows of latents or codes as they are compared: of length one if directions are.
    fn comparable(&self, rows: Tensor<2>) -> Tensor<2> {
        match self.l2_normalize {
            true => normalized(rows),
            false => rows,
        }
    }
}

/// Moving averages over the codes: the state that is kept from one optimizer step to the next.
///
/// It is a Burn module, so that a checkpoint of the model that contains it stores it. No optimizer moves it:
/// [`CodebookTraining::take`] removes the gradient of its only parameter that has one.
#[derive(Module, Debug)]
pub struct CodebookTraining {
    /// Moving average of the number of positions that choose each code in a step, `[codes]`: N in appendix A.1.
    usage: Param<Tensor<1>>,
    /// Moving average of the sum of these latents, `[codes, dimension]`: m in appendix A.1.
    sums: Param<Tensor<2>>,
    /// Zeros, whose gradient carries the statistics, `[codes, 1 + 2 * dimension]`.
    carrier: Param<Tensor<2>>,
}

impl CodebookTraining {
    /// The state before the first step: each of the `codes`, `[codes, dimension]`, as if used once, by a latent equal to it.
    pub fn new(config: &CodebookConfig, codes: Tensor<2>) -> Self {
        let [code_count, dimension] = codes.dims();
        let (device, is_autodiff) = (codes.device(), codes.is_autodiff());
        let codes = config.comparable(codes.without_autodiff());
        // Parameters are on the autodiff side if the codes are.
        let sums = if is_autodiff { codes.autodiff() } else { codes };
        Self {
            usage: Param::from_tensor(Tensor::ones([code_count], &device)).set_require_grad(false),
            sums: Param::from_tensor(sums).set_require_grad(false),
            carrier: Param::from_tensor(Tensor::zeros([code_count, 1 + 2 * dimension], &device)),
        }
    }

    /// How many positions chose each code in a step, on average over the last `1 / (1 - decay)` steps: `[codes]`.
    pub fn usage(&self) -> Tensor<1> {
        self.usage.val().without_autodiff()
    }

    /// A term for the loss, `[1]`, that is zero and whose gradient is the statistics. So the code that sums gradients
    /// over micro-batches and devices also sums the statistics. Add it after the loss was scaled.
    pub fn carry(&self, statistics: CodeStatistics) -> Tensor<1> {
        (self.carrier.val() * statistics.packed()).sum()
    }

    /// The same for existing gradients. Not for Burn's `ddp`, which reduces within `backward`.
    pub fn register(&self, statistics: CodeStatistics, gradients: &mut GradientsParams) {
        gradients.register(self.carrier.id, statistics.packed());
    }

    /// Removes the summed statistics from the gradients. Call it before clipping and the optimizer.
    ///
    /// `None` if no shard contributed statistics.
    pub fn take(&self, gradients: &mut GradientsParams) -> Option<CodeStatistics> {
        let packed = gradients.remove::<2>(self.carrier.id)?;
        Some(CodeStatistics::unpacked(packed.without_autodiff()))
    }

    /// One step: the averages move towards the statistics of the whole batch; with `"ema"` the `codes`,
    /// `[codes, dimension]`, follow them; codes that are hardly used start again at a latent of the batch.
    pub fn update(
        self,
        config: &CodebookConfig,
        codes: Tensor<2>,
        statistics: CodeStatistics,
    ) -> (Self, Tensor<2>) {
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
            CodebookUpdate::Gradient => codes.without_autodiff(),
            CodebookUpdate::Ema => {
                // e = m / N, where N is smoothed so that an unused code does not divide by zero.
                let total = usage.clone().sum();
                let smoothed = usage.clone().add_scalar(SMOOTHING)
                    / total.clone().add_scalar(SMOOTHING * code_count as f64)
                    * total;
                config.comparable(sums.clone() / smoothed.unsqueeze_dim(1))
            }
        };

        if config.restart_below > 0.0 {
            let threshold = usage.clone().mean().mul_scalar(config.restart_below);
            let dead = usage.clone().lower(threshold.clone().expand([code_count]));
            let dead_rows = dead
                .clone()
                .unsqueeze_dim::<2>(1)
                .expand([code_count, dimension]);
            // An unused code's usage falls by e in 1 / (1 - decay) steps: a fresh code gets that long to be used.
            let fresh = threshold.mul_scalar(std::f64::consts::E);
            let fresh_sums = candidates.clone() * fresh.clone().unsqueeze_dim(1);
            usage = usage.mask_where(dead, fresh.expand([code_count]));
            sums = sums.mask_where(dead_rows.clone(), fresh_sums);
            codes = codes.mask_where(dead_rows, candidates);
        }

        let state = Self {
            usage: replace_value(self.usage, usage),
            sums: replace_value(self.sums, sums),
            carrier: self.carrier,
        };
        (state, codes)
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::{AdamWConfig, GradientsAccumulator};
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;
    use crate::BatchPosition;
    use crate::bottleneck::vq::statistics::mix;

    const CODES: usize = 6;
    const DIMENSION: usize = 2;

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn quantizer(device: &Device) -> VectorQuantizer {
        let codes: Vec<f32> = (0..CODES * DIMENSION)
            .map(|index| (index as f32 * 1.7).sin() * 3.0)
            .collect();
        let codes = Tensor::from_data(TensorData::new(codes, [CODES, DIMENSION]), device);
        VectorQuantizer::new(CODES, DIMENSION, device).with_codes(codes)
    }

    /// Uniform in [-3, 4), the same whenever they are drawn.
    fn latents(seed: u64, device: &Device) -> Tensor<4> {
        let shape = [4, DIMENSION, 3, 3];
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
            .map(|index| (mix(seed, 0, index) % 7000) as f32 / 1000.0 - 3.0)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn whole_batch(step: u64) -> BatchPosition {
        BatchPosition {
            seed: 2,
            step,
            first_image: 0,
            total_images: 4,
        }
    }

    fn statistics(quantizer: &VectorQuantizer, latents: &Tensor<4>, step: u64) -> CodeStatistics {
        let codes = quantizer.nearest(latents.clone());
        quantizer.statistics(latents.clone(), codes, whole_batch(step))
    }

    fn updated(
        state: CodebookTraining,
        config: &CodebookConfig,
        quantizer: VectorQuantizer,
        statistics: CodeStatistics,
    ) -> (CodebookTraining, VectorQuantizer) {
        let codes = quantizer.embedding.weight.val();
        let (state, codes) = state.update(config, codes, statistics);
        (state, quantizer.with_codes(codes))
    }

    #[test]
    fn ema_follows_the_paper_in_double_precision() {
        let device = Device::flex();
        let config = CodebookConfig {
            decay: 0.9,
            restart_below: 0.0,
            ..CodebookConfig::default()
        };
        let mut quantizer = config.prepare(quantizer(&device));
        let mut state = CodebookTraining::new(&config, quantizer.embedding.weight.val());
        let mut codes: Vec<f64> = floats(quantizer.codes())
            .into_iter()
            .map(f64::from)
            .collect();
        let (mut usage, mut sums) = (vec![1.0; CODES], codes.clone());
        for step in 0..20 {
            let latents = latents(step, &device);
            let statistics = statistics(&quantizer, &latents, step);
            (state, quantizer) = updated(state, &config, quantizer, statistics);

            // The same, computed on the host from the definitions.
            let rows: Vec<f64> = floats(latents.permute([0, 2, 3, 1]))
                .into_iter()
                .map(f64::from)
                .collect();
            let mut counts = vec![0.0; CODES];
            let mut new_sums = [0.0; CODES * DIMENSION];
            for row in rows.chunks(DIMENSION) {
                let distance = |code: usize| -> f64 {
                    (0..DIMENSION)
                        .map(|axis| (row[axis] - codes[code * DIMENSION + axis]).powi(2))
                        .sum()
                };
                let nearest = (0..CODES)
                    .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
                    .expect("there are codes");
                counts[nearest] += 1.0;
                let sum = &mut new_sums[nearest * DIMENSION..][..DIMENSION];
                for (sum, value) in sum.iter_mut().zip(row) {
                    *sum += value;
                }
            }
            for (usage, count) in usage.iter_mut().zip(&counts) {
                *usage = 0.9 * *usage + 0.1 * count;
            }
            let total: f64 = usage.iter().sum();
            for (index, code) in codes.iter_mut().enumerate() {
                sums[index] = 0.9 * sums[index] + 0.1 * new_sums[index];
                let smoothed = (usage[index / DIMENSION] + 1e-5) / (total + CODES as f64 * 1e-5);
                *code = sums[index] / (smoothed * total);
            }
            for (ours, expected) in floats(quantizer.codes()).iter().zip(&codes) {
                assert!(
                    (f64::from(*ours) - expected).abs() < 1e-4,
                    "step {step}: {ours} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn dead_codes_start_again_at_latents() {
        let device = Device::flex();
        for update in [CodebookUpdate::Ema, CodebookUpdate::Gradient] {
            let config = CodebookConfig {
                update,
                ..CodebookConfig::default()
            };
            // All latents lie near the first code; the others are far away and die.
            let far = Tensor::<2>::full([CODES, DIMENSION], 100.0, &device);
            let codes = far.slice_assign([0..1, 0..DIMENSION], Tensor::zeros([1, 2], &device));
            let mut quantizer = config.prepare(quantizer(&device)).with_codes(codes);
            let mut state = CodebookTraining::new(&config, quantizer.embedding.weight.val());
            let latents = latents(1, &device);
            let in_use = |quantizer: &VectorQuantizer| {
                let counts = statistics(quantizer, &latents, 0).counts;
                crate::bottleneck::vq::codes_in_use(&floats(counts))
            };
            assert_eq!(in_use(&quantizer), 1);
            for step in 0..1000 {
                let statistics = statistics(&quantizer, &latents, step);
                (state, quantizer) = updated(state, &config, quantizer, statistics);
            }
            assert_eq!(in_use(&quantizer), CODES, "{update:?}");
            let usage = floats(state.usage());
            assert!(usage.iter().all(|&usage| usage > 0.1), "{usage:?}");
        }
    }

    #[test]
    fn zero_never_restarts() {
        let device = Device::flex();
        let config = CodebookConfig {
            update: CodebookUpdate::Gradient,
            restart_below: 0.0,
            decay: 0.0,
            ..CodebookConfig::default()
        };
        let quantizer = quantizer(&device);
        let before = floats(quantizer.codes());
        let latents = Tensor::<4>::zeros([4, DIMENSION, 3, 3], &device);
        let statistics = statistics(&quantizer, &latents, 0);
        let state = CodebookTraining::new(&config, quantizer.embedding.weight.val());
        let (state, quantizer) = updated(state, &config, quantizer, statistics);
        assert_eq!(floats(quantizer.codes()), before);
        // With a decay of 0 the usage is the batch's, all of it at one code.
        assert_eq!(
            floats(state.usage())
                .iter()
                .filter(|&&usage| usage > 0.0)
                .count(),
            1
        );
    }

    #[test]
    fn normalised_averages_have_length_one() {
        let device = Device::flex();
        let config = CodebookConfig {
            l2_normalize: true,
            ..CodebookConfig::default()
        };
        let quantizer = config.prepare(quantizer(&device));
        let statistics = statistics(&quantizer, &latents(1, &device), 0);
        let state = CodebookTraining::new(&config, quantizer.embedding.weight.val());
        let (_, quantizer) = updated(state, &config, quantizer, statistics);
        for code in floats(quantizer.embedding.weight.val()).chunks(DIMENSION) {
            let length = code.iter().map(|value| value * value).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-5, "length {length}");
        }
    }

    /// A trained module as the trainer has it: the state beside the quantizer.
    #[derive(Module, Debug)]
    struct Trained {
        quantizer: VectorQuantizer,
        state: CodebookTraining,
    }

    #[test]
    fn statistics_travel_as_gradients_over_micro_batches() {
        let device = Device::flex().autodiff();
        let config = CodebookConfig::default();
        let quantizer = config.prepare(quantizer(&device));
        let state = CodebookTraining::new(&config, quantizer.embedding.weight.val());
        let trained = Trained { quantizer, state };
        let latents = latents(1, &device);
        let whole = statistics(&trained.quantizer, &latents, 3);
        let shard = |first_image: usize| {
            let latents = latents.clone().narrow(0, first_image, 2);
            let codes = trained.quantizer.nearest(latents.clone());
            let position = BatchPosition {
                first_image,
                ..whole_batch(3)
            };
            trained.quantizer.statistics(latents, codes, position)
        };

        let mut accumulator = GradientsAccumulator::new();
        let carried = trained.state.carry(shard(0));
        assert_eq!(floats(carried.clone()), [0.0]);
        let carried = GradientsParams::from_grads(carried.backward(), &trained);
        accumulator.accumulate(&trained, carried);
        let mut registered = GradientsParams::new();
        trained.state.register(shard(2), &mut registered);
        accumulator.accumulate(&trained, registered);

        let mut gradients = accumulator.grads().to_device(&Device::flex(), &trained);
        let sum = trained.state.take(&mut gradients).expect("statistics");
        assert!(gradients.is_empty());
        assert!(trained.state.take(&mut gradients).is_none());
        assert_eq!(floats(sum.counts), floats(whole.counts));
        assert_eq!(floats(sum.candidates), floats(whole.candidates));
        sum.sums
            .into_data()
            .assert_approx_eq::<f32>(&whole.sums.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn the_optimizer_leaves_averaged_codes_and_the_state_alone() {
        let device = Device::flex().autodiff();
        let config = CodebookConfig::default();
        let quantizer = config.prepare(quantizer(&device));
        let state = CodebookTraining::new(&config, quantizer.embedding.weight.val());
        let trained = Trained { quantizer, state };
        let codes = floats(trained.quantizer.codes());
        let latents = latents(1, &device).require_grad();
        let loss = trained.quantizer.quantize(latents).loss(0.25);
        let gradients = GradientsParams::from_grads(loss.backward(), &trained);
        assert!(gradients.is_empty());
        let mut optimizer = AdamWConfig::new().with_weight_decay(0.5).init();
        let trained = optimizer.step(0.1, trained, gradients);
        assert_eq!(floats(trained.quantizer.codes()), codes);
        assert_eq!(floats(trained.state.usage()), vec![1.0; CODES]);
    }

    #[test]
    fn a_checkpoint_holds_the_state() {
        let device = Device::flex().autodiff();
        let config = CodebookConfig::default();
        let quantizer = config.prepare(quantizer(&device));
        let statistics = statistics(&quantizer, &latents(1, &device), 0);
        let state = CodebookTraining::new(&config, quantizer.embedding.weight.val());
        let (state, quantizer) = updated(state, &config, quantizer, statistics);
        let fresh = CodebookTraining::new(
            &config,
            VectorQuantizer::new(CODES, DIMENSION, &device)
                .embedding
                .weight
                .val(),
        );
        let usage = floats(state.usage());
        let sums = floats(state.sums.val());
        let restored = fresh.load_record(state.into_record());
        assert_eq!(floats(restored.usage()), usage);
        assert_eq!(floats(restored.sums.val()), sums);
        assert!(!restored.sums.is_require_grad());
        assert!(!quantizer.embedding.weight.is_require_grad());
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(CodebookConfig::default().validate(), Ok(()));
        for decay in [-0.1, 1.0, f64::NAN] {
            let config = CodebookConfig {
                decay,
                ..CodebookConfig::default()
            };
            assert!(matches!(
                config.validate(),
                Err(CodebookConfigError::Decay(_))
            ));
        }
        let config = CodebookConfig {
            restart_below: 1.5,
            ..CodebookConfig::default()
        };
        let message = config.validate().expect_err("more than all").to_string();
        assert!(message.contains("codebook.restart_below is 1.5"));
        let read = serde_json::from_str::<CodebookConfig>;
        assert_eq!(
            read(r#"{"update": "gradient"}"#).expect("a table").update,
            CodebookUpdate::Gradient
        );
        assert!(read(r#"{"decoy": 0.9}"#).is_err());
    }
}
