//! All figures for a set of drawn images, compared with real ones.

use crate::{
    EvalError, Gaussian, KernelDistance, Manifolds, Seen, chi_squared, kernel_distance,
    kernel_distance_by_batches,
};

/// Subsets of a kernel distance, and images in each.
const SUBSETS: usize = 100;
const SUBSET: usize = 1000;
/// Images per batch in the kernel distance by batches.
const BATCH: usize = 64;
/// Reach of the balls of [`Manifolds`].
const NEIGHBOURS: usize = 5;
/// Images of either set in [`Manifolds`], which compares all with all.
const MANIFOLD_IMAGES: usize = 10_000;

/// One number about a set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, as the heading of a table's column.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its standard error, if it is a mean of several numbers.
    pub error: Option<f64>,
}

impl Figure {
    /// A number that is not a mean.
    pub fn new(name: &str, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            value,
            error: None,
        }
    }

    fn mean(name: &str, distance: KernelDistance) -> Self {
        Self {
            error: distance.standard_error,
            ..Self::new(name, distance.mean)
        }
    }
}

/// Real images, ready to be compared with many sets of drawn ones.
#[derive(Debug)]
pub struct Reference {
    seen: Seen,
    gaussian: Gaussian,
    names: [&'static str; 2],
}

impl Reference {
    /// The fewest images of either set that [`Self::compare`] can compare.
    pub const FEWEST: usize = BATCH + 1;

    /// `names` are the names of the Frechet and the kernel distance: see [`crate::Judge::names_of_distances`].
    ///
    /// # Errors
    /// [`EvalError::TooFew`] below two images.
    pub fn new(seen: Seen, names: [&'static str; 2]) -> Result<Self, EvalError> {
        Ok(Self {
            gaussian: Gaussian::fit(seen.features())?,
            seen,
            names,
        })
    }

    /// Their features.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The Frechet distance, and the kernel distance over 100 subsets of (up to) 1,000 images drawn by `seed`.
    ///
    /// # Errors
    /// [`EvalError::TooFew`] below two images, [`EvalError::Lengths`] for features of another judge.
    pub fn distances(&self, drawn: &Seen, seed: u64) -> Result<[Figure; 2], EvalError> {
        let (real_features, features) = (self.seen.features(), drawn.features());
        let [frechet, kernel] = self.names;
        let distance = Gaussian::fit(features)?.frechet_distance(&self.gaussian)?;
        let subsets = kernel_distance(real_features, features, SUBSETS, SUBSET, seed)?;
        Ok([
            Figure::new(frechet, distance),
            Figure::mean(kernel, subsets),
        ])
    }

    /// [`Self::distances`], the kernel distance over batches of 64, precision, recall, density and coverage. For digits
    /// also the share of which the classifier is sure, and the chi-squared distance of their classes from the real
    /// ones.
    ///
    /// # Errors
    /// [`EvalError::TooFew`] below 65 images, [`EvalError::Lengths`] for features of another judge.
    pub fn compare(&self, drawn: &Seen, seed: u64) -> Result<Vec<Figure>, EvalError> {
        let (real_features, features) = (self.seen.features(), drawn.features());
        for set in [real_features, features] {
            set.at_least(Self::FEWEST, "comparing sets of images")?;
        }
        let batches = kernel_distance_by_batches(real_features, features, BATCH)?;
        let few = [real_features, features].map(|set| set.first(MANIFOLD_IMAGES));
        let [few_real, few_drawn] = &few;
        let manifolds = Manifolds::compare(few_real, few_drawn, NEIGHBOURS)?;
        let [_, kernel] = self.names;
        let mut figures = self.distances(drawn, seed)?.to_vec();
        figures.extend([
            Figure::mean(&format!("{kernel} by batches"), batches),
            Figure::new("precision", manifolds.precision),
            Figure::new("recall", manifolds.recall),
            Figure::new("density", manifolds.density),
            Figure::new("coverage", manifolds.coverage),
        ]);
        if let (Seen::Digits(real), Seen::Digits(drawn)) = (&self.seen, drawn) {
            let classes = chi_squared(&real.histogram(), &drawn.histogram());
            figures.push(Figure::new("confident", drawn.confident()));
            figures.push(Figure::new("classes chi²", classes));
        }
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DigitReadings, Features};

    fn readings(count: usize, digit: usize) -> Seen {
        let values = (0..2 * count).map(|place| ((place * 31 % 17) as f32).sin());
        Seen::Digits(DigitReadings {
            features: Features::new(values.collect(), 2).unwrap(),
            digits: vec![(digit, 0.95); count],
        })
    }

    #[test]
    fn a_set_beside_itself_is_as_good_as_it_gets() {
        let reference = Reference::new(readings(128, 3), ["Frechet", "kernel"]).unwrap();
        let figures = reference.compare(&readings(128, 3), 0).unwrap();
        let value = |name: &str| {
            figures
                .iter()
                .find(|figure| figure.name == name)
                .unwrap()
                .value
        };
        assert!(value("Frechet").abs() < 1e-9 && value("kernel").abs() < 0.1);
        assert_eq!((value("confident"), value("classes chi²")), (1.0, 0.0));
        let other = reference.compare(&readings(128, 4), 0).unwrap();
        assert_eq!(other.last().unwrap().value, 2.0);
    }

    #[test]
    fn a_figure_of_one_batch_or_of_one_subset_claims_no_error() {
        let reference = Reference::new(readings(128, 3), ["FID", "KID"]).unwrap();
        let has_error = |count| {
            let figures = reference.compare(&readings(count, 3), 0).unwrap();
            let is_mean = |figure: &&Figure| figure.name.contains("KID");
            let means = figures.iter().filter(is_mean);
            means
                .map(|figure| figure.error.is_some())
                .collect::<Vec<_>>()
        };
        // All 128 images of both sets are one subset, and two batches; 100 images are one batch, beside subsets of the 128.
        assert_eq!(has_error(128), [false, true]);
        assert_eq!(has_error(100), [true, false]);
    }

    #[test]
    fn figures_of_too_few_images_are_refused() {
        let reference = Reference::new(readings(128, 3), ["FID", "KID"]).unwrap();
        assert!(reference.compare(&readings(64, 3), 0).is_err());
    }
}
