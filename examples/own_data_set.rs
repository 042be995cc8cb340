//! Your own data set without files: discs and rings that the program paints, learned in pixel space.
//!
//! ```text
//! cargo run --release --example own_data_set -- runs/discs
//! ```
//!
//! Image files need no program: `dataset = "folder"` and `--data PATH` train on a folder, a zip or a tar.

use std::path::PathBuf;

use kiln::burn::tensor::Device;
use kiln::diffusion::noise::uniform;
use kiln::pictures::{columns_for, grid, save_png};
use kiln::{
    Datasets, Experiment, ImageDataset, ImageShape, NoProgress, Pipeline, RunOptions,
    SampleOptions, train_diffusion,
};

/// Pixels on a side.
const SIDE: usize = 16;

/// Without `[vqvae]` the U-Net learns the images themselves.
const EXPERIMENT: &str = r#"
[data]
dataset = "own"                      # handed over by this program
size = 16
channels = 1
[unet]
in_channels = 1
out_channels = 1
sample_size = 16
down_block_types = ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]
block_out_channels = [16, 32, 32]
layers_per_block = 1
attention_head_dim = 16
norm_num_groups = 8
[schedule]
[stage_2]
prediction = "velocity"
[stage_2.training]
steps = 250
batch_size = 32
learning_rate = 2e-3
checkpoint_every = 125
"#;

/// One image as bytes, row by row, 0 black and 255 white: a disc or a ring of random size and place.
fn paint(number: u64) -> Vec<u8> {
    // The same number gives the same image, in any order.
    let random = |what| uniform(1, number, what);
    let (x, y) = (5.0 + 6.0 * random(0), 5.0 + 6.0 * random(1));
    let radius = 2.0 + 2.5 * random(2);
    // A negative radius means no hole.
    let hole = if random(3) < 0.5 { radius - 1.5 } else { -1.0 };
    let pixel = |row: usize, column: usize| {
        let distance = (row as f64 - y).hypot(column as f64 - x);
        // The rim is a pixel wide and gray.
        let inside = (radius - distance + 0.5).clamp(0.0, 1.0);
        let outside_the_hole = (distance - hole + 0.5).clamp(0.0, 1.0);
        (255.0 * inside * outside_the_hole) as u8
    };
    let places = (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column)));
    places.map(|(row, column)| pixel(row, column)).collect()
}

fn painted(numbers: std::ops::Range<u64>) -> anyhow::Result<ImageDataset> {
    let shape = ImageShape {
        channels: 1,
        height: SIDE,
        width: SIDE,
    };
    let pixels = numbers.flat_map(paint).collect();
    Ok(ImageDataset::from_pixels(
        "discs and rings",
        shape,
        pixels,
        None,
    )?)
}

fn main() -> anyhow::Result<()> {
    let out = std::env::args_os().nth(1).unwrap_or("runs/discs".into());
    let out = PathBuf::from(out);

    let experiment = Experiment::parse(EXPERIMENT, "this example", &[])?;
    let options = RunOptions {
        data: Some(Datasets {
            train: painted(0..2000)?,
            validation: painted(2000..2100)?,
        }),
        ..RunOptions::new(&out)
    };
    println!("{}", train_diffusion(&experiment, &options, &NoProgress)?);

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
