//! The order in which training sees the images, as a function of (seed, epoch): a stopped run can continue at any batch
//! without stored state.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Keeps the generators of different decisions with the same seed separate.
#[derive(Clone, Copy)]
enum Decision {
    Order = 1,
    Flip = 2,
    Shards = 3,
    Move = 4,
}

/// The ChaCha8 generator of one decision in one epoch.
fn generator(decision: Decision, seed: u64, epoch: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(epoch as u64).to_le_bytes());
    key[16] = decision as u8;
    ChaCha8Rng::from_seed(key)
}

/// The numbers `0..len` in the order of this epoch, the same on every machine.
///
/// Fisher-Yates (Durstenfeld, 1964), driven by ChaCha8. The draw from `0..=last` is `word * (last + 1) / 2^64`; it is
/// written out because the order must not change with the version of a library, and its bias is below 2^-32.
pub fn shuffled(len: usize, seed: u64, epoch: usize) -> Vec<u32> {
    permutation(len, generator(Decision::Order, seed, epoch))
}

/// The numbers of a set's shards in the order of this epoch, as [`shuffled`].
pub(crate) fn shuffled_shards(len: usize, seed: u64, epoch: usize) -> Vec<u32> {
    permutation(len, generator(Decision::Shards, seed, epoch))
}

fn permutation(len: usize, mut generator: ChaCha8Rng) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, below(last + 1, &mut generator));
    }
    order
}

/// A number from 0 to below `end`.
fn below(end: usize, generator: &mut ChaCha8Rng) -> usize {
    ((u128::from(generator.next_u64()) * end as u128) >> 64) as usize
}

/// By how many places, from 0 to below `most`, each of the `images` of shards moves in this epoch.
pub(crate) fn moved(
    most: usize,
    seed: u64,
    epoch: usize,
    images: Range<usize>,
) -> impl Iterator<Item = usize> {
    let mut generator = generator(Decision::Move, seed, epoch);
    // A number is two words.
    generator.set_word_pos(2 * images.start as u128);
    images.map(move |_| below(most, &mut generator))
}

/// Whether image `index` is mirrored in this epoch: a fair coin, the same on every machine.
pub fn flipped(seed: u64, epoch: usize, index: usize) -> bool {
    let mut generator = generator(Decision::Flip, seed, epoch);
    generator.set_stream(index as u64);
    generator.next_u32() & 1 == 1
}

/// The number of held-out images, for a `share` of `images`.
pub fn held_out(images: usize, share: f32) -> usize {
    let wanted = (images as f64 * f64::from(share)).round() as usize;
    wanted.max(1).min(images.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_order_is_a_permutation_and_repeats(len in 0usize..500, seed: u64, epoch in 0usize..1000) {
            let order = shuffled(len, seed, epoch);
            prop_assert_eq!(&order, &shuffled(len, seed, epoch));
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..len as u32).collect::<Vec<_>>());
        }

        #[test]
        fn coins_repeat(seed: u64, epoch in 0usize..1000, index in 0usize..100_000) {
            prop_assert_eq!(flipped(seed, epoch, index), flipped(seed, epoch, index));
        }
    }

    #[test]
    fn orders_differ_between_epochs_and_between_seeds() {
        assert_ne!(shuffled(100, 1, 0), shuffled(100, 1, 1));
        assert_ne!(shuffled(100, 1, 0), shuffled(100, 2, 0));
        assert_ne!(shuffled(100, 0, 1), shuffled(100, 1, 0));
    }

    /// If the order changed, a resumed run would differ from one that was never stopped.
    #[test]
    fn the_order_is_the_one_that_earlier_versions_used() {
        assert_eq!(shuffled(10, 0, 0), [2, 7, 3, 0, 5, 1, 4, 9, 8, 6]);
        let coins: Vec<u8> = (0..16).map(|index| flipped(0, 0, index).into()).collect();
        assert_eq!(coins, [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1]);
    }

    #[test]
    fn every_image_comes_first_about_equally_often() {
        let mut first = [0; 10];
        for epoch in 0..10_000 {
            first[shuffled(10, 3, epoch)[0] as usize] += 1;
        }
        // 1,000 expected each, standard deviation 30.
        assert!(
            first.iter().all(|&count| (850..1150).contains(&count)),
            "{first:?}"
        );
    }

    #[test]
    fn about_half_of_the_images_are_mirrored_and_others_in_the_next_epoch() {
        let coins = |epoch| {
            (0..10_000)
                .map(|index| flipped(5, epoch, index))
                .collect::<Vec<_>>()
        };
        let (first, second) = (coins(0), coins(1));
        let mirrored = first.iter().filter(|&&coin| coin).count();
        assert!((4_800..5_200).contains(&mirrored), "{mirrored}");
        let changed = first.iter().zip(&second).filter(|(a, b)| a != b).count();
        assert!((4_800..5_200).contains(&changed), "{changed}");
    }
}
