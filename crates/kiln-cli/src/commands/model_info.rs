//! `kiln model info`: describes a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use clap::Args;
use kiln::{Pipeline, SampleOptions};
use kiln_checkpoint::{DiffusionModel, FirstStage, Metadata, ModelSource};
use kiln_diffusion::{Clip, Guidance, Schedule, SchedulerConfig, sampler::Sampler};
use kiln_models::bottleneck::QuantizerConfig;
use kiln_models::{UNet2d, UNet2dConfig};
use kiln_train::{FolderKind, load_model};
use serde::Serialize;

use super::fact_table::{FactTable, shape, thousands};
use super::hub_arguments::HubArguments;
use crate::{pretrained, terminal};
use kiln_train::counted;

/// Print what a model is: shapes, parameters, schedule, latent statistics, how it was trained.
///
/// Reads the weights too, so a model that it describes is whole.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln model info
  kiln model info runs/mnist/model
  kiln model info runs/mnist/model/vqvae --json")]
pub struct ModelInfo {
    /// Folder of a model, or of an autoencoder alone, or one on the Hub; without it, the digits model inside this program
    #[arg(value_name = "PATH|ORG/REPO[@REVISION]")]
    path: Option<PathBuf>,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// A model's description, for `--json`.
#[derive(Serialize)]
struct Description {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vqvae: Option<VqVaeDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unet: Option<UNetDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guide: Option<GuideDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diffusion: Option<DiffusionDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<SampleDescription>,
    /// The reason if `kiln sample` cannot draw with the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    cannot_sample: Option<String>,
}

/// The first stage.
#[derive(Serialize)]
struct VqVaeDescription {
    class: &'static str,
    parameters: usize,
    /// `[channels, height, width]`, with the padding.
    image_shape: [usize; 3],
    /// Pixels on each side that are padding.
    border: usize,
    /// `[channels, height, width]`
    latent_shape: [usize; 3],
    /// Codes to choose from, in all tables together, if there are any.
    codes: Option<usize>,
    /// kiln's own quantizer, if it has such a one: then no other program loads the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    quantizer: Option<QuantizerConfig>,
    /// Null if it has not been measured: stage 2 measures it when it begins.
    scaling_factor: Option<f64>,
    /// 1 / `scaling_factor`.
    latent_standard_deviation: Option<f64>,
    block_out_channels: Vec<usize>,
    training: BTreeMap<String, String>,
}

/// The denoising network.
#[derive(Serialize)]
struct UNetDescription {
    class: &'static str,
    parameters: usize,
    /// `[channels, height, width]`, if the config has it.
    sample_shape: Option<[usize; 3]>,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    classes: Option<usize>,
    /// The default denoising steps and images of a picture, if the model has them.
    sampling_steps: Option<usize>,
    sampling_count: Option<usize>,
    training: BTreeMap<String, String>,
}

/// A worse version of the denoising network.
#[derive(Serialize)]
struct GuideDescription {
    guidance: Guidance,
    #[serde(flatten)]
    unet: UNetDescription,
}

/// The schedule and how to sample.
#[derive(Serialize)]
struct DiffusionDescription {
    prediction: &'static str,
    schedule: &'static str,
    num_train_timesteps: usize,
    zero_terminal_snr: bool,
    /// The share of the image that is left at the last timestep. It should be near zero; otherwise sampling starts from
    /// another distribution.
    terminal_signal_rate: f64,
    warning: Option<String>,
    sampler: Sampler,
    spacing: &'static str,
    clip: Option<Clip>,
}

/// The defaults of `kiln sample` with the model.
#[derive(Serialize)]
struct SampleDescription {
    sampler: Sampler,
    steps: usize,
    spacing: &'static str,
    guidance: Guidance,
    /// The scale of the guidance within a distilled model.
    #[serde(skip_serializing_if = "Option::is_none")]
    guidance_learnt: Option<f64>,
    /// Images, or images of each class if there are classes.
    count: usize,
    classes: usize,
}

impl ModelInfo {
    /// Loads the model and prints its description.
    pub fn run(self) -> anyhow::Result<()> {
        let description = match &self.path {
            Some(path) => Description::of_folder(&self.hub.model(path)?)?,
            None => {
                let source = pretrained::default_model()?;
                let model = DiffusionModel::load(&source, &Device::flex())?;
                Description::of_model(source.place(), model)?
            }
        };
        terminal::print_outcome(&description, self.json, Description::in_words)
    }
}

impl Description {
    fn of_folder(path: &Path) -> anyhow::Result<Self> {
        let source = ModelSource::Folder(path.to_owned());
        let device = Device::flex();
        let model = source.place();
        if FolderKind::of(path) == Some(FolderKind::Network) {
            let vqvae = Some(describe_vqvae(&FirstStage::load(&source, &device)?));
            return Ok(Self {
                model,
                vqvae,
                unet: None,
                guide: None,
                diffusion: None,
                sample: None,
                cannot_sample: None,
            });
        }
        Self::of_model(model, load_model(path, &device)?)
    }

    /// Of the model at the place `model`.
    fn of_model(model: String, loaded: DiffusionModel) -> anyhow::Result<Self> {
        let device = Device::flex();
        // A model may have a description although it cannot draw.
        let drawn = Pipeline::from_model(model.clone(), loaded.clone(), &device).map(|pipeline| {
            let learnt = loaded.metadata.guidance_learnt();
            let scale = learnt.map(|guidance| guidance.scale());
            let scale = scale.filter(|&scale| scale != 1.0);
            SampleDescription::of(&pipeline.default_options(), scale)
        });
        let cannot_sample = drawn.as_ref().err().map(ToString::to_string);
        Ok(Self {
            vqvae: loaded.first_stage.as_ref().map(describe_vqvae),
            unet: Some(describe_unet(&loaded.unet, &loaded.metadata)),
            guide: (loaded.guide.as_ref()).map(|guide| GuideDescription {
                guidance: guide.guidance,
                unet: describe_unet(&guide.unet, &guide.metadata),
            }),
            diffusion: Some(describe_diffusion(&loaded.scheduler)?),
            sample: drawn.ok(),
            cannot_sample,
            model,
        })
    }

    fn in_words(&self) -> String {
        let mut table = FactTable::default();
        table.row("model", &self.model);
        if let Some(vqvae) = &self.vqvae {
            table.section(&format!("autoencoder ({})", vqvae.class));
            table.row("parameters", thousands(vqvae.parameters));
            let padding = match vqvae.border {
                0 => String::new(),
                border => format!(", {} of padding on each side", counted(border, "pixel")),
            };
            table.row("images", format!("{}{padding}", shape(vqvae.image_shape)));
            table.row("latents", shape(vqvae.latent_shape));
            if let Some(codes) = vqvae.codes {
                let dimensions = vqvae.latent_shape[0];
                table.row("codes", format!("{codes} of {dimensions} dimensions"));
            }
            if let Some(quantizer) = &vqvae.quantizer {
                let words =
                    format!("{quantizer} (loads in kiln alone: diffusers has no such quantizer)");
                table.row("quantizer", words);
            }
            table.row(
                "scaling factor",
                match (vqvae.scaling_factor, vqvae.latent_standard_deviation) {
                    (Some(factor), Some(deviation)) => {
                        format!("{factor:.5} (the latents' standard deviation is {deviation:.4})")
                    }
                    _ => "not measured yet: stage 2 measures it when it begins".to_owned(),
                },
            );
            table.row("channels per level", list(&vqvae.block_out_channels));
            add_facts(&mut table, &vqvae.training);
        }
        if let Some(unet) = &self.unet {
            table.section(&format!("U-Net ({})", unet.class));
            add_unet(&mut table, unet);
        }
        if let Some(GuideDescription { guidance, unet }) = &self.guide {
            table.section("guide, a worse version of the U-Net");
            let [from, to] = guidance.interval();
            let scale = guidance.scale();
            table.row("guidance", format!("{scale} at noise rates {from} to {to}"));
            add_unet(&mut table, unet);
        }
        if let Some(diffusion) = &self.diffusion {
            table.section("diffusion");
            table.row("prediction", diffusion.prediction);
            table.row(
                "schedule",
                format!(
                    "{}, {}",
                    diffusion.schedule,
                    counted(diffusion.num_train_timesteps, "timestep")
                ),
            );
            table.row(
                "terminal signal",
                format!("{:.5}", diffusion.terminal_signal_rate),
            );
            table.row("spacing", diffusion.spacing);
            if let Some(sample) = &self.sample {
                table.row("kiln sample", sample.in_words());
            }
            if let Some(reason) = &self.cannot_sample {
                table.row("kiln sample", format!("cannot draw with it: {reason}"));
            }
            if let Some(clip) = diffusion.clip {
                table.row("clip", clip.to_string());
            }
            if let Some(warning) = &diffusion.warning {
                table.row("warning", warning);
            }
        }
        table.in_columns()
    }
}

impl SampleDescription {
    fn of(options: &SampleOptions, guidance_learnt: Option<f64>) -> Self {
        Self {
            sampler: options.sampler,
            steps: options.steps,
            spacing: options.levels.spacing.name(),
            guidance: options.guidance,
            guidance_learnt,
            count: options.count,
            classes: options.classes.len(),
        }
    }

    /// `64 images by ddim (eta 0) in 50 steps, trailing spacing, guidance 2`.
    fn in_words(&self) -> String {
        let eta = self.sampler.eta();
        let eta = eta.map_or_else(String::new, |eta| format!(" (eta {eta})"));
        let of_each = match self.classes {
            0 | 1 => String::new(),
            classes => format!(" of each of {classes} classes"),
        };
        let guidance = match (self.guidance.scale(), self.guidance_learnt) {
            (1.0, Some(learnt)) => format!("its own guidance of {learnt}"),
            (1.0, None) => "no guidance".to_owned(),
            (scale, _) => format!("guidance {scale}"),
        };
        format!(
            "{}{of_each} by {}{eta} in {}, {} spacing, {guidance}",
            counted(self.count, "image"),
            self.sampler.name(),
            counted(self.steps, "step"),
            self.spacing
        )
    }
}

fn describe_vqvae(first_stage: &FirstStage) -> VqVaeDescription {
    let config = first_stage.network.config();
    let factor = first_stage.measured_scaling_factor();
    let image = config.sample_size();
    let latent = image / config.downscale_factor();
    VqVaeDescription {
        class: config.class(),
        parameters: first_stage.network.num_params(),
        image_shape: [config.in_channels(), image, image],
        border: first_stage.metadata.border,
        latent_shape: [config.latent_dim(), latent, latent],
        codes: first_stage.network.bottleneck.codes(),
        quantizer: config.own_quantizer().cloned(),
        scaling_factor: factor,
        latent_standard_deviation: factor.map(|factor| 1.0 / factor),
        block_out_channels: config.block_out_channels().to_vec(),
        training: first_stage.metadata.training.clone(),
    }
}

fn describe_unet(unet: &UNet2d, metadata: &Metadata) -> UNetDescription {
    let config = unet.config();
    UNetDescription {
        class: UNet2dConfig::CLASS,
        parameters: unet.num_params(),
        sample_shape: config.sample_size.map(|size| {
            let [height, width] = size.height_and_width();
            [config.in_channels, height, width]
        }),
        block_out_channels: config.block_out_channels.clone(),
        down_block_types: config
            .down_block_types
            .iter()
            .map(|block| format!("{block:?}"))
            .collect(),
        classes: config.num_class_embeds,
        sampling_steps: metadata.sampling_steps,
        sampling_count: metadata.sampling_count,
        training: metadata.training.clone(),
    }
}

fn describe_diffusion(scheduler: &SchedulerConfig) -> anyhow::Result<DiffusionDescription> {
    let schedule = Schedule::new(scheduler.schedule.clone())?;
    Ok(DiffusionDescription {
        prediction: scheduler.prediction.name(),
        schedule: scheduler.schedule.kind.name(),
        num_train_timesteps: schedule.num_train_timesteps(),
        zero_terminal_snr: schedule.is_zero_terminal_snr(),
        terminal_signal_rate: schedule.terminal_signal_rate(),
        warning: schedule.warning(),
        sampler: scheduler.sampler,
        spacing: scheduler.levels.spacing.name(),
        clip: scheduler.clip,
    })
}

fn add_unet(table: &mut FactTable, unet: &UNetDescription) {
    table.row("parameters", thousands(unet.parameters));
    if let Some(sample_shape) = unet.sample_shape {
        table.row("samples", shape(sample_shape));
    }
    table.row("channels per level", list(&unet.block_out_channels));
    table.row("blocks", unet.down_block_types.join(", "));
    if let Some(classes) = unet.classes {
        table.row("classes", classes.to_string());
    }
    add_facts(table, &unet.training);
}

fn add_facts(table: &mut FactTable, training: &BTreeMap<String, String>) {
    for (name, value) in training {
        table.row(&format!("trained: {name}"), value);
    }
}

fn list(numbers: &[usize]) -> String {
    numbers
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
