//! Arrays whose memory is reused, so that the steady state allocates nothing from the system.

#![allow(
    unsafe_code,
    reason = "Burn lets tensors have their own kind of memory only so"
)]

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use burn::tensor::{AllocationProperty, Bytes};
use burn_std::{AccessError, AccessPolicy, AllocationController};
use bytemuck::Zeroable;

use crate::arena::{Arena, Piece};
use crate::lines::{self, Line};

/// Floats whose memory serves another array when they are dropped, also as the memory of a tensor.
#[derive(Debug)]
pub(crate) struct Array {
    memory: Memory,
    len: usize,
}

/// May be longer.
#[derive(Debug)]
enum Memory {
    Lent(Piece),
    Short(Vec<Line>),
    Foreign(Vec<f32>),
}

/// The allocator handles shorter arrays well.
const SHORTEST: usize = 1 << 12;

/// Floats of unspecified content.
pub(crate) fn array(len: usize) -> Array {
    let memory = match len {
        0..SHORTEST => Memory::Short(vec![Line::zeroed(); lines::lines(len)]),
        _ => {
            let (piece, _dropped) = Arena::lock().take(len);
            Memory::Lent(piece)
        }
    };
    Array { memory, len }
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
    fn from(floats: Vec<f32>) -> Self {
        Self {
            len: floats.len(),
            memory: Memory::Foreign(floats),
        }
    }
}

impl Deref for Array {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let floats = match &self.memory {
            Memory::Lent(piece) => piece.floats(),
            Memory::Short(lines) => lines::floats(lines),
            Memory::Foreign(floats) => floats,
        };
        &floats[..self.len]
    }
}

impl DerefMut for Array {
    fn deref_mut(&mut self) -> &mut [f32] {
        let floats = match &mut self.memory {
            Memory::Lent(piece) => piece.floats_mut(),
            Memory::Short(lines) => lines::floats_mut(lines),
            Memory::Foreign(floats) => floats,
        };
        &mut floats[..self.len]
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Short(Vec::new()));
        if let Memory::Lent(piece) = memory {
            Arena::lock().put(piece);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_where_there_was_something_else() {
        for len in [SHORTEST - 1, SHORTEST, SHORTEST + 17] {
            let mut numbers = array(len);
            numbers.fill(1.0);
            drop(numbers.into_bytes());
            let zeros = zeros(len);
            assert!(zeros.len() == len && zeros.iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    fn a_tensors_memory_can_be_read_written_and_copied() {
        for len in [3, SHORTEST + 3] {
            let mut numbers = zeros(len);
            numbers[len - 3..].copy_from_slice(&[1.0, 2.0, 3.0]);
            let mut bytes = numbers.into_bytes();
            let copy = bytes.clone();
            bytemuck::cast_slice_mut::<u8, f32>(&mut bytes)[len - 2] = 5.0;
            let last = |bytes: &Bytes| bytemuck::cast_slice::<u8, f32>(bytes)[len - 3..].to_vec();
            assert_eq!(last(&bytes), [1.0, 5.0, 3.0]);
            assert_eq!(last(&copy), [1.0, 2.0, 3.0]);
        }
    }
}
