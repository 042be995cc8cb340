use burn::module::Module;
use burn::tensor::Tensor;

use super::attention::Attention;
use super::options::{BlockOptions, Resampling};
use super::resample::Downsampler;
use super::residual::{ResidualBlock, Times};

/// The sizes of a [`DownBlock`].
pub(crate) struct DownBlockShape {
    pub channels_in: usize,
    pub channels_out: usize,
    pub layers: usize,
    pub attention: bool,
    pub resampling: Resampling,
}

/// One level on the way down: residual blocks, each followed by attention if the level has it, then
/// halving. It is diffusers' `DownBlock2D`, `AttnDownBlock2D`, `DownEncoderBlock2D` and
/// `AttnDownEncoderBlock2D`.
#[derive(Module, Debug)]
pub(crate) struct DownBlock {
    resnets: Vec<ResidualBlock>,
    /// As many as `resnets`, or empty.
    attentions: Vec<Attention>,
    /// One, or empty in the innermost level.
    downsamplers: Vec<Downsampler>,
}

impl DownBlock {
    pub(crate) fn new(shape: DownBlockShape, options: &BlockOptions) -> Self {
        let channels = shape.channels_out;
        let inputs = |layer| {
            if layer == 0 {
                shape.channels_in
            } else {
                channels
            }
        };
        let attentions = if shape.attention { shape.layers } else { 0 };
        Self {
            resnets: (0..shape.layers)
                .map(|layer| ResidualBlock::new(inputs(layer), channels, options))
                .collect(),
            attentions: (0..attentions)
                .map(|_| Attention::new(channels, Some(options.groups), options))
                .collect(),
            downsamplers: Downsampler::new(shape.resampling, channels, options)
                .into_iter()
                .collect(),
        }
    }

    /// In the order in which they run.
    pub(crate) fn residual_blocks(&self) -> impl Iterator<Item = &ResidualBlock> {
        let downsamplers = self.downsamplers.iter();
        let resampling = downsamplers.flat_map(Downsampler::residual_block);
        self.resnets.iter().chain(resampling)
    }

    /// `[batch, height, width, channels_in]` to `[batch, height / 2, width / 2, channels_out]`, or of
    /// the same size in the innermost level.
    ///
    /// `keep` gets the output of every layer and of the halving: a U-Net's skips.
    pub(crate) fn forward(
        &self,
        x: Tensor<4>,
        times: &mut Times,
        mut keep: impl FnMut(&Tensor<4>),
    ) -> Tensor<4> {
        let mut hidden = x;
        for (layer, block) in self.resnets.iter().enumerate() {
            hidden = block.forward(hidden, times);
            if let Some(attention) = self.attentions.get(layer) {
                hidden = attention.forward(hidden);
            }
            keep(&hidden);
        }
        for downsampler in &self.downsamplers {
            hidden = downsampler.forward(hidden, times);
            keep(&hidden);
        }
        hidden
    }
}
