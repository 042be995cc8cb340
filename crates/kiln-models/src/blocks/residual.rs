use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Dropout, DropoutConfig, GroupNorm, Linear, LinearConfig};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use kiln_kernels::{Convolution, Images};

use super::convolution::{conv1x1, conv3x3, convolution, linear};
use super::dropout::dropout;
use super::norm::{group_norm, norm, norm_silu};
use super::options::{BlockOptions, TimeScaleShift};
use super::pixels::{average_2x2, repeat_2x2};

/// [`ResidualBlock::project`] of all blocks of a network, in the order in which they run; empty in a network without time.
pub(crate) type Times<'a> = dyn Iterator<Item = Tensor<2>> + 'a;

/// A residual block that may change the resolution between its first normalisation and convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    Kept,
    Halved,
    Doubled,
}

/// diffusers' `ResnetBlock2D`: two 3x3 convolutions, each after GroupNorm and SiLU, beside a shortcut.
///
/// ```text
/// h   = conv1(silu(norm1(x)))
/// h   = norm2(h + time)                         time_scale_shift = default
/// h   = norm2(h) * (1 + scale) + shift          time_scale_shift = scale_shift
/// out = (shortcut(x) + conv2(dropout(silu(h)))) / output_scale_factor
/// ```
#[derive(Module, Debug)]
pub(crate) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    time_scale_shift: TimeScaleShift,
    #[module(skip)]
    resolution: Resolution,
    output_scale_factor: f64,
}

impl ResidualBlock {
    pub(crate) fn new(channels_in: usize, channels_out: usize, options: &BlockOptions) -> Self {
        let BlockOptions {
            device,
            groups,
            epsilon,
            ..
        } = *options;
        let time_outputs = match options.time_scale_shift {
            TimeScaleShift::Default => channels_out,
            TimeScaleShift::ScaleShift => 2 * channels_out,
        };
        Self {
            norm1: group_norm(groups, channels_in, epsilon, device),
            conv1: conv3x3(channels_in, channels_out, device),
            time_emb_proj: options
                .time_channels
                .map(|time_channels| LinearConfig::new(time_channels, time_outputs).init(device)),
            norm2: group_norm(groups, channels_out, epsilon, device),
            dropout: DropoutConfig::new(options.dropout).init(),
            conv2: conv3x3(channels_out, channels_out, device),
            conv_shortcut: (channels_in != channels_out)
                .then(|| conv1x1(channels_in, channels_out, device)),
            time_scale_shift: options.time_scale_shift,
            resolution: Resolution::Kept,
            output_scale_factor: 1.0,
        }
    }

    pub(crate) fn with_resolution(mut self, resolution: Resolution) -> Self {
        self.resolution = resolution;
        self
    }

    pub(crate) fn with_output_scale_factor(mut self, factor: f64) -> Self {
        self.output_scale_factor = factor;
        self
    }

    /// What this block adds for the time, `[times, channels_out]`, or what it scales and shifts by, `[times, 2 channels_out]`;
    /// `None` for a block without time. `time` is the SiLU of the time embedding, `[times, time_channels]`.
    pub(crate) fn project(&self, time: &Tensor<2>) -> Option<Tensor<2>> {
        let projection = self.time_emb_proj.as_ref()?;
        Some(linear(projection, time.clone()))
    }

    /// The channels of what [`Self::project`] makes.
    pub(crate) fn projected_channels(&self) -> Option<usize> {
        let [_, channels] = self.time_emb_proj.as_ref()?.weight.dims();
        Some(channels)
    }

    /// `[batch, height, width, channels_in]` to `[batch, height, width, channels_out]`.
    ///
    /// A block with time takes its own from `times`: a row for each image, or one for all.
    pub(crate) fn forward(&self, x: impl Into<Images>, times: &mut Times) -> Tensor<4> {
        let x = x.into();
        let time = self.time_emb_proj.as_ref().and_then(|_| times.next());
        let (added, modulation) = match self.time_scale_shift {
            TimeScaleShift::Default => (time.map(|time| of_each(time, x.dims()[0])), None),
            TimeScaleShift::ScaleShift => (None, time),
        };
        let (shortcut, hidden) = self.first(x, added);
        let shortcut = match &self.conv_shortcut {
            Some(layer) => convolution(layer, shortcut).forward(),
            None => shortcut.joined(),
        };
        let out = self.second(hidden, modulation).plus_shortcut(shortcut);
        divided(out.forward(), self.output_scale_factor)
    }

    /// The shortcut's input, and `conv1(silu(norm1(x)))` with `time`, `[batch, channels_out]`, added.
    fn first(&self, x: Images, time: Option<Tensor<2>>) -> (Images, Tensor<4>) {
        let resized: fn(Tensor<4>) -> Tensor<4> = match self.resolution {
            Resolution::Kept => {
                let hidden = convolution(&self.conv1, x.clone()).after(norm_silu(&self.norm1));
                return (x, hidden.plus_per_image(time).forward());
            }
            Resolution::Halved => average_2x2,
            Resolution::Doubled => repeat_2x2,
        };
        let x = x.joined();
        let hidden = resized(norm_silu(&self.norm1).forward(x.clone()));
        let hidden = convolution(&self.conv1, hidden).plus_per_image(time);
        (resized(x).into(), hidden.forward())
    }

    /// `conv2(dropout(silu(norm2(h))))`, modulated by scale and shift `[batch or 1, 2 channels_out]`.
    fn second(&self, hidden: Tensor<4>, modulation: Option<Tensor<2>>) -> Convolution {
        let Some(modulation) = modulation else {
            if self.dropout.prob == 0.0 {
                return convolution(&self.conv2, hidden).after(norm_silu(&self.norm2));
            }
            let hidden = norm_silu(&self.norm2).forward(hidden);
            return convolution(&self.conv2, dropout(&self.dropout, hidden));
        };
        let [times, channels] = modulation.dims();
        let modulation: Tensor<4> = modulation.reshape([times, 1, 1, channels]);
        let scale = modulation.clone().narrow(3, 0, channels / 2);
        let shift = modulation.narrow(3, channels / 2, channels / 2);
        let hidden = silu(norm(&self.norm2).forward(hidden) * (scale + 1.0) + shift);
        convolution(&self.conv2, dropout(&self.dropout, hidden))
    }
}

/// `[batch, channels]` from as many rows, or from one for all images.
fn of_each(rows: Tensor<2>, batch: usize) -> Tensor<2> {
    let [_, channels] = rows.dims();
    rows.expand([batch, channels])
}

/// `x / factor`, at no cost for the usual factor of 1.
pub(crate) fn divided(x: Tensor<4>, factor: f64) -> Tensor<4> {
    if factor == 1.0 { x } else { x / factor }
}
