//! In which order training sees a set's images, pass by pass.
//!
//! A set whose images can all be reached alike is shuffled as a whole. A set in shards is read shard by shard: the shards
//! of a pass come in random order, and each image then moves by fewer places than the shuffle buffer has. So at any time
//! only the shards around one place are needed, and the order is still a function of the seed, the pass and the place.

use std::collections::VecDeque;
use std::fmt::Debug;
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

#[derive(Clone, Debug)]
struct Shards {
    /// The number of images in each, in the order of the images' indices.
    sizes: Arc<[u32]>,
    buffer: usize,
    /// Wants to know which of them come next. The order does not depend on it.
    ahead: Option<Arc<dyn Ahead>>,
}

impl PartialEq for Shards {
    fn eq(&self, other: &Self) -> bool {
        (&self.sizes, self.buffer) == (&other.sizes, other.buffer)
    }
}

impl Eq for Shards {}

/// Has shards that take long to come.
pub(crate) trait Ahead: Debug + Send + Sync {
    /// Is told which shards a training will see, the next one first, instead of all that was told before.
    fn expect(&self, shards: &[u32]);
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
                ahead: None,
            }),
        }
    }

    /// The same order. What goes through it tells `ahead` which shards come next.
    pub(crate) fn telling(mut self, ahead: Arc<dyn Ahead>) -> Self {
        if let Some(shards) = &mut self.shards {
            shards.ahead = Some(ahead);
        }
        self
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
    /// The shards as they come, in this pass and the next, if somebody wants to know.
    told: Option<(Arc<dyn Ahead>, Vec<u32>)>,
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
        let order = shuffled_shards(starts.len(), seed, pass);
        let told = shards.ahead.clone().map(|ahead| {
            let next = shuffled_shards(starts.len(), seed, pass + 1);
            (ahead, [order.clone(), next].concat())
        });
        let order = order.into_iter();
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
            told,
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
        if let Some((ahead, shards)) = &self.told {
            ahead.expect(&shards[self.shard(start)..]);
        }
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
        let (first, start) = self.shards[self.shard(image)];
        start + (image - first) as u32
    }

    /// Which of the shards as they come has image `image` of them.
    fn shard(&self, image: usize) -> usize {
        self.shards.partition_point(|&(first, _)| first <= image) - 1
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
    fn the_shards_of_this_pass_and_the_next_are_told_as_they_come() {
        #[derive(Debug, Default)]
        struct Told(std::sync::Mutex<Vec<Vec<u32>>>);
        impl Ahead for Told {
            fn expect(&self, shards: &[u32]) {
                self.0.lock().unwrap().push(shards.to_vec());
            }
        }
        let told = Arc::new(Told::default());
        let passes = Passes::of_shards([50; 8], 100);
        let telling = passes.clone().telling(told.clone());
        assert_eq!(passes, telling);
        assert_eq!(all(&passes, 1, 0), all(&telling, 1, 0));
        let order = [shuffled_shards(8, 1, 0), shuffled_shards(8, 1, 1)].concat();
        // Stretches of two shards. An image may have come from one buffer before.
        let expected = [0, 0, 2, 4].map(|first| order[first..].to_vec());
        assert_eq!(*told.0.lock().unwrap(), expected);
    }

    #[test]
    fn a_set_without_shards_is_shuffled_as_a_whole() {
        let passes = Passes::from(10);
        assert_eq!(all(&passes, 0, 0), shuffled(10, 0, 0));
    }
}
