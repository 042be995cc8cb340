//! Products of tiles with AVX-512's dot products of bf16 pairs (AVX512-BF16: AMD's processors since 2022, Intel's Cooper
//! Lake and those since 2023).
//!
//! `vdpbf16ps` adds to each of 16 sums in `f32` the two products of a pair of numbers: twice the operations of an `f32`
//! instruction. On AMD's processors it takes as long as one. Intel's since 2023 start one in two cycles, in which they
//! start four `f32` instructions (measured on an Emerald Rapids: 1.3 and 5.3 a nanosecond), because they have a matrix unit
//! for bf16. A virtual machine may hide that unit, and then products of `f32` numbers are the faster ones.
#![allow(
    unsafe_code,
    reason = "the instruction needs a check at run time, and its vectors of bf16 numbers have no safe constructor"
)]

use std::arch::x86_64::{
    __cpuid, __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps,
};
use std::sync::OnceLock;

use super::{Left, RIGHT_STEP, SUMS, TILE};
use crate::instructions::instructions;

/// Rows whose sums stay in registers: with two vectors of columns each, 16 of 32 registers.
const ROWS: usize = 8;

/// Numbers in a vector of sums, and pairs in a vector of factors.
const LANES: usize = 16;

/// Whether this processor has the instruction, within the limit on instructions.
pub(super) fn is_there() -> bool {
    // Asked for every tile.
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| instructions() == "avx512" && is_x86_feature_detected!("avx512bf16"))
}

/// Whether the instruction takes no longer than one for `f32`. A test of its speed would not always have the same answer,
/// and results depend on it.
pub(super) fn is_fast() -> bool {
    static FAST: OnceLock<bool> = OnceLock::new();
    *FAST.get_or_init(|| {
        let (vendor, signature) = (__cpuid(0), __cpuid(1).eax);
        let is_intels = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes)
            == [*b"Genu", *b"ineI", *b"ntel"];
        let model = (signature >> 4) & 0xf | (signature >> 12) & 0xf0;
        is_there() && (!is_intels || model == COOPER_LAKE)
    })
}

/// The model number of Intel's server processors from Skylake to Cooper Lake, of which the last has the instruction.
const COOPER_LAKE: u32 = 0x55;

/// `sums (+)= left right` in the first `rows` rows, or some more.
///
/// # Panics
///
/// If the processor lacks the instruction, or if `left` does not have those rows, each of as many numbers as `right` has
/// rows.
#[inline]
pub(super) fn multiply(
    left: Left,
    right: &[u32],
    sums: &mut [f32; SUMS],
    rows: usize,
    accumulate: bool,
) {
    assert!(is_there());
    // SAFETY: the processor has AVX-512's foundation (`instructions`) and its bf16 instructions.
    unsafe {
        multiply_here(
            left,
            right,
            &mut sums[..rows.next_multiple_of(ROWS) * TILE],
            accumulate,
        )
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_here(left: Left, right: &[u32], sums: &mut [f32], accumulate: bool) {
    let Left { values, stride } = left;
    let (right, _) = right.as_chunks::<RIGHT_STEP>();
    for (block, sums) in sums.chunks_exact_mut(ROWS * TILE).enumerate() {
        let rows: [&[u16]; ROWS] = std::array::from_fn(|row| {
            &values[(block * ROWS + row) * stride..][..right.len() * TILE]
        });
        let mut held = [[_mm512_setzero_ps(); 2]; ROWS];
        if accumulate {
            for (held, sums) in held.iter_mut().zip(sums.chunks_exact(TILE)) {
                let (halves, _) = sums.as_chunks::<LANES>();
                *held = [vector(&halves[0]), vector(&halves[1])];
            }
        }
        for (step, right) in right.iter().enumerate() {
            let (pairs, _) = right.as_chunks::<LANES>();
            let (near, far) = pairs.split_at(TILE / 2);
            let parts: [&[u16; TILE]; ROWS] =
                std::array::from_fn(|row| &rows[row].as_chunks::<TILE>().0[step]);
            for (pair, (near, far)) in near.iter().zip(far).enumerate() {
                let columns = [factors(near), factors(far)];
                for (held, part) in held.iter_mut().zip(&parts) {
                    let bits = u32::from(part[2 * pair]) | u32::from(part[2 * pair + 1]) << 16;
                    let row = bf16(_mm512_set1_epi32(bits.cast_signed()));
                    for (sum, columns) in held.iter_mut().zip(columns) {
                        *sum = _mm512_dpbf16_ps(*sum, row, columns);
                    }
                }
            }
        }
        for (held, sums) in held.iter().zip(sums.chunks_exact_mut(TILE)) {
            let (halves, _) = sums.as_chunks_mut::<LANES>();
            halves[0] = numbers(held[0]);
            halves[1] = numbers(held[1]);
        }
    }
}

/// Pairs of rows whose part of the right factor stays in the nearest cache while all of `out` is processed.
const PAIRS_AT_ONCE: usize = 128;

/// `out[k, n] += a[r, k] b[r, n]`, pairs of both; `columns` are a multiple of 16.
///
/// # Panics
///
/// If the processor lacks the instruction, or a factor is too short.
#[inline]
pub(super) fn add_outer_products(
    a: &[u32],
    a_step: usize,
    b: &[u32],
    out: &mut [f32],
    columns: usize,
) {
    assert!(is_there());
    // SAFETY: as in `multiply`.
    unsafe { add_outer_products_here(a, a_step, b, out, columns) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn add_outer_products_here(a: &[u32], a_step: usize, b: &[u32], out: &mut [f32], columns: usize) {
    let height = out.len() / columns;
    let blocks = a.chunks(PAIRS_AT_ONCE * a_step);
    for (a, b) in blocks.zip(b.chunks(PAIRS_AT_ONCE * columns)) {
        let mut column = 0;
        while column < columns {
            let mut row = 0;
            let wide = columns - column >= 2 * LANES;
            while row < height {
                let a = (&a[row..], a_step);
                let b = (&b[column..], columns);
                let out = &mut out[row * columns + column..];
                row += match (height - row >= ROWS, wide) {
                    (true, true) => outer_tile::<ROWS, 2>(a, b, out),
                    (true, false) => outer_tile::<ROWS, 1>(a, b, out),
                    (false, true) => outer_tile::<1, 2>(a, b, out),
                    (false, false) => outer_tile::<1, 1>(a, b, out),
                };
            }
            column += if wide { 2 * LANES } else { LANES };
        }
    }
}

/// `HEIGHT` rows of `out`, of `VECTORS` vectors each, from its start on. Returns the number of rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn outer_tile<const HEIGHT: usize, const VECTORS: usize>(
    (a, a_step): (&[u32], usize),
    (b, columns): (&[u32], usize),
    out: &mut [f32],
) -> usize {
    let mut held: [[__m512; VECTORS]; HEIGHT] = std::array::from_fn(|row| {
        let (lines, _) = out[row * columns..][..VECTORS * LANES].as_chunks::<LANES>();
        std::array::from_fn(|index| vector(&lines[index]))
    });
    for (a, b) in a.chunks(a_step).zip(b.chunks(columns)) {
        let (lines, _) = b[..VECTORS * LANES].as_chunks::<LANES>();
        let lines: [__m512bh; VECTORS] = std::array::from_fn(|index| factors(&lines[index]));
        for (held, a) in held.iter_mut().zip(&a[..HEIGHT]) {
            let row = bf16(_mm512_set1_epi32(a.cast_signed()));
            for (sum, line) in held.iter_mut().zip(lines) {
                *sum = _mm512_dpbf16_ps(*sum, row, line);
            }
        }
    }
    for (row, held) in held.iter().enumerate() {
        let (lines, _) = out[row * columns..][..VECTORS * LANES].as_chunks_mut::<LANES>();
        for (line, held) in lines.iter_mut().zip(held) {
            *line = numbers(*held);
        }
    }
    HEIGHT
}

/// 16 numbers.
#[inline(always)]
fn vector(numbers: &[f32; LANES]) -> __m512 {
    // SAFETY: both types are 16 floats, and all bits are valid in both.
    unsafe { std::mem::transmute::<[f32; LANES], __m512>(*numbers) }
}

#[inline(always)]
fn numbers(vector: __m512) -> [f32; LANES] {
    // SAFETY: as in `vector`.
    unsafe { std::mem::transmute::<__m512, [f32; LANES]>(vector) }
}

/// 16 pairs.
#[inline(always)]
fn factors(pairs: &[u32; LANES]) -> __m512bh {
    // SAFETY: both types are 64 bytes, and all bits are valid in both.
    unsafe { std::mem::transmute::<[u32; LANES], __m512bh>(*pairs) }
}

#[inline(always)]
fn bf16(vector: __m512i) -> __m512bh {
    // SAFETY: as in `factors`.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(vector) }
}
