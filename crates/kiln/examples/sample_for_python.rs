//! Draws four images by the model's own sampler and saves all noise of the walk, so that diffusers can draw the same ones. A
//! model that was distilled draws in its own number of steps, others in 20:
//!
//! ```text
//! cargo run --release --example sample_for_python -- runs/mnist/model sample.safetensors
//! python tests/interop/load_model.py runs/mnist/model sample.safetensors
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::{Device, Tensor};
use kiln::{Pipeline, SampleOptions};
use kiln_diffusion::noise::ImageNoise;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const COUNT: usize = 4;
const MOST_STEPS: usize = 20;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments
        .next()
        .context("name a model's folder and a file to write")?;
    let file = arguments.next().context("name a file to write")?;

    let pipeline = Pipeline::load(&model, &Device::flex())?;
    let defaults = pipeline.default_options();
    let options = SampleOptions {
        steps: defaults.steps.min(MOST_STEPS),
        count: COUNT,
        classes: defaults.classes.iter().copied().take(1).collect(),
        ..defaults
    };
    let images = pipeline.sample(&options)?;

    let noise = ImageNoise {
        seed: options.seed,
        images: (0..COUNT as u64).collect(),
        shape: pipeline.latent_shape(),
        device: pipeline.device(),
    };
    let of_steps = (1..=options.steps).map(|step| noise.draw(step));
    let of_steps = Tensor::stack::<5>(of_steps.collect(), 0);
    let images_shape = vec![
        images.len(),
        images.channels(),
        images.height(),
        images.width(),
    ];
    let tensors = [
        ("noise", values(noise.draw(0))),
        ("step_noise", values(of_steps)),
        ("images", (images_shape, bytes(images.values()))),
    ];
    let mut views = Vec::new();
    for (name, (shape, data)) in &tensors {
        views.push((*name, TensorView::new(Dtype::F32, shape.clone(), data)?));
    }
    // The first class has the index 0.
    let labels = bytes(&[0.0; COUNT]);
    if !options.classes.is_empty() {
        views.push(("labels", TensorView::new(Dtype::F32, vec![COUNT], &labels)?));
    }
    let eta = options.sampler.eta().unwrap_or_default();
    let facts = HashMap::from([
        ("steps".to_owned(), options.steps.to_string()),
        ("eta".to_owned(), eta.to_string()),
    ]);
    safetensors::serialize_to_file(views, Some(facts), &file)?;
    println!("wrote {}", file.display());
    Ok(())
}

/// A tensor's shape and its values as bytes.
fn values<const D: usize>(tensor: Tensor<D>) -> (Vec<usize>, Vec<u8>) {
    let shape = tensor.dims().to_vec();
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    (shape, bytes(&values))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
