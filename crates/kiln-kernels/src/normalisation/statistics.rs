//! Mean and deviation of every group.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Groups;
use crate::instructions::vectorized;
use crate::reduction::{Channels, add_channel_sums, channels_of_task};

/// Of one group of one image.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    pub(crate) mean: f32,
    /// `1 / sqrt(variance + epsilon)`.
    pub(crate) inverse_deviation: f32,
}

/// The statistics `[batch, groups]` of images `[batch, positions, channels]`, whose channels are in one place, or some
/// in a first place and the others in a second.
pub(crate) fn statistics(groups: &Groups, places: &[&[f32]], positions: usize) -> Vec<Statistics> {
    let numbers: usize = places.iter().map(|place| place.len()).sum();
    let images = numbers / (positions * groups.channels).max(1);
    let step = channels_of_task(images, groups.channels);
    (0..images)
        .into_par_iter()
        .flat_map_iter(|image| {
            let mut parts = Vec::new();
            let mut before = 0;
            for place in places {
                let len = place.len() / images;
                let (image, all) = (&place[image * len..][..len], len / positions);
                for first in (0..all).step_by(step) {
                    let range = before + first..before + (first + step).min(all);
                    parts.push((Channels { image, all, first }, range));
                }
                before += all;
            }
            of_image(groups, &parts, positions)
        })
        .collect()
}

/// Some channels of an image, and which ones of all they are.
type Part<'a> = (Channels<'a>, Range<usize>);

fn of_image(groups: &Groups, parts: &[Part], positions: usize) -> Vec<Statistics> {
    let per_group = groups.channels_per_group();
    let count = (positions * per_group) as f32;
    let nothing = vec![0.0; groups.channels];
    let mut means = sums(parts, &nothing, Term::Value);
    for group in means.chunks_exact_mut(per_group) {
        let mean = group.iter().sum::<f32>() / count;
        group.fill(mean);
    }
    means
        .chunks_exact(per_group)
        .zip(sums(parts, &means, Term::Square).chunks_exact(per_group))
        .map(|(means, squares)| {
            let variance = squares.iter().sum::<f32>() / count;
            Statistics {
                mean: means[0],
                inverse_deviation: 1.0 / (variance + groups.epsilon).sqrt(),
            }
        })
        .collect()
}

/// What is summed over the positions.
#[derive(Clone, Copy)]
enum Term {
    Value,
    /// The square of the distance from the channel's mean.
    Square,
}

/// The sums of all channels, whose `means` are as many.
fn sums(parts: &[Part], means: &[f32], term: Term) -> Vec<f32> {
    let mut sums = vec![0.0; means.len()];
    let mut rest = &mut *sums;
    let tasks: Vec<Sum> = parts
        .iter()
        .map(|(channels, range)| Sum {
            channels: *channels,
            means: &means[range.clone()],
            term,
            sums: rest.split_off_mut(..range.len()).unwrap_or_default(),
        })
        .collect();
    tasks.into_par_iter().for_each(vectorized);
    sums
}

struct Sum<'a> {
    channels: Channels<'a>,
    means: &'a [f32],
    term: Term,
    sums: &'a mut [f32],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            channels,
            means,
            term,
            sums,
        } = self;
        match term {
            Term::Value => add_channel_sums(simd, channels, means, sums, |x, _| x),
            Term::Square => add_channel_sums(simd, channels, means, sums, |x, mean| {
                let centred = simd.sub_f32s(x, mean);
                simd.mul_f32s(centred, centred)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalisation::Activation;

    #[test]
    fn cores_and_places_do_not_matter() {
        let (channels, positions) = (192, 70);
        let groups = Groups {
            channels,
            groups: 6,
            epsilon: 1e-6,
            activation: Activation::Identity,
        };
        let images: Vec<f32> = (0..3 * positions * channels)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let bits = |found: Vec<Statistics>| -> Vec<[u32; 2]> {
            let bits = |it: Statistics| [it.mean.to_bits(), it.inverse_deviation.to_bits()];
            found.into_iter().map(bits).collect()
        };
        let found = statistics(&groups, &[&images], positions);
        let of_group = |image: usize, group: usize| -> Vec<f64> {
            let pixels = images[image * positions * channels..].chunks_exact(channels);
            let part = |pixel: &[f32]| pixel[group * 32..][..32].to_vec();
            let numbers = pixels.take(positions).flat_map(part);
            numbers.map(f64::from).collect()
        };
        for (index, found) in found.iter().enumerate() {
            let numbers = of_group(index / 6, index % 6);
            let count = numbers.len() as f64;
            let mean = numbers.iter().sum::<f64>() / count;
            let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let inverse = 1.0 / (variance + 1e-6).sqrt();
            assert!((f64::from(found.mean) - mean).abs() < 1e-6);
            assert!((f64::from(found.inverse_deviation) / inverse - 1.0).abs() < 1e-5);
        }
        let expected = bits(found);
        for near in [1, 64, 100] {
            let places = [0..near, near..channels].map(|part| -> Vec<f32> {
                let pixels = images.chunks_exact(channels);
                pixels
                    .flat_map(|pixel| pixel[part.clone()].to_vec())
                    .collect()
            });
            for threads in [1, 2, 4] {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let found = pool.install(|| {
                    statistics(
                        &groups,
                        &places.each_ref().map(|place| &place[..]),
                        positions,
                    )
                });
                assert_eq!(
                    bits(found),
                    expected,
                    "{near} channels in the first place, {threads} threads"
                );
            }
        }
    }
}
