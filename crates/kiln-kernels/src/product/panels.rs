//! A matrix in the order in which tiles read it.

use std::ops::Range;

use pulp::Simd;

use super::widest_tile;

/// How a matrix of `depth` rows and `columns` columns is cut into panels of neighbouring columns.
///
/// A panel contains its part of each row, one row after the other, padded with zeros to whole vectors. All panels but
/// the last are as wide as the widest tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelsShape {
    pub(crate) depth: usize,
    pub(crate) columns: usize,
    lanes: usize,
    widest: usize,
}

/// One panel.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Its columns in the matrix.
    pub(crate) columns: Range<usize>,
    /// 1, 2, 4 or 8.
    pub(crate) vectors: usize,
    /// The range of its numbers.
    pub(crate) range: Range<usize>,
}

impl PanelsShape {
    pub(crate) fn new<S: Simd>(depth: usize, columns: usize) -> Self {
        Self {
            depth,
            columns,
            lanes: S::F32_LANES,
            widest: widest_tile::<S>(),
        }
    }

    /// Panels of two times 16 columns, whatever the instructions: those of [`Bf16Panels`](super::Bf16Panels).
    pub(crate) fn as_of_bf16(depth: usize, columns: usize) -> Self {
        Self {
            depth,
            columns,
            lanes: 16,
            widest: 2,
        }
    }

    /// Numbers in all panels together.
    pub(crate) fn len(&self) -> usize {
        self.panels().last().map_or(0, |panel| panel.range.end)
    }

    pub(crate) fn panels(&self) -> impl Iterator<Item = Panel> + use<> {
        let Self {
            depth,
            columns,
            lanes,
            widest,
        } = *self;
        let width = widest * lanes;
        (0..columns.div_ceil(width)).map(move |index| {
            let columns = index * width..((index + 1) * width).min(columns);
            let vectors = columns.len().div_ceil(lanes).next_power_of_two();
            let start = index * width * depth;
            Panel {
                columns,
                vectors,
                range: start..start + vectors * lanes * depth,
            }
        })
    }
}

/// A packed matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pub(crate) shape: PanelsShape,
    pub(crate) values: &'a [f32],
}
