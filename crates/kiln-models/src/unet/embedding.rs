//! From times and classes to what the layers of the network need of them.

use burn::tensor::activation::silu;
use burn::tensor::{Int, Tensor};

use super::{ClassEmbedding, UNet2d};
use crate::blocks::{DownBlock, MidBlock, ResidualBlock, UpBlock};

/// Some times, as the network is told of them: see [`UNet2d::project_levels`].
#[derive(Clone, Debug)]
pub struct ProjectedTimes {
    /// The timesteps, or noise powers, themselves, `[times]`.
    pub timesteps: Tensor<1>,
    /// Their sines and cosines, or their rows of a learnt table, `[times, channels]`.
    pub projected: Tensor<2>,
}

/// Some times, as the network's layers need them.
#[derive(Clone, Debug)]
pub(super) struct EmbeddedTimes {
    /// The timesteps, or noise powers, themselves, `[times]`.
    pub timesteps: Tensor<1>,
    /// `noise_power_input`: what is joined to every pixel, `[times, channels]`.
    pub of_pixels: Option<Tensor<2>>,
    /// The other types: what each residual block adds, or scales and shifts by, `[times, channels]`, in the order in which the
    /// blocks run.
    pub of_blocks: Vec<Tensor<2>>,
}

impl EmbeddedTimes {
    /// One of these times, for all images.
    pub(super) fn only(&self, index: usize) -> Self {
        let row = |rows: &Tensor<2>| rows.clone().narrow(0, index, 1);
        Self {
            timesteps: self.timesteps.clone().narrow(0, index, 1),
            of_pixels: self.of_pixels.as_ref().map(row),
            of_blocks: self.of_blocks.iter().map(row).collect(),
        }
    }
}

/// The numbers of channels of a time's parts: see [`EmbeddedTimes::joined`].
#[derive(Clone, Debug)]
pub(super) struct Widths {
    of_pixels: Option<usize>,
    of_blocks: Vec<usize>,
}

impl EmbeddedTimes {
    /// All parts side by side, `[times, channels]`, with the timesteps first.
    pub(super) fn joined(self) -> Tensor<2> {
        let parts: Vec<_> = self.of_pixels.into_iter().chain(self.of_blocks).collect();
        let timesteps = self.timesteps.unsqueeze_dim(1);
        // With classes, one timestep is that of all images.
        let timesteps = match parts.first() {
            Some(part) => timesteps.expand([part.dims()[0], 1]),
            None => timesteps,
        };
        Tensor::cat([timesteps].into_iter().chain(parts).collect(), 1)
    }
}

impl Widths {
    /// The parts of what [`EmbeddedTimes::joined`] made.
    pub(super) fn split(&self, joined: Tensor<2>) -> EmbeddedTimes {
        let mut first = 1;
        let mut part = |&width: &usize| {
            let part = joined.clone().narrow(1, first, width);
            first += width;
            part
        };
        let of_pixels = self.of_pixels.as_ref().map(&mut part);
        let of_blocks = self.of_blocks.iter().map(part).collect();
        EmbeddedTimes {
            timesteps: joined.narrow(1, 0, 1).flatten(0, 1),
            of_pixels,
            of_blocks,
        }
    }
}

impl UNet2d {
    /// Labels `[batch]` to `[batch, time_embedding_dim]`, which is added to the time embedding; `None` without classes.
    pub(super) fn embed_classes(&self, labels: Option<Tensor<1, Int>>) -> Option<Tensor<2>> {
        match (&self.class_embedding, labels) {
            (None, None) => None,
            (Some(ClassEmbedding::Table(table)), Some(labels)) => {
                Some(table.weight.val().select(0, labels))
            }
            (Some(ClassEmbedding::Timestep(embedding)), Some(labels)) => {
                Some(embedding.forward(self.time_proj.forward(labels.float())))
            }
            (None, Some(_)) => panic!("class labels were given to a network without class labels"),
            (Some(_), None) => panic!("the network is conditional: it needs class labels"),
        }
    }

    /// Times as the network is told of them.
    pub(super) fn project_times(&self, timesteps: Tensor<1>) -> ProjectedTimes {
        ProjectedTimes {
            projected: self.time_proj.forward(timesteps.clone()),
            timesteps,
        }
    }

    /// [`ProjectedTimes::projected`] to the time embedding `[times, time_embedding_dim]`. With `noise_power_input`, which has
    /// none, to the vectors for every pixel.
    pub(super) fn embed_times(&self, projected: Tensor<2>) -> Tensor<2> {
        match &self.time_embedding {
            Some(embedding) => embedding.forward(projected),
            None => projected,
        }
    }

    /// What the layers need of `time`, from [`Self::embed_times`] of `timesteps`, and of the classes, if there are any.
    pub(super) fn in_layers(
        &self,
        timesteps: Tensor<1>,
        time: Tensor<2>,
        class_embedding: Option<Tensor<2>>,
    ) -> EmbeddedTimes {
        let (of_pixels, of_blocks) = match self.time_embedding {
            Some(_) => {
                // Every block begins with the SiLU.
                let time = silu(match class_embedding {
                    Some(class_embedding) => time + class_embedding,
                    None => time,
                });
                let of_blocks = self.residual_blocks();
                let of_blocks = of_blocks.filter_map(|block| block.project(&time));
                (None, of_blocks.collect())
            }
            None => (Some(time), Vec::new()),
        };
        EmbeddedTimes {
            timesteps,
            of_pixels,
            of_blocks,
        }
    }

    /// The widths of all times' parts.
    pub(super) fn widths(&self) -> Widths {
        let of_blocks = self.residual_blocks();
        Widths {
            of_pixels: (self.time_embedding.is_none())
                .then(|| self.config.time_projection_channels()),
            of_blocks: of_blocks
                .filter_map(ResidualBlock::projected_channels)
                .collect(),
        }
    }

    /// In the order in which they run.
    fn residual_blocks(&self) -> impl Iterator<Item = &ResidualBlock> {
        let down = self.down_blocks.iter().flat_map(DownBlock::residual_blocks);
        let mid = self.mid_block.iter().flat_map(MidBlock::residual_blocks);
        let up = self.up_blocks.iter().flat_map(UpBlock::residual_blocks);
        down.chain(mid).chain(up)
    }
}
