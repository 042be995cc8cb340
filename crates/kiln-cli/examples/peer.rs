//! kiln's turns in the comparison with PyTorch: `benches/peer/compare.py` builds and runs this.
//!
//! ```text
//! peer train-unet  --config configs/mnist.toml   --model UNET   --inputs FILE --warm-up 2 --repeats 5
//! peer train-vqvae --config configs/flowers-vq.toml --model VQVAE  --inputs FILE --warm-up 2 --repeats 5
//! peer forward     --model UNET  --inputs FILE --warm-up 3 --repeats 10
//! peer sample      --model MODEL --steps 50 --count 64          --warm-up 1 --repeats 2 [--save-noise FILE]
//! ```
//!
//! With `--device cuda` it computes on a graphics card, in a build for it: `benches/gpu` calls it so.
//!
//! Models are folders that diffusers wrote. It prints one JSON object: a `Measurement`, and what the program was.

// The program's own stopwatch.
#[allow(dead_code, unused_imports, reason = "the program uses the rest of it")]
#[path = "../src/bench/mod.rs"]
mod bench;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bench::measurement::measure;
use bench::memory::resident_memory;
use bench::work::{last, last_loss, mean_square};
use bench::{Calls, Machine, Measurement, Repeats};
use burn::tensor::{Device, Tensor, TensorData};
use clap::{Args, Parser, Subcommand};
use kiln::{Devices, Pipeline, SampleOptions};
use kiln_kernels::{Precision, is_cpu, on_the_pool, with_precision};
use kiln_models::bottleneck::vq::CodebookUpdate;
use kiln_models::{UNet2dConfig, VqVaeConfig, load_weights};
use kiln_train::{DiffusionInput, Experiment, diffusion_steps, vqvae_steps};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// diffusers' name for a network's weights.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    TrainUnet(Training),
    TrainVqvae(Training),
    Forward(Forward),
    Sample(Sampling),
}

#[derive(Args)]
struct Training {
    /// The experiment whose optimizer, schedule and average are used
    #[arg(long)]
    config: PathBuf,
    /// Overrides of its keys
    #[arg(long)]
    set: Vec<String>,
    /// The network's folder
    #[arg(long)]
    model: PathBuf,
    /// The batch: `z0`, `noise` and `timesteps` for a U-Net, `images` for a VQ-VAE
    #[arg(long)]
    inputs: PathBuf,
    #[command(flatten)]
    computing: Computing,
}

/// One call of a U-Net without gradients: what a step of a sampler costs.
#[derive(Args)]
struct Forward {
    /// The network's folder
    #[arg(long)]
    model: PathBuf,
    /// The batch `noise`; all of it is at timestep 500
    #[arg(long)]
    inputs: PathBuf,
    #[command(flatten)]
    computing: Computing,
}

#[derive(Args)]
struct Sampling {
    /// The folder of a whole model
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    steps: usize,
    #[arg(long)]
    count: usize,
    /// Where to leave the noise that the images begin with
    #[arg(long)]
    save_noise: Option<PathBuf>,
    #[command(flatten)]
    computing: Computing,
}

/// How, where and how often to compute.
#[derive(Args)]
struct Computing {
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Where to compute: cpu, cuda or another that this build has
    #[arg(long, default_value = "cpu")]
    device: Devices,
    #[command(flatten)]
    repeats: RepeatsArguments,
    /// After the repeats to warm up, shows one call to a profiler that was started with `--profile-from-start off`, instead of
    /// timing; in builds for CUDA
    #[arg(long)]
    profile: bool,
}

#[derive(Args)]
struct RepeatsArguments {
    #[arg(long)]
    warm_up: usize,
    #[arg(long)]
    repeats: usize,
    /// Steps in each repeat, with one reading of the loss; 0 takes as many as fit into 0.7 s
    #[arg(long, default_value_t = 1)]
    steps_per_repeat: usize,
}

impl Computing {
    /// # Errors
    /// If it does not compute in this precision.
    fn first_device(&self) -> anyhow::Result<Device> {
        self.device.check_precision(self.precision)?;
        Ok(self.device.first())
    }

    /// [`measure`], or what `--profile` says. `task` finishes its work before it returns.
    fn measure(
        self,
        images: usize,
        mut task: impl FnMut(usize) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Measurement> {
        if !self.profile {
            return measure(images, self.repeats.into(), task);
        }
        let warm_up = self.repeats.warm_up;
        let once = Repeats {
            warm_up,
            timed: 1,
            calls: Calls::Exactly(1),
            announced: false,
        };
        let mut calls = 0;
        measure(images, once, |count| {
            calls += 1;
            let _seen = (calls > warm_up).then(profiler).transpose()?;
            task(count)
        })
    }
}

/// Lets a profiler see the GPU's work until it is dropped.
#[cfg(feature = "cuda")]
fn profiler() -> anyhow::Result<cudarc::driver::Profiler> {
    // The context that CubeCL has: a device's first one, which all of a process share. It becomes this thread's.
    let _context = cudarc::driver::CudaContext::new(0)?;
    Ok(cudarc::driver::Profiler::new()?)
}

#[cfg(not(feature = "cuda"))]
fn profiler() -> anyhow::Result<()> {
    anyhow::bail!("--profile needs a build for CUDA")
}

impl From<RepeatsArguments> for Repeats {
    fn from(arguments: RepeatsArguments) -> Self {
        Self {
            warm_up: arguments.warm_up,
            timed: arguments.repeats,
            calls: match arguments.steps_per_repeat {
                0 => Calls::Fitting,
                steps => Calls::Exactly(steps),
            },
            announced: true,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let memory_before = resident_memory();
    let measurement = match Arguments::parse().work {
        Work::TrainUnet(training) => training.unet(),
        Work::TrainVqvae(training) => training.vqvae(),
        Work::Forward(forward) => forward.run(),
        Work::Sample(sampling) => sampling.run(),
    }?;
    let mut printed = serde_json::to_value(&measurement)?;
    if let Ok(started) = std::env::var("KIT_STARTED")
        .unwrap_or_default()
        .parse::<f64>()
    {
        printed["first_step_seconds"] = (measurement.first_end - started).into();
    }
    printed["memory_before"] = memory_before.into();
    printed["version"] = env!("CARGO_PKG_VERSION").into();
    printed["machine"] = serde_json::to_value(Machine::here())?;
    println!("{printed}");
    Ok(())
}

impl Training {
    /// Steps of stage 2 on a U-Net, which may be that of another experiment.
    fn unet(self) -> anyhow::Result<Measurement> {
        let mut experiment = Experiment::load(&self.config, &self.set)?;
        experiment.stage_2.training.precision = self.computing.precision;
        let device = self.computing.first_device()?.autodiff();
        let config = UNet2dConfig::from_json(&fs::read_to_string(self.model.join("config.json"))?)?;
        let network = load_weights(config.init(&device, 0)?, &self.model.join(WEIGHTS))?;
        let inputs = Inputs::read(&self.inputs)?;
        let timesteps: Vec<f64> = inputs
            .values("timesteps")?
            .into_iter()
            .map(f64::from)
            .collect();
        let count = timesteps.len();
        let input = DiffusionInput {
            z0: inputs.images("z0", &device)?,
            noise: inputs.images("noise", &device)?,
            timesteps,
        };
        let mut step = diffusion_steps(&experiment, network, vec![input])?;
        self.computing
            .measure(count, |calls| last_loss(calls, &mut step))
    }

    /// Steps of stage 1. The codebook learns by gradient, since diffusers knows no other way.
    fn vqvae(self) -> anyhow::Result<Measurement> {
        let mut experiment = Experiment::load(&self.config, &self.set)?;
        let first_stage = experiment.first_stage.as_mut();
        let first_stage = first_stage.context("the config has no first stage")?;
        first_stage.codebook.update = CodebookUpdate::Gradient;
        first_stage.stage_1.training.precision = self.computing.precision;
        let device = self.computing.first_device()?.autodiff();
        let config = VqVaeConfig::from_json(&fs::read_to_string(self.model.join("config.json"))?)?;
        let network = load_weights(config.init(&device, 0)?, &self.model.join(WEIGHTS))?;
        let images = Inputs::read(&self.inputs)?.images("images", &device)?;
        let [count, ..] = images.dims();
        let mut step = vqvae_steps(&experiment, network, vec![images])?;
        self.computing
            .measure(count, |calls| last_loss(calls, &mut step))
    }
}

impl Forward {
    fn run(self) -> anyhow::Result<Measurement> {
        let device = self.computing.first_device()?;
        let config = UNet2dConfig::from_json(&fs::read_to_string(self.model.join("config.json"))?)?;
        let network = load_weights(config.init(&device, 0)?, &self.model.join(WEIGHTS))?;
        let noise = Inputs::read(&self.inputs)?.images("noise", &device)?;
        let [count, ..] = noise.dims();
        let precision = self.computing.precision;
        let mut call = || {
            let forward = || {
                with_precision(precision, || {
                    network.forward_at(noise.clone(), 500.0, 1.0, None)
                })
            };
            // The pool is for the processor's operators; on a GPU each thread has a stream of its own.
            let output = match is_cpu(&device) {
                true => on_the_pool(forward),
                false => forward(),
            };
            let mean = output.square().mean().try_into_data()?;
            Ok(mean.iter::<f64>().next().unwrap_or(f64::NAN))
        };
        self.computing
            .measure(count, |calls| last(calls, &mut call))
    }
}

impl Sampling {
    fn run(self) -> anyhow::Result<Measurement> {
        let pipeline = Pipeline::load(&self.model, &self.computing.first_device()?)?;
        let options = SampleOptions {
            steps: self.steps,
            count: self.count,
            batch: self.count,
            precision: self.computing.precision,
            ..pipeline.default_options()
        };
        let mut noise = None;
        let keeps_noise = self.save_noise.is_some();
        let mut draw = || {
            let images = pipeline.sample(options.observed(&mut |moment| {
                if keeps_noise && noise.is_none() {
                    noise = Some(moment.latents.clone());
                }
                Ok(())
            }))?;
            Ok(mean_square(&images))
        };
        let measure = |calls| last(calls, &mut draw);
        let measurement = self.computing.measure(self.count, measure)?;
        if let (Some(path), Some(noise)) = (&self.save_noise, noise) {
            write_images("noise", noise, path)?;
        }
        Ok(measurement)
    }
}

/// The tensors of a safetensors file.
struct Inputs(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Inputs {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut tensors = HashMap::new();
        for (name, tensor) in SafeTensors::deserialize(&bytes)?.tensors() {
            anyhow::ensure!(tensor.dtype() == Dtype::F32, "{name} is not of type F32");
            let numbers = tensor.data().as_chunks().0.iter();
            let values = numbers.map(|&four| f32::from_le_bytes(four)).collect();
            tensors.insert(name, (tensor.shape().to_vec(), values));
        }
        Ok(Self(tensors))
    }

    fn values(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let (_, values) = self
            .0
            .get(name)
            .with_context(|| format!("there is no `{name}`"))?;
        Ok(values.clone())
    }

    /// `[batch, channels, height, width]`.
    fn images(&self, name: &str, device: &Device) -> anyhow::Result<Tensor<4>> {
        let (shape, values) = self
            .0
            .get(name)
            .with_context(|| format!("there is no `{name}`"))?;
        let shape: [usize; 4] = shape[..]
            .try_into()
            .with_context(|| format!("`{name}` has not four dimensions"))?;
        Ok(Tensor::from_data(
            TensorData::new(values.clone(), shape),
            device,
        ))
    }
}

fn write_images(name: &str, images: Tensor<4>, path: &Path) -> anyhow::Result<()> {
    let shape = images.dims().to_vec();
    let bytes: Vec<u8> = images
        .into_data()
        .iter::<f32>()
        .flat_map(f32::to_le_bytes)
        .collect();
    let tensors = [(name, TensorView::new(Dtype::F32, shape, &bytes)?)];
    Ok(safetensors::serialize_to_file(tensors, None, path)?)
}
