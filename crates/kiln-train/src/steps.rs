//! Training steps one by one, always on the same batches, for benchmarks.
//!
//! Each step is a step of the real training, with the same Learner: loss, gradients and their sum over the devices,
//! clipping, AdamW, the average of the weights, the codebook. It leaves out the rest of a training: reading data,
//! drawing noise, metrics, checkpoints.

use std::path::Path;

use burn::data::dataloader::{DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::optim::MultiGradientsParams;
use burn::tensor::{Device, Tensor};
use burn::train::train::MultiDevicesTrainStep;
use burn::train::{Learner, LearnerModel, TrainOutput, TrainStep};
use kiln_data::NoProgress;
use kiln_models::BatchPosition;
use kiln_models::{Autoencoder, UNet2d};

use crate::denoising::{self, NoisyBatch, Pictured};
use crate::error::TrainError;
use crate::experiment::{Experiment, TrainingConfig};
use crate::first_stage::objective::perceptual;
use crate::first_stage::{self, ImageTensors, Objective};
use crate::learner::learning_rate::WarmupCosine;
use crate::learner::plan::Plan;
use crate::learner::report::StepReport;
use crate::learner::session::{Session, StopSignal};
use crate::learner::update::optimizer;
use crate::run_folder::RunFolder;

/// Trains `network` as stage 1 of `experiment` does; each call of the result is one step and returns its loss, `[1]`.
///
/// `images` are `[batch, channels, height, width]` in [-1, 1]: one tensor for each device, all of the same size and
/// with autodiff, the network's own device first. One pass over them is a step, independent of `accumulate`, and the
/// codebook does not begin at k-means centres.
///
/// # Errors
/// If the experiment has no stage 1. A step fails if gradients are not finite, or if a device fails.
pub fn vqvae_steps(
    experiment: &Experiment,
    network: Autoencoder,
    images: Vec<Tensor<4>>,
) -> Result<impl FnMut() -> Result<Tensor<1>, TrainError> + use<>, TrainError> {
    let first_stage = experiment
        .first_stage
        .as_ref()
        .ok_or(TrainError::NoFirstStage)?;
    let counts: Vec<usize> = images.iter().map(|images| images.dims()[0]).collect();
    let total_images: usize = counts.iter().sum();
    let position = positions(experiment.seed, counts);
    let training = one_pass(&first_stage.stage_1.training);
    let session = Session::new(0, StopSignal::default());
    let side = experiment.data.size;
    let table = first_stage.stage_1.perceptual();
    let device = images
        .first()
        .map_or_else(Device::flex, Tensor::device)
        .inner();
    let perceptual = table.map(|table| {
        let weights = table.weights.as_deref();
        perceptual::open(first_stage, table, weights, side, &device, &NoProgress)
    });
    let perceptual = perceptual.transpose()?;
    let trainee = first_stage::trainee(
        first_stage,
        Objective::new(first_stage, side, perceptual, None),
        network,
        0,
        &Plan::new(&training, total_images, images.len(), experiment.seed),
        RunFolder::new(Path::new("")).stage_1(),
        session.clone(),
    );
    let devices = images.iter().map(Tensor::device).collect();
    Ok(steps(
        trainee,
        &training,
        session,
        devices,
        move |step, device| {
            Ok(ImageTensors {
                images: images[device].clone(),
                step,
                position: position(step, device),
            })
        },
    ))
}

/// One device's input in a step of stage 2.
#[derive(Debug, Clone)]
pub struct DiffusionInput {
    /// Scaled latents or images, `[batch, channels, height, width]`, on a device with autodiff.
    pub z0: Tensor<4>,
    /// Standard normal, of the same shape and on the same device.
    pub noise: Tensor<4>,
    /// One number per image, from 0 up to the schedule's `num_train_timesteps`.
    pub timesteps: Vec<f64>,
}

/// Trains `network` as stage 2 of `experiment` does; each call of the result is one step and returns its loss, `[1]`.
///
/// `inputs` has the same number of images for each device, the network's own device first. The network need not be the
/// experiment's own; a conditional network gets one class after the other. One pass over the images is a step,
/// independent of `accumulate`.
///
/// # Errors
/// If the experiment's schedule cannot be built. A step fails if gradients are not finite, or if a device fails.
pub fn diffusion_steps(
    experiment: &Experiment,
    network: UNet2d,
    inputs: Vec<DiffusionInput>,
) -> Result<impl FnMut() -> Result<Tensor<1>, TrainError> + use<>, TrainError> {
    let training = one_pass(&experiment.stage_2.training);
    let session = Session::new(0, StopSignal::default());
    let counts: Vec<usize> = inputs.iter().map(|input| input.timesteps.len()).collect();
    let images: usize = counts.iter().sum();
    let position = positions(experiment.seed, counts);
    let classes = network.config().num_class_embeds;
    let trainee = denoising::trainee(
        experiment,
        network,
        None,
        Pictured::default(), // no pictures are drawn
        &Plan::new(&training, images, inputs.len(), experiment.seed),
        RunFolder::new(Path::new("")).stage_2(),
        session.clone(),
    )?;
    let devices = inputs.iter().map(|input| input.z0.device()).collect();
    Ok(steps(
        trainee,
        &training,
        session,
        devices,
        move |step, device| {
            let DiffusionInput {
                z0,
                noise,
                timesteps,
            } = inputs[device].clone();
            let labels =
                classes.map(|classes| (0..timesteps.len()).map(|image| image % classes).collect());
            Ok(NoisyBatch {
                position: position(step, device),
                z0,
                noise,
                timesteps,
                labels,
            })
        },
    ))
}

/// The position of each device's batch in a step, from their numbers of images.
fn positions(seed: u64, counts: Vec<usize>) -> impl Fn(usize, usize) -> BatchPosition {
    let total_images = counts.iter().sum();
    move |step, device| BatchPosition {
        seed,
        step: step as u64,
        first_image: counts[..device].iter().sum(),
        total_images,
    }
}

/// These settings with a step of a single batch on each device.
pub(crate) fn one_pass(training: &TrainingConfig) -> TrainingConfig {
    TrainingConfig {
        accumulate: 1,
        ..training.clone()
    }
}

/// Does the same as the Learner's loop over an epoch with each batch, on one device or, with [`Strategy::Main`], on
/// several.
///
/// `batch` gives the input of a device, counted from zero, in a step.
///
/// [`Strategy::Main`]: crate::Strategy::Main
pub(crate) fn steps<M, B>(
    trainee: M,
    training: &TrainingConfig,
    session: Session,
    devices: Vec<Device>,
    mut batch: B,
) -> impl FnMut() -> Result<Tensor<1>, TrainError> + use<M, B>
where
    M: TrainStep<Output = StepReport> + LearnerModel,
    B: FnMut(usize, usize) -> Result<<M as TrainStep>::Input, TrainError>,
{
    let mut learner = Learner::new(trainee, optimizer(&session), WarmupCosine::new(training));
    let workers = (devices.len() > 1).then(|| MultiDevicesTrainStep::new(&devices));
    let mut step = 0;
    move || {
        let batches: Result<Vec<_>, _> = (0..devices.len())
            .map(|device| batch(step, device))
            .collect();
        let batches = batches?.into_iter();
        let outputs: Vec<TrainOutput<StepReport>> = match &workers {
            None => batches.map(|batch| learner.train_step(batch)).collect(),
            Some(workers) => {
                let mut loaders: Vec<_> = batches.map(OneBatch::boxed).collect();
                let (outputs, _) = (workers.step(&mut loaders, &learner.model()))
                    .map_err(|error| TrainError::Learner(error.to_string()))?;
                outputs.into_iter().map(|device| device.output).collect()
            }
        };
        learner.lr_step();
        let mut gradients = MultiGradientsParams::default();
        let mut reports = Vec::new();
        for (output, device) in outputs.into_iter().zip(&devices) {
            gradients.grads.push((output.grads, device.clone()));
            reports.push(output.item);
        }
        learner.optimizer_step_multi(gradients);
        step += 1;
        if let Some(failure) = session.take_failure() {
            return Err(failure);
        }
        let devices = reports.len() as f64;
        let losses = (reports.into_iter()).map(|report| report.scalars.narrow(0, 0, 1));
        let summed = losses.reduce(|sum, loss| {
            let device = sum.device();
            sum + loss.to_device(&device)
        });
        summed
            .map(|sum| sum / devices)
            .ok_or_else(|| TrainError::Learner("there is no device".into()))
    }
}

/// The data loader for Burn's workers.
struct OneBatch<B>(Option<B>);

impl<B: 'static> OneBatch<B> {
    fn boxed(batch: B) -> Box<dyn DataLoaderIterator<B>> {
        Box::new(Self(Some(batch)))
    }
}

impl<B> Iterator for OneBatch<B> {
    type Item = Result<B, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl<B> DataLoaderIterator<B> for OneBatch<B> {
    fn progress(&self) -> Progress {
        Progress::new(1, 1, None)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_diffusion::noise::ImageNoise;

    use super::*;

    const EXPERIMENT: &str = r#"
        [data]
        dataset = "folder"
        size = 8
        channels = 1
        [vqvae]
        in_channels = 1
        out_channels = 1
        sample_size = 8
        down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
        up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
        block_out_channels = [4, 4]
        latent_channels = 2
        num_vq_embeddings = 8
        norm_num_groups = 2
        mid_block_add_attention = false
        [stage_1.training]
        steps = 100
        batch_size = 4
        accumulate = 2
        learning_rate = 1e-2
        checkpoint_every = 10
        [unet]
        in_channels = 2
        out_channels = 2
        down_block_types = ["DownBlock2D"]
        up_block_types = ["UpBlock2D"]
        block_out_channels = [4]
        layers_per_block = 1
        norm_num_groups = 2
        add_attention = false
        [schedule]
        [stage_2.training]
        steps = 100
        batch_size = 4
        learning_rate = 1e-2
        checkpoint_every = 10
        [stage_2.training.ema]
    "#;

    fn losses(mut step: impl FnMut() -> Result<Tensor<1>, TrainError>) -> Vec<f64> {
        (0..30).map(|_| step().unwrap().into_scalar()).collect()
    }

    /// Four images of standard normal noise.
    fn images(seed: u64, shape: [usize; 3], device: &Device) -> Tensor<4> {
        ImageNoise {
            seed,
            images: (0..4).collect(),
            shape,
            device: device.clone(),
        }
        .draw(0)
    }

    /// The losses of both stages, with convolutions of 32 channels in this precision.
    fn losses_in(precision: &str) -> [Vec<f64>; 2] {
        let overrides = [
            format!("stage_1.training.precision=\"{precision}\""),
            format!("stage_2.training.precision=\"{precision}\""),
            "vqvae.block_out_channels=[32, 32]".to_owned(),
            "unet.block_out_channels=[32]".to_owned(),
        ];
        let experiment = Experiment::parse(EXPERIMENT, "test", &overrides).unwrap();
        let device = Device::flex().autodiff();
        let network = &experiment.first_stage.as_ref().unwrap().network;
        let network = network.init(&device, 0).unwrap();
        let stage_1 = vqvae_steps(&experiment, network, vec![images(0, [1, 8, 8], &device)]);
        let stage_1 = losses(stage_1.unwrap());

        let unet = experiment.unet.init(&device, 0).unwrap();
        let [z0, noise] = [1, 2].map(|seed| images(seed, [2, 4, 4], &device));
        let input = DiffusionInput {
            z0,
            noise,
            timesteps: vec![10.0, 300.0, 600.0, 999.0],
        };
        let stage_2 = diffusion_steps(&experiment, unet, vec![input]).unwrap();
        [stage_1, losses(stage_2)]
    }

    #[test]
    fn both_stages_learn_the_batch_that_they_see_again_and_again() {
        for losses in losses_in("f32") {
            assert!(losses[29] < 0.9 * losses[0], "{losses:?}");
        }
    }

    #[test]
    fn two_devices_with_half_the_images_each_learn_as_one_does() {
        let experiment = Experiment::parse(EXPERIMENT, "test", &[]).unwrap();
        let device = Device::flex().autodiff();
        let network = || experiment.unet.init(&device, 0).unwrap();
        let [z0, noise] = [1, 2].map(|seed| images(seed, [2, 4, 4], &device));
        let timesteps = [10.0, 300.0, 600.0, 900.0];
        let part = |images: std::ops::Range<usize>| DiffusionInput {
            z0: z0.clone().slice([images.clone()]),
            noise: noise.clone().slice([images.clone()]),
            timesteps: timesteps[images].to_vec(),
        };
        let one = diffusion_steps(&experiment, network(), vec![part(0..4)]);
        let two = diffusion_steps(&experiment, network(), vec![part(0..2), part(2..4)]);
        for (one, two) in losses(one.unwrap()).into_iter().zip(losses(two.unwrap())) {
            assert!((one - two).abs() < 1e-5 * one, "{one} and {two}");
        }
    }

    #[test]
    fn rounded_factors_change_the_first_loss_a_little_and_learning_not_at_all() {
        for (exact, rounded) in losses_in("f32").iter().zip(losses_in("bf16")) {
            let change = (rounded[0] / exact[0] - 1.0).abs();
            assert!(change < 1e-2, "{change}");
            // Other processors use f32 in any case.
            assert_eq!(change > 0.0, kiln_kernels::bf16_instructions().is_some());
            assert!(rounded[29] < 0.9 * rounded[0], "{rounded:?}");
        }
    }

    #[test]
    fn stage_2_learns_with_every_kind_of_objective() {
        let device = Device::flex().autodiff();
        for overrides in [
            ["prediction=flow", "loss=huber", "loss_on=noise"],
            [
                "prediction=velocity",
                "loss_on=signal",
                "loss_weight.min-snr.gamma=5.0",
            ],
            [
                "prediction=signal",
                "loss_on=velocity",
                "loss_weight={ p2 = {} }",
            ],
            [
                "prediction=noise",
                "loss=mae",
                "loss_weight.edm.sigma_data=1.0",
            ],
        ] {
            let overrides = overrides.map(|text| format!("stage_2.{text}"));
            let experiment = Experiment::parse(EXPERIMENT, "test", &overrides).unwrap();
            let unet = experiment.unet.init(&device, 0).unwrap();
            let [z0, noise] = [1, 2].map(|seed| images(seed, [2, 4, 4], &device));
            let input = DiffusionInput {
                z0,
                noise,
                timesteps: vec![10.0, 300.0, 600.0, 900.0],
            };
            let steps = diffusion_steps(&experiment, unet, vec![input]);
            let losses = losses(steps.unwrap());
            assert!(losses[29] < 0.95 * losses[0], "{overrides:?} {losses:?}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_end_the_steps() {
        let experiment = Experiment::parse(EXPERIMENT, "test", &[]).unwrap();
        let device = Device::flex().autodiff();
        let network = &experiment.first_stage.as_ref().unwrap().network;
        let network = network.init(&device, 0).unwrap();
        let images = Tensor::<4>::full([4, 1, 8, 8], f32::INFINITY, &device);
        let mut step = vqvae_steps(&experiment, network, vec![images]).unwrap();
        let error = step().unwrap_err();
        assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
    }
}
