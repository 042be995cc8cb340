use burn::module::Module;
use burn::nn::{GroupNorm, Linear, LinearConfig};
use burn::tensor::Tensor;
use kiln_kernels::attention;

use super::convolution::pointwise;
use super::norm::{group_norm, norm};
use super::options::BlockOptions;
use super::residual::divided;

/// Self-attention over all positions of an image, beside a shortcut: diffusers' `Attention` as its
/// convolutional networks use it (Vaswani et al. 2017; in images Wang et al. 2018).
///
/// ```text
/// out = (x + to_out(softmax(Q K^T / sqrt(head_channels)) V)) / output_scale_factor,
/// Q, K, V = to_q(h), to_k(h), to_v(h),  h = group_norm(x)
/// ```
#[derive(Module, Debug)]
pub(crate) struct Attention {
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    /// One layer; a list because its key in diffusers is `to_out.0`.
    to_out: Vec<Linear>,
    heads: usize,
    output_scale_factor: f64,
}

impl Attention {
    /// Heads of `options.head_channels` channels, as many as fit into `channels`.
    pub(crate) fn new(channels: usize, groups: Option<usize>, options: &BlockOptions) -> Self {
        let BlockOptions {
            device, epsilon, ..
        } = *options;
        let head_channels = options.head_channels.unwrap_or(channels);
        let heads = channels / head_channels;
        let inner = heads * head_channels;
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        Self {
            group_norm: groups.map(|groups| group_norm(groups, channels, epsilon, device)),
            to_q: linear(channels, inner),
            to_k: linear(channels, inner),
            to_v: linear(channels, inner),
            to_out: vec![linear(inner, channels)],
            heads,
            output_scale_factor: 1.0,
        }
    }

    pub(crate) fn with_output_scale_factor(mut self, factor: f64) -> Self {
        self.output_scale_factor = factor;
        self
    }

    /// `[batch, height, width, channels]`, in and out.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, _] = x.dims();
        let mut projection = pointwise(&[&self.to_q, &self.to_k, &self.to_v], x.clone());
        if let Some(group_norm) = &self.group_norm {
            projection = projection.after(norm(group_norm));
        }
        let projected = projection.forward();
        let [_, _, _, channels] = projected.dims();
        let tokens: Tensor<3> = projected.reshape([batch, height * width, channels]);
        let attended = attention(tokens, self.heads);
        let attended: Tensor<4> = attended.reshape([batch, height, width, channels / 3]);
        let [to_out] = &self.to_out[..] else {
            unreachable!("made with one layer")
        };
        let out = pointwise(&[to_out], attended).plus_shortcut(x);
        divided(out.forward(), self.output_scale_factor)
    }
}
