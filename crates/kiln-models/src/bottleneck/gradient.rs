//! How the decoder's gradient passes a quantizer, which has none of its own.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Smaller lengths count as this one: the gradient at a latent of zero stays finite.
const LEAST_LENGTH: f64 = 1e-6;

/// What the encoder gets of the decoder's gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CodeGradient {
    /// The gradient as it is (van den Oord et al. 2017).
    #[default]
    StraightThrough,
    /// The gradient, rotated and scaled as the latent was on its way to its code (Fifty et al. 2024, "Restructuring Vector
    /// Quantization with the Rotation Trick").
    Rotation,
}

impl CodeGradient {
    /// Whether this is the default, which files do not write.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Rows with the values of `chosen` and gradients for `latents`: both `[rows, dimension]`.
    pub(super) fn through(self, latents: Tensor<2>, chosen: Tensor<2>) -> Tensor<2> {
        let chosen = chosen.without_autodiff();
        match self {
            Self::StraightThrough => latents.clone() + (chosen - latents.without_autodiff()),
            Self::Rotation => rotated(latents, chosen),
        }
    }
}

/// `|e| / |z| (z - 2 r (r.z) + 2 e^ (z^.z))` with `r = (z^ + e^) / |z^ + e^|`, where `^` is the unit vector: the code
/// `e`, made from the latent `z` by a rotation that counts as constant.
fn rotated(latents: Tensor<2>, chosen: Tensor<2>) -> Tensor<2> {
    let fixed = latents.clone().without_autodiff();
    let (from_length, to_length) = (length(fixed.clone()), length(chosen.clone()));
    let (from, to) = (fixed / from_length.clone(), chosen / to_length.clone());
    let middle = from.clone() + to.clone();
    let middle = middle.clone() / length(middle);
    let along = |direction: Tensor<2>| (latents.clone() * direction).sum_dim(1);
    let turned = latents.clone() - middle.clone() * along(middle) * 2.0 + to * along(from) * 2.0;
    turned * (to_length / from_length)
}

/// The lengths of rows, `[rows, 1]`.
fn length(rows: Tensor<2>) -> Tensor<2> {
    rows.square().sum_dim(1).sqrt().clamp_min(LEAST_LENGTH)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    #[test]
    fn both_ways_give_the_code() {
        let device = Device::flex();
        let latents = Tensor::<2>::from_floats([[3.0, 4.0], [0.1, -0.2], [1.0, 0.0]], &device);
        // The last code is the opposite of its latent.
        let chosen = Tensor::<2>::from_floats([[-2.0, 1.0], [0.0, 0.5], [-2.0, 0.0]], &device);
        for gradient in [CodeGradient::StraightThrough, CodeGradient::Rotation] {
            let passed = gradient.through(latents.clone(), chosen.clone());
            passed
                .into_data()
                .assert_approx_eq::<f32>(&chosen.to_data(), Tolerance::absolute(1e-6));
        }
    }

    #[test]
    fn a_rotation_turns_and_scales_the_gradient() {
        let device = Device::flex().autodiff();
        // From the first axis to the second, and to twice the length.
        let latents = Tensor::<2>::from_floats([[1.0, 0.0]], &device).require_grad();
        let chosen = Tensor::<2>::from_floats([[0.0, 2.0]], &device);
        let of = |gradient: CodeGradient| {
            let upstream = Tensor::<2>::from_floats([[0.0, 1.0]], &device);
            let passed = gradient.through(latents.clone(), chosen.clone());
            let gradients = (passed * upstream).sum().backward();
            let gradient = latents.grad(&gradients).expect("a gradient").into_data();
            gradient.iter::<f32>().collect::<Vec<_>>()
        };
        assert_eq!(of(CodeGradient::StraightThrough), [0.0, 1.0]);
        let turned = of(CodeGradient::Rotation);
        assert!(
            (turned[0] - 2.0).abs() < 1e-5 && turned[1].abs() < 1e-5,
            "{turned:?}"
        );
    }

    #[test]
    fn zeros_have_finite_gradients() {
        let device = Device::flex().autodiff();
        for code in [[0.0, 0.0], [1.0, 2.0]] {
            let latents = Tensor::<2>::zeros([1, 2], &device).require_grad();
            let chosen = Tensor::<2>::from_floats([code], &device);
            let passed = CodeGradient::Rotation.through(latents.clone(), chosen);
            let gradients = passed.sum().backward();
            let gradient = latents.grad(&gradients).expect("a gradient").into_data();
            assert!(gradient.iter::<f32>().all(f32::is_finite), "{gradient:?}");
        }
    }
}
