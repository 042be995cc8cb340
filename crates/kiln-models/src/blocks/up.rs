use burn::module::Module;
use burn::tensor::Tensor;
use kiln_kernels::Images;

use super::attention::Attention;
use super::options::{BlockOptions, Resampling};
use super::resample::Upsampler;
use super::residual::{ResidualBlock, Times};

/// The sizes of an [`UpBlock`].
pub(crate) struct UpBlockShape {
    /// The input channels of each residual block, skips included; one per layer.
    pub channels_in: Vec<usize>,
    pub channels_out: usize,
    pub attention: bool,
    pub resampling: Resampling,
}

/// One level on the way up: residual blocks, each followed by attention if the level has it, then
/// doubling. It is diffusers' `UpBlock2D`, `AttnUpBlock2D`, `UpDecoderBlock2D` and
/// `AttnUpDecoderBlock2D`.
#[derive(Module, Debug)]
pub(crate) struct UpBlock {
    resnets: Vec<ResidualBlock>,
    /// As many as `resnets`, or empty.
    attentions: Vec<Attention>,
    /// One, or empty in the outermost level.
    upsamplers: Vec<Upsampler>,
}

impl UpBlock {
    pub(crate) fn new(shape: UpBlockShape, options: &BlockOptions) -> Self {
        let channels = shape.channels_out;
        let layers = shape.channels_in.len();
        let attentions = if shape.attention { layers } else { 0 };
        Self {
            resnets: shape
                .channels_in
                .into_iter()
                .map(|channels_in| ResidualBlock::new(channels_in, channels, options))
                .collect(),
            attentions: (0..attentions)
                .map(|_| Attention::new(channels, Some(options.groups), options))
                .collect(),
            upsamplers: Upsampler::new(shape.resampling, channels, options)
                .into_iter()
                .collect(),
        }
    }

    /// In the order in which they run.
    pub(crate) fn residual_blocks(&self) -> impl Iterator<Item = &ResidualBlock> {
        let upsamplers = self.upsamplers.iter();
        let resampling = upsamplers.flat_map(Upsampler::residual_block);
        self.resnets.iter().chain(resampling)
    }

    /// `[batch, height, width, channels]` to `[batch, 2 height, 2 width, channels_out]`, or of the same
    /// size in the outermost level.
    ///
    /// `join` is applied before every layer: a U-Net puts its skips beside the images there.
    pub(crate) fn forward(
        &self,
        x: Tensor<4>,
        times: &mut Times,
        mut join: impl FnMut(Tensor<4>) -> Images,
    ) -> Tensor<4> {
        let mut hidden = x;
        for (layer, block) in self.resnets.iter().enumerate() {
            hidden = block.forward(join(hidden), times);
            if let Some(attention) = self.attentions.get(layer) {
                hidden = attention.forward(hidden);
            }
        }
        for upsampler in &self.upsamplers {
            hidden = upsampler.forward(hidden, times);
        }
        hidden
    }
}
