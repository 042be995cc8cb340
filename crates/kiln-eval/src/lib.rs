//! Measures the quality of pictures: distances between sets of images, and a digit classifier.
//!
//! A network turns images into [`Features`], one row of numbers per image: [`Inception`] for photographs, as is usual,
//! or [`DigitClassifier`] for digits, which Inception does not know. These measures compare two sets:
//!
//! | measure | meaning | from |
//! | --- | --- | --- |
//! | [`frechet_distance`] | the distance between two normal distributions fitted to the features (FID) | Heusel et al. 2017 |
//! | [`kernel_distance`] | the same without that assumption, and without bias (KID) | Binkowski et al. 2018 |
//! | [`Manifolds`] | fidelity and variety separately: precision, recall, density, coverage | Kynkäänniemi et al. 2019, Naeem et al. 2020 |
//! | [`nearest`] | the nearest training image of each drawn one: was it memorised? | |
//! | [`DigitReadings`] | how sure the classifier is of drawn digits, and their classes | |
//!
//! A [`Judge`] is such a network. A [`Reference`] is a set of real images that it has judged, for comparison with many
//! sets of drawn ones by all of these measures.
//!
//! [`psnr`], [`ssim`] and [`mean_squared_error`] measure how well an autoencoder reconstructs single images, and a
//! [`PerceptualNetwork`] ([`Lpips`], or a classifier that kiln trained) how alike two images look. Its distance also
//! trains.
//!
//! Tests check every measure against another implementation: `tests/fixtures/eval/make.py` lists them.
//!
//! ```
//! use kiln_eval::{Features, frechet_distance};
//!
//! let real = Features::new(vec![0.0, 0.1, 1.0, 0.9, 0.5, 0.3], 2)?;
//! let drawn = Features::new(vec![0.1, 0.1, 0.9, 1.0, 0.4, 0.2], 2)?;
//! assert!(frechet_distance(&real, &drawn)? < 0.1);
//! # Ok::<(), kiln_eval::EvalError>(())
//! ```

#![recursion_limit = "256"]

mod cache;
mod classifier;
mod digits;
mod error;
mod features;
mod figures;
mod frechet;
mod image_classifier;
mod inception;
mod judge;
mod kernel;
mod neighbours;
mod perceptual;
mod similarity;

use std::path::Path;

use kiln_data::read_regular;

pub use classifier::{Classified, DigitClassifier};
pub use digits::{CONFIDENT, DigitReadings, chi_squared};
pub use error::EvalError;
pub use features::Features;
pub use figures::{Figure, Reference};
pub use frechet::{Gaussian, frechet_distance};
pub use image_classifier::{ImageClassifier, ImageClassifierConfig, ResidualConfig};
pub use inception::{FeatureLayer, Inception};
pub use judge::{FeatureKind, Judge, Seen};
pub use kernel::{
    KernelDistance, kernel_distance, kernel_distance_by_batches, squared_discrepancy,
};
pub use neighbours::{Manifolds, nearest};
pub use perceptual::{Backbone, ClassifierFeatures, Lpips, PerceptualKind, PerceptualNetwork};
pub use similarity::{mean_psnr, mean_squared_error, psnr, ssim};

/// Many times the size of any judge's weights and features, in bytes.
const LARGEST: u64 = 1 << 30;

/// The bytes of a file.
fn read(path: &Path) -> Result<Vec<u8>, EvalError> {
    read_regular(path, LARGEST).map_err(|source| EvalError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
