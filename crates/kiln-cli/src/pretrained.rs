//! The model that is compiled into the program, if the program is built from the repository.

use anyhow::bail;
use bytes::Bytes;
use kiln_checkpoint::ModelSource;

/// The files of `pretrained/mnist-few-steps`, by their names in the model's folder.
#[cfg(with_digits)]
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!("../../../pretrained/mnist-few-steps/", $name)) as &[u8],
        )),*]
    };
}

#[cfg(with_digits)]
const FILES: &[(&str, &[u8])] = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vqvae/config.json",
    "vqvae/diffusion_pytorch_model.safetensors",
];

#[cfg(not(with_digits))]
const FILES: &[(&str, &[u8])] = &[];

/// The digits model of `configs/mnist-few-steps.toml`, which needs no file and no download.
///
/// # Errors
/// If the program was built from a package, which is too small for the model.
pub fn default_model() -> anyhow::Result<ModelSource> {
    if FILES.is_empty() {
        bail!(
            "this kiln was built without a model: pass --model (`kiln pull` fetches one, `kiln train-latent-diffusion` makes one), or build kiln from its repository, which includes a digits model"
        );
    }
    let files = FILES.iter();
    Ok(ModelSource::Memory {
        name: "the built-in model".to_owned(),
        files: files
            .map(|&(name, bytes)| (name.to_owned(), Bytes::from_static(bytes)))
            .collect(),
    })
}
