//! The padded inputs of a block of outputs.

use std::ops::Range;

use pulp::Simd;

use super::geometry::Stencil;
use crate::normalisation::ChannelMap;

/// Images that a stencil reads, `[batch, height, width, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) values: &'a [f32],
    /// What the numbers go through on the way, one map an image.
    pub(crate) maps: Option<&'a [ChannelMap]>,
}

/// A part of the outputs: whole images, or a band of cells of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) images: Range<usize>,
    /// Rows of the grid.
    pub(crate) cells: Range<usize>,
}

/// What a block reads: the same rectangle of each of its images, with zeros for what lies outside.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    images: Range<usize>,
    rows: Range<isize>,
    columns: Range<isize>,
    channels: usize,
    size: [usize; 2],
}

/// A block with what it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) block: &'a Block,
    pub(crate) window: &'a Window,
    /// The numbers of the window.
    pub(crate) inputs: &'a [f32],
}

impl Block {
    /// Cuts `images` images into blocks of about `positions` cells, bands of a multiple of `rows_step` rows.
    pub(crate) fn cut(
        images: usize,
        grid: [usize; 2],
        positions: usize,
        rows_step: usize,
    ) -> Vec<Self> {
        let [rows, columns] = grid;
        let per_image = rows * columns;
        if 2 * per_image <= positions {
            let step = positions / per_image;
            let block = |first: usize| Self {
                images: first..(first + step).min(images),
                cells: 0..rows,
            };
            return (0..images).step_by(step).map(block).collect();
        }
        let bands = per_image.div_ceil(positions);
        let step = rows.div_ceil(bands).next_multiple_of(rows_step);
        let bands = |image| {
            (0..rows).step_by(step).map(move |first| Self {
                images: image..image + 1,
                cells: first..(first + step).min(rows),
            })
        };
        (0..images).flat_map(bands).collect()
    }

    /// Where the block's first output is, among those of all images.
    pub(crate) fn output_start(&self, stencil: &Stencil) -> usize {
        let row_len = stencil.size_written[1] * stencil.channels_written;
        self.images.start * stencil.written_len() + self.rows_written(stencil).start * row_len
    }

    /// Rows of each image that the block writes.
    pub(crate) fn rows_written(&self, stencil: &Stencil) -> Range<usize> {
        let cell = stencil.rows.cell();
        let limit = stencil.size_written[0];
        (self.cells.start * cell).min(limit)..(self.cells.end * cell).min(limit)
    }
}

impl Window {
    pub(crate) fn new(stencil: &Stencil, block: &Block) -> Self {
        Self {
            images: block.images.clone(),
            rows: stencil.rows.reads(block.cells.clone()),
            columns: stencil.columns.reads(0..stencil.columns.grid()),
            channels: stencil.channels_read,
            size: stencil.size_read,
        }
    }

    /// Numbers from one row to the next.
    pub(crate) fn row_len(&self) -> usize {
        self.columns.len() * self.channels
    }

    /// Numbers from one image to the next.
    fn image_len(&self) -> usize {
        self.rows.len() * self.row_len()
    }

    /// Numbers in the window.
    pub(crate) fn len(&self) -> usize {
        self.images.len() * self.image_len()
    }

    /// Where the pixel of an image of the block lies; row and column are those of the whole image.
    pub(crate) fn start(&self, image: usize, row: isize, column: isize) -> usize {
        (image - self.images.start) * self.image_len()
            + (row - self.rows.start) as usize * self.row_len()
            + (column - self.columns.start) as usize * self.channels
    }

    /// The part of the images that is the window already, if there is one.
    pub(crate) fn borrow<'a>(&self, source: &Source<'a>) -> Option<&'a [f32]> {
        let [height, width] = self.size;
        let whole_rows = self.columns == (0..width as isize);
        let inside = self.rows.start >= 0 && self.rows.end <= height as isize;
        let joined = self.images.len() == 1 || self.rows.len() == height;
        (whole_rows && inside && joined && source.maps.is_none()).then(|| {
            let start = (self.images.start * height) * self.row_len()
                + self.rows.start as usize * self.row_len();
            &source.values[start..start + self.len()]
        })
    }

    /// Writes the window.
    #[inline(always)]
    pub(crate) fn fill<S: Simd>(&self, simd: S, source: &Source, window: &mut [f32]) {
        if window.is_empty() {
            return;
        }
        let [height, width] = self.size;
        let columns = 0..width as isize;
        let inside = self.columns.start.max(0)
            ..self
                .columns
                .end
                .min(columns.end)
                .max(self.columns.start.max(0));
        let before = (inside.start - self.columns.start) as usize * self.channels;
        let used = inside.len() * self.channels;
        let images = window.chunks_exact_mut(self.image_len());
        for (image, window) in self.images.clone().zip(images) {
            let rows = self
                .rows
                .clone()
                .zip(window.chunks_exact_mut(self.row_len()));
            for (row, window) in rows {
                if !(0..height as isize).contains(&row) || used == 0 {
                    window.fill(0.0);
                    continue;
                }
                let start = ((image * height + row as usize) * width + inside.start as usize)
                    * self.channels;
                let input = &source.values[start..start + used];
                let (left, rest) = window.split_at_mut(before);
                let (pixels, right) = rest.split_at_mut(used);
                left.fill(0.0);
                right.fill(0.0);
                match source.maps {
                    Some(maps) => maps[image].apply(simd, input, pixels),
                    None => pixels.copy_from_slice(input),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_everything_once() {
        for (images, grid, positions) in [
            (5, [4, 4], 40),
            (3, [8, 8], 64),
            (2, [16, 12], 100),
            (1, [1, 1], 1),
            (1, [7, 3], 1000),
        ] {
            for rows_step in [1, 2] {
                let mut seen = vec![0; images * grid[0]];
                for block in Block::cut(images, grid, positions, rows_step) {
                    for image in block.images {
                        for cell in block.cells.clone() {
                            seen[image * grid[0] + cell] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|count| *count == 1));
            }
        }
    }
}
