//! The sizes of an attention, and what is kept of it for the way back.

use std::sync::Arc;

use crate::arrays::Array;

/// Queries that are computed together: a multiple of the numbers in any vector.
pub(super) const QUERIES: usize = 64;

/// All sizes of an attention except the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    /// Of one head.
    pub(crate) channels: usize,
}

impl Heads {
    /// Numbers of all heads in a row of the result.
    pub(crate) fn inner(&self) -> usize {
        self.heads * self.channels
    }

    /// Numbers in a row of queries, keys and values.
    pub(crate) fn row(&self) -> usize {
        3 * self.inner()
    }

    /// The factor for products of queries and keys.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.channels as f32).sqrt()
    }

    /// Where a head's queries, keys and values begin in a row.
    pub(super) fn parts(&self, head: usize) -> [usize; 3] {
        [0, 1, 2].map(|part| part * self.inner() + head * self.channels)
    }

    /// The index of the first number of each token.
    pub(super) fn row_starts(&self) -> Vec<usize> {
        (0..self.tokens).map(|token| token * self.row()).collect()
    }

    /// Numbers of an image's [`Softmax`].
    pub(super) fn softmax_len(&self) -> usize {
        2 * self.heads * self.tokens
    }
}

/// The numbers from which the backward pass recomputes a softmax. For each block of queries and then each head: first
/// the largest score of every query, times `log2(e)`, then the inverse of every query's sum.
///
/// `[batch, tokens * heads * 2]`.
#[derive(Clone, Debug)]
pub(crate) struct Softmax(pub(super) Arc<Array>);

/// Cuts the first `len` numbers off `memory`.
pub(super) fn take<'a>(memory: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(memory).split_at_mut(len);
    *memory = rest;
    taken
}
