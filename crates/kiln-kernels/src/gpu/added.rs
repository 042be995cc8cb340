//! What is added to the result of a convolution, in one launch.

use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::UNITS;
use super::arguments::{flat, like, number, vector_width};
use super::update::grid;

/// See [`crate::Convolution`].
pub(super) struct Added {
    /// `[channels]`
    pub(super) bias: Option<CubeTensor>,
    /// `[batch, channels]`
    pub(super) per_image: Option<CubeTensor>,
    /// `[batch, rows, columns, channels]`
    pub(super) shortcut: Option<CubeTensor>,
}

impl Added {
    /// The sum with `output`, channels-last and without gaps.
    pub(super) fn added_to(self, output: CubeTensor) -> CubeTensor {
        let [bias, per_image, shortcut] =
            [self.bias, self.per_image, self.shortcut].map(|part| part.map(into_contiguous));
        if bias.is_none() && per_image.is_none() && shortcut.is_none() {
            return output;
        }
        let shape = output.shape();
        let (channels, numbers) = (shape[3], shape.num_elements());
        let width = vector_width(channels);
        let sum = like(&output);
        // Something has to stand for what is not there.
        let or_any = |part: &Option<CubeTensor>| flat(part.as_ref().unwrap_or(&output));

        add::launch(
            &output.client,
            grid((number(numbers) / width as u32).div_ceil(UNITS)),
            CubeDim::new_1d(UNITS),
            width,
            flat(&output),
            or_any(&bias),
            or_any(&per_image),
            or_any(&shortcut),
            flat(&sum),
            number(numbers) / width as u32,
            (channels / width) as u32,
            (numbers / shape[0] / width) as u32,
            bias.is_some(),
            per_image.is_some(),
            shortcut.is_some(),
        );

        sum
    }
}

#[cube(launch)]
fn add<N: Size>(
    output: &Tensor<Vector<f32, N>>,
    bias: &Tensor<Vector<f32, N>>,
    per_image: &Tensor<Vector<f32, N>>,
    shortcut: &Tensor<Vector<f32, N>>,
    sum: &mut Tensor<Vector<f32, N>>,
    vectors: u32,
    channels: u32,
    of_image: u32,
    #[comptime] has_bias: bool,
    #[comptime] has_per_image: bool,
    #[comptime] has_shortcut: bool,
) {
    let number = CUBE_POS as u32 * UNITS + UNIT_POS;
    if number < vectors {
        let channel = number % channels;
        let mut total = output[number as usize];
        if has_bias {
            total += bias[channel as usize];
        }
        if has_per_image {
            total += per_image[(number / of_image * channels + channel) as usize];
        }
        if has_shortcut {
            total += shortcut[number as usize];
        }
        sum[number as usize] = total;
    }
}
