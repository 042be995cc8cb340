//! The sizes of a convolution.

use super::axis::Axis;
use crate::precision::{Chosen, Factors};
use crate::product::{TILE, has_matrix_unit};

/// Rows and columns of zeros around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above the first.
    pub top: usize,
    /// Rows below the last.
    pub bottom: usize,
    /// Columns before the first.
    pub left: usize,
    /// Columns after the last.
    pub right: usize,
}

impl Padding {
    /// The same number on all four sides.
    pub const fn uniform(size: usize) -> Self {
        Self {
            top: size,
            bottom: size,
            left: size,
            right: size,
        }
    }
}

/// Where a convolution reads the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// At every `stride`-th row and column.
    Strided {
        /// 1 or more.
        stride: usize,
        /// Zeros around the image.
        padding: Padding,
    },
    /// After every pixel has been repeated 2x2; the kernel is 3x3 and the padding 1.
    Doubled,
}

/// All sizes of a convolution, and the format of the numbers that it multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) channels_in: usize,
    pub(crate) channels_out: usize,
    /// Rows and columns of the kernel.
    pub(crate) kernel: [usize; 2],
    pub(crate) sampling: Sampling,
    /// Height and width of the input.
    pub(crate) size_in: [usize; 2],
    /// Height and width of the output.
    pub(crate) size_out: [usize; 2],
    pub(crate) precision: Chosen,
}

/// A convolution, or its input gradient, as a map from its inputs to its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stencil {
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
    /// Height and width.
    pub(crate) size_read: [usize; 2],
    /// Height and width.
    pub(crate) size_written: [usize; 2],
    pub(crate) channels_read: usize,
    pub(crate) channels_written: usize,
    pub(crate) kernel: [usize; 2],
    /// Whether it is the gradient, for which a kernel's channels swap roles.
    pub(crate) back: bool,
    pub(crate) precision: Factors,
}

impl Geometry {
    /// For input `[batch, height, width, channels_in]` and weight `[channels_out, channels_in, kernel height, kernel
    /// width]`; `None` if they do not fit or the output would be empty.
    pub(crate) fn new(
        input: [usize; 4],
        weight: [usize; 4],
        sampling: Sampling,
        precision: Chosen,
    ) -> Option<Self> {
        let [_, height, width, channels_in] = input;
        let [channels_out, channels_read, kernel_height, kernel_width] = weight;
        let outputs = |size: usize, near: usize, far: usize, stride: usize, kernel: usize| {
            let slack = (size + near + far).checked_sub(kernel)?;
            Some(slack.checked_div(stride)? + 1)
        };
        let size_out = match sampling {
            Sampling::Strided { stride, padding } => [
                outputs(height, padding.top, padding.bottom, stride, kernel_height)?,
                outputs(width, padding.left, padding.right, stride, kernel_width)?,
            ],
            Sampling::Doubled if [kernel_height, kernel_width] == [3, 3] => [2 * height, 2 * width],
            Sampling::Doubled => return None,
        };
        let whole = input.iter().chain(&weight).all(|size| *size > 0);
        (whole && channels_read == channels_in).then_some(Self {
            channels_in,
            channels_out,
            kernel: [kernel_height, kernel_width],
            sampling,
            size_in: [height, width],
            size_out,
            precision,
        })
    }

    /// Positions of the input map.
    pub(crate) fn positions_in(&self) -> usize {
        self.size_in[0] * self.size_in[1]
    }

    /// Positions of the output map.
    pub(crate) fn positions_out(&self) -> usize {
        self.size_out[0] * self.size_out[1]
    }

    /// What a stencil with so many channels multiplies. Dot products of bf16 numbers do twice the work of f32, but they
    /// compute [`TILE`] outputs together: f32 is faster where many of these are padding, and where sums are short.
    fn precision_of(&self, channels_read: usize, channels_written: usize) -> Factors {
        const SHORT: usize = 16;
        let padded = channels_written.next_multiple_of(TILE);
        let is_slow = 3 * padded >= 4 * channels_written || channels_read < SHORT;
        match is_slow && self.prefers_faster() {
            true => Factors::F32,
            false => self.precision.factors,
        }
    }

    fn prefers_faster(&self) -> bool {
        !self.precision.exactly && !has_matrix_unit()
    }

    /// From input to output, for the gradient of the weights.
    pub(crate) fn for_weight_gradient(&self) -> Stencil {
        let stencil = self.forward();
        match stencil.has_few_weights() && self.prefers_faster() {
            true => Stencil {
                precision: Factors::F32,
                ..stencil
            },
            false => stencil,
        }
    }

    /// From input to output.
    pub(crate) fn forward(&self) -> Stencil {
        let [rows, columns] = match self.sampling {
            Sampling::Strided { stride, padding } => {
                let axis = |dimension: usize, before| {
                    let outputs = self.size_out[dimension];
                    Axis::convolution(self.kernel[dimension], stride, before, outputs)
                };
                [axis(0, padding.top), axis(1, padding.left)]
            }
            Sampling::Doubled => self.size_in.map(Axis::doubled),
        };
        Stencil {
            rows,
            columns,
            size_read: self.size_in,
            size_written: self.size_out,
            channels_read: self.channels_in,
            channels_written: self.channels_out,
            kernel: self.kernel,
            back: false,
            precision: self.precision_of(self.channels_in, self.channels_out),
        }
    }

    /// From the gradient of the output to the gradient of the input.
    pub(crate) fn back(&self) -> Stencil {
        let [rows, columns] = match self.sampling {
            Sampling::Strided { stride, padding } => {
                let axis = |dimension: usize, before| {
                    let inputs = self.size_in[dimension];
                    Axis::convolution_back(self.kernel[dimension], stride, before, inputs)
                };
                [axis(0, padding.top), axis(1, padding.left)]
            }
            Sampling::Doubled => self.size_in.map(Axis::doubled_back),
        };
        Stencil {
            rows,
            columns,
            size_read: self.size_out,
            size_written: self.size_in,
            channels_read: self.channels_out,
            channels_written: self.channels_in,
            kernel: self.kernel,
            back: true,
            precision: self.precision_of(self.channels_out, self.channels_in),
        }
    }
}

impl Stencil {
    /// Numbers in an image that is written.
    pub(crate) fn written_len(&self) -> usize {
        self.size_written[0] * self.size_written[1] * self.channels_written
    }

    /// Whether the gradient of the weights needs few multiplications for each position: then preparing its factors, by
    /// transforms or in pairs of bf16 numbers, takes longer than it saves.
    pub(crate) fn has_few_weights(&self) -> bool {
        self.channels_read * self.channels_written <= 32 * 32
    }

    /// Cells of the grid.
    pub(crate) fn grid(&self) -> [usize; 2] {
        [self.rows.grid(), self.columns.grid()]
    }
}
