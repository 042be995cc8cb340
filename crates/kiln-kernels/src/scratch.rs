//! Working memory of a thread, which it reuses.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_memory_may_nest() {
        let mut outer = Scratch::new(10);
        outer.fill(1.0);
        Scratch::new(20).fill(2.0);
        assert!(outer.len() == 10 && outer.iter().all(|value| *value == 1.0));
    }
}
