//! Guidance: exaggerates what a condition changes, or what a better network changes.

use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::{DiffusionError, Level};

/// How far guidance moves a network's output away from a worse network's output, and at which levels. The worse network
/// is the same one without its class label ([`Self::guide`]), or one that was trained less ([`Self::guide_by`]).
///
/// ```
/// use kiln_diffusion::Guidance;
///
/// let guidance = Guidance::new(2.0, [0.2, 0.9])?;
/// assert_eq!(guidance.scale(), 2.0);
/// # Ok::<(), kiln_diffusion::DiffusionError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Guidance {
    scale: f64,
    interval: [f64; 2],
}

/// Larger scales leave nothing of an image but the numbers' limits.
const LARGEST_SCALE: f64 = 1000.0;

/// A [`Guidance`] in a file, not yet validated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    scale: f64,
    interval: [f64; 2],
}

impl TryFrom<Fields> for Guidance {
    type Error = DiffusionError;

    fn try_from(fields: Fields) -> Result<Self, DiffusionError> {
        Self::new(fields.scale, fields.interval)
    }
}

impl Default for Guidance {
    /// No guidance at any level.
    fn default() -> Self {
        Self {
            scale: 1.0,
            interval: [0.0, 1.0],
        }
    }
}

impl Guidance {
    /// Guidance by `scale` (0 is the worse network, 1 the better one as it is, more goes beyond it) where the noise rate b
    /// lies in `interval`; elsewhere the scale is 1.
    ///
    /// Kynkäänniemi et al. 2024 give such intervals as noise levels sigma = b / a, from 0 to infinity; as a noise rate the
    /// same level is b = sigma / sqrt(1 + sigma²), which does not depend on the schedule or the number of steps.
    ///
    /// # Errors
    /// [`DiffusionError::GuidanceScale`] for a scale that does not lie between 0 and 1000,
    /// [`DiffusionError::GuidanceInterval`] for an interval that is not an ascending one within [0, 1].
    pub fn new(scale: f64, interval: [f64; 2]) -> Result<Self, DiffusionError> {
        let [from, to] = interval;
        if !(0.0..=LARGEST_SCALE).contains(&scale) {
            return Err(DiffusionError::GuidanceScale(scale));
        }
        if !(0.0 <= from && from < to && to <= 1.0) {
            return Err(DiffusionError::GuidanceInterval { from, to });
        }
        Ok(Self { scale, interval })
    }

    /// s: 1 means no guidance.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The lowest and the highest noise rate at which there is guidance.
    pub fn interval(&self) -> [f64; 2] {
        self.interval
    }

    /// The network's output for `zt` `[batch, channels, height, width]` under the condition `labels` `[batch]`, guided
    /// (Ho and Salimans 2022, eq. 6, with s = 1 + w):
    ///
    /// ```text
    /// output = without + s (with - without)
    /// ```
    ///
    /// `without` is the output for `null_label`, which the network has learned to take for "any class". Both outputs come
    /// from one pass of `network` over `[2 batch, ...]`; where guidance changes nothing, the pass is over `[batch, ...]`.
    ///
    /// The paper mixes noises. At a given zt the signal, the velocity and the flow are `p noise + q zt` with the same p and q
    /// for both, so whatever the network predicts, mixing its outputs is mixing the noises.
    pub fn guide(
        &self,
        zt: Tensor<4>,
        level: Level,
        labels: &Tensor<1, Int>,
        null_label: usize,
        network: impl Fn(Tensor<4>, Tensor<1, Int>) -> Tensor<4>,
    ) -> Tensor<4> {
        if !self.changes(level) {
            return network(zt, labels.clone());
        }
        let [batch, ..] = zt.dims();
        let null_labels = labels.full_like(null_label as i64);
        let both = network(
            Tensor::cat(vec![zt.clone(), zt], 0),
            Tensor::cat(vec![labels.clone(), null_labels], 0),
        );
        let with = both.clone().narrow(0, 0, batch);
        let without = both.narrow(0, batch, batch);
        self.mix(with, without)
    }

    /// The output of `network` for `zt` `[batch, channels, height, width]`, guided by the output of `worse`, a smaller
    /// network or one that was trained less (autoguidance, Karras et al. 2024, "Guiding a diffusion model with a bad
    /// version of itself"):
    ///
    /// ```text
    /// output = worse + s (network - worse)
    /// ```
    ///
    /// If both are wrong, `worse` is usually further off in the same direction, so moving past the better output
    /// corrects part of its error. Unlike classifier-free guidance this needs no condition, and costs little variety.
    /// Both must predict the same quantity; `worse` is not called where guidance changes nothing.
    pub fn guide_by(
        &self,
        zt: Tensor<4>,
        level: Level,
        network: impl FnOnce(Tensor<4>) -> Tensor<4>,
        worse: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        if !self.changes(level) {
            return network(zt);
        }
        self.mix(network(zt.clone()), worse(zt))
    }

    fn mix(&self, better: Tensor<4>, worse: Tensor<4>) -> Tensor<4> {
        worse.clone() + (better - worse) * self.scale
    }

    /// The scale at a level: 1 outside the interval.
    pub fn scale_at(&self, level: Level) -> f64 {
        let [from, to] = self.interval;
        match (from..=to).contains(&level.rates.noise) {
            true => self.scale,
            false => 1.0,
        }
    }

    fn changes(&self, level: Level) -> bool {
        self.scale_at(level) != 1.0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::{Denoised, Denoiser, NetworkDenoiser, Prediction, Rates, sampler};

    const NULL: usize = 2;

    fn level(noise: f64) -> Level {
        Level {
            timestep: 7.0,
            rates: Rates {
                signal: (1.0 - noise * noise).sqrt(),
                noise,
            },
        }
    }

    fn labels() -> Tensor<1, Int> {
        Tensor::from_ints([0, 1], &Device::flex())
    }

    fn images(values: [f32; 2]) -> Tensor<4> {
        Tensor::<1>::from_floats(values, &Device::flex()).reshape([2, 1, 1, 1])
    }

    fn values(images: Tensor<4>) -> Vec<f32> {
        images.into_data().try_to_vec().unwrap()
    }

    /// zt + 10 (label + 1), and how many images each pass had.
    fn guided(guidance: Guidance, noise_rate: f64) -> (Vec<f32>, Vec<usize>) {
        let passes = RefCell::new(Vec::new());
        let output = guidance.guide(
            images([1.0, 2.0]),
            level(noise_rate),
            &labels(),
            NULL,
            |zt, labels| {
                let [batch, ..] = zt.dims();
                passes.borrow_mut().push(batch);
                zt + (labels.float().reshape([batch as i32, 1, 1, 1]) + 1.0) * 10.0
            },
        );
        (values(output), passes.into_inner())
    }

    #[test]
    fn the_difference_that_a_condition_makes_is_exaggerated() {
        // With: 11, 22. Without: 31, 32.
        for (scale, expected) in [
            (0.0, [31.0, 32.0]),
            (2.0, [-9.0, 12.0]),
            (0.5, [21.0, 27.0]),
        ] {
            let guidance = Guidance::new(scale, [0.0, 1.0]).unwrap();
            assert_eq!(guided(guidance, 0.5), (expected.to_vec(), vec![4]));
        }
    }

    #[test]
    fn nothing_is_computed_twice_where_nothing_changes() {
        let as_it_is = (vec![11.0, 22.0], vec![2]);
        assert_eq!(guided(Guidance::default(), 0.5), as_it_is);
        let guidance = Guidance::new(3.0, [0.2, 0.8]).unwrap();
        for (noise_rate, acts) in [(0.1, false), (0.2, true), (0.8, true), (0.9, false)] {
            assert_eq!(
                guided(guidance, noise_rate) != as_it_is,
                acts,
                "{noise_rate}"
            );
        }
    }

    /// The exact posterior mean at `zt`, for one-pixel images that deviate by `spread` around `centre`.
    fn mean_around(centre: f64, spread: f64, zt: f64, level: Level) -> f64 {
        let (a, b) = (level.rates.signal, level.rates.noise);
        let gain = a * spread * spread / ((a * spread).powi(2) + b * b);
        centre + gain * (zt - a * centre)
    }

    /// The same for images around -1 and 1, half of them each.
    fn mean_around_both(spread: f64, zt: f64, level: Level) -> f64 {
        let (a, b) = (level.rates.signal, level.rates.noise);
        let total = (a * spread).powi(2) + b * b;
        let right = 1.0 / (1.0 + (-2.0 * a * zt / total).exp());
        right * mean_around(1.0, spread, zt, level)
            + (1.0 - right) * mean_around(-1.0, spread, zt, level)
    }

    fn one_pixel_images(values: Vec<f32>) -> Tensor<4> {
        let shape = [values.len(), 1, 1, 1];
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// The exact posterior means of two classes of one-pixel images around -1 and 1, and of both classes together.
    fn posterior(zt: Tensor<4>, level: Level, labels: Tensor<1, Int>) -> Tensor<4> {
        let classes = labels.into_data().iter::<i64>().collect::<Vec<_>>();
        let means = (values(zt).into_iter().map(f64::from).zip(classes)).map(|(zt, class)| {
            let mean = match class {
                0 => mean_around(-1.0, 0.5, zt, level),
                1 => mean_around(1.0, 0.5, zt, level),
                _ => mean_around_both(0.5, zt, level),
            };
            mean as f32
        });
        one_pixel_images(means.collect())
    }

    fn levels() -> Vec<Level> {
        (0..=40)
            .map(|step| level(0.999 * (1.0 - f64::from(step) / 40.0)))
            .collect()
    }

    /// Draws one image of each class.
    fn draw(guidance: Guidance, prediction: Prediction) -> Vec<f32> {
        let labels = labels();
        let network = |zt: Tensor<4>, level: Level| {
            guidance.guide(zt, level, &labels, NULL, |zt, labels| {
                let z0 = posterior(zt.clone(), level, labels);
                let Denoised { z0, noise } = Prediction::Signal.denoised(z0, zt, &level.rates);
                prediction.target(z0, noise, &level.rates)
            })
        };
        let denoiser = NetworkDenoiser {
            network,
            prediction,
            clip: None,
        };
        let draw = |denoiser: &dyn Denoiser| {
            sampler::ddim(
                denoiser,
                images([0.3, -0.3]),
                &levels(),
                0.0,
                sampler::Variance::Small,
                &mut |_| unreachable!("eta is 0"),
                &mut |_| (),
            )
        };
        values(draw(&denoiser).unwrap())
    }

    #[test]
    fn guided_samples_go_further_into_their_class_whatever_is_predicted() {
        let at_scale = |scale| Guidance::new(scale, [0.0, 1.0]).unwrap();
        let plain = draw(at_scale(1.0), Prediction::Noise);
        let guided = draw(at_scale(3.0), Prediction::Noise);
        assert!(plain[0] < 0.0 && plain[1] > 0.0, "{plain:?}");
        assert!(
            guided[0] < plain[0] && guided[1] > plain[1],
            "{guided:?} {plain:?}"
        );
        for prediction in [Prediction::Signal, Prediction::Velocity] {
            for (one, other) in draw(at_scale(3.0), prediction).iter().zip(&guided) {
                assert!((one - other).abs() < 1e-3, "{prediction:?}: {one} {other}");
            }
        }
        // Guidance on a part of the way leads less far.
        let partly = draw(Guidance::new(3.0, [0.0, 0.5]).unwrap(), Prediction::Noise);
        assert!(guided[0] < partly[0] && partly[0] < plain[0], "{partly:?}");
    }

    /// The noise in `zt`, as predicted by a network that has learnt images that deviate by `spread` around -1 and 1.
    fn learnt(spread: f64, zt: Tensor<4>, level: Level) -> Tensor<4> {
        let (a, b) = (level.rates.signal, level.rates.noise);
        let noises = (values(zt).into_iter().map(f64::from))
            .map(|zt| ((zt - a * mean_around_both(spread, zt, level)) / b) as f32);
        one_pixel_images(noises.collect())
    }

    #[test]
    fn going_on_from_a_worse_network_leads_beyond_the_better_one() {
        // The data deviate by 0.1 around -1 and 1; the better network has learnt 0.3, the worse one 0.6.
        let deviation = |guidance: Guidance| {
            let network = |zt: Tensor<4>, level: Level| {
                let better = |zt| learnt(0.3, zt, level);
                guidance.guide_by(zt, level, better, |zt| learnt(0.6, zt, level))
            };
            let denoiser = NetworkDenoiser {
                network,
                prediction: Prediction::Noise,
                clip: None,
            };
            let starts: Vec<f32> = (-10..=10).map(|start| start as f32 / 5.0).collect();
            let drawn = sampler::ddim(
                &denoiser,
                one_pixel_images(starts),
                &levels(),
                0.0,
                sampler::Variance::Small,
                &mut |_| unreachable!("eta is 0"),
                &mut |_| (),
            );
            let drawn = values(drawn.unwrap());
            let squares = drawn.iter().map(|value| (value.abs() - 1.0).powi(2));
            (squares.sum::<f32>() / drawn.len() as f32).sqrt()
        };
        let at = |scale| deviation(Guidance::new(scale, [0.0, 1.0]).unwrap());
        let (worse, better, guided) = (at(0.0), at(1.0), at(2.0));
        assert!(guided < 0.8 * better, "{guided} {better}");
        assert!(better < 0.8 * worse, "{better} {worse}");
    }

    #[test]
    fn the_worse_network_is_asked_where_it_changes_something() {
        let guidance = Guidance::new(3.0, [0.2, 0.8]).unwrap();
        let guided = |noise_rate, guidance: Guidance| {
            let worse = |zt: Tensor<4>| {
                assert!((0.2..=0.8).contains(&noise_rate), "asked at {noise_rate}");
                zt + 1.0
            };
            let zt = images([1.0, 2.0]);
            values(guidance.guide_by(zt, level(noise_rate), |zt| zt + 5.0, worse))
        };
        assert_eq!(guided(0.5, guidance), [14.0, 15.0]);
        assert_eq!(guided(0.9, guidance), [6.0, 7.0]);
        assert_eq!(guided(0.9, Guidance::default()), [6.0, 7.0]);
    }

    #[test]
    fn files_hold_guidance_and_no_nonsense() {
        let guidance = Guidance::new(1.5, [0.2, 0.9]).unwrap();
        let text = serde_json::to_string(&guidance).unwrap();
        assert_eq!(text, r#"{"scale":1.5,"interval":[0.2,0.9]}"#);
        assert_eq!(serde_json::from_str::<Guidance>(&text).unwrap(), guidance);
        for refused in [
            r#"{"scale": -1, "interval": [0, 1]}"#,
            r#"{"scale": 2, "interval": [0.9, 0.2]}"#,
            r#"{"scale": 2}"#,
            r#"{"scale": 2, "interval": [0, 1], "rescale": 1}"#,
        ] {
            assert!(
                serde_json::from_str::<Guidance>(refused).is_err(),
                "{refused}"
            );
        }
    }

    #[test]
    fn impossible_guidance_is_refused() {
        for scale in [-0.1, f64::NAN, f64::INFINITY] {
            let message = Guidance::new(scale, [0.0, 1.0]).unwrap_err().to_string();
            assert!(message.contains("guidance"), "{message}");
        }
        for interval in [
            [0.5, 0.5],
            [0.8, 0.2],
            [-0.1, 0.5],
            [0.0, 1.1],
            [f64::NAN, 1.0],
        ] {
            let message = Guidance::new(2.0, interval).unwrap_err().to_string();
            assert!(message.contains("interval"), "{message}");
        }
    }
}
