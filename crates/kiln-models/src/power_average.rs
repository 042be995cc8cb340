//! Averages of a model's weights whose length is chosen after training: post-hoc EMA (Karras et al. 2024, "Analyzing and
//! Improving the Training Dynamics of Diffusion Models", EDM2, sections 3.1 and 3.2).
//!
//! A power-function average weighs the weights after step t by t^gamma. Its *length* is the standard deviation of that
//! profile, as a share of the steps so far. Two averages of different lengths, kept now and then, are enough to rebuild one
//! of any length: the sum of all kept ones whose profile comes nearest to the wanted one.

use nalgebra::{DMatrix, DVector};

/// A power-function average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerAverage {
    /// gamma
    exponent: f64,
}

/// The steps of a binary search: enough for all digits.
const HALVINGS: usize = 200;

impl PowerAverage {
    /// The length of a plain mean over all steps, 1 / sqrt(12), which no power-function average reaches.
    pub const PLAIN_MEAN: f64 = 0.288_675_134_594_812_9;

    /// The average of this length, a share of the steps above 0 and below [`Self::PLAIN_MEAN`]; `None` for any other
    /// number. It solves
    ///
    /// ```text
    /// length = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2)
    /// ```
    pub fn of_length(length: f64) -> Option<Self> {
        if !(length > 1e-6 && length < Self::PLAIN_MEAN) {
            return None;
        }
        // The length falls with gamma, from that of the plain mean at 0 to less than 1 / gamma.
        let (mut longer, mut shorter) = (0.0, 1.0 / length);
        for _ in 0..HALVINGS {
            let exponent = (longer + shorter) / 2.0;
            match (Self { exponent }).length() > length {
                true => longer = exponent,
                false => shorter = exponent,
            }
        }
        Some(Self {
            exponent: (longer + shorter) / 2.0,
        })
    }

    /// The standard deviation of its profile, as a share of the steps.
    pub fn length(self) -> f64 {
        let gamma = self.exponent;
        (gamma + 1.0).sqrt() / ((gamma + 2.0) * (gamma + 3.0).sqrt())
    }

    /// The share of the average that is kept in step `step`, from 1: (1 - 1 / step)^(gamma + 1). The first step keeps
    /// nothing.
    pub fn decay_at(self, step: u64) -> f64 {
        (1.0 - 1.0 / step.max(1) as f64).powf(self.exponent + 1.0)
    }

    /// The factors of the `kept` averages, each with the number of steps that it has seen, whose sum comes nearest to this
    /// average after `steps` steps. `None` if they do not determine it: without any, or if two are the same.
    pub fn factors(self, steps: u64, kept: &[(u64, PowerAverage)]) -> Option<Vec<f64>> {
        let count = kept.len();
        if count == 0 {
            return None;
        }
        let entry = |row: usize, column: usize| overlap(kept[row], kept[column]);
        let profiles = DMatrix::from_fn(count, count, entry);
        let wanted = DVector::from_fn(count, |row, _| overlap(kept[row], (steps, self)));
        let factors = profiles.lu().solve(&wanted)?;
        let is_determined = factors.iter().all(|factor| factor.is_finite());
        is_determined.then(|| factors.iter().copied().collect())
    }

    /// How far the profile of that sum is from this average's, as a share of its norm (the root of the integrated squares): 0
    /// where they are the same, up to 1. It is large for an average that is much shorter than the steps between the kept
    /// ones, or ends between two of them.
    pub fn misfit(self, steps: u64, kept: &[(u64, PowerAverage)], factors: &[f64]) -> f64 {
        let pairs = kept.iter().zip(factors);
        let shared: f64 = pairs
            .map(|(&kept, factor)| factor * overlap(kept, (steps, self)))
            .sum();
        // The factors are those of the least squares, so what is left is orthogonal to the sum.
        let left = 1.0 - shared / overlap((steps, self), (steps, self));
        left.max(0.0).sqrt()
    }
}

/// The inner product of the profiles of two averages after their numbers of steps (EDM2, equation 126).
fn overlap((steps_a, a): (u64, PowerAverage), (steps_b, b): (u64, PowerAverage)) -> f64 {
    let (t_a, t_b) = (steps_a as f64, steps_b as f64);
    let (gamma_a, gamma_b) = (a.exponent, b.exponent);
    let power = if t_a < t_b { gamma_b } else { -gamma_a };
    (gamma_a + 1.0) * (gamma_b + 1.0) * (t_a / t_b).powf(power)
        / ((gamma_a + gamma_b + 1.0) * t_a.max(t_b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// Made by `tests/fixtures/ema/make.py` with ema-pytorch.
    const POST_HOC: &str = include_str!("../../../tests/fixtures/ema/post_hoc.json");

    #[derive(Deserialize)]
    struct Recorded {
        lengths: Vec<f64>,
        exponents: Vec<f64>,
        /// The weights after each step.
        weights: Vec<Vec<f64>>,
        /// Kept averages: the step, the number of the length, the values.
        kept: Vec<(u64, usize, Vec<f64>)>,
        /// Rebuilt averages: the length, the step, the values.
        rebuilt: Vec<(f64, u64, Vec<f64>)>,
    }

    fn recorded() -> Recorded {
        serde_json::from_str(POST_HOC).unwrap()
    }

    fn assert_close(ours: &[f64], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
        }
    }

    #[test]
    fn exponents_are_those_of_ema_pytorch() {
        let Recorded {
            lengths, exponents, ..
        } = recorded();
        for (length, exponent) in lengths.into_iter().zip(exponents) {
            let ours = PowerAverage::of_length(length).unwrap().exponent;
            assert!(
                (ours / exponent - 1.0).abs() < 1e-9,
                "{length}: {ours} {exponent}"
            );
        }
    }

    /// ema-pytorch takes the weights at the first update for one step more, and so its steps are one ahead.
    #[test]
    fn running_averages_are_those_of_ema_pytorch() {
        let Recorded {
            lengths,
            weights,
            kept,
            ..
        } = recorded();
        for (number, length) in lengths.into_iter().enumerate().take(2) {
            let profile = PowerAverage::of_length(length).unwrap();
            let mut average = weights[0].clone();
            for (step, weights) in (1..).zip(&weights) {
                let decay = profile.decay_at(step + 1);
                let pairs = average.iter_mut().zip(weights);
                pairs.for_each(|(average, weight)| *average += (weight - *average) * (1.0 - decay));
                let theirs = kept.iter().find(|kept| (kept.0, kept.1) == (step, number));
                if let Some((_, _, theirs)) = theirs {
                    assert_close(&average, theirs);
                }
            }
        }
    }

    /// The expected numbers come from NumPy's solution of the same system.
    #[test]
    fn what_no_sum_comes_near_to_is_known() {
        let of_length = |length| PowerAverage::of_length(length).unwrap();
        let kept: Vec<_> = (1..=13)
            .flat_map(|pass| [0.05, 0.10].map(|length| (1000 * pass, of_length(length))))
            .collect();
        for (length, steps, expected) in [
            (0.05, 13_000, 0.0),
            (0.10, 9_000, 0.0),
            (0.15, 13_000, 0.013),
            (0.03, 13_000, 0.054),
            (0.01, 13_000, 0.419),
            (0.05, 8_500, 0.506),
        ] {
            let factors = of_length(length).factors(steps, &kept).unwrap();
            let misfit = of_length(length).misfit(steps, &kept, &factors);
            assert!(
                (misfit - expected).abs() < 1e-3,
                "{length}, {steps}: {misfit}"
            );
        }
    }

    #[test]
    fn rebuilt_averages_are_those_of_ema_pytorch() {
        let Recorded {
            lengths,
            kept,
            rebuilt,
            ..
        } = recorded();
        let profiles: Vec<(u64, PowerAverage)> = (kept.iter())
            .map(|&(step, number, _)| (step, PowerAverage::of_length(lengths[number]).unwrap()))
            .collect();
        assert!(!rebuilt.is_empty());
        for (length, step, theirs) in rebuilt {
            let wanted = PowerAverage::of_length(length).unwrap();
            let factors = wanted.factors(step, &profiles).unwrap();
            let mut ours = vec![0.0; theirs.len()];
            for (factor, (_, _, values)) in factors.iter().zip(&kept) {
                ours.iter_mut()
                    .zip(values)
                    .for_each(|(sum, value)| *sum += factor * value);
            }
            assert_close(&ours, &theirs);
        }
    }

    proptest! {
        #[test]
        fn lengths_and_exponents_are_one_number(length in 0.001..0.2886f64) {
            let average = PowerAverage::of_length(length).unwrap();
            prop_assert!((average.length() / length - 1.0).abs() < 1e-9);
        }

        #[test]
        fn a_kept_average_is_rebuilt_by_itself(length in 0.02..0.25f64, step in 1..6usize) {
            let lengths = [length, length * 1.1];
            let kept: Vec<(u64, PowerAverage)> = (1..=5)
                .flat_map(|round| lengths.map(|length| (100 * round, PowerAverage::of_length(length).unwrap())))
                .collect();
            let (steps, wanted) = kept[2 * step - 2];
            let factors = wanted.factors(steps, &kept).unwrap();
            for (place, factor) in factors.into_iter().enumerate() {
                let expected = f64::from(u8::from(place == 2 * step - 2));
                prop_assert!((factor - expected).abs() < 1e-4, "{place}: {factor}");
            }
        }
    }

    #[test]
    fn what_is_no_length_is_none() {
        for length in [0.0, -0.1, 0.3, 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(PowerAverage::of_length(length), None);
        }
        let average = PowerAverage::of_length(0.1).unwrap();
        assert_eq!(average.factors(10, &[]), None);
        assert_eq!(average.decay_at(1), 0.0);
    }
}
