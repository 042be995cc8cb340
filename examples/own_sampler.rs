//! A sampler of your own, on the digits model of this repository:
//!
//! ```text
//! cargo run --release --example own_sampler -- own_sampler.png
//! ```
//!
//! The picture has two rows from the same noises, 8 steps each: DDIM, and the sampler below.

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::{Device, Tensor};
use kiln::pictures::{Images, grid, save_png};
use kiln_checkpoint::{LatentDiffusion, ModelSource};
use kiln_diffusion::noise::ImageNoise;
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Denoised, Denoiser, Level, NetworkDenoiser, Schedule, levels};

/// How far the noise is extrapolated; 1 would be DDIM. The paper takes 2.
const GAMMA: f64 = 2.0;

/// Gradient estimation (Permenter and Yuan 2024, "Interpreting and Improving Diffusion Models from an Optimization
/// Perspective"): DDIM that looks ahead.
///
/// What the denoiser takes for noise turns a little on the way. So what it will be is guessed from what it was:
/// `ahead = gamma noise + (1 - gamma) noise before`.
///
/// `levels` are the amounts of noise from the highest to none: a step goes from one to the next, and the denoiser takes
/// any `z = a z0 + b noise` apart again. `noise` and the result are `[batch, channels, height, width]`.
fn gradient_estimation(denoiser: &dyn Denoiser, noise: Tensor<4>, levels: &[Level]) -> Tensor<4> {
    let mut z = noise;
    let mut before: Option<Tensor<4>> = None;
    for (level, next) in levels.iter().zip(levels.iter().skip(1)) {
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

fn main() -> anyhow::Result<()> {
    let picture = std::env::args_os()
        .nth(1)
        .unwrap_or("own_sampler.png".into());
    let picture = PathBuf::from(picture);

    let device = Device::flex();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pretrained/mnist");
    let model = LatentDiffusion::load(&ModelSource::Folder(folder.into()), &device)?;
    let first_stage = model.first_stage.as_ref().context("it has a VQ-VAE")?;
    let autoencoder = &first_stage.network;

    // Whatever the network predicts, a denoiser answers (z0, noise).
    let denoiser = NetworkDenoiser {
        network: |zt: Tensor<4>, level: Level| {
            let timesteps = level.timesteps(&zt);
            model.unet.forward(zt, timesteps, None)
        },
        prediction: model.scheduler.prediction,
        clip: None,
    };
    let schedule = Schedule::new(model.scheduler.schedule.clone())?;
    let levels = levels(&schedule, 8, model.scheduler.levels)?;
    let noise = ImageNoise {
        seed: 0,
        images: (0..12).collect(),
        shape: [4, 8, 8],
        device,
    };

    let fresh_noise = &mut |step| noise.draw(step);
    let ddim = Sampler::default();
    let ddim = ddim.sample(
        &denoiser,
        noise.draw(0),
        &levels,
        &schedule,
        fresh_noise,
        &mut |_| {},
    )?;
    let own = gradient_estimation(&denoiser, noise.draw(0), &levels);

    // Latents to images: a row of each.
    let latents = Tensor::cat(vec![ddim, own], 0);
    let images = Images::from_tensor(autoencoder.decode(autoencoder.denormalised(latents)))?;
    save_png(&grid(&images, 12), &picture)?;
    println!("drew {}", picture.display());
    Ok(())
}
