//! Draws four images and saves their noise, so that diffusers can draw the same ones:
//!
//! ```text
//! cargo run --release --example sample_for_python -- runs/mnist/model sample.safetensors
//! python tests/interop/load_model.py runs/mnist/model sample.safetensors
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::Device;
use kiln::{Pipeline, SampleOptions};
use kiln_diffusion::sampler::Sampler;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const STEPS: usize = 20;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments
        .next()
        .context("name a model's folder and a file to write")?;
    let file = arguments.next().context("name a file to write")?;

    let pipeline = Pipeline::load(&model, &Device::flex())?;
    let defaults = pipeline.default_options();
    // DDPM draws new noise after every step, and Python would need that, too.
    let is_random = matches!(defaults.sampler, Sampler::Ddpm { .. });
    let options = SampleOptions {
        steps: STEPS,
        count: 4,
        sampler: if is_random {
            Sampler::default()
        } else {
            defaults.sampler
        },
        ..defaults
    };
    let mut noise = None;
    let images = pipeline.sample(options.observed(&mut |moment| {
        noise.get_or_insert_with(|| moment.latents.clone());
        Ok(())
    }))?;
    let noise = noise.context("there was no first moment")?;

    let noise_shape = noise.dims().to_vec();
    let noise: Vec<u8> = noise
        .into_data()
        .iter::<f32>()
        .flat_map(f32::to_le_bytes)
        .collect();
    let shape = vec![
        images.len(),
        images.channels(),
        images.height(),
        images.width(),
    ];
    let images: Vec<u8> = images
        .values()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let tensors = [
        ("noise", TensorView::new(Dtype::F32, noise_shape, &noise)?),
        ("images", TensorView::new(Dtype::F32, shape, &images)?),
    ];
    let facts = HashMap::from([
        ("steps".to_owned(), STEPS.to_string()),
        ("eta".to_owned(), "0".to_owned()),
        ("sampler".to_owned(), options.sampler.name().to_owned()),
    ]);
    safetensors::serialize_to_file(tensors, Some(facts), &file)?;
    println!("wrote {}", file.display());
    Ok(())
}
