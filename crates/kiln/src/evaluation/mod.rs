//! How good a model's images are: sets of drawn images beside real ones, and what they were drawn with.
//!
//! ```text
//! real.rs      real images, and what the judge saw in them, cached
//! sweep.rs     many ways to sample, each measured
//! report.rs    the figures as a table, CSV, JSON and a plot
//! ```

mod real;
mod report;
mod sweep;

pub use real::{blurred, images_of, pixels_of, seen_in, seen_in_dataset};
pub use report::{Report, Row};
pub use sweep::{Sweep, evaluations, memorised};
