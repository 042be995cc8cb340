//! How fast this machine trains and samples, and in how much memory.
//!
//! What is measured is a [`Work`] of an experiment: with random weights and random data of its shapes, so it needs no
//! data set and writes no file. The training steps are those of the real training ([`kiln_train::vqvae_steps`],
//! [`kiln_train::diffusion_steps`]); sampling is [`Pipeline::sample`](crate::Pipeline::sample).
//!
//! A process's peak memory never falls, so works that are to be compared are measured in a process each, as
//! `kiln bench` does.
//!
//! ```
//! use kiln::bench::{Repeats, measure};
//!
//! let repeats = Repeats { warm_up: 1, timed: 3 };
//! let measurement = measure(64, repeats, || Ok::<f64, kiln::Error>(0.0))?;
//! assert_eq!(measurement.milliseconds.len(), 3);
//! # Ok::<(), kiln::Error>(())
//! ```

mod machine;
mod measurement;
mod memory;
mod work;

pub use machine::Machine;
pub use measurement::{Measurement, Repeats, measure};
pub use memory::{peak_memory, resident_memory};
pub use work::{Size, Work, mean_square};
