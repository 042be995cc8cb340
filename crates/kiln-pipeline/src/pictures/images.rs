//! A batch of images on the host.

use burn::tensor::{Device, Tensor, TensorData, TensorReadError};
use kiln_data::{DataError, ImageDataset};

/// Images `[count, channels, height, width]` on the host, row-major, usually in [-1, 1].
///
/// A 4-dimensional tensor without a device. [`Pipeline`](crate::Pipeline) returns it, and pictures are made from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    channels: usize,
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Images {
    /// No images yet, of the given shape each.
    pub fn empty(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
            values: Vec::new(),
        }
    }

    /// The images of a tensor `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// If the device fails to compute them.
    pub fn from_tensor(images: Tensor<4>) -> Result<Self, TensorReadError> {
        let [_, channels, height, width] = images.dims();
        let mut on_host = Self::empty(channels, height, width);
        on_host.extend_from_tensor(images)?;
        Ok(on_host)
    }

    /// `count` images of a set, or all of them. They are spread evenly over it, because many data sets are sorted by
    /// class.
    ///
    /// # Errors
    /// If an image's file is gone.
    pub fn of_dataset(dataset: &ImageDataset, count: usize) -> Result<Self, DataError> {
        let shape = dataset.shape();
        let mut images = Self::empty(shape.channels, shape.height, shape.width);
        let count = count.min(dataset.len());
        for place in 0..count {
            images.extend(&dataset.image(place * dataset.len() / count, false)?);
        }
        Ok(images)
    }

    /// The images as a tensor `[count, channels, height, width]` on a device.
    pub fn to_tensor(&self, device: &Device) -> Tensor<4> {
        let shape = [self.len(), self.channels, self.height, self.width];
        Tensor::from_data(TensorData::new(self.values.clone(), shape), device)
    }

    /// Appends images. The first ones determine the shape.
    pub fn append(&mut self, images: Images) {
        if self.is_empty() {
            *self = images;
        } else {
            self.extend(&images.values);
        }
    }

    /// Appends images of the same shape; `values` is `[count, channels, height, width]`, row-major. An incomplete image
    /// at the end is dropped.
    pub fn extend(&mut self, values: &[f32]) {
        let whole = values.len() - values.len() % self.image_len().max(1);
        self.values.extend_from_slice(&values[..whole]);
    }

    /// Appends the images of a tensor `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// If the device fails to compute them.
    pub fn extend_from_tensor(&mut self, images: Tensor<4>) -> Result<(), TensorReadError> {
        let data = images.try_into_data_as::<f32>()?;
        self.extend(&data.iter::<f32>().collect::<Vec<_>>());
        Ok(())
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.values.len() / self.image_len().max(1)
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// 1 (gray) or 3 (red, green, blue).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Pixels from top to bottom of one image.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels from left to right of one image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether no value is NaN or infinite.
    pub fn are_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }

    /// The same images with light and dark exchanged.
    pub fn negated(mut self) -> Images {
        for value in &mut self.values {
            *value = -*value;
        }
        self
    }

    /// The count of numbers in one image.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// All values, `[count, channels, height, width]`, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The images one by one, each `[channels, height, width]`.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.image_len().max(1))
    }

    /// The images, up to `count` at a time.
    pub fn batches(&self, count: usize) -> impl Iterator<Item = Images> {
        self.values
            .chunks((count * self.image_len()).max(1))
            .map(|values| Images {
                channels: self.channels,
                height: self.height,
                width: self.width,
                values: values.to_vec(),
            })
    }

    /// The first `count` images, or all of them if there are fewer.
    pub fn first(&self, count: usize) -> Images {
        let end = count.min(self.len()) * self.image_len();
        Images {
            channels: self.channels,
            height: self.height,
            width: self.width,
            values: self.values[..end].to_vec(),
        }
    }

    /// The images with these numbers, in this order. Numbers without an image are skipped.
    pub fn select(&self, numbers: impl IntoIterator<Item = usize>) -> Images {
        let mut selected = Images::empty(self.channels, self.height, self.width);
        for image in numbers
            .into_iter()
            .filter_map(|number| self.iter().nth(number))
        {
            selected.extend(image);
        }
        selected
    }

    /// Removes `border` pixels on each of the four sides: a border of 2 turns MNIST's 32x32 back into 28x28. A border
    /// that would leave nothing is ignored.
    pub fn cropped(self, border: usize) -> Images {
        if border == 0 || 2 * border >= self.height.min(self.width) {
            return self;
        }
        let (height, width) = (self.height - 2 * border, self.width - 2 * border);
        let inner_rows = |channel: &[f32]| -> Vec<f32> {
            let rows = channel.chunks_exact(self.width).skip(border).take(height);
            rows.flat_map(|row| &row[border..border + width])
                .copied()
                .collect()
        };
        let values = self
            .values
            .chunks_exact(self.height * self.width)
            .flat_map(inner_rows)
            .collect();
        Images {
            channels: self.channels,
            height,
            width,
            values,
        }
    }

    /// Adds `border` black pixels on each of the four sides: the inverse of [`cropped`](Self::cropped).
    pub fn padded(self, border: usize) -> Images {
        if border == 0 {
            return self;
        }
        let (height, width) = (self.height + 2 * border, self.width + 2 * border);
        let mut values = vec![-1.0; self.len() * self.channels * height * width];
        let rows = self.values.chunks_exact(self.width.max(1));
        for (index, row) in rows.enumerate() {
            let (plane, line) = (index / self.height, index % self.height);
            let start = (plane * height + line + border) * width + border;
            values[start..start + self.width].copy_from_slice(row);
        }
        Images {
            channels: self.channels,
            height,
            width,
            values,
        }
    }

    /// The value at a position of one image as a byte: -1 is 0, 1 is 255; `None` outside.
    pub(super) fn byte(
        &self,
        image: usize,
        channel: usize,
        row: usize,
        column: usize,
    ) -> Option<u8> {
        if image >= self.len() || row >= self.height || column >= self.width {
            return None;
        }
        let index = ((image * self.channels + channel) * self.height + row) * self.width + column;
        self.values.get(index).map(|&value| to_byte(value))
    }
}

/// [-1, 1] to 0..=255, rounded, clamped; not-a-number is black.
fn to_byte(value: f32) -> u8 {
    ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8
}

#[cfg(test)]
mod tests {
    use kiln_data::ImageShape;

    use super::*;

    #[test]
    fn images_come_from_all_over_the_set() {
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        let dataset = ImageDataset::from_pixels("ten", shape, (0..10).collect(), None).unwrap();
        let bytes = |count| {
            let images = Images::of_dataset(&dataset, count).unwrap();
            images
                .values()
                .iter()
                .map(|&value| to_byte(value))
                .collect::<Vec<u8>>()
        };
        assert_eq!(bytes(3), [0, 3, 6]);
        assert_eq!(bytes(100), (0..10).collect::<Vec<u8>>());
        assert!(bytes(0).is_empty());
    }

    #[test]
    fn bytes_cover_the_range_and_clamp() {
        let bytes = [-9.0, -1.0, 0.0, 1.0, 9.0, f32::NAN].map(to_byte);
        assert_eq!(bytes, [0, 0, 128, 255, 255, 0]);
    }

    #[test]
    fn every_byte_survives_the_way_to_floats_and_back() {
        for byte in 0..=255u8 {
            assert_eq!(to_byte(f32::from(byte) / 127.5 - 1.0), byte);
        }
    }

    #[test]
    fn cropping_keeps_the_middle_of_every_channel() {
        let mut images = Images::empty(2, 4, 4);
        images.extend(&(0..64).map(|value| value as f32).collect::<Vec<_>>());
        let cropped = images.cropped(1);
        assert_eq!(
            (cropped.len(), cropped.height(), cropped.width()),
            (2, 2, 2)
        );
        assert_eq!(
            cropped.values()[..8],
            [5.0, 6.0, 9.0, 10.0, 21.0, 22.0, 25.0, 26.0]
        );
        assert_eq!(cropped.values()[12..], [53.0, 54.0, 57.0, 58.0]);
    }

    #[test]
    fn padding_is_black_and_undone_by_cropping() {
        let mut images = Images::empty(2, 2, 3);
        images.extend(&(0..24).map(|value| value as f32 / 24.0).collect::<Vec<_>>());
        let padded = images.clone().padded(1);
        assert_eq!((padded.len(), padded.height(), padded.width()), (2, 4, 5));
        assert_eq!(
            padded
                .values()
                .iter()
                .filter(|&&value| value == -1.0)
                .count(),
            4 * 14
        );
        assert_eq!(padded.cropped(1), images);
        assert_eq!(images.clone().padded(0), images);
    }

    #[test]
    fn a_border_that_leaves_nothing_is_ignored() {
        let mut images = Images::empty(1, 4, 4);
        images.extend(&[0.5; 16]);
        assert_eq!(images.clone().cropped(2), images);
    }

    #[test]
    fn a_negative_has_light_for_dark() {
        let mut images = Images::empty(1, 1, 2);
        images.extend(&[-1.0, 0.25, f32::NAN, 0.0]);
        assert!(!images.are_finite() && images.first(1).are_finite());
        assert_eq!(images.first(1).negated().values(), [1.0, -0.25]);
    }

    #[test]
    fn half_an_image_is_not_kept() {
        let mut images = Images::empty(1, 2, 2);
        images.extend(&[0.0; 7]);
        assert_eq!(images.len(), 1);
        assert_eq!(images.first(5).len(), 1);
        assert!(images.first(0).is_empty());
    }

    #[test]
    fn images_are_selected_by_number() {
        let mut images = Images::empty(1, 1, 2);
        images.extend(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
        let selected = images.select([2, 0, 7, 2]);
        assert_eq!(selected.values(), [2.0, 2.5, 0.0, 0.5, 2.0, 2.5]);
    }
}
