//! Group normalisation (Wu and He 2018) and the SiLU that nearly always follows it, in one pass over the data.
//!
//! ```text
//! xhat = (x - mean) / sqrt(variance + epsilon)      over the channels of a group and all positions
//! z    = gamma xhat + beta                          gamma and beta per channel
//! out  = z   or   z sigmoid(z)                      (SiLU: Elfwing et al. 2017)
//! ```
//!
//! A group of one image fits the nearest caches, so what is written here as several loops reads memory once.

mod backward;
mod forward;

pub(crate) use backward::gradients;
pub(crate) use forward::normalise;

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Silu,
}

/// All sizes of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Groups {
    pub(crate) channels: usize,
    pub(crate) groups: usize,
    /// Height times width.
    pub(crate) positions: usize,
    /// Added to the variance.
    pub(crate) epsilon: f32,
    pub(crate) activation: Activation,
}

/// Of one group of one image.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    mean: f32,
    /// `1 / sqrt(variance + epsilon)`.
    inverse_deviation: f32,
}

impl Groups {
    fn channels_per_group(&self) -> usize {
        self.channels / self.groups
    }

    /// Numbers in one group of one image.
    fn group_len(&self) -> usize {
        self.channels_per_group() * self.positions
    }

    /// The part of a parameter that belongs to the group with this index in the batch.
    fn of_group<'a>(&self, parameter: &'a [f32], index: usize) -> &'a [f32] {
        let channels = self.channels_per_group();
        let from = index % self.groups * channels;
        &parameter[from..from + channels]
    }
}
