//! The padded inputs of a block of outputs.

use std::ops::Range;

use pulp::Simd;

use super::geometry::Stencil;
use crate::beside::put_beside;
use crate::lines::LINE;
use crate::normalisation::ChannelMap;
use crate::precision::Factors;
use crate::product::round_all;
use crate::scratch::Scratch;
use crate::values::Values;

/// Images that a stencil reads, `[batch, height, width, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) pixels: Pixels<'a>,
    /// A map to apply to the numbers, one per image.
    pub(crate) maps: Option<&'a [ChannelMap]>,
}

/// The numbers of images.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pixels<'a> {
    Whole(Values<'a>),
    /// From two places: the first ones of each pixel's channels, and the other ones.
    Beside([&'a [f32]; 2], [usize; 2]),
}

impl<'a> Pixels<'a> {
    /// The numbers in `range`, of whole pixels. `memory` is for as many, if they are not there as `f32`.
    #[inline(always)]
    fn read<'b>(self, range: Range<usize>, memory: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::Whole(values) => values.read(range, memory),
            Self::Beside([first, second], [near, far]) => {
                let pixels = range.start / (near + far)..range.end / (near + far);
                let memory = &mut memory[..range.len()];
                let first = &first[pixels.start * near..pixels.end * near];
                let second = &second[pixels.start * far..pixels.end * far];
                put_beside([first, second], [near, far], memory);
                memory
            }
        }
    }
}

/// A part of the outputs: whole images, or a band of cells of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) images: Range<usize>,
    /// Rows of the grid.
    pub(crate) cells: Range<usize>,
}

/// The inputs of a block: the same rectangle of each of its images, with zeros outside the images.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    images: Range<usize>,
    rows: Range<isize>,
    columns: Range<isize>,
    channels: usize,
    size: [usize; 2],
    precision: Factors,
}

/// A block with its inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) block: &'a Block,
    pub(crate) window: &'a Window,
    /// The numbers of the window; two bf16 numbers take the place of one.
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

    /// The position of the block's first output among the outputs of all images.
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
    /// With numbers in this precision.
    pub(crate) fn new(stencil: &Stencil, block: &Block, precision: Factors) -> Self {
        Self {
            images: block.images.clone(),
            rows: stencil.rows.reads(block.cells.clone()),
            columns: stencil.columns.reads(0..stencil.columns.grid()),
            channels: stencil.channels_read,
            size: stencil.size_read,
            precision,
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
    fn len(&self) -> usize {
        self.images.len() * self.image_len()
    }

    /// Floats of memory for its numbers: whole cache lines.
    pub(crate) fn memory_len(&self) -> usize {
        let floats = match self.precision {
            Factors::F32 => self.len(),
            Factors::Bf16 => self.len().div_ceil(2),
        };
        floats.next_multiple_of(LINE)
    }

    /// The position of a pixel of an image of the block; row and column count in the whole image.
    pub(crate) fn start(&self, image: usize, row: isize, column: isize) -> usize {
        (image - self.images.start) * self.image_len()
            + (row - self.rows.start) as usize * self.row_len()
            + (column - self.columns.start) as usize * self.channels
    }

    /// The part of the images that already equals the window, if there is one.
    pub(crate) fn borrow<'a>(&self, source: &Source<'a>) -> Option<&'a [f32]> {
        let [height, width] = self.size;
        let whole_rows = self.columns == (0..width as isize);
        let inside = self.rows.start >= 0 && self.rows.end <= height as isize;
        let joined = self.images.len() == 1 || self.rows.len() == height;
        let as_they_are = source.maps.is_none() && self.precision == Factors::F32;
        match source.pixels {
            Pixels::Whole(Values::Exact(values))
                if whole_rows && inside && joined && as_they_are =>
            {
                let start = (self.images.start * height) * self.row_len()
                    + self.rows.start as usize * self.row_len();
                Some(&values[start..start + self.len()])
            }
            _ => None,
        }
    }

    /// Writes the window.
    #[inline(always)]
    pub(crate) fn fill<S: Simd>(&self, simd: S, source: &Source, memory: &mut [f32]) {
        // Rows of the image: as they were read, and after the map.
        let mut rows = Scratch::new(2 * self.size[1] * self.channels);
        match self.precision {
            Factors::F32 => self.fill_with(simd, source, memory, &mut rows),
            Factors::Bf16 => {
                let window: &mut [u16] = &mut bytemuck::cast_slice_mut(memory)[..self.len()];
                self.fill_with(simd, source, window, &mut rows);
            }
        }
    }

    /// `row_memory` is working memory for two rows of the image.
    #[inline(always)]
    fn fill_with<S: Simd, T: WindowNumber>(
        &self,
        simd: S,
        source: &Source,
        window: &mut [T],
        row_memory: &mut [f32],
    ) {
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
        let (read, mapped) = row_memory.split_at_mut(used);
        let images = window.chunks_exact_mut(self.image_len());
        for (image, window) in self.images.clone().zip(images) {
            let rows = self
                .rows
                .clone()
                .zip(window.chunks_exact_mut(self.row_len()));
            for (row, window) in rows {
                if !(0..height as isize).contains(&row) || used == 0 {
                    window.fill(T::default());
                    continue;
                }
                let start = ((image * height + row as usize) * width + inside.start as usize)
                    * self.channels;
                let input = source.pixels.read(start..start + used, read);
                let (left, rest) = window.split_at_mut(before);
                let (pixels, right) = rest.split_at_mut(used);
                left.fill(T::default());
                right.fill(T::default());
                let map = source.maps.map(|maps| &maps[image]);
                T::convert(simd, map, input, mapped, pixels);
            }
        }
    }
}

/// The number types of a window. This is a trait and not a closure, because vector instructions need inlined calls.
trait WindowNumber: Copy + Default {
    /// Writes pixels after applying the map, if there is one.
    fn convert<S: Simd>(
        simd: S,
        map: Option<&ChannelMap>,
        input: &[f32],
        memory: &mut [f32],
        pixels: &mut [Self],
    );
}

impl WindowNumber for f32 {
    #[inline(always)]
    fn convert<S: Simd>(
        simd: S,
        map: Option<&ChannelMap>,
        input: &[f32],
        _memory: &mut [f32],
        pixels: &mut [f32],
    ) {
        match map {
            Some(map) => map.apply(simd, input, pixels),
            None => pixels.copy_from_slice(input),
        }
    }
}

/// A bf16 number.
impl WindowNumber for u16 {
    #[inline(always)]
    fn convert<S: Simd>(
        simd: S,
        map: Option<&ChannelMap>,
        input: &[f32],
        memory: &mut [f32],
        pixels: &mut [u16],
    ) {
        match map {
            Some(map) => {
                let mapped = &mut memory[..input.len()];
                map.apply(simd, input, mapped);
                round_all(mapped, pixels);
            }
            None => round_all(input, pixels),
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
