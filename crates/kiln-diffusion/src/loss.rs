//! What training minimises: a distance on one component of the answer, weighted by noise level.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{LossWeight, Prediction, Rates};

/// The largest factor between a component's logged error and the error of the network's output. For the signal this is
/// reached at a signal rate of 0.02, the end of the schedule in Keras' DDIM example.
const LARGEST_SCALE: f64 = 50.0;

/// The distance between two tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Distance {
    /// Mean of the squared differences.
    #[default]
    Mse,
    /// Mean of the absolute differences, L1.
    #[serde(alias = "l1")]
    Mae,
    /// Squared for small differences and absolute for large ones: d² / 2 up to 1 and |d| - 1/2
    /// beyond (Huber 1964).
    Huber,
}

impl Distance {
    /// The names of the errors of noise, signal and velocity by this distance.
    pub fn names_of_errors(self) -> [&'static str; 3] {
        match self {
            Distance::Mse => ["noise mse", "signal mse", "velocity mse"],
            Distance::Mae => ["noise mae", "signal mae", "velocity mae"],
            Distance::Huber => ["noise huber", "signal huber", "velocity huber"],
        }
    }

    /// The distance of two tensors of the same shape, averaged over everything: `[1]`.
    pub fn between<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<1> {
        self.elements(a - b).mean()
    }

    /// The contribution of each difference.
    fn elements<const D: usize>(self, difference: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Mse => difference.square(),
            Self::Mae => difference.abs(),
            Self::Huber => {
                // With c = min(|d|, 1), both pieces are c (|d| - c / 2).
                let size = difference.abs();
                let capped = size.clone().clamp_max(1.0);
                capped.clone() * (size - capped * 0.5)
            }
        }
    }
}

/// The objective of a network: a [`Distance`] on any component, whatever the network predicts.
///
/// The error of every component is a multiple of the output's error ([`Prediction::error_scale`]), so a loss on the
/// noise of a network that predicts velocities needs only one factor per image, and never divides an image by a small
/// rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// What the network's output means.
    pub prediction: Prediction,
    /// The component whose error counts.
    pub on: Prediction,
    /// How an error counts.
    pub distance: Distance,
    /// How a noise level counts.
    pub weight: LossWeight,
}

impl Loss {
    /// This loss of images with the noise levels `rates`, one pair per image, and the errors of `components` beside it.
    pub fn at<const N: usize>(
        self,
        rates: &[Rates],
        components: [Prediction; N],
        device: &Device,
    ) -> LossAtLevels<N> {
        let of_image = |&rates: &Rates| {
            let of_errors = components.map(|component| {
                let scale = self.scale(component, rates);
                scale.clamp(-LARGEST_SCALE, LARGEST_SCALE)
            });
            let of_loss = [self.scale(self.on, rates), self.weight.of(self.on, rates)];
            of_loss.into_iter().chain(of_errors)
        };
        let factors: Vec<f32> = (rates.iter().flat_map(of_image))
            .map(|factor| factor as f32)
            .collect();
        LossAtLevels {
            loss: self,
            factors: Tensor::from_data(TensorData::new(factors, [rates.len(), 2 + N]), device),
        }
    }

    /// [`LossAtLevels::between`] at these levels.
    pub fn between(&self, output: Tensor<4>, target: Tensor<4>, rates: &[Rates]) -> Tensor<1> {
        let device = output.device();
        self.at(rates, [], &device).between(output, target)
    }

    /// The error of `component`, relative to the output's error.
    fn scale(&self, component: Prediction, rates: Rates) -> f64 {
        component.error_scale(rates) / self.prediction.error_scale(rates)
    }
}

/// A [`Loss`] of a batch of images whose noise levels are known, and the errors of `N` components beside it.
#[derive(Debug, Clone)]
pub struct LossAtLevels<const N: usize> {
    loss: Loss,
    /// `[batch, 2 + N]`, by which the differences of each image are multiplied: the scale of the component on which the loss
    /// is, its weight, and the scales of the components whose errors are wanted.
    pub factors: Tensor<2>,
}

impl<const N: usize> LossAtLevels<N> {
    /// The loss `[1]` of the network's `output`; `target` is [`Prediction::target`] of the truth. Both are
    /// `[batch, channels, height, width]`.
    pub fn between(&self, output: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        let mut error = output - target;
        if self.loss.on != self.loss.prediction {
            error = error * self.factor(0);
        }
        let elements = self.loss.distance.elements(error);
        match self.loss.weight {
            LossWeight::None => elements.mean(),
            _ => (elements * self.factor(1)).mean(),
        }
    }

    /// The plain distance of each component from the truth, `[1]` each, in the loss's own measure. Training logs them beside
    /// the loss. The arguments are those of [`LossAtLevels::between`].
    ///
    /// No error counts more than 50 times as much as the output's error. Otherwise the error of a clean image computed
    /// from predicted noise would drown all others in a mean, because it is divided by the signal rate, which ends near
    /// zero.
    pub fn errors(&self, output: Tensor<4>, target: Tensor<4>) -> [Tensor<1>; N] {
        let error = output - target;
        std::array::from_fn(|component| {
            let error = error.clone() * self.factor(2 + component);
            self.loss.distance.elements(error).mean()
        })
    }

    /// `[batch, 1, 1, 1]`
    fn factor(&self, column: usize) -> Tensor<4> {
        let [batch, _] = self.factors.dims();
        let column = self.factors.clone().narrow(1, column, 1);
        column.reshape([batch, 1, 1, 1])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::{Denoised, noise};

    const DISTANCES: [Distance; 3] = [Distance::Mse, Distance::Mae, Distance::Huber];
    const WEIGHTS: [LossWeight; 4] = [
        LossWeight::None,
        LossWeight::MinSnr { gamma: 5.0 },
        LossWeight::P2 { gamma: 1.0, k: 1.0 },
        LossWeight::Edm { sigma_data: 0.5 },
    ];

    fn images(index: u64) -> Tensor<4> {
        Tensor::from_data(
            TensorData::new(noise::normal(1, index, 0, 12), [3, 1, 2, 2]),
            &Device::flex(),
        )
    }

    fn number(tensor: Tensor<1>) -> f64 {
        f64::from(tensor.into_scalar::<f32>())
    }

    fn every_loss() -> Vec<Loss> {
        let mut losses = Vec::new();
        for prediction in Prediction::ALL {
            for on in Prediction::ALL {
                for distance in DISTANCES {
                    losses.extend(WEIGHTS.map(|weight| Loss {
                        prediction,
                        on,
                        distance,
                        weight,
                    }));
                }
            }
        }
        losses
    }

    #[test]
    fn distances_of_known_numbers() {
        let a = Tensor::<1>::from_floats([1.0, -3.0], &Device::flex());
        let b = Tensor::<1>::zeros([2], &Device::flex());
        for (distance, expected) in [
            (Distance::Mse, 5.0),
            (Distance::Mae, 2.0),
            // 1 / 2 and 3 - 1 / 2
            (Distance::Huber, 1.5),
        ] {
            assert_eq!(number(distance.between(a.clone(), b.clone())), expected);
        }
    }

    #[test]
    fn a_perfect_output_has_no_loss_on_any_component() {
        let rates = [5.0, 0.0, -5.0].map(Rates::from_log_snr);
        let batch = Rates::batch(&rates, &Device::flex());
        for loss in every_loss() {
            let target = loss.prediction.target(images(0), images(1), &batch);
            let value = number(loss.between(target.clone(), target, &rates));
            assert_eq!(value, 0.0, "{loss:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// By definition the loss converts the output into the component, and measures its distance.
        #[test]
        fn the_loss_is_the_distance_of_the_component(log_snr in -4.0..4.0f64) {
            let rates = [log_snr, 0.0, -log_snr].map(Rates::from_log_snr);
            let batch = Rates::batch(&rates, &Device::flex());
            let (z0, noise) = (images(0), images(1));
            let zt = batch.add_noise(z0.clone(), noise.clone());
            for loss in every_loss() {
                let target = loss.prediction.target(z0.clone(), noise.clone(), &batch);
                let output = target.clone() + images(2);
                let seen: Denoised = loss.prediction.denoised(output.clone(), zt.clone(), &batch);
                let truth = loss.on.target(z0.clone(), noise.clone(), &batch);
                let estimate = loss.on.target(seen.z0, seen.noise, &batch);
                let expected: f64 = (0..3)
                    .map(|image| {
                        let only = |tensor: &Tensor<4>| tensor.clone().narrow(0, image, 1);
                        let distance = loss.distance.between(only(&estimate), only(&truth));
                        number(distance) * loss.weight.of(loss.on, rates[image]) / 3.0
                    })
                    .sum();
                let value = number(loss.between(output.clone(), target.clone(), &rates));
                prop_assert!((value / expected - 1.0).abs() < 1e-4, "{loss:?}: {value} {expected}");

                let plain = loss.at(&rates, [loss.on], &Device::flex());
                let [plain] = plain.errors(output, target);
                let expected = number(loss.distance.between(estimate, truth));
                let plain = number(plain);
                prop_assert!((plain / expected - 1.0).abs() < 1e-4, "{loss:?}: {plain} {expected}");
            }
        }
    }

    /// With a squared error, a published weight gives the same loss on every component.
    #[test]
    fn a_weighted_squared_error_is_the_same_on_every_component() {
        let rates = [3.0, -1.0, -6.0].map(Rates::from_log_snr);
        for weight in &WEIGHTS[1..] {
            let values = Prediction::ALL.map(|on| {
                let loss = Loss {
                    prediction: Prediction::Velocity,
                    on,
                    distance: Distance::Mse,
                    weight: *weight,
                };
                number(loss.between(images(0), images(1), &rates))
            });
            for value in values {
                assert!(
                    (value / values[0] - 1.0).abs() < 1e-5,
                    "{weight:?} {values:?}"
                );
            }
        }
    }

    #[test]
    fn where_there_is_no_signal_its_error_stays_readable() {
        let nearly_noise = [Rates::from_log_snr(-20.0); 3];
        for (distance, largest) in [
            (Distance::Mae, LARGEST_SCALE),
            (Distance::Mse, LARGEST_SCALE.powi(2)),
        ] {
            let loss = Loss {
                prediction: Prediction::Noise,
                on: Prediction::Noise,
                distance,
                weight: LossWeight::None,
            };
            let (output, target) = (images(0), images(1));
            let components = [Prediction::Noise, Prediction::Signal];
            let loss = loss.at(&nearly_noise, components, &Device::flex());
            let [noise, signal] = loss.errors(output, target).map(number);
            assert!(
                (signal / noise / largest - 1.0).abs() < 1e-4,
                "{noise} {signal}"
            );
        }
    }

    #[test]
    fn every_loss_has_gradients_even_at_pure_noise() {
        let device = Device::flex().autodiff();
        let pure_noise = Rates {
            signal: 0.0,
            noise: 1.0,
        };
        let rates = [
            Rates::from_log_snr(4.0),
            Rates::from_log_snr(0.0),
            pure_noise,
        ];
        for loss in every_loss() {
            if loss.prediction == Prediction::Noise {
                continue; // refused with such a schedule
            }
            let on_device = |index| Tensor::<4>::from_data(images(index).into_data(), &device);
            let output = on_device(0).require_grad();
            let value = loss.between(output.clone(), on_device(1), &rates);
            let gradient = output.grad(&value.backward()).unwrap();
            let total = gradient.abs().sum().into_scalar::<f32>();
            assert!(total.is_finite() && total > 0.0, "{loss:?} {total}");
        }
    }

    #[test]
    fn the_old_name_of_mae_is_read() {
        for (name, distance) in [
            ("mse", Distance::Mse),
            ("mae", Distance::Mae),
            ("l1", Distance::Mae),
            ("huber", Distance::Huber),
        ] {
            let read: Distance = serde_json::from_value(name.into()).unwrap();
            assert_eq!(read, distance);
        }
    }
}
