//! The works that can be measured, and one repeat of each.

use std::ops::Range;

use anyhow::Context;
use burn::tensor::{Device, Tensor};
use clap::ValueEnum;
use kiln::pictures::Images;
use kiln::{Devices, Pipeline, SampleOptions};
use kiln_checkpoint::{DiffusionModel, FirstStage, Metadata};
use kiln_diffusion::noise::{self, ImageNoise};
use kiln_kernels::{Precision, with_precision};
use kiln_models::{SampleSize, UNet2dConfig};
use kiln_train::{DiffusionInput, Experiment, TrainError, diffusion_steps, vqvae_steps};
use serde::{Deserialize, Serialize};

use super::measurement::{Measurement, Repeats, measure};

/// Images, noise and latents have different seeds, so that a network's target is not its input.
const NOISE: u64 = 1;

/// Why an experiment in pixel space has no first stage to measure.
const NOTHING_TO_MEASURE: &str =
    "the experiment is in pixel space and has no first stage: measure stage-2 and sampling";

/// What can be measured of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A training step of the first stage
    #[value(name = "stage-1")]
    #[serde(rename = "stage-1")]
    Stage1,
    /// A training step of the U-Net
    #[value(name = "stage-2")]
    #[serde(rename = "stage-2")]
    Stage2,
    /// Drawing images: all denoising steps, then decoding
    Sampling,
    /// Decoding latents to images
    Decoding,
}

/// The size of one repeat of a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Images of each device in a training step; `None` uses each stage's own `batch_size`.
    pub batch_size: Option<usize>,
    /// Denoising steps in sampling.
    pub steps: usize,
    /// Images to draw or decode.
    pub count: usize,
    /// The precision of convolutions in drawing and decoding; training uses each stage's own.
    pub precision: Precision,
}

impl Work {
    /// The works of an experiment, in the order of a model's life. In pixel space nothing is encoded or decoded.
    pub fn all(experiment: &Experiment) -> Vec<Work> {
        match experiment.first_stage.as_ref() {
            Some(_) => vec![Work::Stage1, Work::Stage2, Work::Sampling, Work::Decoding],
            None => vec![Work::Stage2, Work::Sampling],
        }
    }

    /// Whether several devices can share this work.
    pub fn is_training(self) -> bool {
        matches!(self, Work::Stage1 | Work::Stage2)
    }

    /// The precision of its convolutions.
    pub fn precision(self, experiment: &Experiment, size: Size) -> Precision {
        match (self, &experiment.first_stage) {
            (Work::Stage1, Some(stage)) => stage.stage_1.training.precision,
            (Work::Stage2, _) => experiment.stage_2.training.precision,
            _ => size.precision,
        }
    }

    /// Runs this work of `experiment` with random weights and data: on all `devices` if it is training, otherwise on
    /// the first.
    ///
    /// # Errors
    /// If the experiment has no first stage to measure, if a network cannot be built, if sampling in so many steps is
    /// impossible, if training diverges (see [`kiln_train::TrainError::Diverged`]), and if a device fails.
    pub fn measure(
        self,
        experiment: &Experiment,
        size: Size,
        repeats: Repeats,
        devices: &Devices,
    ) -> anyhow::Result<Measurement> {
        match self {
            Work::Stage1 => stage_1(experiment, size, repeats, devices),
            Work::Stage2 => stage_2(experiment, size, repeats, devices),
            Work::Sampling => sampling(experiment, size, repeats, &devices.first()),
            Work::Decoding => decoding(experiment, size, repeats, &devices.first()),
        }
    }
}

fn stage_1(
    experiment: &Experiment,
    size: Size,
    repeats: Repeats,
    devices: &Devices,
) -> anyhow::Result<Measurement> {
    let first_stage = experiment
        .first_stage
        .as_ref()
        .context(NOTHING_TO_MEASURE)?;
    let batch = size
        .batch_size
        .unwrap_or(first_stage.stage_1.training.batch_size);
    let (seed, side) = (experiment.seed, experiment.data.size);
    let network = (first_stage.network).init(&devices.first().autodiff(), seed)?;
    let shape = [experiment.data.channels, side, side];
    let images = shares(batch, devices)
        .map(|(images, device)| normal(seed, images, shape, &device).clamp(-1.0, 1.0));
    let mut step = vqvae_steps(experiment, network, images.collect())?;
    measure(batch * devices.all().len(), repeats, |calls| {
        last_loss(calls, &mut step)
    })
}

fn stage_2(
    experiment: &Experiment,
    size: Size,
    repeats: Repeats,
    devices: &Devices,
) -> anyhow::Result<Measurement> {
    let batch = size
        .batch_size
        .unwrap_or(experiment.stage_2.training.batch_size);
    let (seed, shape) = (experiment.seed, experiment.sample_shape());
    let network = (experiment.unet).init(&devices.first().autodiff(), seed)?;
    let timesteps = experiment.schedule.num_train_timesteps;
    let inputs = shares(batch, devices).map(|(images, device)| DiffusionInput {
        z0: normal(seed, images.clone(), shape, &device),
        noise: normal(seed ^ NOISE, images.clone(), shape, &device),
        timesteps: images
            .map(|image| noise::timestep(seed, image, 0, timesteps))
            .collect(),
    });
    let mut step = diffusion_steps(experiment, network, inputs.collect())?;
    measure(batch * devices.all().len(), repeats, |calls| {
        last_loss(calls, &mut step)
    })
}

/// Does `work` this many times, and returns its last result.
pub fn last<T>(calls: usize, mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 1..calls {
        work()?;
    }
    work()
}

/// The loss after this many training steps. Only the last one is read, because a GPU would wait at each reading.
pub fn last_loss(
    calls: usize,
    mut step: impl FnMut() -> Result<Tensor<1>, TrainError>,
) -> anyhow::Result<f64> {
    let loss = last(calls, || Ok(step()?))?;
    Ok(loss
        .try_into_data()?
        .iter::<f64>()
        .next()
        .unwrap_or(f64::NAN))
}

/// The numbers of the `batch` images that each device trains on.
fn shares(batch: usize, devices: &Devices) -> impl Iterator<Item = (Range<u64>, Device)> {
    let batch = batch as u64;
    (0..).zip(devices.all()).map(move |(place, device)| {
        let images = batch * place..batch * (place + 1);
        (images, device.clone().autodiff())
    })
}

/// The experiment's model, with random weights.
fn pipeline(experiment: &Experiment, device: &Device) -> anyhow::Result<Pipeline> {
    let [_, height, width] = experiment.sample_shape();
    let unet = UNet2dConfig {
        sample_size: Some(SampleSize::Rectangle([height, width])),
        ..experiment.unet.clone()
    };
    let first_stage = experiment.first_stage.as_ref();
    let network = first_stage.map(|stage| stage.network.init(device, experiment.seed));
    let model = DiffusionModel {
        first_stage: network.transpose()?.map(|network| FirstStage {
            network,
            metadata: Metadata::default(),
        }),
        unet: unet.init(device, experiment.seed)?,
        guide: None,
        scheduler: experiment.scheduler(),
        metadata: Metadata::default(),
    };
    Ok(Pipeline::from_model(
        "random weights".into(),
        model,
        device,
    )?)
}

fn sampling(
    experiment: &Experiment,
    size: Size,
    repeats: Repeats,
    device: &Device,
) -> anyhow::Result<Measurement> {
    let pipeline = pipeline(experiment, device)?;
    let defaults = pipeline.default_options();
    let options = SampleOptions {
        steps: size.steps,
        count: size.count,
        // All of one class, if there are classes: by default there are `count` images of each.
        classes: defaults.classes.iter().copied().take(1).collect(),
        precision: size.precision,
        ..defaults
    };
    measure(size.count, repeats, |calls| {
        last(calls, || Ok(mean_square(&pipeline.sample(&options)?)))
    })
}

fn decoding(
    experiment: &Experiment,
    size: Size,
    repeats: Repeats,
    device: &Device,
) -> anyhow::Result<Measurement> {
    experiment
        .first_stage
        .as_ref()
        .context(NOTHING_TO_MEASURE)?;
    let pipeline = pipeline(experiment, device)?;
    let shape = experiment.sample_shape();
    let latents = normal(experiment.seed, 0..size.count as u64, shape, device);
    let mut decode = || {
        let images = with_precision(size.precision, || pipeline.decode(latents.clone()))?;
        Ok(mean_square(&images))
    };
    measure(size.count, repeats, |calls| last(calls, &mut decode))
}

/// Standard normal numbers `[images, channels, height, width]`, the same for the same seed and images.
fn normal(seed: u64, images: Range<u64>, shape: [usize; 3], device: &Device) -> Tensor<4> {
    let noise = ImageNoise {
        seed,
        images: images.collect(),
        shape,
        device: device.clone(),
    };
    noise.draw(0)
}

/// A number that shows whether two programs drew the same images.
pub fn mean_square(images: &Images) -> f64 {
    let values = images.values();
    let sum: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    sum / values.len().max(1) as f64
}
