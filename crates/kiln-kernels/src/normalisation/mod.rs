//! Group normalisation (Wu and He 2018) and the SiLU that nearly always follows it, of channels-last images.
//!
//! ```text
//! xhat = (x - mean) / sqrt(variance + epsilon)      over the channels of a group and all positions
//! z    = gamma xhat + beta                          gamma and beta per channel
//! out  = z   or   z sigmoid(z)                      (SiLU: Elfwing et al. 2017)
//! ```
//!
//! The statistics take a separate pass. The rest is a function of one number and its channel, so a convolution applies
//! it while it reads its input ([`ChannelMap`]).

mod backward;
mod forward;
mod statistics;

pub(crate) use backward::gradients;
pub(crate) use forward::{ChannelMap, normalise};
pub(crate) use statistics::{Statistics, statistics};

/// The activation after the normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Silu,
}

/// The options of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Groups {
    pub(crate) channels: usize,
    pub(crate) groups: usize,
    /// Added to the variance.
    pub(crate) epsilon: f32,
    pub(crate) activation: Activation,
}

impl Groups {
    fn channels_per_group(&self) -> usize {
        self.channels / self.groups
    }
}
