//! Your own sampler, on the digits model of this repository:
//!
//! ```text
//! cargo run --release --example own_sampler -- own_sampler.png
//! ```
//!
//! The picture has two rows from the same noises, 8 steps each: DDIM, and the sampler below.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

use kiln::burn::tensor::{Device, Tensor};
use kiln::pictures::{grid, save_png};
use kiln::{Denoised, Denoiser, Level, Pipeline, SampleOptions};

/// How far the noise is extrapolated; 1 would be DDIM. The paper takes 2.
const GAMMA: f64 = 2.0;

/// Gradient estimation (Permenter and Yuan 2024, "Interpreting and Improving Diffusion Models from an Optimization
/// Perspective"): DDIM that looks ahead.
///
/// The predicted noise changes a little from step to step. This sampler extrapolates the change: `ahead = gamma noise +
/// (1 - gamma) noise before`.
///
/// `levels` are the amounts of noise from the highest to zero. A step goes from one level to the next, and the denoiser
/// splits any `z = a z0 + b noise` into z0 and noise. `noise` and the result are `[batch, channels, height, width]`.
fn gradient_estimation(denoiser: &dyn Denoiser, noise: Tensor<4>, levels: &[Level]) -> Tensor<4> {
    let mut z = noise;
    let mut before: Option<Tensor<4>> = None;
    for [level, next] in levels.array_windows() {
        let (a, b) = (level.rates.signal, level.rates.noise);
        let Denoised { noise, .. } = denoiser.denoise(z.clone(), *level);
        let ahead = match before.replace(noise.clone()) {
            Some(before) => noise * GAMMA + before * (1.0 - GAMMA),
            None => noise,
        };
        let z0 = (z - ahead.clone() * b) / a;
        z = z0 * next.rates.signal + ahead * next.rates.noise;
    }
    z
}

fn main() -> Result<(), Box<dyn Error>> {
    let picture = env::args_os().nth(1).unwrap_or("own_sampler.png".into());
    let picture = PathBuf::from(picture);

    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../pretrained/mnist-many-steps"
    );
    let pipeline = Pipeline::load(Path::new(folder), &Device::flex())?;
    let options = SampleOptions {
        steps: 8,
        count: 12,
        ..pipeline.default_options()
    };
    let mut images = pipeline.sample(&options)?;
    images.append(pipeline.sample_with(&options, gradient_estimation)?);
    save_png(&grid(&images, 12), &picture)?;
    println!("drew {}", picture.display());
    Ok(())
}
