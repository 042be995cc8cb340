//! diffusers' `scheduler_config.json`.
//!
//! ```text
//! config.rs   the file, read and written
//! class.rs    which sampler each class stands for, and the keys that are its own
//! fields.rs   the keys, taken out one by one, so that none is passed over
//! ```

mod class;
mod config;
mod fields;

pub use config::SchedulerConfig;
