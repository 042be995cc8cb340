//! Two-dimensional convolution as matrix products.
//!
//! Images stay `[batch, channels, height, width]`. Each becomes a matrix of columns in memory that the thread keeps
//! ([`im2col`]), and a product with the weights, `[channels_out, channels_in * taps]`, gives the output in place.
//! Large maps take several products, so that the columns stay in the cache; several small maps share one.

use std::ops::Range;

mod backward;
mod forward;
mod im2col;

pub(crate) use backward::{bias_gradient, input_gradient, weight_gradient};
pub(crate) use forward::convolve;

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
    pub fn uniform(size: usize) -> Self {
        Self {
            top: size,
            bottom: size,
            left: size,
            right: size,
        }
    }
}

/// A product covers about this many positions: lines of a large image, or several small images.
const POSITIONS_PER_PRODUCT: usize = 256;

/// Positions are filled up to a multiple of this with zeros, so that every image meets the same vector code.
const POSITIONS_STEP: usize = 16;

/// All sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) channels_in: usize,
    pub(crate) channels_out: usize,
    /// Rows and columns of the kernel.
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) padding: Padding,
    /// Height and width of the input.
    pub(crate) size_in: [usize; 2],
    /// Height and width of the output.
    pub(crate) size_out: [usize; 2],
}

impl Geometry {
    /// `None` where an output would be empty.
    pub(crate) fn new(
        input: [usize; 4],
        weight: [usize; 4],
        stride: usize,
        padding: Padding,
    ) -> Option<Self> {
        let [_, channels_in, height, width] = input;
        let [channels_out, _, kernel_height, kernel_width] = weight;
        let outputs = |size: usize, near: usize, far: usize, kernel: usize| {
            let slack = (size + near + far).checked_sub(kernel)?;
            Some(slack.checked_div(stride)? + 1)
        };
        Some(Self {
            channels_in,
            channels_out,
            kernel: [kernel_height, kernel_width],
            stride,
            padding,
            size_in: [height, width],
            size_out: [
                outputs(height, padding.top, padding.bottom, kernel_height)?,
                outputs(width, padding.left, padding.right, kernel_width)?,
            ],
        })
    }

    /// Positions of the output map.
    pub(crate) fn positions(&self) -> usize {
        self.size_out[0] * self.size_out[1]
    }

    /// Positions of the kernel.
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Numbers in one channel of the input.
    fn channel_len(&self) -> usize {
        self.size_in[0] * self.size_in[1]
    }

    /// Numbers that the kernel sees at one position: the rows of the matrix of columns.
    pub(crate) fn patch(&self) -> usize {
        self.channels_in * self.taps()
    }

    /// Numbers in one image of the input.
    pub(crate) fn input_len(&self) -> usize {
        self.channels_in * self.channel_len()
    }

    /// Numbers in one image of the output.
    pub(crate) fn output_len(&self) -> usize {
        self.channels_out * self.positions()
    }

    /// Images that share a product.
    fn images_per_product(&self) -> usize {
        (POSITIONS_PER_PRODUCT / self.positions()).max(1)
    }

    /// Lines of the output whose columns, for one large image, fit the nearer caches together.
    fn blocks_of_lines(&self) -> impl Iterator<Item = Range<usize>> {
        let [height, width] = self.size_out;
        let lines = (POSITIONS_PER_PRODUCT / width).max(1);
        (0..height)
            .step_by(lines)
            .map(move |start| start..(start + lines).min(height))
    }

    /// Whether an output row has the length of an input row and each position its own input.
    fn keeps_width(&self) -> bool {
        self.stride == 1 && self.size_in[1] == self.size_out[1]
    }

    /// Whether the input is its own matrix of columns.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == Padding::default()
    }
}

/// The length of the rows of a matrix of columns for `images` images.
fn padded_width(geometry: &Geometry, images: usize) -> usize {
    (images * geometry.positions()).next_multiple_of(POSITIONS_STEP)
}
