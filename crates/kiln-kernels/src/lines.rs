//! Memory that begins with a cache line, which is as wide as the widest vector: so no vector of it lies in two lines.

#![allow(unsafe_code, reason = "a line is its floats")]

use bytemuck::{Pod, Zeroable};

/// Floats of a cache line.
pub(crate) const LINE: usize = 16;

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; LINE]);

// SAFETY: zeros are floats.
unsafe impl Zeroable for Line {}
// SAFETY: a line is as long as its floats, and any bits are floats.
unsafe impl Pod for Line {}

const _: () = assert!(size_of::<Line>() == LINE * size_of::<f32>());

/// Lines for so many floats.
pub(crate) const fn lines(floats: usize) -> usize {
    floats.div_ceil(LINE)
}

/// The floats of some lines.
pub(crate) fn floats(lines: &[Line]) -> &[f32] {
    bytemuck::cast_slice(lines)
}

/// The floats of some lines.
pub(crate) fn floats_mut(lines: &mut [Line]) -> &mut [f32] {
    bytemuck::cast_slice_mut(lines)
}
