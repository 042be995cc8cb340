//! A tiny experiment on the compiled-in digits, and a way to look at what it leaves.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kiln_data::NoProgress;
use kiln_hub::{FirstStage, LatentDiffusion, ModelSource};
use kiln_train::{
    Devices, Experiment, RunOptions, StopSignal, Strategy, TrainError, TrainingReport,
};

/// AdamW's epsilon is above the rounding errors of gradients that are zero on paper (the bias of an attention's keys),
/// or it would blow them up to whole steps.
///
/// Both stages with networks of a few thousand weights: 16x16 latents of the 32x32 digits.
pub const TINY: &str = r#"
seed = 3
[data]
dataset = "mnist-10k"
size = 32
channels = 1
[vqvae]
in_channels = 1
out_channels = 1
sample_size = 32
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
block_out_channels = [4, 8]
layers_per_block = 1
latent_channels = 2
vq_embed_dim = 2
num_vq_embeddings = 16
norm_num_groups = 2
mid_block_add_attention = false
[stage_1.training]
epsilon = 1e-5
steps = 10
batch_size = 8
learning_rate = 1e-3
warmup_steps = 2
checkpoint_every = 4
validation_images = 16
ema = { decay = 0.9 }
[unet]
in_channels = 2
out_channels = 2
sample_size = 16
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
block_out_channels = [8, 8]
layers_per_block = 1
attention_head_dim = 4
norm_num_groups = 2
[schedule]
kind = "linear"
num_train_timesteps = 1000
[stage_2.training]
epsilon = 1e-5
steps = 10
batch_size = 8
learning_rate = 1e-3
warmup_steps = 2
checkpoint_every = 4
validation_images = 16
ema = { decay = 0.9 }
[sampling]
steps = 2
count = 4
"#;

pub fn experiment(overrides: &[&str]) -> Experiment {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Experiment::parse(TINY, "tiny", &overrides).unwrap()
}

pub fn options(out: &Path) -> RunOptions {
    RunOptions {
        out: out.to_owned(),
        resume: false,
        devices: Devices::cpu(),
        strategy: Strategy::Main,
        vqvae: None,
        stop: StopSignal::default(),
    }
}

pub fn stage_1(
    experiment: &Experiment,
    options: &RunOptions,
) -> Result<TrainingReport, TrainError> {
    kiln_train::train_vqvae(experiment, options, &NoProgress)
}

pub fn stage_2(
    experiment: &Experiment,
    options: &RunOptions,
) -> Result<TrainingReport, TrainError> {
    kiln_train::train_latent_diffusion(experiment, options, &NoProgress)
}

/// All weights of the finished networks in a run folder: the VQ-VAE's, and the U-Net's if there is one.
#[allow(dead_code)] // not by every test
pub fn weights(out: &Path) -> Vec<f32> {
    let device = Device::flex();
    let folder = |name: &str| ModelSource::Folder(out.join(name));
    let mut all = All::default();
    FirstStage::load(&folder("vqvae/model"), &device)
        .unwrap()
        .vqvae
        .visit(&mut all);
    if out.join("model").exists() {
        LatentDiffusion::load(&folder("model"), &device)
            .unwrap()
            .unet
            .visit(&mut all);
    }
    all.0
}

#[derive(Default)]
struct All(Vec<f32>);

impl ModuleVisitor for All {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.extend(param.val().into_data().iter::<f32>());
    }
}
