//! The model that is compiled into the program.

use kiln_checkpoint::ModelSource;

/// The files of `pretrained/mnist`, by their names in the model's folder.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!("../../../pretrained/mnist/", $name)) as &[u8],
        )),*]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "guide/config.json",
    "guide/diffusion_pytorch_model.safetensors",
    "guide/guidance.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vqvae/config.json",
    "vqvae/diffusion_pytorch_model.safetensors",
];

/// The digits model, which needs no file and no download: what `configs/mnist.toml` trains, and its guide.
pub fn default_model() -> ModelSource {
    let files = FILES.iter();
    ModelSource::Memory {
        name: "the built-in model".to_owned(),
        files: files
            .map(|&(name, bytes)| (name.to_owned(), bytes.into()))
            .collect(),
    }
}
