//! Training that begins with the weights of a trained model instead of random ones, to fine-tune it on other images or
//! to train it further. The optimizer, the learning rate's schedule and the averages begin from the start.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use kiln_checkpoint::{FirstStage, ModelSource};
use kiln_models::bottleneck::QuantizerConfig;
use kiln_models::{Autoencoder, AutoencoderConfig, UNet2d};
use serde::Serialize;
use serde_json::Value;

use crate::error::TrainError;
use crate::experiment::{Experiment, FirstStageConfig};
use crate::run_folder::drawable::load_model;
use crate::run_folder::facts::EarlierSteps;

/// Keys of networks that change neither the weights nor their meaning: the experiment's values count.
const FREE: [&str; 6] = [
    "sample_size",
    "dropout",
    "scaling_factor",
    "shift_factor",
    "lookup_from_codebook",
    "force_upcast",
];

/// The autoencoder of the model in `folder`, as initial weights of stage 1, and the number of its training steps.
///
/// # Errors
/// If there is none, or if it differs from the network of the experiment.
pub(crate) fn autoencoder(
    folder: &Path,
    experiment: &FirstStageConfig,
    device: &Device,
) -> Result<(Autoencoder, EarlierSteps), TrainError> {
    let stage = FirstStage::load(&ModelSource::Folder(folder.to_owned()), device)?;
    let steps = EarlierSteps::of(&stage.metadata.training);
    let table = experiment.table();
    match (stage.network.config(), &experiment.network) {
        (AutoencoderConfig::Vq(theirs), AutoencoderConfig::Vq(ours)) => {
            require_same_quantizer(folder, &theirs.quantizer, &ours.quantizer)?;
            require_same(folder, table, theirs, ours)?;
        }
        (AutoencoderConfig::Kl(theirs), AutoencoderConfig::Kl(ours)) => {
            require_same(folder, table, theirs, ours)?;
        }
        (theirs @ AutoencoderConfig::Vq(_), AutoencoderConfig::Kl(_))
        | (theirs @ AutoencoderConfig::Kl(_), AutoencoderConfig::Vq(_)) => {
            return Err(TrainError::Run(format!(
                "the weights in {} are of another network: it is of diffusers' class {}, and [{table}] is of {}; train with its own table to begin with them, or give its folder to `kiln train-latent-diffusion --vqvae`",
                folder.display(),
                theirs.class(),
                experiment.network.class()
            )));
        }
    }
    let network = experiment.network.init(device, 0)?;
    Ok((with_weights_of(folder, network, stage.network)?, steps))
}

/// The U-Net of the model in `folder`, as initial weights of a training on the latents of `first_stage` (or on images),
/// and the number of its training steps.
///
/// Warns of differences to its own training that it must learn from the start.
///
/// # Errors
/// If there is no model, or if its U-Net differs from the network of the experiment.
pub(crate) fn unet(
    folder: &Path,
    experiment: &Experiment,
    first_stage: Option<&FirstStage>,
    device: &Device,
) -> Result<(UNet2d, EarlierSteps), TrainError> {
    let model = load_model(folder, device)?;
    require_same(folder, "unet", model.unet.config(), &experiment.unet)?;
    let (theirs, ours) = (&model.scheduler, experiment.scheduler());
    let hashes = [model.first_stage.as_ref(), first_stage].map(|stage| stage.map(FirstStage::hash));
    for (what, differs) in [
        ("VQ-VAE", hashes[0] != hashes[1]),
        ("noise schedule", theirs.schedule != ours.schedule),
        ("prediction", theirs.prediction != ours.prediction),
    ] {
        if differs {
            tracing::warn!(
                "the U-Net in {} was trained with another {what}, and must learn this one from the start",
                folder.display()
            );
        }
    }
    let network = with_weights_of(folder, experiment.unet.init(device, 0)?, model.unet)?;
    Ok((network, EarlierSteps::of(&model.metadata.training)))
}

/// `network`, which is as the experiment describes it, with the weights of the model in `folder`.
fn with_weights_of<N: Module>(folder: &Path, network: N, model: N) -> Result<N, TrainError> {
    let loaded = network.try_load_record(model.into_record());
    loaded.map_err(|problem| {
        TrainError::Run(format!(
            "the weights in {} do not fit the network of the experiment ({problem})",
            folder.display()
        ))
    })
}

/// Refuses weights of another quantizer. Configs do not write the usual one, so [`require_same`] would not see it.
fn require_same_quantizer(
    folder: &Path,
    theirs: &QuantizerConfig,
    ours: &QuantizerConfig,
) -> Result<(), TrainError> {
    if theirs == ours {
        return Ok(());
    }
    let in_toml = |quantizer: &QuantizerConfig| {
        toml::Value::try_from(quantizer)
            .map_or_else(|_| quantizer.name().into(), |it| it.to_string())
    };
    let (theirs, ours) = (in_toml(theirs), in_toml(ours));
    Err(TrainError::Run(format!(
        "the weights in {} are of another network: its quantizer is {theirs}, and vqvae.quantizer is {ours}; set vqvae.quantizer='{theirs}' to begin with them",
        folder.display()
    )))
}

/// Refuses weights of a network that differs from the experiment's `table`.
fn require_same(
    folder: &Path,
    table: &str,
    found: &impl Serialize,
    expected: &impl Serialize,
) -> Result<(), TrainError> {
    let (found, expected) = (serde_json::to_value(found), serde_json::to_value(expected));
    let (Ok(Value::Object(found)), Ok(Value::Object(expected))) = (found, expected) else {
        return Ok(());
    };
    for (key, ours) in &expected {
        let theirs = found.get(key).unwrap_or(&Value::Null);
        if theirs != ours && !FREE.contains(&key.as_str()) {
            return Err(TrainError::Run(format!(
                "the weights in {} are of another network: its {key} is {theirs}, and {table}.{key} is {ours}; set {table}.{key}={theirs} to begin with them",
                folder.display()
            )));
        }
    }
    Ok(())
}
