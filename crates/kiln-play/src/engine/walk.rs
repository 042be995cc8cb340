//! One image on its way from noise: every level, and what guidance changes there.

use burn::tensor::Tensor;
use kiln_diffusion::{Denoiser, Guidance, Level};
use kiln_pipeline::{Moment, Pipeline, SampleOptions, Wanted};

use super::drawing::options;
use super::pictures::Bytes;
use super::{Refusal, Tell};
use crate::protocol::{Answer, Drawing, LevelAt};

/// More steps than a slider has use for.
const MOST_STEPS: usize = 250;
/// How much stronger than it is the push of guidance is shown.
const AMPLIFIED: f64 = 4.0;

impl From<Level> for LevelAt {
    fn from(level: Level) -> Self {
        Self {
            timestep: level.timestep,
            signal_rate: level.rates.signal,
            noise_rate: level.rates.noise,
        }
    }
}

/// The noisy latents of a walk at each level, and the clean ones that the network saw at the level before.
struct Steps {
    levels: Vec<Level>,
    noisy: Vec<Tensor<4>>,
    clean: Vec<Tensor<4>>,
}

/// The image under the seed, by its number and its class.
type Image = (u32, Option<u32>);

fn walked(
    pipeline: &Pipeline,
    options: &SampleOptions,
    (image, class): Image,
    tell: &Tell<'_>,
) -> Result<Steps, Refusal> {
    if options.steps > MOST_STEPS {
        return Err(Refusal::Question(format!(
            "a walk of {} steps is too long to show: up to {MOST_STEPS}",
            options.steps
        )));
    }
    let wanted = Wanted {
        image: image.into(),
        class: class.map(|class| class as usize),
    };
    let (mut noisy, mut clean) = (Vec::new(), Vec::new());
    let mut observer = |moment: Moment<'_>| {
        noisy.push(moment.latents.clone());
        clean.extend(moment.clean.cloned());
        tell.check()
    };
    pipeline.sample_wanted(&[wanted], options.observed(&mut observer))?;
    let levels = pipeline.trajectory(options)?;
    Ok(Steps {
        levels,
        noisy,
        clean,
    })
}

/// Tells the whole walk of an image.
pub(super) fn walk(
    pipeline: &Pipeline,
    drawing: &Drawing,
    image: Image,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let options = options(pipeline, drawing)?;
    let steps = walked(pipeline, &options, image, tell)?;
    let noisy = Tensor::cat(steps.noisy, 0);
    // At the first level nothing has been seen yet: what is seen next stands there, too.
    let first = steps.clean.first().cloned();
    let clean: Vec<_> = first.into_iter().chain(steps.clean).collect();
    let clean = Tensor::cat(clean, 0);
    let mut bytes = Bytes::default();
    let has_latents = pipeline.has_first_stage();
    let latents = |latents: &Tensor<4>, bytes: &mut Bytes| match has_latents {
        true => bytes.add_latents(latents.clone()).map(Some),
        false => Ok(None),
    };
    let answer = Answer::Walk {
        levels: steps.levels.into_iter().map(LevelAt::from).collect(),
        noisy_latents: latents(&noisy, &mut bytes)?,
        clean_latents: latents(&clean, &mut bytes)?,
        noisy: bytes.add(&pipeline.decode(noisy)?),
        clean: bytes.add(&pipeline.decode(clean)?),
    };
    tell.tell(answer, bytes)
}

/// Tells what guidance changes in what the network sees, at each level of an image's walk.
pub(super) fn push(
    pipeline: &Pipeline,
    drawing: &Drawing,
    image: Image,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let options = options(pipeline, drawing)?;
    let alone = SampleOptions {
        guidance: Guidance::default(),
        ..options.clone()
    };
    let steps = walked(pipeline, &options, image, tell)?;
    let class = [image.1.map(|class| class as usize)];
    let denoisers = (
        pipeline.denoiser(&class, &alone)?,
        pipeline.denoiser(&class, &options)?,
    );
    let levels = &steps.levels[..steps.levels.len().saturating_sub(1)];
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for (&level, noisy) in levels.iter().zip(&steps.noisy) {
        tell.check()?;
        without.push(denoisers.0.denoise(noisy.clone(), level).z0);
        with.push(denoisers.1.denoise(noisy.clone(), level).z0);
    }
    let alone = pipeline.decode(Tensor::cat(without, 0))?;
    let guided = pipeline.decode(Tensor::cat(with, 0))?;
    let device = pipeline.device();
    let push = (guided.to_tensor(&device) - alone.to_tensor(&device)) * AMPLIFIED / 2.0;
    let push = kiln_pipeline::pictures::Images::from_tensor(push)?;
    let mut bytes = Bytes::default();
    let answer = Answer::Push {
        levels: levels.iter().copied().map(LevelAt::from).collect(),
        alone: bytes.add(&alone),
        guided: bytes.add(&guided),
        push: bytes.add(&push),
        amplified: AMPLIFIED,
    };
    tell.tell(answer, bytes)
}
