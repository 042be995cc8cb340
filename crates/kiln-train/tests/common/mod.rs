//! Tiny experiments on the compiled-in digits, and access to their results.

#![allow(dead_code)] // not everything is used by every test

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kiln_checkpoint::{DiffusionModel, FirstStage, ModelSource};
use kiln_data::NoProgress;
use kiln_eval::{ImageClassifier, ImageClassifierConfig, ResidualConfig};
use kiln_train::{Experiment, RunOptions, StopSignal, TrainError, TrainingReport};

/// Changes the manifest of a checkpoint, as an older kiln could have written it: without a digest.
pub fn edit_manifest(path: &Path, edit: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json.as_object_mut().unwrap().remove("digest").unwrap();
    let before = json.to_string();
    let after = edit(before.clone());
    assert_ne!(before, after);
    std::fs::write(path, after).unwrap();
}

/// AdamW's epsilon is above the rounding errors of gradients that are zero on paper (the bias of an attention's keys).
/// Otherwise AdamW would turn these errors into whole steps.
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

/// The same network as an `AutoencoderKL`.
const TINY_KL: &str = r#"
[autoencoder_kl]
in_channels = 1
out_channels = 1
sample_size = 32
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
block_out_channels = [4, 8]
layers_per_block = 1
latent_channels = 2
norm_num_groups = 2
mid_block_add_attention = false
"#;

/// Pixel space: a conditional network for the digits at 8x8, with a label for nine of ten.
pub const PIXELS: &str = r#"
seed = 3
[data]
dataset = "mnist-10k"
size = 8
channels = 1
[unet]
in_channels = 1
out_channels = 1
sample_size = 8
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
block_out_channels = [8, 8]
layers_per_block = 1
attention_head_dim = 4
norm_num_groups = 2
num_class_embeds = 11
[schedule]
[stage_2]
label_dropout = 0.1
[stage_2.training]
epsilon = 1e-5
steps = 10
batch_size = 8
learning_rate = 1e-2
warmup_steps = 2
checkpoint_every = 4
validation_images = 32
ema = { decay = 0.9 }
[sampling]
steps = 2
count = 24
clip = 1.0
"#;

pub fn experiment(overrides: &[&str]) -> Experiment {
    parsed(TINY, overrides)
}

/// [`experiment`] with an `AutoencoderKL` as its first stage. Its KL term is heavy enough to show.
pub fn with_kl(overrides: &[&str]) -> Experiment {
    let (before, rest) = TINY.split_once("[vqvae]").unwrap();
    let (_, after) = rest.split_once("[stage_1.training]").unwrap();
    let text = format!("{before}{TINY_KL}[stage_1.training]{after}");
    parsed(&text, &[&["stage_1.kl=1e-2"], overrides].concat())
}

pub fn pixels(overrides: &[&str]) -> Experiment {
    parsed(PIXELS, overrides)
}

fn parsed(text: &str, overrides: &[&str]) -> Experiment {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Experiment::parse(text, "tiny", &overrides).unwrap()
}

pub fn options(out: &Path) -> RunOptions {
    RunOptions::new(out)
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

pub fn in_pixel_space(
    experiment: &Experiment,
    options: &RunOptions,
) -> Result<TrainingReport, TrainError> {
    kiln_train::train_diffusion(experiment, options, &NoProgress)
}

/// A training as one of the functions above.
pub type Train = fn(&Experiment, &RunOptions) -> Result<TrainingReport, TrainError>;

/// Trains ten steps, stopping before each of `stops` and resuming.
pub fn in_pieces(train: Train, experiment: &Experiment, options: &RunOptions, stops: &[usize]) {
    for (index, &stop) in stops.iter().chain([&usize::MAX]).enumerate() {
        let options = RunOptions {
            resume: index > 0,
            stop: StopSignal::before_step(stop),
            ..options.clone()
        };
        let report = train(experiment, &options).unwrap();
        assert_eq!(report.interrupted, stop != usize::MAX);
        assert_eq!(report.steps, stop.min(10));
    }
}

/// All weights of the finished networks in a run folder: the VQ-VAE's and the U-Net's, if they exist.
pub fn weights(out: &Path) -> Vec<f32> {
    let device = Device::flex();
    let folder = |name: &str| ModelSource::Folder(out.join(name));
    let mut all = All::default();
    if out.join("vqvae/model").exists() {
        FirstStage::load(&folder("vqvae/model"), &device)
            .unwrap()
            .network
            .visit(&mut all);
    }
    if out.join("model").exists() {
        DiffusionModel::load(&folder("model"), &device)
            .unwrap()
            .unet
            .visit(&mut all);
    }
    all.0
}

/// All weights of a network.
pub fn weights_of(network: &impl Module) -> Vec<f32> {
    let mut all = All::default();
    network.visit(&mut all);
    all.0
}

/// Asserts that the weights of two trainings are the same up to rounding: within 1e-5.
pub fn assert_close(one: &[f32], other: &[f32], what: impl Debug) {
    assert_within(1e-5, one, other, what);
}

/// Asserts that no weight of two trainings differs by `tolerance` or more.
pub fn assert_within(tolerance: f32, one: &[f32], other: &[f32], what: impl Debug) {
    assert_eq!(one.len(), other.len(), "{what:?}");
    let pairs = one.iter().zip(other);
    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < tolerance, "{what:?}: weights differ by {largest}");
}

/// A column of stage 2's `metrics.csv` by step, without empty cells.
pub fn column(run: &Path, name: &str) -> BTreeMap<usize, f64> {
    let csv = std::fs::read_to_string(run.join("diffusion/metrics.csv")).unwrap();
    let mut rows = csv.lines().map(|line| line.split(','));
    let place = rows.next().unwrap().position(|column| column == name);
    let cells = rows.map(|mut row| {
        (
            row.clone().next().unwrap(),
            row.nth(place.unwrap()).unwrap(),
        )
    });
    cells
        .filter(|(_, cell)| !cell.is_empty())
        .map(|(step, cell)| (step.parse().unwrap(), cell.parse().unwrap()))
        .collect()
}

#[derive(Default)]
struct All(Vec<f32>);

impl ModuleVisitor for All {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.extend(param.val().into_data().iter::<f32>());
    }
}

/// Writes a classifier of gray images with random weights, for a perceptual term.
pub fn save_classifier(path: &Path, seed: u64) {
    let config = ImageClassifierConfig {
        in_channels: 1,
        sample_size: 32,
        num_classes: 10,
        network: ResidualConfig {
            block_out_channels: vec![8, 16],
            ..ResidualConfig::default()
        },
    };
    let classifier = ImageClassifier::new(config, &Device::flex(), seed);
    classifier.save(path, &BTreeMap::new()).unwrap();
}
