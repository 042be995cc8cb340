//! How good pictures are: distances between sets of images, and a digit classifier.
//!
//! A network turns images into [`Features`], one row of numbers an image: [`Inception`] for photographs, as everybody
//! does, or [`DigitClassifier`] for digits, which Inception knows nothing about. Then two sets are compared:
//!
//! | measure | what it says | from |
//! | --- | --- | --- |
//! | [`frechet_distance`] | how far apart two normal distributions fitted to the features are (FID) | Heusel et al. 2017 |
//! | [`kernel_distance`] | the same without that assumption, and without bias (KID) | Binkowski et al. 2018 |
//! | [`Manifolds`] | fidelity apart from variety: precision, recall, density, coverage | Kynkäänniemi et al. 2019, Naeem et al. 2020 |
//! | [`nearest`] | the nearest training image of each drawn one: was it learnt by heart? | |
//! | [`DigitReadings`] | how sure the classifier is of drawn digits, and which ones there are | |
//!
//! A [`Judge`] is such a network; a [`Reference`] are real images that it has seen, to be compared with many sets of drawn ones
//! by all of these measures.
//!
//! How well an autoencoder gives single images back is said by [`psnr`], [`ssim`] and [`mean_squared_error`].
//!
//! Every measure is checked against somebody else's implementation: `tests/fixtures/eval/make.py` lists them.
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
mod inception;
mod judge;
mod kernel;
mod neighbours;
mod similarity;

use std::path::Path;

use kiln_data::read_regular;

pub use classifier::{Classified, DigitClassifier};
pub use digits::{CONFIDENT, DigitReadings, chi_squared};
pub use error::EvalError;
pub use features::Features;
pub use figures::{Figure, Reference};
pub use frechet::{Gaussian, frechet_distance};
pub use inception::{FeatureLayer, Inception};
pub use judge::{FeatureKind, Judge, Seen};
pub use kernel::{
    KernelDistance, kernel_distance, kernel_distance_by_batches, squared_discrepancy,
};
pub use neighbours::{Manifolds, nearest};
pub use similarity::{mean_psnr, mean_squared_error, psnr, ssim};

/// Many times the size of any judge's weights and of what it sees, in bytes.
const LARGEST: u64 = 1 << 30;

/// The bytes of a file.
fn read(path: &Path) -> Result<Vec<u8>, EvalError> {
    read_regular(path, LARGEST).map_err(|source| EvalError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
