use burn::module::Module;
use burn::nn::{GroupNorm, Linear, LinearConfig};
use burn::tensor::Tensor;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;

use super::residual::divided;
use super::{BlockOptions, group_norm, norm};

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

    /// `[batch, channels, height, width]`, in and out.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let positions = height * width;
        let hidden = match &self.group_norm {
            Some(group_norm) => norm(group_norm, x.clone()),
            None => x.clone(),
        };
        let hidden: Tensor<3> = hidden.reshape([batch, channels, positions]).swap_dims(1, 2);

        // [batch, positions, heads * head_channels] -> [batch, heads, positions, head_channels]
        let split = |projected: Tensor<3>| -> Tensor<4> {
            let [_, _, inner] = projected.dims();
            projected
                .reshape([batch, positions, self.heads, inner / self.heads])
                .swap_dims(1, 2)
        };
        let query = split(self.to_q.forward(hidden.clone()));
        let key = split(self.to_k.forward(hidden.clone()));
        let value = split(self.to_v.forward(hidden));
        let attended = attention(
            query,
            key,
            value,
            None,
            None,
            AttentionModuleOptions::default(),
        );

        let [_, _, _, head_channels] = attended.dims();
        let mut joined: Tensor<3> =
            attended
                .swap_dims(1, 2)
                .reshape([batch, positions, self.heads * head_channels]);
        for layer in &self.to_out {
            joined = layer.forward(joined);
        }
        let joined = joined
            .swap_dims(1, 2)
            .reshape([batch, channels, height, width]);
        divided(x + joined, self.output_scale_factor)
    }
}
