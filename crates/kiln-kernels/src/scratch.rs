//! Working memory of a thread, which it reuses.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytemuck::Zeroable;

use crate::lines::{self, Line};

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Floats of unspecified content for the working memory of one thread; when dropped, they are kept for the next one.
pub(crate) struct Scratch {
    memory: Vec<Line>,
    len: usize,
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        let lines = lines::lines(len);
        if memory.len() < lines {
            memory.resize(lines, Line::zeroed());
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
        &lines::floats(&self.memory)[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut lines::floats_mut(&mut self.memory)[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        FREE.with_borrow_mut(|free| free.push(memory));
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
