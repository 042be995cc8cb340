//! How much each noise level counts in the loss.

use serde::{Deserialize, Serialize};

use crate::{DiffusionError, Prediction, Rates};

/// The smallest scale of a component's error. It keeps the weight finite where that error has no
/// effect: an error of the noise in pure noise.
const LEAST_SCALE: f64 = 1e-6;

/// The weight of an image in the loss, by its noise level.
///
/// The papers define each weight for the squared error of one component. The errors of the other
/// components are multiples of it ([`Prediction::error_scale`]). Here a weight is computed for the
/// squared error of the *velocity*, which is finite everywhere, and then converted. With a squared
/// error, a weight other than `None` thus gives the same loss on any component.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum LossWeight {
    /// All images count alike.
    #[default]
    None,
    /// The signal's error counts min(snr, gamma): levels with little noise do not drown the others
    /// (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", eq. 5).
    /// On the noise that is min(snr, gamma) / snr, on the velocity min(snr, gamma) / (snr + 1).
    MinSnr {
        /// The limit of the weight, 5 in the paper.
        #[serde(default = "five")]
        gamma: f64,
    },
    /// The noise's error counts 1 / (k + snr)^gamma: less where there is little noise, and where
    /// only imperceptible details are left to learn (Choi et al. 2022, "Perception Prioritized
    /// Training of Diffusion Models", eq. 8).
    P2 {
        /// How strongly, 1 in the paper; 0 is the noise's plain error.
        #[serde(default = "one")]
        gamma: f64,
        /// Keeps weights finite, 1 in the paper.
        #[serde(default = "one")]
        k: f64,
    },
    /// The signal's error counts (sigma² + s²) / (sigma s)², sigma = b / a, s being the data's
    /// standard deviation: an untrained EDM network then has a loss of 1 at every level (Karras et
    /// al. 2022, table 1). With s = 1 this is the velocity's plain error.
    Edm {
        /// The standard deviation of the data: 0.5 for images in EDM, 1 for scaled latents.
        #[serde(default = "half")]
        sigma_data: f64,
    },
}

fn five() -> f64 {
    5.0
}

fn one() -> f64 {
    1.0
}

fn half() -> f64 {
    0.5
}

impl LossWeight {
    /// Checks these settings.
    ///
    /// # Errors
    /// Numbers that would make weights negative or infinite.
    pub fn validate(&self) -> Result<(), DiffusionError> {
        let positive = |key, value: f64| {
            let valid = "this number of the loss's weight lies above 0 and at most at 1000";
            if value > 0.0 && value <= 1000.0 {
                Ok(())
            } else {
                Err(DiffusionError::Number { key, value, valid })
            }
        };
        match *self {
            LossWeight::None => Ok(()),
            LossWeight::MinSnr { gamma } => positive("gamma", gamma),
            LossWeight::P2 { gamma, k } => {
                if !(0.0..=10.0).contains(&gamma) {
                    return Err(DiffusionError::Number {
                        key: "gamma",
                        value: gamma,
                        valid: "the loss's weight takes a number from 0 to 10",
                    });
                }
                positive("k", k)
            }
            LossWeight::Edm { sigma_data } => positive("sigma_data", sigma_data),
        }
    }

    /// The weight of the squared error of `component` at a noise level: finite, and positive
    /// wherever there is any signal.
    pub fn of(self, component: Prediction, rates: Rates) -> f64 {
        let (signal_power, noise_power) = (rates.signal.powi(2), rates.noise.powi(2));
        let of_velocity = match self {
            LossWeight::None => return 1.0,
            // b² min(snr, gamma)
            LossWeight::MinSnr { gamma } => signal_power.min(gamma * noise_power),
            // a² / (k + snr)^gamma
            LossWeight::P2 { gamma, k } => {
                signal_power / (k + signal_power / noise_power).powf(gamma)
            }
            // b² (1 / s² + 1 / sigma²), and b² / sigma² = a²
            LossWeight::Edm { sigma_data } => noise_power / sigma_data.powi(2) + signal_power,
        };
        let scale = component.error_scale(rates).abs().max(LEAST_SCALE);
        of_velocity / (scale * scale)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [LossWeight; 4] = [
        LossWeight::None,
        LossWeight::MinSnr { gamma: 5.0 },
        LossWeight::P2 { gamma: 1.0, k: 1.0 },
        LossWeight::Edm { sigma_data: 0.5 },
    ];

    proptest! {
        #[test]
        fn weights_are_positive_and_finite(log_snr in -30.0..30.0f64) {
            let rates = Rates::from_log_snr(log_snr);
            for weight in ALL {
                for component in Prediction::ALL {
                    let value = weight.of(component, rates);
                    prop_assert!(value > 0.0 && value.is_finite(), "{weight:?} {component:?} {value}");
                }
            }
        }

        /// The papers' formulas, in snr = a² / b² and sigma = b / a.
        #[test]
        fn weights_are_those_of_the_papers(log_snr in -10.0..10.0f64) {
            let rates = Rates::from_log_snr(log_snr);
            let snr = log_snr.exp();
            let sigma = (-log_snr / 2.0).exp();
            let min_snr = LossWeight::MinSnr { gamma: 5.0 };
            let p2 = LossWeight::P2 { gamma: 1.5, k: 2.0 };
            let edm = LossWeight::Edm { sigma_data: 0.5 };
            for (weight, component, expected) in [
                (min_snr, Prediction::Signal, snr.min(5.0)),
                (min_snr, Prediction::Noise, snr.min(5.0) / snr),
                (min_snr, Prediction::Velocity, snr.min(5.0) / (snr + 1.0)),
                (p2, Prediction::Noise, (2.0 + snr).powf(-1.5)),
                (edm, Prediction::Signal, (sigma.powi(2) + 0.25) / (sigma * 0.5).powi(2)),
                (LossWeight::Edm { sigma_data: 1.0 }, Prediction::Velocity, 1.0),
                (LossWeight::P2 { gamma: 0.0, k: 1.0 }, Prediction::Noise, 1.0),
            ] {
                let value = weight.of(component, rates);
                prop_assert!((value / expected - 1.0).abs() < 1e-9, "{weight:?} {component:?} {value} {expected}");
            }
        }
    }

    #[test]
    fn pure_noise_has_finite_weights() {
        let rates = Rates {
            signal: 0.0,
            noise: 1.0,
        };
        for weight in ALL {
            for component in Prediction::ALL {
                let value = weight.of(component, rates);
                assert!(value >= 0.0 && value.is_finite(), "{weight:?} {value}");
            }
        }
    }

    #[test]
    fn settings_are_read_strictly_and_checked() {
        #[derive(Debug, Deserialize)]
        struct Stage {
            loss_weight: LossWeight,
        }
        let read = |text: &str| {
            toml::from_str::<Stage>(&format!("loss_weight = {text}")).map(|stage| stage.loss_weight)
        };
        assert_eq!(read("\"none\"").unwrap(), LossWeight::None);
        assert_eq!(read("{ min-snr = {} }").unwrap(), ALL[1]);
        assert_eq!(read("{ p2 = {} }").unwrap(), ALL[2]);
        assert_eq!(read("{ edm = {} }").unwrap(), ALL[3]);
        assert!(read("{ edm = { gamma = 1 } }").is_err());
        assert!(read("{ none = { gamma = 1 } }").is_err());
        for text in [
            "{ min-snr = { gamma = 0.0 } }",
            "{ p2 = { gamma = -1.0 } }",
            "{ p2 = { k = nan } }",
            "{ edm = { sigma_data = inf } }",
        ] {
            let message = read(text).unwrap().validate().unwrap_err().to_string();
            assert!(message.contains("the loss's weight"), "{message}");
            assert!(message.ends_with('.'), "{message}");
        }
    }
}
