//! The meaning of a network's output, and its conversion into an image and its noise.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Denoised, DiffusionError, Rate, Rates, Schedule};

/// The quantity that a network predicts from `zt = a z0 + b noise`. diffusers' names are accepted, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Prediction {
    /// The noise (DDPM's epsilon).
    #[default]
    #[serde(alias = "epsilon")]
    Noise,
    /// The clean signal z0 (x0).
    #[serde(alias = "sample")]
    Signal,
    /// v = a noise - b z0 (Salimans and Ho 2022).
    #[serde(alias = "v_prediction")]
    Velocity,
    /// f = noise - z0, the direction of rectified flow (Liu et al. 2022).
    ///
    /// Rectified flow walks the straight path x = (1 - s) z0 + s noise, whose direction is f
    /// everywhere. Divided by sqrt((1 - s)² + s²), x is the zt with a : b = (1 - s) : s, so f can be
    /// predicted from zt on any schedule. Solved for the two unknowns, zt = a z0 + b noise and
    /// f = noise - z0 give z0 = (zt - b f) / (a + b) and noise = (zt + a f) / (a + b). As a + b
    /// lies between 1 and sqrt(2), nothing is ever divided by a small number.
    Flow,
}

impl Prediction {
    /// All of them.
    pub const ALL: [Prediction; 4] = [
        Prediction::Noise,
        Prediction::Signal,
        Prediction::Velocity,
        Prediction::Flow,
    ];

    /// The name in a config file.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Noise => "noise",
            Prediction::Signal => "signal",
            Prediction::Velocity => "velocity",
            Prediction::Flow => "flow",
        }
    }

    /// Refuses a prediction that does not determine z0 at every timestep of `schedule`.
    ///
    /// # Errors
    /// [`DiffusionError::NoiseAtZeroSnr`]: z0 = (zt - b noise) / a has no value where a = 0.
    pub fn validate(self, schedule: &Schedule) -> Result<(), DiffusionError> {
        if self == Prediction::Noise && schedule.is_zero_terminal_snr() {
            return Err(DiffusionError::NoiseAtZeroSnr);
        }
        Ok(())
    }

    /// The answer of a perfect network. Given estimates instead of the truth, the equivalent output. All tensors are
    /// `[batch, channels, height, width]`.
    pub fn target<R: Rate>(self, z0: Tensor<4>, noise: Tensor<4>, rates: &Rates<R>) -> Tensor<4> {
        match self {
            Prediction::Noise => noise,
            Prediction::Signal => z0,
            // v = a noise - b z0
            Prediction::Velocity => rates.signal.times(noise) - rates.noise.times(z0),
            Prediction::Flow => noise - z0,
        }
    }

    /// The image and the noise that follow from the network's `output` at `zt`: `a z0 + b noise` is `zt` again. All
    /// tensors are `[batch, channels, height, width]`.
    pub fn denoised<R: Rate>(self, output: Tensor<4>, zt: Tensor<4>, rates: &Rates<R>) -> Denoised {
        let (a, b) = (&rates.signal, &rates.noise);
        match self {
            // z0 = (zt - b noise) / a
            Prediction::Noise => Denoised {
                z0: a.divides(zt - b.times(output.clone())),
                noise: output,
            },
            // noise = (zt - a z0) / b
            Prediction::Signal => Denoised {
                noise: b.divides(zt - a.times(output.clone())),
                z0: output,
            },
            // z0 = a zt - b v,  noise = b zt + a v
            Prediction::Velocity => Denoised {
                z0: a.times(zt.clone()) - b.times(output.clone()),
                noise: b.times(zt) + a.times(output),
            },
            // z0 = (zt - b f) / (a + b),  noise = (zt + a f) / (a + b)
            Prediction::Flow => {
                let sum = a.plus(b);
                Denoised {
                    z0: sum.divides(zt.clone() - b.times(output.clone())),
                    noise: sum.divides(zt + a.times(output)),
                }
            }
        }
    }

    /// The size of this quantity's error, relative to the error of the corresponding velocity.
    ///
    /// Estimates of z0 and noise add up to the same zt as the truth, so with an error k of the
    /// velocity, z0 is wrong by -b k and the noise by a k (see [`Prediction::denoised`]), and the
    /// flow by their difference, (a + b) k.
    pub fn error_scale(self, rates: Rates) -> f64 {
        let (a, b) = (rates.signal, rates.noise);
        match self {
            Prediction::Noise => a,
            Prediction::Signal => -b,
            Prediction::Velocity => 1.0,
            Prediction::Flow => a + b,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::{ScheduleConfig, noise};

    fn images(index: u64) -> Tensor<4> {
        Tensor::from_data(
            TensorData::new(noise::normal(1, index, 0, 12), [3, 1, 2, 2]),
            &Device::flex(),
        )
    }

    fn largest_difference(left: Tensor<4>, right: Tensor<4>) -> f32 {
        (left - right).abs().max().into_scalar::<f32>()
    }

    proptest! {
        #[test]
        fn a_perfect_output_gives_back_image_and_noise(log_snr in -8.0..8.0f64) {
            let rates = Rates::from_log_snr(log_snr);
            let (z0, noise) = (images(0), images(1));
            let zt = rates.add_noise(z0.clone(), noise.clone());
            for prediction in Prediction::ALL {
                let output = prediction.target(z0.clone(), noise.clone(), &rates);
                let denoised = prediction.denoised(output, zt.clone(), &rates);
                // Dividing by a small rate magnifies f32's rounding.
                let tolerance = (2e-6 / rates.signal.min(rates.noise)) as f32;
                prop_assert!(largest_difference(denoised.z0, z0.clone()) < tolerance);
                prop_assert!(largest_difference(denoised.noise, noise.clone()) < tolerance);
            }
        }

        #[test]
        fn errors_of_all_components_are_scales_of_one(log_snr in -5.0..5.0f64) {
            let rates = Rates::from_log_snr(log_snr);
            let (z0, noise) = (images(0), images(1));
            let zt = rates.add_noise(z0.clone(), noise.clone());
            for prediction in Prediction::ALL {
                let target = prediction.target(z0.clone(), noise.clone(), &rates);
                let error = images(2) * 0.1;
                let seen = prediction.denoised(target + error.clone(), zt.clone(), &rates);
                for other in Prediction::ALL {
                    let truth = other.target(z0.clone(), noise.clone(), &rates);
                    let estimate = other.target(seen.z0.clone(), seen.noise.clone(), &rates);
                    let scale = other.error_scale(rates) / prediction.error_scale(rates);
                    let tolerance = (1e-5 * scale.abs().max(1.0)) as f32;
                    let difference = largest_difference(estimate - truth, error.clone() * scale);
                    prop_assert!(difference < tolerance, "{prediction:?} {other:?}: {difference}");
                }
            }
        }
    }

    #[test]
    fn rates_of_a_batch_do_to_each_image_what_one_rate_does() {
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        let levels = [10.0, 500.0, 990.0].map(|timestep| schedule.rates(timestep));
        let batch = Rates::batch(&levels, &Device::flex());
        let (z0, noise) = (images(0), images(1));
        let zt = batch.add_noise(z0.clone(), noise.clone());
        for prediction in Prediction::ALL {
            let target = prediction.target(z0.clone(), noise.clone(), &batch);
            let together = prediction.denoised(target, zt.clone(), &batch);
            for (row, rates) in levels.into_iter().enumerate() {
                let only = |tensor: &Tensor<4>| tensor.clone().narrow(0, row, 1);
                let zt = rates.add_noise(only(&z0), only(&noise));
                let target = prediction.target(only(&z0), only(&noise), &rates);
                let alone = prediction.denoised(target, zt, &rates);
                // a + b is rounded to f32 before or after it is summed.
                let tolerance = if prediction == Prediction::Flow {
                    1e-6
                } else {
                    0.0
                };
                for (together, alone) in [
                    (together.z0.clone(), alone.z0),
                    (together.noise.clone(), alone.noise),
                ] {
                    let difference = largest_difference(only(&together), alone);
                    assert!(
                        difference <= tolerance,
                        "{prediction:?} {rates:?}: {difference}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_batch_can_be_trained_on() {
        let device = Device::flex().autodiff();
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        let levels = [10.0, 500.0, 990.0].map(|timestep| schedule.rates(timestep));
        let rates = Rates::batch(&levels, &device);
        let to_device = |index| Tensor::from_data(images(index).into_data(), &device);
        let weight = Tensor::<4>::ones([1, 1, 2, 2], &device).require_grad();
        for prediction in Prediction::ALL {
            let (z0, noise): (Tensor<4>, Tensor<4>) = (to_device(0), to_device(1));
            let zt = rates.add_noise(z0.clone(), noise.clone());
            let output = zt.clone() * weight.clone();
            let denoised = prediction.denoised(output.clone(), zt, &rates);
            let target = prediction.target(z0.clone(), noise, &rates);
            let loss = (output - target).square().mean() + (denoised.z0 - z0).square().mean();
            let gradient = weight.grad(&loss.backward()).unwrap();
            assert!(
                gradient.abs().min().into_scalar::<f32>() > 0.0,
                "{prediction:?}"
            );
        }
    }

    #[test]
    fn pure_noise_says_nothing_about_the_image_unless_velocity_or_signal_is_predicted() {
        let rescaled = ScheduleConfig {
            zero_terminal_snr: true,
            ..Default::default()
        };
        let schedule = Schedule::new(rescaled).unwrap();
        let message = Prediction::Noise
            .validate(&schedule)
            .unwrap_err()
            .to_string();
        assert!(message.contains("velocity"), "{message}");
        let rates = schedule.rates(999.0);
        for prediction in [Prediction::Velocity, Prediction::Signal, Prediction::Flow] {
            prediction.validate(&schedule).unwrap();
            let target = prediction.target(images(0), images(1), &rates);
            let zt = rates.add_noise(images(0), images(1));
            let denoised = prediction.denoised(target, zt, &rates);
            assert!(largest_difference(denoised.z0, images(0)) < 1e-6);
            assert!(largest_difference(denoised.noise, images(1)) < 1e-6);
        }
    }

    /// Rectified flow's own definition: from x on the straight path, x - s f is the image.
    #[test]
    fn flow_is_the_direction_of_the_straight_path() {
        for s in [0.1, 0.5, 0.9f64] {
            let length = s.hypot(1.0 - s);
            let rates = Rates {
                signal: (1.0 - s) / length,
                noise: s / length,
            };
            let x = images(0) * (1.0 - s) + images(1) * s;
            let output = images(2);
            let denoised = Prediction::Flow.denoised(output.clone(), x.clone() / length, &rates);
            let expected = x.clone() - output.clone() * s;
            assert!(largest_difference(denoised.z0, expected) < 1e-6, "{s}");
            assert!(largest_difference(denoised.noise, x + output * (1.0 - s)) < 1e-6);
        }
    }

    #[test]
    fn diffusers_names_are_read_and_ours_are_written() {
        for (theirs, prediction) in ["epsilon", "sample", "v_prediction"]
            .into_iter()
            .zip(Prediction::ALL)
        {
            for name in [theirs, prediction.name()] {
                assert_eq!(
                    serde_json::from_value::<Prediction>(name.into()).unwrap(),
                    prediction
                );
            }
            assert_eq!(serde_json::to_value(prediction).unwrap(), prediction.name());
        }
    }
}
