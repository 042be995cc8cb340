//! The mean and the spread of many numbers, found part by part.

/// The mean and the spread of numbers, which can be found part by part (Chan, Golub and LeVeque 1983, equation 2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spread {
    pub(super) count: f64,
    pub(super) mean: f64,
    /// The sum of the squares of the distances from the mean.
    pub(super) squares: f64,
}

impl Spread {
    pub(super) fn of(values: &[f32]) -> Self {
        let count = values.len() as f64;
        let values = || values.iter().map(|&value| f64::from(value));
        let mean = values().sum::<f64>() / count.max(1.0);
        Self {
            count,
            mean,
            squares: values().map(|value| (value - mean).powi(2)).sum(),
        }
    }

    /// That of these numbers and others together.
    pub(super) fn and(self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        let count = self.count + other.count;
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares
                + other.squares
                + apart.powi(2) * self.count * other.count / count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_spread_of_the_whole_however_they_are_divided() {
        let values = [1.0, 3.0, 5.0, 7.0];
        for cut in 0..=4 {
            let parts = [&values[..cut], &values[cut..]].map(Spread::of);
            let both = Spread::default().and(parts[0]).and(parts[1]);
            assert_eq!(both.count, 4.0);
            assert!((both.mean - 4.0).abs() < 1e-12 && (both.squares - 20.0).abs() < 1e-12);
        }
    }
}
