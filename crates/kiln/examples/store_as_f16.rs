//! Copies a model with weights of half the size, as in `pretrained/`:
//!
//! ```text
//! cargo run --release --example store_as_f16 -- runs/mnist/model pretrained/mnist-many-steps
//! ```

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_models::WeightsType;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments
        .next()
        .context("name a model's folder and the folder to write")?;
    let folder = arguments.next().context("name the folder to write")?;
    DiffusionModel::load(&ModelSource::Folder(model), &Device::flex())?
        .save(&folder, WeightsType::F16)?;
    println!("wrote {}", folder.display());
    Ok(())
}
