//! Memory that is reused, so that the steady state allocates nothing from the system.
//!
//! A training step needs the same arrays as the previous one. Fresh arrays would cost a page fault for every 4 KiB, and
//! a pass to fill them with zeros that are overwritten at once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

thread_local! {
    static IS_DONE_ONCE: Cell<bool> = const { Cell::new(false) };
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Floats of unspecified content for the working memory of one thread; when dropped, they are kept for the next one.
pub(crate) struct Scratch {
    memory: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if memory.len() < len {
            memory.resize(len, 0.0);
        }
        Self { memory, len }
    }

    pub(crate) fn copy_of(numbers: &[f32]) -> Self {
        let mut scratch = Self::new(numbers.len());
        scratch.copy_from_slice(numbers);
        scratch
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        FREE.with_borrow_mut(|free| free.push(memory));
    }
}

/// Memory for other numbers than floats, aligned to a cache line.
pub(crate) mod aligned {
    /// Floats in a cache line.
    const LINE: usize = 16;

    /// The number of floats to allocate, so that there are `len` from the first cache line on.
    pub(crate) fn len(len: usize) -> usize {
        len + LINE - 1
    }

    fn start(memory: &[f32]) -> usize {
        memory.as_ptr().align_offset(LINE * size_of::<f32>()) % LINE
    }

    /// The first `len` numbers of 16 bits.
    pub(crate) fn u16s(memory: &[f32], len: usize) -> &[u16] {
        &bytemuck::cast_slice(&memory[start(memory)..])[..len]
    }

    /// The first `len` numbers of 16 bits.
    pub(crate) fn u16s_mut(memory: &mut [f32], len: usize) -> &mut [u16] {
        let start = start(memory);
        &mut bytemuck::cast_slice_mut(&mut memory[start..])[..len]
    }

    /// The first `len` numbers of 32 bits.
    pub(crate) fn u32s(memory: &[f32], len: usize) -> &[u32] {
        &bytemuck::cast_slice(&memory[start(memory)..])[..len]
    }

    /// The first `len` numbers of 32 bits.
    pub(crate) fn u32s_mut(memory: &mut [f32], len: usize) -> &mut [u32] {
        let start = start(memory);
        &mut bytemuck::cast_slice_mut(&mut memory[start..])[..len]
    }
}

/// Arrays that wait for their next use.
struct Shelves {
    /// The one that was returned first is the first.
    waiting: VecDeque<Vec<f32>>,
    /// By length: arrays lent and not yet returned. Some never return, and some returned arrays were made elsewhere: the
    /// count limits how many of those are kept.
    lent: BTreeMap<usize, usize>,
}

/// The allocator handles shorter arrays well.
const SHORTEST: usize = 1 << 12;

/// Floats of all waiting arrays together, without longer ones than this: those may come from the operating system each
/// time. An array serves its own length only, but the allocator gives what one length does not need to another.
const MOST: usize = 1 << 22;

static SHELVES: Mutex<Shelves> = Mutex::new(Shelves {
    waiting: VecDeque::new(),
    lent: BTreeMap::new(),
});

impl Shelves {
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        *self.lent.entry(len).or_default() += 1;
        let place = self.waiting.iter().rposition(|array| array.len() == len)?;
        self.waiting.remove(place)
    }

    fn put(&mut self, array: Vec<f32>) {
        let lent = self.lent.get_mut(&array.len());
        let Some(lent) = lent.filter(|lent| **lent > 0) else {
            return;
        };
        *lent -= 1;
        self.waiting.push_back(array);
        let is_short = |array: &Vec<f32>| array.len() <= MOST;
        while self.short_floats() > MOST {
            let oldest = self.waiting.iter().position(is_short);
            oldest.and_then(|place| self.waiting.remove(place));
        }
    }

    fn short_floats(&self) -> usize {
        let lens = self.waiting.iter().map(Vec::len);
        lens.filter(|&len| len <= MOST).sum()
    }
}

/// An array of `len` floats of unspecified content, for results that outlive a call.
pub(crate) fn array(len: usize) -> Vec<f32> {
    if len < SHORTEST {
        return vec![0.0; len];
    }
    let found = SHELVES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(len);
    found.unwrap_or_else(|| vec![0.0; len])
}

/// An array of zeros.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    let mut array = array(len);
    array.fill(0.0);
    array
}

/// Does `work` that will not be done again: the arrays that this thread [recycles](recycle) in it are freed instead.
pub(crate) fn once<T>(work: impl FnOnce() -> T) -> T {
    let before = IS_DONE_ONCE.replace(true);
    let result = work();
    IS_DONE_ONCE.set(before);
    result
}

/// Returns an array, for reuse by [`array`].
pub(crate) fn recycle(array: Vec<f32>) {
    if IS_DONE_ONCE.get() {
        return;
    }
    SHELVES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .put(array);
}

/// Returns the array of a tensor, if nothing else holds it.
pub(crate) fn recycle_tensor(tensor: FlexTensor) {
    let long = tensor.shape().num_elements() >= SHORTEST;
    if long
        && tensor.is_unique()
        && tensor.is_contiguous()
        && let Ok(array) = tensor.into_data().try_into_vec()
    {
        recycle(array);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_array_is_found_again() {
        let len = SHORTEST + 17;
        let mut first = array(len);
        first.fill(1.0);
        let address = first.as_ptr();
        recycle(first);
        let second = array(len);
        assert_eq!(second.as_ptr(), address);
        recycle(second);
        assert!(zeros(len).iter().all(|value| *value == 0.0));
    }

    #[test]
    fn few_floats_wait_and_the_oldest_ones_are_dropped_first() {
        let mut shelves = Shelves {
            waiting: VecDeque::new(),
            lent: BTreeMap::new(),
        };
        let lens = [MOST / 2, MOST / 2 - 1, MOST / 4, MOST + 1];
        for len in lens {
            assert!(shelves.take(len).is_none());
        }
        for len in lens {
            shelves.put(vec![0.0; len]);
        }
        assert_eq!(shelves.short_floats(), MOST / 2 - 1 + MOST / 4);
        let found = lens.map(|len| shelves.take(len).is_some());
        assert_eq!(found, [false, true, true, true]);
        assert_eq!(shelves.short_floats(), 0);
        // None of this length was lent.
        shelves.put(vec![0.0; MOST - 1]);
        assert_eq!(shelves.short_floats(), 0);
    }

    #[test]
    fn working_memory_may_nest() {
        let mut outer = Scratch::new(10);
        outer.fill(1.0);
        Scratch::new(20).fill(2.0);
        assert!(outer.len() == 10 && outer.iter().all(|value| *value == 1.0));
    }
}
