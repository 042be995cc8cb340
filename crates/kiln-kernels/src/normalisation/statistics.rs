//! Mean and deviation of every group.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Groups;
use crate::instructions::vectorized;
use crate::reduction::add_channel_sums;

/// Of one group of one image.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    pub(crate) mean: f32,
    /// `1 / sqrt(variance + epsilon)`.
    pub(crate) inverse_deviation: f32,
}

/// The statistics `[batch, groups]` of `input`, `[batch, positions, channels]`.
pub(crate) fn statistics(groups: &Groups, input: &[f32], positions: usize) -> Vec<Statistics> {
    input
        .par_chunks_exact(positions * groups.channels)
        .flat_map_iter(|image| vectorized(Image { groups, image }))
        .collect()
}

struct Image<'a> {
    groups: &'a Groups,
    image: &'a [f32],
}

impl WithSimd for Image<'_> {
    type Output = Vec<Statistics>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<Statistics> {
        let Groups {
            channels, epsilon, ..
        } = *self.groups;
        let per_group = self.groups.channels_per_group();
        let count = (self.image.len() / self.groups.groups) as f32;

        let nothing = vec![0.0; channels];
        let mut means = vec![0.0; channels];
        add_channel_sums(simd, self.image, &nothing, &mut means, |x, _| x);
        for group in means.chunks_exact_mut(per_group) {
            let mean = group.iter().sum::<f32>() / count;
            group.fill(mean);
        }
        let mut squares = vec![0.0; channels];
        add_channel_sums(simd, self.image, &means, &mut squares, |x, mean| {
            let centred = simd.sub_f32s(x, mean);
            simd.mul_f32s(centred, centred)
        });
        means
            .chunks_exact(per_group)
            .zip(squares.chunks_exact(per_group))
            .map(|(means, squares)| {
                let variance = squares.iter().sum::<f32>() / count;
                Statistics {
                    mean: means[0],
                    inverse_deviation: 1.0 / (variance + epsilon).sqrt(),
                }
            })
            .collect()
    }
}
