//! The group normalisation that models call.

use burn::backend::Dispatch;
use burn::tensor::{Tensor, activation};

use crate::extension::NormalisationOps;
use crate::is_ours;
use crate::normalisation::{Activation, Groups};

/// Group normalisation (Wu and He 2018) of channels-last images, and SiLU after it if `silu` is set.
///
/// ```text
/// z   = gamma (x - mean) / sqrt(variance + epsilon) + beta
/// out = z   or   z sigmoid(z)
/// ```
///
/// with mean and (biased) variance over the channels of a group and all positions of an image.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    pub gamma: Tensor<1>,
    /// `[channels]`
    pub beta: Tensor<1>,
    /// The number of groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether `z sigmoid(z)` follows (Elfwing et al. 2017).
    pub silu: bool,
}

impl GroupNorm {
    /// Normalises `[batch, height, width, channels]`.
    ///
    /// # Panics
    ///
    /// If `groups` does not divide the channels, or `gamma` or `beta` have another length.
    pub fn forward(self, input: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, channels] = input.dims();
        self.assert_channels(channels);
        if !(self.runs_on_gpu(&input) || is_ours(&input) && self.is_ours())
            || batch * height * width == 0
        {
            return self.with_burns_operators(input);
        }
        let groups = self.options();
        Tensor::from_dispatch(<Dispatch as NormalisationOps>::kiln_group_norm(
            input.into_dispatch(),
            self.gamma.into_dispatch(),
            self.beta.into_dispatch(),
            groups,
        ))
    }

    pub(crate) fn options(&self) -> Groups {
        let [channels] = self.gamma.dims();
        Groups {
            channels,
            groups: self.groups,
            epsilon: self.epsilon as f32,
            activation: if self.silu {
                Activation::Silu
            } else {
                Activation::Identity
            },
        }
    }

    pub(crate) fn assert_channels(&self, channels: usize) {
        assert!(
            self.groups > 0 && channels.is_multiple_of(self.groups),
            "{channels} channels do not divide into {} groups: choose a number of groups that divides them.",
            self.groups
        );
        assert!(
            self.gamma.dims() == [channels] && self.beta.dims() == [channels],
            "The scale and shift of a normalisation of {channels} channels must have that many values."
        );
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn runs_on_gpu(&self, input: &Tensor<4>) -> bool {
        crate::gpu::has(input) && crate::gpu::group_norm::fits(input.dims()[3], self.groups)
    }

    #[cfg(not(feature = "gpu"))]
    pub(crate) fn runs_on_gpu(&self, _: &Tensor<4>) -> bool {
        false
    }

    pub(crate) fn is_ours(&self) -> bool {
        is_ours(&self.gamma) && is_ours(&self.beta)
    }

    pub(crate) fn with_burns_operators(&self, input: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, channels] = input.dims();
        let per_group = channels / self.groups;
        let grouped: Tensor<4> = input.reshape([batch, height * width, self.groups, per_group]);
        let mean = grouped.clone().mean_dim(1).mean_dim(3);
        let centred = grouped - mean;
        let variance = centred.clone().square().mean_dim(1).mean_dim(3);
        let normalised = centred / (variance + self.epsilon).sqrt();
        let parameter = |values: &Tensor<1>| values.clone().reshape([1, 1, 1, channels]);
        let z = normalised.reshape([batch, height, width, channels]) * parameter(&self.gamma)
            + parameter(&self.beta);
        if self.silu { activation::silu(z) } else { z }
    }
}
