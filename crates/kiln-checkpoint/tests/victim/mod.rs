//! A model whose files can be replaced by anything, for the tests and the fuzzer in `fuzz/`.

#![allow(dead_code)] // not everything is used by every test

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, Metadata, ModelSource};
use kiln_diffusion::SchedulerConfig;
use kiln_models::{UNet2dConfig, WeightsType};
use tempfile::TempDir;

/// The files that can be replaced. Each is the only form of its part in a separate folder.
pub const FILES: [&str; 6] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors.index.json",
];

/// The file of [`FILES`] with a valid model's weights.
const WEIGHTS: &str = FILES[3];

/// A small valid model.
pub fn model() -> TempDir {
    let folder = TempDir::new().unwrap();
    let json = r#"{"in_channels": 1, "out_channels": 1, "sample_size": 8, "block_out_channels": [4, 8],
        "norm_num_groups": 2, "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"]}"#;
    let config = UNet2dConfig::from_json(json).unwrap();
    let model = DiffusionModel {
        first_stage: None,
        unet: config.init(&Device::flex(), 0).unwrap(),
        guide: None,
        scheduler: SchedulerConfig::default(),
        metadata: Metadata::default(),
    };
    model.save(folder.path(), WeightsType::F32).unwrap();
    folder
}

/// Loads the model in a folder.
pub fn load(folder: &Path) -> Result<DiffusionModel, String> {
    let source = ModelSource::Folder(folder.to_owned());
    DiffusionModel::load(&source, &Device::flex()).map_err(|error| error.to_string())
}

/// A valid model in which one file is replaced again and again.
pub struct Victim {
    folder: TempDir,
    file: &'static str,
}

impl Victim {
    /// `file` is one of [`FILES`].
    pub fn new(file: &'static str) -> Self {
        let folder = model();
        if file.starts_with("unet/diffusion") && file != WEIGHTS {
            fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        }
        Self { folder, file }
    }

    /// Loads the model with these contents of the file.
    pub fn load_with(&self, contents: &[u8]) -> Result<DiffusionModel, String> {
        fs::write(self.folder.path().join(self.file), contents).unwrap();
        load(self.folder.path())
    }
}
