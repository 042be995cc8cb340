//! Two-stage latent diffusion in one binary.
