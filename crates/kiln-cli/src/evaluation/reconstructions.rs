//! How a first stage's reconstructions look beside their originals.

use anyhow::ensure;
use burn::tensor::Device;
use kiln::pictures::{Images, Labels, Picture, labelled, stacked_grid};
use kiln_eval::{Figure, PerceptualKind, PerceptualNetwork};

/// Images in the picture, and in each of its rows.
const SHOWN: usize = 16;
const COLUMNS: usize = 8;
/// How much brighter differences are shown than they are.
const AMPLIFIED: f32 = 4.0;

/// The mean distance of reconstructions from their originals by a perceptual network, `batch` images at a time.
///
/// # Errors
/// If the device fails.
pub fn perceptual_distance(
    network: &PerceptualNetwork,
    originals: &Images,
    reconstructions: &Images,
    batch: usize,
    device: &Device,
) -> anyhow::Result<Figure> {
    let mut sum = 0.0;
    for (originals, reconstructions) in originals.batches(batch).zip(reconstructions.batches(batch))
    {
        let [originals, reconstructions] =
            [originals, reconstructions].map(|images| images.to_tensor(device).clamp(-1.0, 1.0));
        let distances = network.distances(originals, reconstructions);
        sum += distances
            .try_into_data_as::<f32>()?
            .iter::<f64>()
            .sum::<f64>();
    }
    ensure!(
        sum.is_finite(),
        "the perceptual network gives these images a distance of {sum}: its weights are damaged, so give it others"
    );
    let name = match network.kind() {
        PerceptualKind::LpipsVgg16 => "LPIPS (VGG16)",
        PerceptualKind::LpipsAlexnet => "LPIPS (AlexNet)",
        PerceptualKind::LpipsSqueezenet => "LPIPS (SqueezeNet)",
        _ => "classifier distance",
    };
    Ok(Figure::new(name, sum / originals.len() as f64))
}

/// Rows of originals, their reconstructions, and the amplified differences of their pixels.
pub fn comparison(originals: &Images, reconstructions: &Images) -> Picture {
    let (originals, reconstructions) = (originals.first(SHOWN), reconstructions.first(SHOWN));
    let mut differences =
        Images::empty(originals.channels(), originals.height(), originals.width());
    for (original, reconstruction) in originals.iter().zip(reconstructions.iter()) {
        let pairs = original.iter().zip(reconstruction);
        // Black where there is none: pixels are in [-1, 1].
        let amplified = pairs.map(|(x, y)| (AMPLIFIED * (x - y).abs()).min(2.0) - 1.0);
        differences.extend(&amplified.collect::<Vec<f32>>());
    }
    let columns = COLUMNS.min(originals.len());
    let grid = stacked_grid(&[&originals, &reconstructions, &differences], columns);
    let difference = format!("difference x {AMPLIFIED}");
    let names = ["original", "reconstruction", &difference].map(str::to_owned);
    let blocks = originals.len().div_ceil(columns.max(1));
    let labels = Labels {
        rows: (0..blocks).flat_map(|_| names.clone()).collect(),
        ..Labels::default()
    };
    labelled(&grid, &labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_amplified_and_black_where_there_are_none() {
        let images = |values: &[f32]| {
            let mut images = Images::empty(1, 1, 1);
            values.iter().for_each(|&value| images.extend(&[value]));
            images
        };
        let originals = images(&[-1.0, 0.0, 0.5]);
        let picture = comparison(&originals, &images(&[-1.0, 0.25, -0.5])).into_luma8();
        // The last row of the grid is in the lower right corner, 2 pixels of gap around each image.
        let (width, height) = picture.dimensions();
        let differences =
            [0, 1, 2].map(|column| picture.get_pixel(width - 9 + 3 * column, height - 3).0[0]);
        assert_eq!(differences, [0, 128, 255]);
    }
}
