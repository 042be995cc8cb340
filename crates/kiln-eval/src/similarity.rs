//! The quality of a reconstructed image: MSE, PSNR and SSIM, each for one pair of images.

use crate::EvalError;

/// SSIM's window: 11 pixels under a Gaussian of this standard deviation.
const DEVIATION: f64 = 1.5;
const RADIUS: usize = 5;
/// SSIM's constants for values in [0, 1], (0.01)² and (0.03)².
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;
/// The largest result of [`psnr`]: a perfect image would have an infinite one, and hide all others in a mean.
const BEST_PSNR: f64 = 100.0;

/// The mean squared difference of two images in [-1, 1], measured on [0, 1]. `given_back` is clipped, as in a picture.
pub fn mean_squared_error(original: &[f32], given_back: &[f32]) -> f64 {
    let pairs = original.iter().zip(given_back);
    let squares = pairs.map(|(&x, &y)| (to_unit(x) - to_unit(y)).powi(2));
    squares.sum::<f64>() / original.len().max(1) as f64
}

/// The peak signal-to-noise ratio of two images in decibels: `-10 log10` of their [`mean_squared_error`], at most 100.
pub fn psnr(original: &[f32], given_back: &[f32]) -> f64 {
    (-10.0 * mean_squared_error(original, given_back).log10()).min(BEST_PSNR)
}

/// The mean [`psnr`] of images compared with their `originals`.
pub fn mean_psnr<'a>(
    originals: impl Iterator<Item = &'a [f32]>,
    given_back: impl Iterator<Item = &'a [f32]>,
) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for (original, image) in originals.zip(given_back) {
        sum += psnr(original, image);
        count += 1;
    }
    sum / f64::from(count.max(1))
}

/// The structural similarity of two images `[channels, height, width]` in [-1, 1], measured on [0, 1], from -1 to 1
/// (Wang et al. 2004):
///
/// ```text
/// (2 mx my + C1) (2 sxy + C2) / ((mx² + my² + C1) (sx² + sy² + C2))
/// ```
///
/// with means m, variances s² and covariance sxy under a Gaussian window, averaged over all places where the window lies
/// within the image, and over the channels.
///
/// # Errors
/// [`EvalError::Shape`] for images smaller than the window of 11x11, or of another size than `height` and `width`.
pub fn ssim(
    original: &[f32],
    given_back: &[f32],
    height: usize,
    width: usize,
) -> Result<f64, EvalError> {
    let pixels = height * width;
    let window = 2 * RADIUS + 1;
    let fits = height >= window && width >= window && original.len() == given_back.len();
    if !fits || original.is_empty() || !original.len().is_multiple_of(pixels) {
        return Err(EvalError::Shape {
            what: "SSIM",
            channels: original.len() / pixels.max(1),
            height,
            width,
            expected: format!("pairs of at least {window}x{window} pixels"),
        });
    }
    let channels = original.chunks(pixels).zip(given_back.chunks(pixels));
    let sum: f64 = channels.map(|(x, y)| ssim_of_channel(x, y, width)).sum();
    Ok(sum / (original.len() / pixels) as f64)
}

fn ssim_of_channel(x: &[f32], y: &[f32], width: usize) -> f64 {
    let x: Vec<f64> = x.iter().map(|&value| to_unit(value)).collect();
    let y: Vec<f64> = y.iter().map(|&value| to_unit(value)).collect();
    let windowed = |f: &dyn Fn(f64, f64) -> f64| {
        let values: Vec<f64> = x.iter().zip(&y).map(|(&x, &y)| f(x, y)).collect();
        gaussian(&values, width)
    };
    let (mean_x, mean_y) = (windowed(&|x, _| x), windowed(&|_, y| y));
    let (xx, yy, xy) = (
        windowed(&|x, _| x * x),
        windowed(&|_, y| y * y),
        windowed(&|x, y| x * y),
    );
    let count = mean_x.len();
    let means = mean_x.into_iter().zip(mean_y);
    let squares = xx.into_iter().zip(yy).zip(xy);
    let places = means.zip(squares).map(|((mx, my), ((xx, yy), xy))| {
        let (variance_x, variance_y, covariance) = (xx - mx * mx, yy - my * my, xy - mx * my);
        (2.0 * mx * my + C1) * (2.0 * covariance + C2)
            / ((mx * mx + my * my + C1) * (variance_x + variance_y + C2))
    });
    places.sum::<f64>() / count as f64
}

/// Means under the window, at every place within the image.
fn gaussian(values: &[f64], width: usize) -> Vec<f64> {
    let distances = (0..=2 * RADIUS).map(|place| place as f64 - RADIUS as f64);
    let window: Vec<f64> = distances
        .map(|distance| (-distance * distance / (2.0 * DEVIATION * DEVIATION)).exp())
        .collect();
    let sum: f64 = window.iter().sum();
    let window: Vec<f64> = window.iter().map(|weight| weight / sum).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| -> f64 {
        values
            .zip(&window)
            .map(|(value, weight)| value * weight)
            .sum()
    };
    // A Gaussian is the product of one along the rows and one along the columns.
    let rows: Vec<Vec<f64>> = values
        .chunks(width)
        .map(|row| {
            row.windows(window.len())
                .map(|part| mean(&mut part.iter().copied()))
                .collect()
        })
        .collect();
    rows.windows(window.len())
        .flat_map(|rows| {
            let columns = 0..rows.first().map_or(0, Vec::len);
            let mean_at =
                |column: usize| mean(&mut rows.iter().filter_map(|row| row.get(column).copied()));
            columns.map(mean_at).collect::<Vec<f64>>()
        })
        .collect()
}

/// From [-1, 1] to [0, 1], clipped.
fn to_unit(value: f32) -> f64 {
    (f64::from(value) / 2.0 + 0.5).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_is_minus_ten_log_of_the_error_on_zero_to_one() {
        // 0.2 of [-1, 1] is 0.1 of [0, 1]: 20 dB.
        assert!((psnr(&[0.0; 4], &[0.2; 4]) - 20.0).abs() < 1e-5);
        assert_eq!(psnr(&[0.0; 4], &[0.0; 4]), BEST_PSNR);
        // Larger values are drawn as white.
        assert_eq!(mean_squared_error(&[1.0], &[3.0]), 0.0);
    }

    #[test]
    fn an_image_is_like_itself_and_unlike_its_negative() {
        let image: Vec<f32> = (0..288)
            .map(|place| ((place * 37 % 101) as f32 - 50.0) / 50.0)
            .collect();
        let negative: Vec<f32> = image.iter().map(|value| -value).collect();
        assert!((ssim(&image, &image, 12, 12).unwrap() - 1.0).abs() < 1e-12);
        assert!(ssim(&image, &negative, 12, 12).unwrap() < 0.0);
    }

    #[test]
    fn images_that_the_window_does_not_fit_in_are_refused() {
        for (length, height, width) in [(100, 10, 10), (288, 12, 11), (0, 12, 12), (100, 0, 0)] {
            let image = vec![0.0; length];
            assert!(
                ssim(&image, &image, height, width).is_err(),
                "{height}x{width}"
            );
        }
    }
}
