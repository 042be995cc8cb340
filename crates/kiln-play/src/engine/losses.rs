//! The errors of the network at levels of noise.

use burn::tensor::Tensor;
use kiln_diffusion::{Denoised, Denoiser, Guidance, Schedule};
use kiln_pipeline::{Pipeline, Precision, SampleOptions};

use super::pictures::{self, Bytes};
use super::{Refusal, Tell};
use crate::protocol::{Answer, LevelAt, Sheet};

/// More levels than a plot has use for.
const MOST_LEVELS: u32 = 100;
/// Enough pictures for a smooth curve.
const MOST_PICTURES: usize = 256;

/// Tells how far the noise and the clean latents that the network sees are from the true ones.
pub(super) fn losses(
    pipeline: &Pipeline,
    (bytes, given): (&[u8], &Sheet),
    classes: &[u32],
    levels: u32,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    if !(2..=MOST_LEVELS).contains(&levels) {
        return Err(Refusal::Question(format!(
            "{levels} levels: there must be 2 to {MOST_LEVELS}"
        )));
    }
    let images = pictures::read(bytes, given, pipeline.image_shape())?;
    if images.len() > MOST_PICTURES {
        return Err(Refusal::Question(format!(
            "{} pictures: up to {MOST_PICTURES} are enough",
            images.len()
        )));
    }
    let z0 = pipeline.encode(&images)?;
    let fresh = (0..images.len() as u64).map(|image| pipeline.noise(0, image));
    let fresh = Tensor::cat(fresh.collect(), 0);
    let options = SampleOptions {
        guidance: Guidance::default(),
        clip: None,
        precision: Precision::F32,
        ..pipeline.default_options()
    };
    let known = pipeline.classes().is_some();
    let classes: Vec<Option<usize>> = (0..images.len())
        .map(|image| {
            let class = classes.get(image).filter(|_| known);
            class.map(|&class| class as usize)
        })
        .collect();
    let denoiser = pipeline.denoiser(&classes, &options)?;
    let schedule = Schedule::new(pipeline.model().scheduler.schedule.clone())?;
    let last = (schedule.num_train_timesteps() - 1) as f64;
    let mean_square = |one: Tensor<4>, other: &Tensor<4>| {
        f64::from((one - other.clone()).square().mean().into_scalar::<f32>())
    };
    let (mut told, mut of_noise, mut of_signal) = (Vec::new(), Vec::new(), Vec::new());
    for place in 0..levels {
        let timestep = last * f64::from(place) / f64::from(levels - 1);
        let level = schedule.level(timestep.round());
        tell.check()?;
        let zt = level.rates.add_noise(z0.clone(), fresh.clone());
        let Denoised { z0: clean, noise } = denoiser.denoise(zt, level);
        told.push(LevelAt::from(level));
        of_noise.push(mean_square(noise, &fresh));
        of_signal.push(mean_square(clean, &z0));
    }
    let answer = Answer::Losses {
        levels: told,
        noise: of_noise,
        signal: of_signal,
    };
    tell.tell(answer, Bytes::default())
}
