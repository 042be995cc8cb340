//! The measure of reconstructions in the logs.

use burn::tensor::Tensor;

/// The mean of [`kiln_eval::psnr`] over images `[batch, channels, height, width]` in [-1, 1], computed on their device:
/// `[1]`.
pub(crate) fn psnr(images: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
    let [batch, ..] = images.dims();
    let difference = (images - reconstructions.clamp(-1.0, 1.0)).mul_scalar(0.5);
    let errors = difference.square().reshape([batch as i32, -1]).mean_dim(1);
    // A perfect image would be infinite, and one of them would hide the others, so the limit is 100 dB.
    errors
        .clamp_min(1e-10)
        .log()
        .mul_scalar(-10.0 / std::f64::consts::LN_10)
        .mean()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_pipeline::pictures::Images;

    use super::*;

    #[test]
    fn psnr_is_that_of_the_images_one_by_one() {
        let images = Tensor::<4>::zeros([3, 1, 4, 4], &Device::flex());
        let worse = Tensor::<4>::full([1, 1, 4, 4], 0.2, &Device::flex());
        let better = Tensor::<4>::full([1, 1, 4, 4], -0.02, &Device::flex());
        let perfect = Tensor::<4>::zeros([1, 1, 4, 4], &Device::flex());
        let given_back = Tensor::cat(vec![worse, better, perfect], 0);
        let [originals, on_host] =
            [&images, &given_back].map(|images| Images::from_tensor(images.clone()).unwrap());
        let expected = kiln_eval::mean_psnr(originals.iter(), on_host.iter());
        let value = psnr(images, given_back).into_scalar::<f32>();
        assert!(
            (f64::from(value) - expected).abs() < 1e-3,
            "{value} {expected}"
        );
    }
}
