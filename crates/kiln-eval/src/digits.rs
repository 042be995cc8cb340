//! The classifier's judgement of drawn digits.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::{Classified, DigitClassifier, EvalError, Features};

/// Above this probability the classifier counts as sure of a digit.
pub const CONFIDENT: f32 = 0.9;

/// The classifier's output for a set of digits.
#[derive(Clone, Debug)]
pub struct DigitReadings {
    /// The classifier's features, `[count, 128]`.
    pub features: Features,
    /// The likeliest digit of each image, and its probability.
    pub digits: Vec<(usize, f32)>,
}

impl DigitReadings {
    /// Reads images `[count, 1, 28, 28]` in [-1, 1].
    ///
    /// # Errors
    /// [`EvalError::Shape`] for images of another shape, [`EvalError::Compute`] if the device fails.
    pub fn of(classifier: &DigitClassifier, images: Tensor<4>) -> Result<Self, EvalError> {
        let [_, channels, height, width] = images.dims();
        let side = DigitClassifier::SIDE;
        if [channels, height, width] != [1, side, side] {
            return Err(EvalError::Shape {
                what: "the digit classifier",
                channels,
                height,
                width,
                expected: format!("gray images of {side}x{side} pixels"),
            });
        }
        let Classified { features, logits } = classifier.forward(images.clamp(-1.0, 1.0));
        let probabilities = softmax(logits, 1).try_into_data_as::<f32>()?;
        let probabilities: Vec<f32> = probabilities.iter::<f32>().collect();
        let digits = probabilities
            .chunks(DigitClassifier::CLASSES)
            .filter_map(|image| {
                let numbered = image.iter().copied().enumerate();
                numbered.max_by(|a, b| a.1.total_cmp(&b.1))
            });
        Ok(Self {
            digits: digits.collect(),
            features: Features::from_tensor(features)?,
        })
    }

    /// Adds the images of `other` at the end.
    ///
    /// # Errors
    /// [`EvalError::Lengths`], which features of the same classifier never give.
    pub fn append(&mut self, other: Self) -> Result<(), EvalError> {
        self.digits.extend(other.digits);
        self.features.append(other.features)
    }

    /// Share of the images whose likeliest digit has a probability above [`CONFIDENT`].
    pub fn confident(&self) -> f64 {
        share(&self.digits, |&(_, probability)| probability > CONFIDENT)
    }

    /// How often each digit is the likeliest.
    pub fn histogram(&self) -> [usize; DigitClassifier::CLASSES] {
        let mut counts = [0; DigitClassifier::CLASSES];
        for &(digit, _) in &self.digits {
            if let Some(count) = counts.get_mut(digit) {
                *count += 1;
            }
        }
        counts
    }

    /// Share of the images that are read correctly: `labels` has the digit of each image.
    pub fn accuracy(&self, labels: &[usize]) -> f64 {
        let pairs: Vec<_> = self.digits.iter().zip(labels).collect();
        share(&pairs, |((digit, _), label)| digit == *label)
    }
}

fn share<T>(of: &[T], is_counted: impl Fn(&T) -> bool) -> f64 {
    let counted = of.iter().filter(|item| is_counted(item)).count();
    counted as f64 / of.len().max(1) as f64
}

/// The chi-squared distance between two histograms, as shares p and q of their classes: `sum of (p - q)² / (p + q)`, from 0 (the
/// same) to 2 (nothing in common).
pub fn chi_squared(left: &[usize], right: &[usize]) -> f64 {
    let total = |counts: &[usize]| counts.iter().sum::<usize>().max(1) as f64;
    let (left_total, right_total) = (total(left), total(right));
    let terms = left.iter().zip(right).map(|(&left, &right)| {
        let (p, q) = (left as f64 / left_total, right as f64 / right_total);
        if p + q > 0.0 {
            (p - q).powi(2) / (p + q)
        } else {
            0.0
        }
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(digits: &[(usize, f32)]) -> DigitReadings {
        DigitReadings {
            features: Features::new(vec![0.0; digits.len()], 1).unwrap(),
            digits: digits.to_vec(),
        }
    }

    #[test]
    fn shares_count_images() {
        let readings = readings(&[(3, 0.95), (3, 0.5), (7, 0.91), (0, 0.9)]);
        assert_eq!(readings.confident(), 0.5);
        assert_eq!(readings.histogram(), [1, 0, 0, 2, 0, 0, 0, 1, 0, 0]);
        assert_eq!(readings.accuracy(&[3, 4, 7, 0]), 0.75);
    }

    #[test]
    fn chi_squared_compares_shares() {
        assert_eq!(chi_squared(&[1, 3], &[10, 30]), 0.0);
        assert_eq!(chi_squared(&[5, 0], &[0, 9]), 2.0);
        let distance = chi_squared(&[1, 1], &[3, 1]);
        assert!((distance - (0.0625 / 1.25 + 0.0625 / 0.75)).abs() < 1e-12);
        assert_eq!(chi_squared(&[], &[]), 0.0);
    }
}
