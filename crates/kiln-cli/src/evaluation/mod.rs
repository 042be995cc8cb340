//! Measures how good a model's images are: compares sets of drawn images, each with its settings, with real ones.
//!
//! ```text
//! landmarks.rs         real images made worse, and the pixels themselves
//! sweep.rs             many ways to sample, each measured
//! reconstructions.rs   a first stage's reconstructions beside their originals
//! report.rs            the figures as a table, CSV, JSON and a plot
//! table.rs             Markdown in columns
//! ```

mod landmarks;
mod reconstructions;
mod report;
mod sweep;

pub use landmarks::{blurred, pixels_of};
pub use reconstructions::{comparison, perceptual_distance};
pub use report::{Report, Row};
pub use sweep::Sweep;
