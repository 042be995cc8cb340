//! One memory for all long arrays of the process.
//!
//! A step needs arrays of the same lengths as the previous one. Fresh memory would cost a page fault for every 4 KiB, and
//! a pass to fill it with zeros that are overwritten at once. So the arena keeps what it once got from the system, in
//! chunks. A piece is cut from the smallest gap into which it fits, and joins its neighbours when it comes back. If it
//! fits nowhere, a new chunk of its length is added. Then chunks of which nothing is lent go back to the system if all chunks
//! together are longer than all pieces that were ever lent at once, and a sixteenth.

#![allow(unsafe_code, reason = "many arrays lie in one block of memory")]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lines::{self, LINE, Line};

/// Initialized memory that belongs to who has the piece, until it [goes back](Arena::put).
#[derive(Debug)]
pub(crate) struct Piece {
    start: NonNull<Line>,
    lines: Range<usize>,
    /// The number of its chunk.
    chunk: u64,
}

// SAFETY: nobody else reads or writes a piece's lines.
unsafe impl Send for Piece {}
// SAFETY: a shared piece is only read.
unsafe impl Sync for Piece {}

impl Piece {
    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: the lines are initialized, and the arena keeps their chunk while the piece is lent.
        lines::floats(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.lines.len()) })
    }

    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        let (start, len) = (self.start.as_ptr(), self.lines.len());
        // SAFETY: as above; pieces do not overlap.
        lines::floats_mut(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }
}

/// Memory of the system, and the parts of it that are not lent.
pub(crate) struct Chunk {
    number: u64,
    /// Of the system, which fills a page with zeros when it is first touched.
    memory: NonNull<[f32]>,
    /// Its first whole line.
    start: NonNull<Line>,
    len: usize,
    /// In order; no two touch each other.
    gaps: Vec<Range<usize>>,
}

// SAFETY: a chunk owns its memory, as a box does.
unsafe impl Send for Chunk {}

impl Chunk {
    fn new(number: u64, lines: usize) -> Self {
        // Aligned memory would be filled at once.
        let floats = vec![0.0f32; lines * LINE + LINE - 1].into_boxed_slice();
        let memory = NonNull::from(Box::leak(floats));
        let first = memory.cast::<f32>();
        let skipped = first.as_ptr().align_offset(align_of::<Line>());
        Self {
            number,
            memory,
            // SAFETY: less than a line is skipped, for which there are floats.
            start: unsafe { first.add(skipped.min(LINE - 1)) }.cast(),
            len: lines,
            gaps: std::iter::once(0..lines).collect(),
        }
    }

    fn is_waiting(&self) -> bool {
        self.gaps.first().is_some_and(|gap| gap.len() == self.len)
    }

    /// The first lines of a gap.
    fn cut(&mut self, gap: usize, lines: usize) -> Piece {
        let start = self.gaps[gap].start;
        self.gaps[gap].start += lines;
        if self.gaps[gap].is_empty() {
            self.gaps.remove(gap);
        }
        Piece {
            // SAFETY: the gap is a part of the memory.
            start: unsafe { self.start.add(start) },
            lines: start..start + lines,
            chunk: self.number,
        }
    }

    fn join(&mut self, lines: Range<usize>) {
        let next = self.gaps.partition_point(|gap| gap.start < lines.start);
        let touches_next = self
            .gaps
            .get(next)
            .is_some_and(|gap| gap.start == lines.end);
        let before = next
            .checked_sub(1)
            .filter(|before| self.gaps[*before].end == lines.start);
        match (before, touches_next) {
            (Some(before), true) => {
                self.gaps[before].end = self.gaps[next].end;
                self.gaps.remove(next);
            }
            (Some(before), false) => self.gaps[before].end = lines.end,
            (None, true) => self.gaps[next].start = lines.start,
            (None, false) => self.gaps.insert(next, lines),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        debug_assert!(self.is_waiting(), "a piece is still lent");
        // SAFETY: the memory is of a box, and no piece of it is lent.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

/// See the [module](self). All lengths are in lines.
pub(crate) struct Arena {
    /// By number: the oldest is the first.
    chunks: Vec<Chunk>,
    /// Chunks that there ever were.
    numbers: u64,
    /// All pieces that are lent: now, and the most there were.
    lent: usize,
    most_lent: usize,
}

static ARENA: Mutex<Arena> = Mutex::new(Arena::new());

impl Arena {
    const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            numbers: 0,
            lent: 0,
            most_lent: 0,
        }
    }

    /// That of the process.
    pub(crate) fn lock() -> MutexGuard<'static, Self> {
        ARENA.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At least `len` floats of unspecified content, at least one line; and chunks to drop, better without the lock.
    pub(crate) fn take(&mut self, len: usize) -> (Piece, Vec<Chunk>) {
        let lines = lines::lines(len).max(1);
        let lent = self.lent + lines;
        let most_lent = self.most_lent.max(lent);
        let gaps = self.chunks.iter().enumerate().flat_map(|(chunk, content)| {
            let gaps = content.gaps.iter().enumerate();
            gaps.map(move |(gap, range)| (range.len(), chunk, gap))
        });
        let smallest = gaps.filter(|(len, ..)| *len >= lines).min();
        let (chunk, gap, dropped) = match smallest {
            Some((_, chunk, gap)) => (chunk, gap, Vec::new()),
            None => {
                let new = Chunk::new(self.numbers + 1, lines);
                self.numbers += 1;
                let dropped = self.make_room(lines, most_lent + most_lent / 16);
                self.chunks.push(new);
                (self.chunks.len() - 1, 0, dropped)
            }
        };
        (self.lent, self.most_lent) = (lent, most_lent);
        (self.chunks[chunk].cut(gap, lines), dropped)
    }

    /// Removes chunks of which nothing is lent, so that another one fits within the limit.
    fn make_room(&mut self, lines: usize, limit: usize) -> Vec<Chunk> {
        let mut len = self.len() + lines;
        let removed = self.chunks.extract_if(.., |chunk| {
            let goes = len > limit && chunk.is_waiting();
            len -= if goes { chunk.len } else { 0 };
            goes
        });
        removed.collect()
    }

    pub(crate) fn put(&mut self, piece: Piece) {
        let Piece { lines, chunk, .. } = piece;
        self.lent -= lines.len();
        let place = self
            .chunks
            .binary_search_by_key(&chunk, |chunk| chunk.number);
        if let Ok(place) = place {
            self.chunks[place].join(lines);
        }
    }

    fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_piece_is_cut_from_the_smallest_gap_and_joins_its_neighbours() {
        let mut arena = Arena::new();
        let [large, small] = [10, 4].map(|lines| arena.take(lines * LINE).0);
        arena.put(large);
        arena.put(small);
        let pieces = [3, 2, 4, 2].map(|lines| arena.take(lines * LINE - 1).0);
        let places = pieces
            .each_ref()
            .map(|piece| (piece.chunk, piece.lines.clone()));
        assert_eq!(places, [(2, 0..3), (1, 0..2), (1, 2..6), (1, 6..8)]);
        let [of_small, first, second, third] = pieces;
        for piece in [first, third, second, of_small] {
            arena.put(piece);
        }
        assert!(arena.chunks.iter().all(Chunk::is_waiting));
        assert_eq!((arena.len(), arena.lent, arena.most_lent), (14, 0, 14));
    }

    #[test]
    fn chunks_that_wait_longest_make_room() {
        let mut arena = Arena::new();
        for piece in [10, 20, 30].map(|lines| arena.take(lines * LINE).0) {
            arena.put(piece);
        }
        // Fits nowhere, and may not lie beside all three.
        let (longer, dropped) = arena.take(35 * LINE);
        let len =
            |chunks: &[Chunk]| -> Vec<usize> { chunks.iter().map(|chunk| chunk.len).collect() };
        assert_eq!(
            (len(&dropped), len(&arena.chunks)),
            (vec![10, 20, 30], vec![35])
        );
        arena.put(longer);
    }

    proptest! {
        #[test]
        fn pieces_do_not_overlap_and_the_arena_stays_small(
            works in prop::collection::vec((1usize..2000, 0usize..8), 1..200),
        ) {
            let mut arena = Arena::new();
            let mut lent: Vec<(f32, Piece)> = Vec::new();
            for (index, (len, given_back)) in works.into_iter().enumerate() {
                let value = index as f32;
                let chunks = arena.numbers;
                let (mut piece, _) = arena.take(len);
                let limit = arena.most_lent + arena.most_lent / 16;
                let waits = arena.chunks.iter().any(Chunk::is_waiting);
                prop_assert!(arena.numbers == chunks || arena.len() <= limit || !waits);
                prop_assert!(piece.floats().len() >= len);
                prop_assert!(piece.start.as_ptr().is_aligned());
                piece.floats_mut().fill(value);
                lent.push((value, piece));
                while lent.len() > given_back {
                    let (value, piece) = lent.swap_remove(index % lent.len());
                    prop_assert!(piece.floats().iter().all(|float| *float == value));
                    arena.put(piece);
                }
                let lines: usize = lent.iter().map(|(_, piece)| piece.lines.len()).sum();
                prop_assert_eq!(lines, arena.lent);
            }
            for (_, piece) in lent {
                arena.put(piece);
            }
            prop_assert!(arena.chunks.iter().all(Chunk::is_waiting));
        }
    }
}
