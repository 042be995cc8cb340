//! Matrix products in registers, in the two shapes that convolutions and attention need.
//!
//! ```text
//! gather:  out[r, n] (+)= sum over k of  a[r, k] b[k, n]        rows of `a` gathered from an image
//! outer:   out[k, n]  +=  sum over r of  a[r, k] b[r, n]        gradients of weights
//! ```
//!
//! In both, `n` (channels) runs along vectors, and a tile of `out` stays in registers while the sum runs: 6 rows of 4
//! vectors with AVX-512, which loads 10 numbers or vectors for 24 multiplications. `a` is not copied: a row is a list
//! of stretches of memory. For a 3x3 convolution of channels-last images each stretch is three pixels.
//!
//! Every sum runs over `k` (or `r`) in an order that does not depend on the tile: an element of `out` has the same bits
//! in any place of the work, and with any number of threads.

mod bf16;
mod gather;
mod outer;
mod packing;
mod panels;

pub use bf16::bf16_instructions;
pub(crate) use bf16::{
    Bf16Panels, Bf16Rows, SUMS, SideBySide, TILE, add_outer_products_bf16, add_products_bf16,
    has_matrix_unit, multiply_gathered_bf16, multiply_panel_bf16, round_all,
};
pub(crate) use gather::{Gather, multiply_gathered};
pub(crate) use outer::{Outer, add_outer_products};
pub(crate) use packing::{pack_columns, pack_rows, pack_rows_on_all_cores};
pub(crate) use panels::{Panels, PanelsShape};

use pulp::Simd;

/// The largest number of vectors side by side in a tile.
pub(crate) const fn widest_tile<S: Simd>() -> usize {
    if S::IS_SCALAR {
        // Compilers turn plain arithmetic on eight neighbours into vectors.
        8
    } else if S::REGISTER_COUNT >= 32 {
        4
    } else {
        2
    }
}

/// The largest number of rows in a tile that is `vectors` wide: the tile, a row of `b` and one number fit into the
/// registers.
const fn tallest_tile<S: Simd>(vectors: usize) -> usize {
    if S::IS_SCALAR {
        4
    } else {
        match S::REGISTER_COUNT / vectors {
            0..8 => 1,
            8..16 => 6,
            _ => 12,
        }
    }
}

/// The tallest compiled tile for the remaining rows.
const fn tile_height<S: Simd>(vectors: usize, rows_left: usize) -> usize {
    let tallest = tallest_tile::<S>(vectors);
    let limit = if rows_left < tallest {
        rows_left
    } else {
        tallest
    };
    match limit {
        12.. => 12,
        6.. => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Calls `$tile::<HEIGHT, VECTORS>` for the run-time height and width of a tile.
macro_rules! for_tile {
    ($height:expr, $vectors:expr, $call:ident!($($argument:tt)*)) => {
        match ($height, $vectors) {
            (12, 2) => $call!(12, 2, $($argument)*),
            (12, 1) => $call!(12, 1, $($argument)*),
            (6, 4) => $call!(6, 4, $($argument)*),
            (6, 2) => $call!(6, 2, $($argument)*),
            (6, 1) => $call!(6, 1, $($argument)*),
            (4, 8) => $call!(4, 8, $($argument)*),
            (4, 4) => $call!(4, 4, $($argument)*),
            (4, 2) => $call!(4, 2, $($argument)*),
            (4, 1) => $call!(4, 1, $($argument)*),
            (2, 8) => $call!(2, 8, $($argument)*),
            (2, 4) => $call!(2, 4, $($argument)*),
            (2, 2) => $call!(2, 2, $($argument)*),
            (2, 1) => $call!(2, 1, $($argument)*),
            (_, 8) => $call!(1, 8, $($argument)*),
            (_, 4) => $call!(1, 4, $($argument)*),
            (_, 2) => $call!(1, 2, $($argument)*),
            (_, _) => $call!(1, 1, $($argument)*),
        }
    };
}
use for_tile;
