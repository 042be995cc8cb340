//! In which order training sees a set's images, pass by pass.
//!
//! A set whose images can all be reached alike is shuffled as a whole. A set in shards is read shard by shard: the shards
//! of a pass come in random order, and each image then moves by fewer places than the shuffle buffer has. So at any time
//! only the shards around one place are needed, and the order is still a function of the seed, the pass and the place.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::order::{moved, shuffled, shuffled_shards};

/// How many stretches of an order are kept: several devices ask for the same places at almost the same time.
const KEPT: usize = 4;

/// The order of a set's images in every pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passes {
    images: usize,
    shards: Option<Shards>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Shards {
    /// The number of images in each, in the order of the images' indices.
    sizes: Arc<[u32]>,
    buffer: usize,
}

/// The order of one pass.
#[derive(Debug)]
pub struct Pass(Order);

#[derive(Debug)]
enum Order {
    Whole(Vec<u32>),
    Shards(OfShards),
}

impl From<usize> for Passes {
    /// So many images, shuffled as a whole.
    fn from(images: usize) -> Self {
        Self {
            images,
            shards: None,
        }
    }
}

impl Passes {
    /// Shards of these sizes, with a shuffle buffer of so many images.
    pub(crate) fn of_shards(sizes: impl IntoIterator<Item = u32>, buffer: usize) -> Self {
        let sizes: Arc<[u32]> = sizes.into_iter().collect();
        Self {
            images: sizes.iter().map(|&size| size as usize).sum(),
            shards: Some(Shards {
                sizes,
                buffer: buffer.max(1),
            }),
        }
    }

    /// The images of a pass.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The order of pass `pass` under `seed`.
    pub fn order(&self, seed: u64, pass: usize) -> Pass {
        Pass(match &self.shards {
            None => Order::Whole(shuffled(self.images, seed, pass)),
            Some(shards) => Order::Shards(OfShards::new(shards, seed, pass)),
        })
    }
}

impl Pass {
    /// The index of the image at `place`, which is below the number of images.
    pub fn image(&mut self, place: usize) -> u32 {
        match &mut self.0 {
            Order::Whole(order) => order[place],
            Order::Shards(order) => order.image(place),
        }
    }
}

/// The order of one pass over shards, worked out in stretches of the buffer's length.
///
/// Image i of the shards as they come gets the key i + u with u from 0 to below B, the buffer's length, and the images
/// are seen by their keys. The image at place p has a key from p to p + B - 1, so that those from p - B + 1 to p + B - 1
/// are all that have to be compared.
#[derive(Debug)]
struct OfShards {
    seed: u64,
    pass: usize,
    images: usize,
    buffer: usize,
    /// For each shard as it comes: the place of its first image, and the image's index.
    shards: Vec<(usize, u32)>,
    /// Stretches of the order by their number.
    known: VecDeque<(usize, Vec<u32>)>,
}

impl OfShards {
    fn new(shards: &Shards, seed: u64, pass: usize) -> Self {
        let starts: Vec<u32> = (shards.sizes.iter())
            .scan(0, |start, size| {
                let this = *start;
                *start += size;
                Some(this)
            })
            .collect();
        let mut images = 0;
        let order = shuffled_shards(starts.len(), seed, pass).into_iter();
        let shards_as_they_come = order.map(|shard| {
            let first = images;
            images += shards.sizes[shard as usize] as usize;
            (first, starts[shard as usize])
        });
        Self {
            seed,
            pass,
            shards: shards_as_they_come.collect(),
            images,
            buffer: shards.buffer,
            known: VecDeque::new(),
        }
    }

    fn image(&mut self, place: usize) -> u32 {
        let (number, within) = (place / self.buffer, place % self.buffer);
        if let Some((_, stretch)) = self.known.iter().find(|(known, _)| *known == number) {
            return stretch[within];
        }
        let stretch = self.stretch(number);
        let image = stretch[within];
        self.known.push_back((number, stretch));
        if self.known.len() > KEPT {
            self.known.pop_front();
        }
        image
    }

    /// The images at the places of stretch `number`.
    fn stretch(&self, number: usize) -> Vec<u32> {
        let first = number * self.buffer;
        let last = (first + self.buffer).min(self.images);
        let start = (first + 1).saturating_sub(self.buffer);
        let end = (last + self.buffer).min(self.images);
        let moves = moved(self.buffer, self.seed, self.pass, start..end);
        let mut keys: Vec<(usize, usize)> = (start..end)
            .zip(moves)
            .map(|(image, by)| (image + by, image))
            .collect();
        keys.sort_unstable();
        let seen = keys[first - start..last - start].iter();
        seen.map(|&(_, image)| self.index(image)).collect()
    }

    /// The index of image `image` of the shards as they come.
    fn index(&self, image: usize) -> u32 {
        let after = self.shards.partition_point(|&(first, _)| first <= image);
        let (first, start) = self.shards[after - 1];
        start + (image - first) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(passes: &Passes, seed: u64, pass: usize) -> Vec<u32> {
        let mut order = passes.order(seed, pass);
        (0..passes.images())
            .map(|place| order.image(place))
            .collect()
    }

    proptest! {
        #[test]
        fn a_pass_sees_every_image_once_near_its_shard(
            sizes in prop::collection::vec(0u32..40, 1..12), buffer in 1usize..50, seed: u64, pass in 0usize..9
        ) {
            let passes = Passes::of_shards(sizes.clone(), buffer);
            let seen = all(&passes, seed, pass);
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..passes.images() as u32).collect::<Vec<_>>());
            // Without a buffer they come as they lie.
            let as_they_come = all(&Passes::of_shards(sizes, 1), seed, pass);
            for (place, image) in seen.iter().enumerate() {
                let before = as_they_come.iter().position(|other| other == image).unwrap();
                prop_assert!(before.abs_diff(place) < buffer, "{image} moved from {before} to {place}");
            }
        }

        #[test]
        fn the_order_does_not_depend_on_where_one_begins(
            sizes in prop::collection::vec(0u32..40, 1..12), buffer in 1usize..50, seed: u64, places in prop::collection::vec(any::<prop::sample::Index>(), 1..40)
        ) {
            let passes = Passes::of_shards(sizes, buffer);
            prop_assume!(passes.images() > 0);
            let whole = all(&passes, seed, 3);
            let mut order = passes.order(seed, 3);
            for place in places {
                let place = place.index(passes.images());
                prop_assert_eq!(order.image(place), whole[place]);
            }
        }
    }

    #[test]
    fn passes_and_seeds_differ_and_shards_come_in_another_order() {
        let passes = Passes::of_shards([50; 8], 20);
        let first = all(&passes, 1, 0);
        assert_ne!(first, all(&passes, 1, 1));
        assert_ne!(first, all(&passes, 2, 0));
        let shards = |order: &[u32]| -> Vec<u32> {
            order
                .iter()
                .skip(25)
                .step_by(50)
                .map(|image| image / 50)
                .collect()
        };
        assert_ne!(shards(&first), shards(&all(&passes, 1, 1)));
    }

    /// If the order changed, a resumed run would differ from one that was never stopped.
    #[test]
    fn the_order_stays_the_same_in_all_versions() {
        let seen = all(&Passes::of_shards([4, 3, 5], 3), 0, 0);
        assert_eq!(seen, [7, 8, 9, 10, 11, 0, 1, 2, 4, 3, 5, 6]);
    }

    #[test]
    fn a_set_without_shards_is_shuffled_as_a_whole() {
        let passes = Passes::from(10);
        assert_eq!(all(&passes, 0, 0), shuffled(10, 0, 0));
    }
}
