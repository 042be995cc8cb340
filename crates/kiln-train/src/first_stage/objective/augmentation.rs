//! Random changes of the images that a discriminator sees: DiffAugment (Zhao et al. 2020).

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_diffusion::noise::uniform;
use kiln_models::BatchPosition;

use crate::experiment::DifferentiableChange;

/// The largest shift, as a share of the side.
const SHIFT: f64 = 0.125;
/// The side of the square that is cut out, as a share of the image's.
const CUT: f64 = 0.5;
/// Random numbers for an image.
const NUMBERS: u64 = 7;

/// One draw of changes for each image of a batch. They depend on the seed, the step and the image's place in the whole
/// step alone.
#[derive(Debug, Clone)]
pub(super) struct Augmentation {
    colour: Option<Colour>,
    /// For each pixel the one that moves there, `[batch, 1, height * width]`.
    sources: Option<Tensor<3, Int>>,
    /// One, or zero where a pixel comes from beyond the edge or is cut out, `[batch, 1, height, width]`.
    mask: Option<Tensor<4>>,
}

/// `[batch, 1, 1, 1]` each.
#[derive(Debug, Clone)]
struct Colour {
    /// From -0.5 to 0.5, added.
    brightness: Tensor<4>,
    /// From 0 to 2: a factor of the distances from each pixel's mean over the channels.
    saturation: Tensor<4>,
    /// From 0.5 to 1.5: a factor of the distances from the image's mean.
    contrast: Tensor<4>,
}

impl Augmentation {
    /// For images of this shape, `[batch, channels, height, width]`.
    pub(super) fn draw(
        changes: &[DifferentiableChange],
        shape: [usize; 4],
        position: BatchPosition,
        device: &Device,
    ) -> Self {
        let [batch, _, height, width] = shape;
        let device = device.clone().without_autodiff();
        let number = |image: usize, which: u64| {
            let address = (position.first_image + image) as u64 * NUMBERS + which;
            uniform(position.seed, address, position.step)
        };
        let has = |change| changes.contains(&change);
        let per_image = |which: u64, low: f64, high: f64| {
            let numbers = (0..batch).map(|image| low + (high - low) * number(image, which));
            let numbers: Vec<f32> = numbers.map(|number| number as f32).collect();
            Tensor::<4>::from_data(TensorData::new(numbers, [batch, 1, 1, 1]), &device)
        };
        let colour = has(DifferentiableChange::Colour).then(|| Colour {
            brightness: per_image(0, -0.5, 0.5),
            saturation: per_image(1, 0.0, 2.0),
            contrast: per_image(2, 0.5, 1.5),
        });
        let (moves, cuts) = (
            has(DifferentiableChange::Translation),
            has(DifferentiableChange::Cutout),
        );
        let mut sources = Vec::new();
        let mut mask = Vec::new();
        for image in 0..batch {
            let whole = |which: u64, low: i64, high: i64| {
                low + (number(image, which) * (high - low + 1) as f64) as i64
            };
            let [down, right] = [(3, height), (4, width)].map(|(which, side)| {
                let most = (side as f64 * SHIFT).round() as i64;
                if moves { whole(which, -most, most) } else { 0 }
            });
            let [rows, columns] = [(5, height), (6, width)].map(|(which, side)| {
                let cut = (side as f64 * CUT).round() as i64;
                let first = whole(which, 0, side as i64) - cut / 2;
                first..if cuts { first + cut } else { first }
            });
            for row in 0..height as i64 {
                for column in 0..width as i64 {
                    let (from_row, from_column) = (row - down, column - right);
                    let is_inside = (0..height as i64).contains(&from_row)
                        && (0..width as i64).contains(&from_column);
                    let is_cut = rows.contains(&row) && columns.contains(&column);
                    let source = from_row * width as i64 + from_column;
                    sources.push(if is_inside { source } else { 0 });
                    mask.push(if is_inside && !is_cut { 1.0f32 } else { 0.0 });
                }
            }
        }
        let sources = TensorData::new(sources, [batch, 1, height * width]);
        let mask = TensorData::new(mask, [batch, 1, height, width]);
        Self {
            colour,
            sources: moves.then(|| Tensor::from_data(sources, &device)),
            mask: (moves || cuts).then(|| Tensor::from_data(mask, &device)),
        }
    }

    /// The changed images, in the same shape, with gradients for them.
    pub(super) fn apply(&self, images: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = images.dims();
        let mut changed = images;
        if let Some(colour) = &self.colour {
            changed = changed + colour.brightness.clone();
            let grey = changed.clone().mean_dim(1);
            changed = (changed - grey.clone()) * colour.saturation.clone() + grey;
            let mean = changed.clone().reshape([batch as i32, -1]).mean_dim(1);
            let mean = mean.reshape([batch, 1, 1, 1]);
            changed = (changed - mean.clone()) * colour.contrast.clone() + mean;
        }
        if let Some(sources) = &self.sources {
            let pixels = changed.reshape([batch, channels, height * width]);
            let sources = sources.clone().expand([batch, channels, height * width]);
            changed = pixels
                .gather(2, sources)
                .reshape([batch, channels, height, width]);
        }
        match &self.mask {
            Some(mask) => changed * mask.clone(),
            None => changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(first_image: usize) -> BatchPosition {
        BatchPosition {
            seed: 3,
            step: 8,
            first_image,
            total_images: 8,
        }
    }

    fn ramp(batch: usize) -> Tensor<4> {
        let count = (batch * 3 * 16 * 16) as i64;
        let numbers = Tensor::<1, Int>::arange(0..count, &Device::flex()).float();
        (numbers / count as f64 - 0.5).reshape([batch, 3, 16, 16])
    }

    #[test]
    fn an_image_is_changed_alike_on_every_device() {
        use DifferentiableChange::{Colour, Cutout, Translation};
        let changes = [Colour, Translation, Cutout];
        let (images, device) = (ramp(4), Device::flex());
        let draw = |first, count| {
            Augmentation::draw(&changes, [count, 3, 16, 16], position(first), &device)
        };
        let whole = draw(0, 4).apply(images.clone());
        let second = draw(2, 2).apply(images.narrow(0, 2, 2));
        assert_eq!(
            whole.clone().narrow(0, 2, 2).into_data(),
            second.into_data()
        );
        assert_ne!(
            whole.clone().narrow(0, 0, 1).into_data(),
            whole.narrow(0, 1, 1).into_data()
        );
    }

    #[test]
    fn nothing_changes_without_changes() {
        let images = ramp(2);
        let none = Augmentation::draw(&[], [2, 3, 16, 16], position(0), &Device::flex());
        assert_eq!(none.apply(images.clone()).into_data(), images.into_data());
    }

    #[test]
    fn shifted_pixels_come_from_within_the_image() {
        let device = Device::flex();
        let images = Tensor::<4>::ones([16, 3, 16, 16], &device);
        let shifts = [DifferentiableChange::Translation];
        let shifted = Augmentation::draw(&shifts, [16, 3, 16, 16], position(0), &device);
        let kept = shifted.apply(images.clone()).mean().into_scalar::<f32>();
        // At most two pixels of sixteen are lost along each axis.
        assert!((0.766..1.0).contains(&kept), "{kept}");
        let cut = Augmentation::draw(
            &[DifferentiableChange::Cutout],
            [16, 3, 16, 16],
            position(0),
            &device,
        );
        let kept = cut.apply(images).mean().into_scalar::<f32>();
        assert!((0.75..0.95).contains(&kept), "{kept}");
    }

    #[test]
    fn gradients_reach_the_images() {
        use DifferentiableChange::{Colour, Cutout, Translation};
        let images = ramp(2).autodiff().require_grad();
        let changes = [Colour, Translation, Cutout];
        let drawn = Augmentation::draw(&changes, images.dims(), position(0), &images.device());
        let changed = drawn.apply(images.clone()).square().sum();
        let gradient = images.grad(&changed.backward()).unwrap();
        assert!(gradient.abs().max().into_scalar::<f32>() > 0.0);
    }
}
