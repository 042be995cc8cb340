use burn::module::Module;
use burn::tensor::Tensor;

use super::attention::Attention;
use super::options::BlockOptions;
use super::residual::{ResidualBlock, Times};

/// The sizes of a [`MidBlock`].
pub(crate) struct MidBlockShape {
    pub channels: usize,
    pub attention: bool,
    /// Groups of the attention's normalisation, if it has one.
    pub attention_groups: Option<usize>,
    pub output_scale_factor: f64,
}

/// diffusers' `UNetMidBlock2D`: residual block, attention (if it has it), residual block.
#[derive(Module, Debug)]
pub(crate) struct MidBlock {
    /// One, or empty.
    attentions: Vec<Attention>,
    /// Two.
    resnets: Vec<ResidualBlock>,
}

impl MidBlock {
    pub(crate) fn new(shape: MidBlockShape, options: &BlockOptions) -> Self {
        let MidBlockShape {
            channels,
            output_scale_factor,
            ..
        } = shape;
        let residual = || {
            ResidualBlock::new(channels, channels, options)
                .with_output_scale_factor(output_scale_factor)
        };
        let attention = || {
            Attention::new(channels, shape.attention_groups, options)
                .with_output_scale_factor(output_scale_factor)
        };
        Self {
            attentions: shape.attention.then(attention).into_iter().collect(),
            resnets: vec![residual(), residual()],
        }
    }

    /// In the order in which they run.
    pub(crate) fn residual_blocks(&self) -> impl Iterator<Item = &ResidualBlock> {
        self.resnets.iter()
    }

    /// `[batch, height, width, channels]`, in and out.
    pub(crate) fn forward(&self, x: Tensor<4>, times: &mut Times) -> Tensor<4> {
        let mut hidden = x;
        for (layer, block) in self.resnets.iter().enumerate() {
            hidden = block.forward(hidden, times);
            if let Some(attention) = self.attentions.get(layer) {
                hidden = attention.forward(hidden);
            }
        }
        hidden
    }
}
