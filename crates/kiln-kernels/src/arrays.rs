//! Arrays that are reused, so that the steady state allocates nothing from the system.
//!
//! A training step needs the same arrays as the previous one. Fresh arrays would cost a page fault for every 4 KiB, and
//! a pass to fill them with zeros that are overwritten at once.

#![allow(
    unsafe_code,
    reason = "Burn lets tensors have their own kind of memory only so"
)]

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{AllocationProperty, Bytes};
use burn_std::{AccessError, AccessPolicy, AllocationController};

/// Floats that wait for their next use when they are dropped, also as the memory of a tensor.
#[derive(Debug)]
pub(crate) struct Array {
    /// May be longer.
    memory: Vec<f32>,
    len: usize,
    /// Whether it counts as lent.
    is_of_pool: bool,
}

/// The allocator handles shorter arrays well.
const SHORTEST: usize = 1 << 12;

/// Floats of unspecified content.
pub(crate) fn array(len: usize) -> Array {
    if len < SHORTEST {
        return vec![0.0; len].into();
    }
    let (found, surplus) = Pool::lock().take(len);
    drop(surplus);
    Array {
        memory: found.unwrap_or_else(|| vec![0.0; len]),
        len,
        is_of_pool: true,
    }
}

/// Zeros.
pub(crate) fn zeros(len: usize) -> Array {
    let mut array = array(len);
    array.fill(0.0);
    array
}

impl Array {
    /// Without a copy.
    pub(crate) fn into_bytes(self) -> Bytes {
        let bytes = size_of_val(&*self);
        // SAFETY: all floats of the memory are initialized.
        unsafe { Bytes::from_controller(Box::new(self), bytes) }
    }
}

impl From<Vec<f32>> for Array {
    fn from(memory: Vec<f32>) -> Self {
        Self {
            len: memory.len(),
            memory,
            is_of_pool: false,
        }
    }
}

impl Deref for Array {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Array {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if self.is_of_pool {
            Pool::lock().put(std::mem::take(&mut self.memory));
        }
    }
}

impl AllocationController for Array {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Native
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(self);
        // SAFETY: the layouts are the same, and the caller writes only initialized bytes.
        Ok(unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(self);
        // SAFETY: the layouts are the same, and nothing can be written.
        Ok(unsafe { &*(std::ptr::from_ref(bytes) as *const [MaybeUninit<u8>]) })
    }
}

/// Arrays that wait for their next use. Together with those that are lent they never take more memory than lent arrays
/// alone once took: what a part of a step does not need serves another part, or goes back to the allocator.
struct Pool {
    /// The one that was returned first is the first.
    waiting: VecDeque<Vec<f32>>,
    /// Floats of all waiting arrays.
    waiting_floats: usize,
    /// Floats of all lent arrays: now, and the most there were.
    lent: usize,
    most_lent: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

impl Pool {
    const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_floats: 0,
            lent: 0,
            most_lent: 0,
        }
    }

    fn lock() -> MutexGuard<'static, Self> {
        POOL.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A waiting array of this length or up to twice as long, and the arrays for which there is no room any more once
    /// it is lent.
    fn take(&mut self, len: usize) -> (Option<Vec<f32>>, Vec<Vec<f32>>) {
        // Of the shortest ones that fit, the one that was returned last: it may still be in a cache.
        let fitting = self.waiting.iter().enumerate().rev();
        let fitting = fitting.filter(|(_, array)| (len..=2 * len).contains(&array.len()));
        let shortest = fitting.min_by_key(|(_, array)| array.len());
        let place = shortest.map(|(place, _)| place);
        let found = place.and_then(|place| self.waiting.remove(place));
        self.waiting_floats -= found.as_ref().map_or(0, Vec::len);
        self.lent += found.as_ref().map_or(len, Vec::len);
        self.most_lent = self.most_lent.max(self.lent);
        let mut surplus = Vec::new();
        while self.waiting_floats + self.lent > self.most_lent {
            let Some(oldest) = self.waiting.pop_front() else {
                break;
            };
            self.waiting_floats -= oldest.len();
            surplus.push(oldest);
        }
        (found, surplus)
    }

    fn put(&mut self, array: Vec<f32>) {
        self.lent -= array.len();
        self.waiting_floats += array.len();
        self.waiting.push_back(array);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_array_is_found_again() {
        let len = SHORTEST + 17;
        let mut first = array(len);
        first.fill(1.0);
        let address = first.as_ptr();
        // As the memory of a tensor, too.
        drop(first.into_bytes());
        let second = array(len);
        assert_eq!(second.as_ptr(), address);
        drop(second);
        assert!(zeros(len).iter().all(|value| *value == 0.0));
    }

    #[test]
    fn a_tensors_memory_can_be_read_written_and_copied() {
        let mut numbers = array(3);
        numbers.copy_from_slice(&[1.0, 2.0, 3.0]);
        let mut bytes = numbers.into_bytes();
        let copy = bytes.clone();
        bytemuck::cast_slice_mut::<u8, f32>(&mut bytes)[1] = 5.0;
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&bytes), [1.0, 5.0, 3.0]);
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&copy), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn waiting_arrays_take_no_more_memory_than_lent_ones_once_did() {
        let mut pool = Pool::new();
        let take = |pool: &mut Pool, len: usize| {
            let (found, surplus) = pool.take(len);
            let surplus: Vec<usize> = surplus.iter().map(Vec::len).collect();
            (found.is_some(), surplus)
        };
        for len in [10, 20, 30] {
            assert_eq!(take(&mut pool, len), (false, vec![]));
        }
        for len in [10, 20, 30] {
            pool.put(vec![0.0; len]);
        }
        // The shortest that fits, which is the one of 20.
        assert_eq!(take(&mut pool, 15), (true, vec![]));
        assert_eq!((pool.waiting_floats, pool.lent), (40, 20));
        // None fits. It takes the place of those that have waited longest.
        assert_eq!(take(&mut pool, 35), (false, vec![10, 30]));
        assert_eq!(take(&mut pool, 6), (false, vec![]));
        assert_eq!(
            (pool.waiting_floats, pool.lent, pool.most_lent),
            (0, 61, 61)
        );
    }
}
