//! The codebook itself: the codes, and the look-up of latents in them.

use burn::module::{Initializer, Module};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_kernels::nearest_codes;

use super::kmeans::kmeans;
use super::statistics::{self, CodeStatistics};
use crate::BatchPosition;
use crate::bottleneck::gradient::CodeGradient;
use crate::ema::replace_value;

/// The name of the term of [`Quantized::codebook_loss`].
pub const CODEBOOK: &str = "codebook";
/// The name of the term of [`Quantized::commitment_loss`].
pub const COMMITMENT: &str = "commitment";

/// A codebook of `codes` vectors of `dimension` numbers, and the look-up of latents in it.
///
/// In a file its only key is `embedding.weight`, `[codes, dimension]`.
#[derive(Module, Debug)]
pub struct VectorQuantizer {
    /// The codes, `[codes, dimension]`.
    pub embedding: Embedding,
    /// Whether latents and codes are scaled to length one before they are compared (ViT-VQGAN, Yu et al. 2021).
    ///
    /// For training only: a file does not store it. See [`VectorQuantizer::into_plain`].
    #[module(skip)]
    l2_normalize: bool,
    /// How gradients pass; for training only, too.
    #[module(skip)]
    gradient: CodeGradient,
}

/// The result of [`VectorQuantizer::quantize`] for latents `[batch, dimension, height, width]`.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The nearest codes in place of the latents, `[batch, dimension, height, width]`. Gradients pass
    /// straight through to the latents, `z + (e - z).detach()`, or as a [`CodeGradient`] says.
    pub quantized: Tensor<4>,
    /// Index of the nearest code at each position, `[batch, height, width]`, in `0..codes`.
    pub codes: Tensor<3, Int>,
    /// `mean((sg[z] - e)^2)`, unweighted, `[1]`: pulls the codes to the latents that chose them.
    pub codebook_loss: Tensor<1>,
    /// `mean((z - sg[e])^2)`, unweighted, `[1]`: keeps the latents near their codes.
    pub commitment_loss: Tensor<1>,
}

impl Quantized {
    /// `codebook + beta * commitment`, `[1]`: equation 3 of the paper, where `beta` is 0.25.
    ///
    /// diffusers' default (`legacy=True`) puts `beta` on the *codebook* term instead, a bug that it keeps for its old
    /// checkpoints. This affects only training: the same weights give the same images.
    pub fn loss(&self, beta: f64) -> Tensor<1> {
        self.codebook_loss.clone() + self.commitment_loss.clone().mul_scalar(beta)
    }
}

impl VectorQuantizer {
    /// Codes drawn uniformly from ±1/`codes`, as in diffusers and the paper's own code.
    pub fn new(codes: usize, dimension: usize, device: &Device) -> Self {
        let bound = 1.0 / codes.max(1) as f64;
        let initializer = Initializer::Uniform {
            min: -bound,
            max: bound,
        };
        let embedding = EmbeddingConfig::new(codes, dimension)
            .with_initializer(initializer)
            .init(device);
        Self {
            embedding,
            l2_normalize: false,
            gradient: CodeGradient::default(),
        }
    }

    /// Switches the normalisation of latents and codes on or off.
    pub fn with_l2_normalize(mut self, l2_normalize: bool) -> Self {
        self.l2_normalize = l2_normalize;
        self
    }

    /// Chooses how gradients pass to the latents.
    pub fn with_gradient(mut self, gradient: CodeGradient) -> Self {
        self.gradient = gradient;
        self
    }

    /// Replaces the codes by `codes`, `[codes, dimension]`; their parameter keeps its identity and its gradient
    /// setting, so it keeps its optimizer state.
    pub fn with_codes(mut self, codes: Tensor<2>) -> Self {
        self.embedding.weight = replace_value(self.embedding.weight, codes);
        self
    }

    /// Replaces the codes by the k-means centres of encoder outputs `[batch, dimension, height, width]`. `advance` is
    /// told the work that is done, of `codes * (1 + iterations)` in total, and returns whether to go on.
    pub fn with_kmeans(
        self,
        latents: Tensor<4>,
        iterations: usize,
        seed: u64,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Self {
        self.with_kmeans_of(flatten(latents), iterations, seed, advance)
    }

    /// The same for one row per position, `[rows, dimension]`.
    pub(in crate::bottleneck) fn with_kmeans_of(
        self,
        rows: Tensor<2>,
        iterations: usize,
        seed: u64,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Self {
        let [codes, dimension] = self.embedding.weight.dims();
        let device = rows.device();
        let vectors = self.comparable(rows.without_autodiff());
        let vectors: Vec<f32> = vectors.into_data().iter::<f32>().collect();
        let centres = kmeans(&vectors, dimension, codes, iterations, seed, advance);
        let centres = Tensor::from_data(TensorData::new(centres, [codes, dimension]), &device);
        self.with_codes(centres)
    }

    /// The same quantizer without the settings of its training, for a model's file: its codes have length one if they were
    /// normalised in training.
    ///
    /// Nothing is lost. For codes of length one `|z - e|^2 = |z|^2 + 1 - 2 z.e` is smallest where the cosine of `z` and
    /// `e` is largest, whatever the length of `z`. So the Euclidean look-up, here and in diffusers, finds the same code
    /// as the normalised look-up.
    pub fn into_plain(self) -> Self {
        let codes = self.codes();
        self.with_codes(codes)
            .with_l2_normalize(false)
            .with_gradient(CodeGradient::default())
    }

    /// The codes that latents are compared with, `[codes, dimension]`, without gradient.
    pub fn codes(&self) -> Tensor<2> {
        self.comparable(self.embedding.weight.val().without_autodiff())
    }

    /// Index of the nearest code for each position of latents `[batch, dimension, height, width]`:
    /// `[batch, height, width]`. Has no gradient.
    pub fn nearest(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        let [batch, _, height, width] = latents.dims();
        let vectors = self.comparable(flatten(latents.without_autodiff()));
        nearest_codes(vectors, self.codes()).reshape([batch, height, width])
    }

    /// The codes at given indices: `[batch, height, width]` to `[batch, dimension, height, width]`.
    ///
    /// Indices must lie in `0..codes`.
    pub fn look_up(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        let [batch, height, width] = codes.dims();
        let weight = self.comparable(self.embedding.weight.val());
        let rows = weight.select(0, codes.reshape([batch * height * width]));
        unflatten(rows, [batch, height, width])
    }

    /// Replaces each position of latents `[batch, dimension, height, width]` by its nearest code.
    pub fn quantize(&self, latents: Tensor<4>) -> Quantized {
        let [batch, _, height, width] = latents.dims();
        let positions = [batch, height, width];
        let latents = self.comparable(flatten(latents));
        let fixed_latents = latents.clone().without_autodiff();

        let codes = nearest_codes(fixed_latents.clone(), self.codes());
        let weight = self.comparable(self.embedding.weight.val());
        let chosen = weight.select(0, codes.clone());
        let fixed_chosen = chosen.clone().without_autodiff();

        let passed = self.gradient.through(latents.clone(), fixed_chosen.clone());
        Quantized {
            quantized: unflatten(passed, positions),
            codes: codes.reshape(positions),
            codebook_loss: (chosen - fixed_latents).square().mean(),
            commitment_loss: (latents - fixed_chosen).square().mean(),
        }
    }

    /// How many positions chose each code, `[codes]`, given their codes `[batch, height, width]`.
    pub fn counts(&self, codes: Tensor<3, Int>) -> Tensor<1> {
        let [code_count, _] = self.embedding.weight.dims();
        statistics::count(codes.flatten(0, 2), code_count)
    }

    /// One shard's contribution to the training of the codebook, from the encoder's latents
    /// `[batch, dimension, height, width]`, their codes `[batch, height, width]`, and the position of these images in
    /// the whole batch.
    pub fn statistics(
        &self,
        latents: Tensor<4>,
        codes: Tensor<3, Int>,
        position: BatchPosition,
    ) -> CodeStatistics {
        let [batch, height, width] = codes.dims();
        let [code_count, _] = self.embedding.weight.dims();
        let vectors = self.comparable(flatten(latents.without_autodiff()));
        let codes = codes.reshape([batch * height * width]);
        CodeStatistics::of(vectors, codes, code_count, height * width, position)
    }

    /// Rows for comparison: of length one if the quantizer normalises.
    pub(super) fn comparable(&self, rows: Tensor<2>) -> Tensor<2> {
        if self.l2_normalize {
            normalized(rows)
        } else {
            rows
        }
    }
}

/// Rows `[rows, dimension]` scaled to length one. The small term keeps the gradient of a zero row finite.
pub(super) fn normalized(rows: Tensor<2>) -> Tensor<2> {
    let lengths = rows.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
    rows / lengths
}

/// `[batch, dimension, height, width]` to one row per position, `[batch * height * width, dimension]`.
pub(in crate::bottleneck) fn flatten(latents: Tensor<4>) -> Tensor<2> {
    let [batch, dimension, height, width] = latents.dims();
    latents
        .permute([0, 2, 3, 1])
        .reshape([batch * height * width, dimension])
}

/// One row per position back to `[batch, dimension, height, width]`.
pub(in crate::bottleneck) fn unflatten(
    rows: Tensor<2>,
    [batch, height, width]: [usize; 3],
) -> Tensor<4> {
    let [_, dimension] = rows.dims();
    rows.reshape([batch, height, width, dimension])
        .permute([0, 3, 1, 2])
}
