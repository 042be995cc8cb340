//! The gradients of convolutions as products of matrices.
//!
//! A row of *columns* has the numbers that one output position sees, `[kernel rows, kernel columns, channels]`:
//!
//! ```text
//! columns[p, (i, j, c)]  = input[stride p + (i, j) - before, c]
//! d weight[o, (i, j, c)] = sum over p of d output[p, o] columns[p, (i, j, c)]
//! d columns[p, (i, j, c)] = sum over o of d output[p, o] weight[o, (i, j, c)]
//! d input[q, c]          = sum over all p, i, j with stride p + (i, j) - before = q of d columns[p, (i, j, c)]
//! ```

use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::{permute, reshape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::UNITS;
use super::arguments::{flat, memory, number, of_first_dimension, vector_width};
use super::copy::copy;
use super::product::multiplied;
use super::sums::sum_of_rows;
use super::update::grid;
use crate::precision::Factors;

/// Numbers of columns in memory at a time, unless one image has more: 256 MiB.
const MOST_NUMBERS: usize = 1 << 26;

/// How outputs see inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// Rows and columns of the kernel, the input and the output.
    pub(super) kernel: [usize; 2],
    pub(super) size_in: [usize; 2],
    pub(super) size_out: [usize; 2],
    pub(super) channels_in: usize,
    pub(super) stride: usize,
    /// Zeros before the first row and column.
    pub(super) before: [usize; 2],
}

impl Windows {
    /// Output positions of an image.
    fn positions(&self) -> usize {
        self.size_out[0] * self.size_out[1]
    }

    /// Numbers of a row of columns.
    fn row(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels_in
    }

    /// Images at a time: the first of each part, and their number.
    fn parts(&self, images: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let most = (MOST_NUMBERS / (self.positions() * self.row()).max(1)).clamp(1, images.max(1));
        (0..images)
            .step_by(most)
            .map(move |first| (first, most.min(images - first)))
    }

    /// Of `input`, `[images, rows, columns, channels]`.
    fn columns(&self, input: &CubeTensor) -> CubeTensor {
        let positions = input.shape()[0] * self.positions();
        let columns = memory(input, [positions, self.row()]);
        let width = vector_width(self.channels_in);
        let vectors = number(positions * self.row()) / width as u32;
        let sizes = Sizes::of(self, width);

        gather::launch(
            &input.client,
            grid(vectors.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS),
            width,
            flat(input),
            flat(&columns),
            vectors,
            sizes,
        );

        columns
    }
}

/// `[channels_out, channels_in, rows, columns]`, with the channels side by side in memory. `input` and `gradient`, the one of
/// the output, are channels-last and without gaps.
pub(super) fn weight_gradient(
    input: &CubeTensor,
    gradient: &CubeTensor,
    windows: &Windows,
    precision: Factors,
) -> CubeTensor {
    let shape = gradient.shape();
    let (batch, channels_out) = (shape[0], shape[3]);
    let weights = channels_out * windows.row();
    let parts: Vec<_> = windows.parts(batch).collect();
    let all = (parts.len() > 1).then(|| memory(input, [parts.len(), weights]));
    let mut made = None;
    for (place, &part) in parts.iter().enumerate() {
        let columns = windows.columns(&of_first_dimension(input, part));
        let gradient = of_first_dimension(gradient, part);
        let gradient = reshape(
            gradient,
            [part.1 * windows.positions(), channels_out].into(),
        );
        let product = multiplied(gradient, columns, [true, false], precision);
        if let Some(all) = &all {
            copy(&product, all, place * weights);
        }
        made = Some(product);
    }
    let made = match all {
        Some(all) => sum_of_rows(&all),
        None => made.unwrap_or_else(|| unreachable!("a batch has images")),
    };
    let [rows, columns] = windows.kernel;
    let made = reshape(
        made,
        [channels_out, rows, columns, windows.channels_in].into(),
    );
    permute(made, &[0, 3, 1, 2])
}

/// `[batch, rows, columns, channels_in]`, from the gradient of the output, channels-last and without gaps.
pub(super) fn input_gradient(
    gradient: &CubeTensor,
    weight: CubeTensor,
    windows: &Windows,
    precision: Factors,
) -> CubeTensor {
    let shape = gradient.shape();
    let (batch, channels_out) = (shape[0], shape[3]);
    let weight = into_contiguous(permute(weight, &[0, 2, 3, 1]));
    let weight = reshape(weight, [channels_out, windows.row()].into());
    let [rows, columns] = windows.size_in;
    let made = memory(gradient, [batch, rows, columns, windows.channels_in]);
    let width = vector_width(windows.channels_in);
    let of_image = rows * columns * windows.channels_in / width;
    for part in windows.parts(batch) {
        let gradient = of_first_dimension(gradient, part);
        let gradient = reshape(
            gradient,
            [part.1 * windows.positions(), channels_out].into(),
        );
        let columns = multiplied(gradient, weight.clone(), [false, false], precision);
        let sizes = Sizes::of(windows, width);

        scatter::launch(
            &made.client,
            grid(number(part.1 * of_image).div_ceil(UNITS)),
            CubeDim::new_1d(UNITS),
            width,
            flat(&columns),
            flat(&made),
            number(part.1 * of_image),
            number(part.0 * of_image),
            sizes,
        );
    }
    made
}

/// [`Windows`] for a kernel; channels are counted in vectors.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Sizes {
    kernel_rows: u32,
    kernel_columns: u32,
    rows_in: u32,
    columns_in: u32,
    rows_out: u32,
    columns_out: u32,
    channels: u32,
    stride: u32,
    top: u32,
    left: u32,
}

impl Sizes {
    fn of(windows: &Windows, width: usize) -> SizesLaunch {
        SizesLaunch::new(
            windows.kernel[0] as u32,
            windows.kernel[1] as u32,
            windows.size_in[0] as u32,
            windows.size_in[1] as u32,
            windows.size_out[0] as u32,
            windows.size_out[1] as u32,
            (windows.channels_in / width) as u32,
            windows.stride as u32,
            windows.before[0] as u32,
            windows.before[1] as u32,
        )
    }
}

#[cube(launch)]
fn gather<N: Size>(
    input: &Tensor<Vector<f32, N>>,
    columns: &mut Tensor<Vector<f32, N>>,
    vectors: u32,
    sizes: Sizes,
) {
    let number = CUBE_POS as u32 * UNITS + UNIT_POS;
    if number < vectors {
        let channel = number % sizes.channels;
        let rest = number / sizes.channels;
        let j = rest % sizes.kernel_columns;
        let rest = rest / sizes.kernel_columns;
        let i = rest % sizes.kernel_rows;
        let rest = rest / sizes.kernel_rows;
        // Counted from the zeros before the image.
        let x = rest % sizes.columns_out * sizes.stride + j;
        let rest = rest / sizes.columns_out;
        let y = rest % sizes.rows_out * sizes.stride + i;
        let image = rest / sizes.rows_out;
        let mut seen = Vector::<f32, N>::new(0.0f32);
        if y >= sizes.top
            && y < sizes.top + sizes.rows_in
            && x >= sizes.left
            && x < sizes.left + sizes.columns_in
        {
            let row = image * sizes.rows_in + y - sizes.top;
            let pixel = row * sizes.columns_in + x - sizes.left;
            seen = input[(pixel * sizes.channels + channel) as usize];
        }
        columns[number as usize] = seen;
    }
}

#[cube(launch)]
fn scatter<N: Size>(
    columns: &Tensor<Vector<f32, N>>,
    input: &mut Tensor<Vector<f32, N>>,
    vectors: u32,
    first: u32,
    sizes: Sizes,
) {
    let number = CUBE_POS as u32 * UNITS + UNIT_POS;
    if number < vectors {
        let channel = number % sizes.channels;
        let rest = number / sizes.channels;
        let x = rest % sizes.columns_in + sizes.left;
        let rest = rest / sizes.columns_in;
        let y = rest % sizes.rows_in + sizes.top;
        let image = rest / sizes.rows_in;
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut i = 0u32;
        while i < sizes.kernel_rows {
            let mut j = 0u32;
            while j < sizes.kernel_columns {
                // Below zero, these are large numbers.
                let (down, right) = (y - i, x - j);
                let (row, column) = (down / sizes.stride, right / sizes.stride);
                if y >= i
                    && x >= j
                    && down % sizes.stride == 0u32
                    && right % sizes.stride == 0u32
                    && row < sizes.rows_out
                    && column < sizes.columns_out
                {
                    let position = (image * sizes.rows_out + row) * sizes.columns_out + column;
                    let seen = (position * sizes.kernel_rows + i) * sizes.kernel_columns + j;
                    sum += columns[(seen * sizes.channels + channel) as usize];
                }
                j += 1;
            }
            i += 1;
        }
        input[(first + number) as usize] = sum;
    }
}
