//! Converts checkpoints of the original code into the diffusers layout.
//!
//! CompVis' latent diffusion and diffusers have the same networks under different names: an unconditional U-Net with
//! its autoencoder (`model.ckpt` of LDM), or an autoencoder alone (VQ and KL, f4, f8 and others). Conversion only
//! renames tensors and splits joint projections of attention. lucidrains' `denoising-diffusion-pytorch` has a different
//! network, with 7x7 convolutions, RMS norms and linear attention: it is recognised and refused.
//!
//! ```text
//! tensors.rs       tensors that are being renamed
//! unet.rs          the names of the U-Net, and its config from its shapes
//! autoencoder.rs   the same for the autoencoders
//! ```

mod autoencoder;
mod tensors;
mod unet;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use kiln_diffusion::schedule::{BetaRange, ListedBetas};
use kiln_diffusion::{ScheduleConfig, ScheduleKind, SchedulerConfig};
use kiln_models::{AutoencoderConfig, ConfigError, UNet2d, WeightsError, WeightsType};

use crate::foreign::{is_safetensors, is_weights};
use crate::pickle::read_pickle;
use crate::source::{open_file, start};
use crate::tensors::{open_safetensors, raw};
use crate::{CheckpointError, DiffusionModel, FirstStage, Metadata, ModelSource};
use tensors::Tensors;

/// Facts about the networks that a checkpoint does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Channels of an attention head in the U-Net (`num_head_channels`): 32 in all but one of CompVis' unconditional
    /// models.
    pub head_channels: usize,
    /// The side of the training images in pixels.
    pub image_size: usize,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            head_channels: 32,
            image_size: 256,
        }
    }
}

/// The content of a checkpoint.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, and it goes to disk"
)]
pub enum Converted {
    /// U-Net, autoencoder and schedule.
    Model(DiffusionModel),
    /// An autoencoder alone.
    FirstStage(FirstStage),
}

impl Converted {
    /// Writes a folder in the diffusers layout.
    ///
    /// # Errors
    /// Those of [`DiffusionModel::save`] and [`FirstStage::save`].
    pub fn save(&self, folder: &Path, weights_type: WeightsType) -> Result<(), CheckpointError> {
        match self {
            Self::Model(model) => model.save(folder, weights_type),
            Self::FirstStage(first_stage) => first_stage.save(folder, weights_type),
        }
    }
}

/// Reads a checkpoint of CompVis' latent diffusion: a `.ckpt` or `.pt` of PyTorch, from which it takes only the weights
/// and runs no code, or a safetensors file. If there is a moving average of the U-Net's weights, it takes the average.
///
/// # Errors
/// Names the file that is damaged or would run code in Python, the tensor that does not exist in diffusers' networks, or
/// what is there instead of a checkpoint.
pub fn convert(
    path: &Path,
    options: ConvertOptions,
    device: &Device,
) -> Result<Converted, CheckpointError> {
    let file = path.display().to_string();
    if path.is_dir() {
        let folder = ModelSource::Folder(path.to_owned());
        return Err(match folder.is_model() || folder.is_network() {
            true => CheckpointError::Converted(file),
            false => CheckpointError::Folder(file),
        });
    }
    let all = read(path, &file)?;
    if all
        .0
        .keys()
        .any(|key| key.ends_with("conv_norm_out.weight"))
    {
        // diffusers' name for a layer that all its networks have.
        return Err(CheckpointError::Converted(file));
    }
    if let Some(key) = all.0.keys().find(|key| key.ends_with("init_conv.weight")) {
        // lucidrains' first layer.
        return Err(CheckpointError::NoPlace {
            key: key.clone(),
            shape: all.shape(key).to_vec(),
        });
    }
    let Parts {
        unet,
        autoencoder,
        schedule,
    } = Parts::of(all)?;
    let factor = schedule.scaling_factor;
    let first_stage = read_autoencoder(autoencoder, options, factor, &file, device)?;
    match (unet, first_stage) {
        (Some(tensors), first_stage) => {
            let downscale = first_stage
                .as_ref()
                .map_or(1, |stage| stage.network.config().downscale_factor());
            let sample_size = options.image_size / downscale;
            Ok(Converted::Model(DiffusionModel {
                unet: read_unet(tensors, options, sample_size, &file, device)?,
                guide: None,
                first_stage,
                scheduler: SchedulerConfig {
                    schedule: schedule.config(),
                    ..SchedulerConfig::default()
                },
                metadata: Metadata::default(),
            }))
        }
        (None, Some(first_stage)) => Ok(Converted::FirstStage(first_stage)),
        (None, None) => Err(CheckpointError::NotConvertible(file)),
    }
}

/// All tensors of the file, without the optimizer's.
fn read(path: &Path, file: &str) -> Result<Tensors, CheckpointError> {
    let problem = |problem| CheckpointError::Read {
        file: file.to_owned(),
        problem,
    };
    let mut opened = open_file(path, u64::MAX)?;
    let length = opened.metadata().map_err(problem)?.len();
    let start = start(&mut opened).map_err(problem)?;
    let is_weights = is_weights(&start);
    let no_checkpoint = |problem| match problem {
        CheckpointError::Damaged { .. } if !is_weights => {
            CheckpointError::NotACheckpoint(file.to_owned())
        }
        // A text that begins with `c` reads like a pickle that imports its first lines.
        CheckpointError::Code { name, .. } if !is_weights && !is_python_name(&name) => {
            CheckpointError::NotACheckpoint(file.to_owned())
        }
        problem => problem,
    };
    let mut tensors = BTreeMap::new();
    if is_safetensors(&start, file) {
        let opened = open_safetensors(opened, file).map_err(no_checkpoint)?;
        for (key, tensor) in opened.tensors() {
            tensors.insert(key, raw(&tensor).map_err(problem)?);
        }
    } else {
        // Views may share memory, but only up to a limit.
        let largest = length.saturating_mul(2);
        let wanted = |key: &str| !key.starts_with("optimizer_states.");
        tensors = read_pickle(opened, file, largest, wanted).map_err(no_checkpoint)?;
    }
    // Lightning's checkpoints have the weights in one of several dictionaries.
    let within = |key: &str| key.strip_prefix("state_dict.").map(str::to_owned);
    if tensors.keys().any(|key| within(key).is_some()) {
        let inner = tensors.into_iter();
        tensors = inner
            .filter_map(|(key, tensor)| Some((within(&key)?, tensor)))
            .collect();
    }
    Ok(Tensors(tensors))
}

/// Whether Python could import this.
fn is_python_name(name: &str) -> bool {
    name.chars()
        .all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'))
}

/// A checkpoint's tensors, sorted by network.
struct Parts {
    unet: Option<Tensors>,
    autoencoder: Option<Tensors>,
    schedule: OriginalSchedule,
}

impl Parts {
    fn of(all: Tensors) -> Result<Self, CheckpointError> {
        const UNET: &str = "model.diffusion_model.";
        const AUTOENCODER: &str = "first_stage_model.";
        let schedule = OriginalSchedule {
            betas: all.numbers("betas"),
            scaling_factor: all
                .numbers("scale_factor")
                .and_then(|numbers| numbers.first().copied())
                .unwrap_or(1.0),
        };
        let is_autoencoder = all.has("encoder.conv_in.weight");
        let (mut unet, mut autoencoder) = (Tensors::default(), Tensors::default());
        let mut average = BTreeMap::new();
        for (key, tensor) in all.0 {
            if let Some(name) = key.strip_prefix(UNET) {
                unet.0.insert(name.to_owned(), tensor);
            } else if let Some(name) = key.strip_prefix("model_ema.diffusion_model") {
                // Its names have no dots.
                average.insert(name.to_owned(), tensor);
            } else if let Some(name) = key.strip_prefix(AUTOENCODER) {
                // The loss has its own networks: a discriminator and LPIPS.
                if !name.starts_with("loss.") {
                    autoencoder.0.insert(name.to_owned(), tensor);
                }
            } else if is_autoencoder && !key.starts_with("loss.") && key.contains('.') {
                autoencoder.0.insert(key, tensor);
            } else if key.contains('.')
                && !key.starts_with("model_ema.")
                && !key.starts_with("loss.")
            {
                let shape = tensor.1;
                return Err(CheckpointError::NoPlace { key, shape });
            }
            // The rest are tables of the schedule, which follow from the betas.
        }
        for (key, tensor) in &mut unet.0 {
            if let Some(average) = average.remove(&key.replace('.', "")) {
                *tensor = average;
            }
        }
        let there = |tensors: Tensors| (!tensors.0.is_empty()).then_some(tensors);
        Ok(Self {
            unet: there(unet),
            autoencoder: there(autoencoder),
            schedule,
        })
    }
}

fn read_unet(
    tensors: Tensors,
    options: ConvertOptions,
    sample_size: usize,
    file: &str,
    device: &Device,
) -> Result<UNet2d, CheckpointError> {
    let config = unet::config(&tensors, options.head_channels, sample_size)
        .ok_or_else(|| CheckpointError::NotConvertible(file.to_owned()))?;
    let network = config
        .init(device, 0)
        .map_err(|problem| of_config(file, problem))?;
    let rename = unet::rename(&tensors, options.head_channels);
    fill(network, tensors.renamed(rename)?, file)
}

fn read_autoencoder(
    tensors: Option<Tensors>,
    options: ConvertOptions,
    scaling_factor: f64,
    file: &str,
    device: &Device,
) -> Result<Option<FirstStage>, CheckpointError> {
    let Some(tensors) = tensors else {
        return Ok(None);
    };
    let config = autoencoder::config(&tensors, options.image_size, scaling_factor)
        .ok_or_else(|| CheckpointError::NotConvertible(file.to_owned()))?;
    let network = AutoencoderConfig::from_json(&config)
        .and_then(|config| config.init(device, 0))
        .map_err(|problem| of_config(file, problem))?;
    let rename = autoencoder::rename(&tensors);
    Ok(Some(FirstStage {
        network: fill(network, tensors.renamed(rename)?, file)?,
        metadata: Metadata::default(),
    }))
}

fn fill<M: burn::module::Module>(
    network: M,
    tensors: Tensors,
    file: &str,
) -> Result<M, CheckpointError> {
    let filled = kiln_models::load_weights_from_tensors(network, tensors.views());
    filled.map_err(|problem: WeightsError| CheckpointError::Weights {
        file: file.to_owned(),
        problem,
    })
}

fn of_config(file: &str, problem: ConfigError) -> CheckpointError {
    CheckpointError::Config {
        file: file.to_owned(),
        problem,
    }
}

/// The schedule as in the original code: table by table.
struct OriginalSchedule {
    betas: Option<Vec<f64>>,
    /// `scale_factor`: the factor of the latents.
    scaling_factor: f64,
}

impl OriginalSchedule {
    /// The schedule of these betas: by its name if it has one, otherwise beta by beta. Without betas, the schedule of
    /// CompVis' unconditional models.
    fn config(&self) -> ScheduleConfig {
        type Kind = fn(BetaRange) -> ScheduleKind;
        let of_range = |kind: Kind, beta_start, beta_end, timesteps| ScheduleConfig {
            num_train_timesteps: timesteps,
            ..ScheduleConfig::of(kind(BetaRange {
                beta_start,
                beta_end,
                scale_betas: false,
            }))
        };
        let Some(betas) = &self.betas else {
            return of_range(ScheduleKind::ScaledLinear, 0.0015, 0.0195, 1000);
        };
        let seven_digits = |beta: f64| (beta * 1e7).round() / 1e7;
        if let [first, .., last] = betas[..] {
            let (start, end) = (seven_digits(first), seven_digits(last));
            let root = |share: f64| start.sqrt() + share * (end.sqrt() - start.sqrt());
            let kinds: [(Kind, &dyn Fn(f64) -> f64); 2] = [
                (ScheduleKind::ScaledLinear, &|share| root(share).powi(2)),
                (ScheduleKind::Linear, &|share| start + share * (end - start)),
            ];
            let steps = (betas.len() - 1) as f64;
            for (kind, beta_at) in kinds {
                let mut betas_and_shares = (0..).map(|step| f64::from(step) / steps).zip(betas);
                if betas_and_shares.all(|(share, beta)| (beta_at(share) - beta).abs() < 1e-6 * end)
                {
                    return of_range(kind, start, end, betas.len());
                }
            }
        }
        let betas = betas.clone();
        ScheduleConfig {
            num_train_timesteps: betas.len(),
            ..ScheduleConfig::of(ScheduleKind::Betas(ListedBetas { betas }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(betas: Vec<f64>) -> ScheduleConfig {
        let schedule = OriginalSchedule {
            betas: Some(betas),
            scaling_factor: 1.0,
        };
        schedule.config()
    }

    #[test]
    fn betas_are_known_by_their_curve() {
        let at = |step: u32| f64::from(step) / 9.0;
        let rounded = |beta: f64| f64::from(beta as f32);
        let linear = config(
            (0..10)
                .map(|step| rounded(0.001 + 0.019 * at(step)))
                .collect(),
        );
        let range = |beta_start, beta_end| BetaRange {
            beta_start,
            beta_end,
            scale_betas: false,
        };
        assert_eq!(linear.kind, ScheduleKind::Linear(range(0.001, 0.02)));
        let root = |step| 0.0015f64.sqrt() + at(step) * (0.0195f64.sqrt() - 0.0015f64.sqrt());
        let scaled = config((0..10).map(|step| rounded(root(step).powi(2))).collect());
        assert_eq!(
            scaled.kind,
            ScheduleKind::ScaledLinear(range(0.0015, 0.0195))
        );
        let other = config(vec![0.1, 0.3, 0.2]);
        let betas = vec![0.1, 0.3, 0.2];
        assert_eq!(other.kind, ScheduleKind::Betas(ListedBetas { betas }));
    }
}
