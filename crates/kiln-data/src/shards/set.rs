//! A set of images in shards, some of which are open at a time.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::shard::{Form, OpenShard, Place, Shard};
use crate::elsewhere::FileSource;
use crate::error::DataError;
use crate::order::{held_out, shuffled};

/// A shard that is open, or being opened: others wait for it.
type Opened = Mutex<Option<Arc<OpenShard>>>;

/// The shards of a data set, and those that are open.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Shard>,
    /// By number, the least recently used first.
    open: Mutex<VecDeque<(usize, Arc<Opened>)>>,
    /// How many may be open.
    most_open: usize,
    /// How often one was opened.
    #[cfg(test)]
    opened: std::sync::atomic::AtomicUsize,
}

/// A part of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) shard: usize,
    pub(crate) images: Range<u32>,
}

/// A set made of parts of shards.
#[derive(Debug)]
pub(crate) struct Pieces {
    pub(crate) shards: Arc<Shards>,
    /// Each with the index of its first image.
    pieces: Vec<(usize, Piece)>,
    len: usize,
}

impl Shards {
    /// Shards that are read in an order with a shuffle buffer of so many images.
    pub(crate) fn new(shards: Vec<Shard>, buffer: usize) -> Self {
        let images: usize = shards.iter().map(|shard| shard.images as usize).sum();
        let mean = (images / shards.len().max(1)).max(1);
        // An image moves by less than a buffer to either side; batches are read ahead.
        let most_open = (2 * buffer).div_ceil(mean) + 4;
        Self {
            shards,
            open: Mutex::default(),
            most_open,
            #[cfg(test)]
            opened: Default::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn open_now(&self) -> usize {
        self.open.lock().unwrap().len()
    }

    #[cfg(test)]
    pub(super) fn opened(&self) -> usize {
        self.opened.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn list(&self) -> &[Shard] {
        &self.shards
    }

    /// The images of a shard.
    fn open(&self, number: usize) -> Result<Arc<OpenShard>, DataError> {
        let place = self.place(number);
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shard) = &*place {
            return Ok(shard.clone());
        }
        let shard = Arc::new(self.shards[number].open()?);
        #[cfg(test)]
        self.opened
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *place = Some(shard.clone());
        Ok(shard)
    }

    /// The place of an open shard, which is now the most recently used.
    fn place(&self, number: usize) -> Arc<Opened> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.iter().position(|(known, _)| *known == number);
        let known = known.and_then(|place| open.remove(place));
        while known.is_none() && open.len() >= self.most_open {
            open.pop_front();
        }
        let known = known.unwrap_or_else(|| (number, Arc::default()));
        open.push_back(known.clone());
        known.1
    }

    /// Whether the shards are files that are somewhere else.
    pub(crate) fn are_elsewhere(&self) -> bool {
        self.source_of(0).is_some()
    }

    /// The source of a shard that is somewhere else, and its number there.
    fn source_of(&self, shard: usize) -> Option<(&Arc<dyn FileSource>, usize)> {
        match &self.shards.get(shard)?.form {
            Form::Table(_, Place::Elsewhere(there)) => Some((&there.source, there.file)),
            _ => None,
        }
    }

    /// Tells the source of shards that are somewhere else which of them will be opened, the next one first. One that is
    /// open need not come again before it is closed.
    fn expect(&self, shards: impl Iterator<Item = usize>) {
        let Some((source, _)) = self.source_of(0) else {
            return;
        };
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open: Vec<usize> = open.iter().map(|(number, _)| *number).collect();
        let mut files = Vec::new();
        for shard in shards {
            match open.iter().position(|number| *number == shard) {
                // In the next pass it is opened again.
                Some(place) => drop(open.swap_remove(place)),
                None => files.extend(self.source_of(shard).map(|(_, file)| file)),
            }
        }
        source.expect(&files);
    }
}

impl Pieces {
    pub(crate) fn new(shards: Arc<Shards>, pieces: Vec<Piece>) -> Self {
        let mut len = 0;
        let pieces = pieces.into_iter().map(|piece| {
            let first = len;
            len += piece.images.len();
            (first, piece)
        });
        Self {
            pieces: pieces.collect(),
            shards,
            len,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The shard with image `index`, and the image's number in it; `None` past the end.
    pub(crate) fn locate(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        let after = self.pieces.partition_point(|(first, _)| *first <= index);
        let (first, piece) = self.pieces.get(after.checked_sub(1)?)?;
        Some((piece.shard, piece.images.start as usize + index - first))
    }

    /// Is told which pieces will be read, the next one first.
    pub(crate) fn expect(&self, pieces: &[u32]) {
        let pieces = pieces
            .iter()
            .filter_map(|&piece| self.pieces.get(piece as usize));
        self.shards.expect(pieces.map(|(_, piece)| piece.shard));
    }

    /// The images of the same piece as `index` that come after it, and then those before it.
    pub(crate) fn others(&self, index: usize) -> impl Iterator<Item = usize> + use<> {
        let after = self.pieces.partition_point(|(first, _)| *first <= index);
        let piece = self.pieces.get(after.saturating_sub(1));
        let (first, end) = piece.map_or((index, index), |(first, piece)| {
            (*first, first + piece.images.len())
        });
        (index + 1..end).chain(first..index)
    }

    /// The shard with image `index`, open, and the image's number in it.
    ///
    /// # Errors
    /// [`DataError::Index`] past the end, and the errors of reading the shard.
    pub(crate) fn open(&self, index: usize) -> Result<(Arc<OpenShard>, usize), DataError> {
        let (shard, image) = self.locate(index).ok_or(DataError::Index {
            index,
            len: self.len,
        })?;
        Ok((self.shards.open(shard)?, image))
    }
}

/// Divides shards of these sizes into pieces to learn from and pieces to measure on, which have a `share` of the images:
/// whole shards, chosen at random but always the same ones, and the end of the last one.
pub(crate) fn hold_out(sizes: &[u32], share: f32) -> [Vec<Piece>; 2] {
    let images: usize = sizes.iter().map(|&size| size as usize).sum();
    let mut wanted = held_out(images, share);
    // By shard: how many of its last images are held out.
    let mut from_end = vec![0; sizes.len()];
    for shard in shuffled(sizes.len(), 0, 0) {
        let taken = wanted.min(sizes[shard as usize] as usize);
        from_end[shard as usize] = taken as u32;
        wanted -= taken;
    }
    let pieces = |part: &dyn Fn(u32, u32) -> Range<u32>| {
        let all = sizes.iter().zip(&from_end).enumerate();
        let pieces = all.map(|(shard, (&size, &last))| Piece {
            shard,
            images: part(size, size - last),
        });
        pieces.filter(|piece| !piece.images.is_empty()).collect()
    };
    [
        pieces(&|_, border| 0..border),
        pieces(&|size, border| border..size),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_image_is_in_one_of_the_parts(sizes in prop::collection::vec(1u32..30, 1..9), share in 0.01f32..0.9) {
            let images: u32 = sizes.iter().sum();
            prop_assume!(images > 1);
            let parts = hold_out(&sizes, share);
            let count = |pieces: &[Piece]| pieces.iter().map(|piece| piece.images.len()).sum::<usize>();
            prop_assert_eq!(count(&parts[1]), held_out(images as usize, share));
            let all = parts.concat();
            let mut seen: Vec<(usize, u32)> = all.iter().flat_map(|piece| piece.images.clone().map(|image| (piece.shard, image))).collect();
            seen.sort_unstable();
            let expected: Vec<(usize, u32)> = (0..).zip(&sizes).flat_map(|(shard, &size)| (0..size).map(move |image| (shard, image))).collect();
            prop_assert_eq!(seen, expected);
            // All but one shard are whole.
            let split = sizes.len() + 1;
            prop_assert!(all.len() <= split);
        }
    }

    #[test]
    fn an_index_leads_to_its_shard() {
        let piece = |shard, images| Piece { shard, images };
        let pieces = vec![piece(0, 0..3), piece(2, 5..7), piece(4, 1..2)];
        let set = Pieces::new(Arc::new(Shards::new(Vec::new(), 1)), pieces);
        assert_eq!(set.len(), 6);
        let places: Vec<_> = (0..7).map(|index| set.locate(index)).collect();
        let expected = [(0, 0), (0, 1), (0, 2), (2, 5), (2, 6), (4, 1)].map(Some);
        assert_eq!(places, [&expected[..], &[None]].concat());
        assert_eq!(set.others(3).collect::<Vec<_>>(), [4]);
        assert_eq!(set.others(4).collect::<Vec<_>>(), [3]);
        assert_eq!(set.others(1).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(set.others(5).collect::<Vec<_>>(), [] as [usize; 0]);
    }
}
