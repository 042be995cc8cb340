//! Trains a tiny latent diffusion model on the digits that are compiled into kiln, and draws with it:
//!
//! ```text
//! cargo run --release --example train_latent_diffusion -- runs/tiny
//! ```
//!
//! Half a minute of training teaches it strokes rather than digits; for digits use `configs/mnist-quick.toml`.

use std::path::PathBuf;

use kiln::burn::tensor::Device;
use kiln::pictures::{columns_for, grid, save_png};
use kiln::{
    Experiment, NoProgress, Pipeline, RunOptions, SampleOptions, train_latent_diffusion,
    train_vqvae,
};

/// Everything about the experiment, in the format of the files in configs/.
const EXPERIMENT: &str = r#"
[data]
dataset = "mnist-10k"                # compiled in
size = 16                            # each 28x28 digit made smaller, to be quick
channels = 1
[vqvae]                              # stage 1: 16x16 images to 8x8 latents of 2 channels
in_channels = 1
out_channels = 1
sample_size = 16
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
block_out_channels = [8, 16]
latent_channels = 2
vq_embed_dim = 2
num_vq_embeddings = 64
norm_num_groups = 4
mid_block_add_attention = false
[stage_1.training]
steps = 200
batch_size = 32
learning_rate = 3e-3
checkpoint_every = 100
validation_images = 64
[unet]                               # stage 2: finds the noise in such latents
in_channels = 2
out_channels = 2
sample_size = 8
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
block_out_channels = [32, 32]
layers_per_block = 1
attention_head_dim = 16
norm_num_groups = 8
[schedule]                           # DDPM's: linear betas over 1000 timesteps
[stage_2.training]
steps = 200
batch_size = 64
learning_rate = 2e-3
checkpoint_every = 100
validation_images = 64
"#;

fn main() -> anyhow::Result<()> {
    let out = std::env::args_os().nth(1).unwrap_or("runs/tiny".into());
    let out = PathBuf::from(out);

    // This refuses a config that cannot work, before any work starts.
    let experiment = Experiment::parse(EXPERIMENT, "this example", &[])?;
    let options = RunOptions::new(&out);
    println!("{}", train_vqvae(&experiment, &options, &NoProgress)?);
    println!(
        "{}",
        train_latent_diffusion(&experiment, &options, &NoProgress)?
    );

    // The run folder now holds a model in the layout of diffusers: `kiln sample --model` and Python read it, too.
    let pipeline = Pipeline::load(&out.join("model"), &Device::flex())?;
    let options = SampleOptions {
        steps: 25,
        ..pipeline.default_options()
    };
    let images = pipeline.sample(&options)?;
    let picture = out.join("samples.png");
    save_png(&grid(&images, columns_for(images.len())), &picture)?;
    println!("drew {}", picture.display());
    Ok(())
}
