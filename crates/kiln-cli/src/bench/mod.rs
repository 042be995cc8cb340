//! Measures how fast this machine trains and samples, and in how much memory.
//!
//! It measures a [`Work`] of an experiment, with random weights and random data of its shapes, so it needs no data set
//! and writes no file. The training steps are the same as in real training ([`kiln_train::vqvae_steps`],
//! [`kiln_train::diffusion_steps`]); sampling is [`Pipeline::sample`](kiln::Pipeline::sample).
//!
//! A process's peak memory never falls, so measure each work in a separate process, like `kiln bench`.

mod machine;
pub mod measurement;
pub mod memory;
pub mod work;

pub use machine::Machine;
pub use measurement::{Calls, Measurement, Repeats};
pub use work::{Size, Work};
