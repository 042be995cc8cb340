//! Two-stage latent diffusion: the front door.

pub mod pictures;

pub use pictures::Images;
