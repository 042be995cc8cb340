//! The networks of latent diffusion: VqVae and UNet2d, key for key those of diffusers.
