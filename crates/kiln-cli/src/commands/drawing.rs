//! The common arguments of the commands that change images: the model, and how it denoises.

use std::path::PathBuf;

use anyhow::ensure;
use burn::tensor::Device;
use clap::Args;
use kiln::pictures::Images;
use kiln::{Moment, Pipeline, SampleOptions, load_model};
use kiln_data::{ImageFile, ImageShape};
use kiln_diffusion::{Guidance, sampler::Sampler};
use kiln_kernels::Precision;

use super::class_list::classes_in;
use super::numbers::{MANY, number, whole};
use super::{hub_arguments::HubArguments, one_device};
use crate::{pretrained, terminal};

/// Groups of the help.
pub const MODEL: &str = "Model";
pub const IMAGES: &str = "Images";
pub const SAMPLING: &str = "Sampling";
pub const MEASURES: &str = "Measures";
pub const PICTURES: &str = "Pictures";
const GUIDANCE: &str = "Classes and guidance";
pub const COMPUTING: &str = "Computing";

/// Denoising steps by DDIM.
const STEPS: usize = 50;

/// The model, and how it walks between noise and image: by DDIM, or as a distilled model draws.
#[derive(Args)]
pub struct DrawingArguments {
    #[command(flatten)]
    model: ModelArguments,

    /// Denoising steps [default: 50, or a distilled model's own]
    #[arg(long, help_heading = SAMPLING, value_name = "N", value_parser = whole::<u32>(1..=MANY, 50))]
    steps: Option<u32>,

    #[command(flatten)]
    conditions: ConditionArguments,

    #[command(flatten)]
    computing: ComputingArguments,
}

/// Where the model comes from.
#[derive(Args)]
pub struct ModelArguments {
    /// Folder of a model in the diffusers layout, of a run or of a checkpoint (RUN/diffusion/checkpoints/step-N), or one on the
    /// Hub; without it, the digits model inside this program
    #[arg(long, help_heading = MODEL, value_name = "PATH|ORG/REPO[@REVISION]")]
    pub model: Option<PathBuf>,

    #[command(flatten)]
    pub hub: HubArguments,
}

/// Where and how it is computed.
#[derive(Args)]
pub struct ComputingArguments {
    /// Images that are denoised together: changes memory and speed, not the images
    #[arg(long, help_heading = COMPUTING, default_value_t = 64, value_parser = whole::<u32>(1..=MANY, 64))]
    pub batch: u32,

    /// Where to compute: cpu, cuda:0, rocm:0, metal or wgpu
    #[arg(long, help_heading = COMPUTING, default_value = "cpu", value_name = "DEVICE")]
    pub devices: String,

    /// Which numbers the convolutions multiply: f32; bf16, on a CPU or GPU that is made for it (another CPU multiplies f32, with a message); or auto, bf16 on such a CPU and f32 elsewhere
    #[arg(long, help_heading = COMPUTING, default_value = "auto")]
    pub precision: Precision,
}

/// How image files are looked at.
#[derive(Args)]
pub struct ImageArguments {
    /// Exchange light and dark of the given image: for a black pen on white paper and a model of white digits on black
    #[arg(long, help_heading = IMAGES)]
    negate: bool,
}

/// What the model is asked for, and what it is guided by.
#[derive(Args)]
pub struct ConditionArguments {
    /// Classes to draw, by number or name, separated by commas or each with its own --class, or all
    #[arg(long, help_heading = GUIDANCE, value_name = "CLASS[,CLASS...]")]
    class: Vec<String>,

    /// A worse version of the model to guide it by (autoguidance): a smaller one, or one that was trained less [default: the
    /// model's own guide, if it has one]
    #[arg(long, help_heading = GUIDANCE, value_name = "PATH|ORG/REPO[@REVISION]")]
    guide: Option<PathBuf>,

    /// Exaggerate what the class changes (classifier-free guidance), or what the model does better than its guide: 1 is
    /// no guidance, 2 is usual [default: the guide's own, or 1 without a guide]
    #[arg(long, help_heading = GUIDANCE, value_name = "SCALE", value_parser = number(0.0..=f64::INFINITY, 2.0))]
    guidance: Option<f64>,

    /// Guide only between these noise rates, from 0 (clean) to 1 (noise)
    #[arg(long, help_heading = GUIDANCE, value_name = "FROM-TO", value_parser = parse_interval)]
    guidance_interval: Option<[f64; 2]>,
}

impl DrawingArguments {
    /// Loads the model.
    pub fn pipeline(&self) -> anyhow::Result<Pipeline> {
        self.model.open(&self.conditions, &self.computing)
    }

    /// DDIM without fresh noise, or a distilled model's own sampler, for one image of each requested class, or for images in
    /// general.
    pub fn options(&self, pipeline: &Pipeline) -> anyhow::Result<SampleOptions> {
        self.options_guided_by(pipeline, pipeline.default_options().guidance)
    }

    /// Like [`Self::options_of_one_class`], to find images' noises: without guidance unless it is asked for, because
    /// few images come back from a guided walk.
    pub fn options_to_invert(&self, pipeline: &Pipeline) -> anyhow::Result<SampleOptions> {
        one_class(self.options_guided_by(pipeline, Guidance::default())?)
    }

    /// Like [`Self::options`], for a command that can use only one class.
    pub fn options_of_one_class(&self, pipeline: &Pipeline) -> anyhow::Result<SampleOptions> {
        one_class(self.options(pipeline)?)
    }

    /// With `guidance` unless the arguments ask for another.
    fn options_guided_by(
        &self,
        pipeline: &Pipeline,
        guidance: Guidance,
    ) -> anyhow::Result<SampleOptions> {
        let own = pipeline.default_options();
        let (sampler, steps) = match learnt_sampler(pipeline) {
            Some(sampler) => (sampler, own.steps),
            None => (Sampler::default(), STEPS),
        };
        let mut options = SampleOptions {
            steps: self.steps.map_or(steps, |steps| steps as usize),
            sampler,
            count: 1,
            classes: Vec::new(),
            guidance,
            ..own
        };
        self.computing.apply(&mut options);
        self.conditions.apply(pipeline, &mut options)?;
        pipeline.trajectory(&options)?;
        Ok(options)
    }
}

/// The sampler with which a distilled model has learnt to draw: kiln says who was distilled, and samplers in segments draw
/// with distilled models only.
pub fn learnt_sampler(pipeline: &Pipeline) -> Option<Sampler> {
    let sampler = pipeline.default_options().sampler;
    let is_student =
        pipeline.model().metadata.distilled_by().is_some() || sampler.segments().is_some();
    is_student.then_some(sampler)
}

/// `options`, if they have at most one class.
fn one_class(options: SampleOptions) -> anyhow::Result<SampleOptions> {
    ensure!(
        options.classes.len() <= 1,
        "this command works with one class at a time; give --class one of the {} that it lists",
        options.classes.len()
    );
    Ok(options)
}

impl ConditionArguments {
    /// Sets these classes in the options, if there are any, and the guidance, if it was given.
    pub fn apply(&self, pipeline: &Pipeline, options: &mut SampleOptions) -> anyhow::Result<()> {
        let scale = self.guidance.unwrap_or(options.guidance.scale());
        ensure!(
            self.guidance_interval.is_none() || self.guidance.is_some() || scale != 1.0,
            "--guidance-interval needs --guidance; give both"
        );
        let interval = (self.guidance_interval).unwrap_or(options.guidance.interval());
        options.guidance = Guidance::new(scale, interval)?;
        if !self.class.is_empty() {
            let classes = pipeline.classes().ok_or(kiln::Error::NoClasses)?;
            options.classes = classes_in(&self.class, classes)?;
        }
        Ok(pipeline.check_classes(options)?)
    }
}

impl ModelArguments {
    /// Loads the model, or the one inside this program, and the guide, if one was named.
    pub fn open(
        &self,
        conditions: &ConditionArguments,
        computing: &ComputingArguments,
    ) -> anyhow::Result<Pipeline> {
        let device = computing.device()?;
        let pipeline = match &self.model {
            Some(place) => {
                let folder = self.hub.model(place)?;
                let name = folder.display().to_string();
                Pipeline::from_model(name, load_model(&folder, &device)?, &device)?
            }
            None => Pipeline::from_source(&pretrained::default_model()?, &device)?,
        };
        Ok(match &conditions.guide {
            Some(worse) => pipeline.guided_by(load_model(&self.hub.model(worse)?, &device)?)?,
            None => pipeline,
        })
    }
}

impl ComputingArguments {
    /// The device, after a check that it can compute in the given precision.
    pub fn device(&self) -> anyhow::Result<Device> {
        one_device(&self.devices, self.precision)
    }

    /// Sets the batch size and the precision.
    pub fn apply(&self, options: &mut SampleOptions) {
        options.batch = self.batch as usize;
        options.precision = self.precision;
    }
}

impl ImageArguments {
    /// Image files in the shape of the model's images, one after the other. Warns if they look like negatives of the
    /// model's images.
    pub fn read(&self, pipeline: &Pipeline, files: &[ImageFile]) -> anyhow::Result<Images> {
        let images = read_images(pipeline, files)?;
        let images = if self.negate {
            images.negated()
        } else {
            images
        };
        for (file, image) in files.iter().zip(0..) {
            if pipeline.is_negative(&images.select([image]))? {
                let advice = if self.negate { "leave out" } else { "add" };
                terminal::note(&format!(
                    "{} looks like a negative of the model's images: {advice} --negate if that is not intended",
                    file.path().display()
                ));
            }
        }
        Ok(images)
    }
}

/// Network calls between the previous moment and this one.
pub fn calls_before(moment: &Moment<'_>, options: &SampleOptions) -> u64 {
    let [batch, ..] = moment.latents.dims();
    let calls_a_step = options.calls() as f64 / options.steps as f64;
    match moment.steps_done {
        0 => 0,
        _ => (batch as f64 * calls_a_step).round() as u64,
    }
}

/// The names of the classes in `options`.
pub fn class_names(pipeline: &Pipeline, options: &SampleOptions) -> Vec<String> {
    let classes = pipeline.classes().into_iter();
    let names =
        classes.flat_map(|classes| options.classes.iter().map(|&class| classes.name(class)));
    names.collect()
}

/// Image files in the shape of the model's images.
fn read_images(pipeline: &Pipeline, files: &[ImageFile]) -> anyhow::Result<Images> {
    let shape = pipeline.image_shape();
    ensure!(
        matches!(shape.channels, 1 | 3),
        "the model's images have {} channels, but image files are gray or RGB; use another model",
        shape.channels
    );
    fit(files, shape)
}

/// Image files in `shape`, one after the other.
pub fn fit(files: &[ImageFile], shape: ImageShape) -> anyhow::Result<Images> {
    let mut images = Images::empty(shape.channels, shape.height, shape.width);
    for file in files {
        images.extend(&file.fit(shape)?);
    }
    Ok(images)
}

/// `FROM-TO`, two noise rates.
pub fn parse_interval(text: &str) -> Result<[f64; 2], String> {
    let ends = text.split_once('-');
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let interval = ends.and_then(|(from, to)| Some([number(from)?, number(to)?]));
    interval
        .filter(|[from, to]| 0.0 <= *from && from < to && *to <= 1.0)
        .ok_or_else(|| "the interval is two noise rates from 0 to 1, as in 0.2-0.8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_ascend_within_zero_and_one() {
        assert_eq!(parse_interval("0.2-0.8"), Ok([0.2, 0.8]));
        assert_eq!(parse_interval("0 - 1"), Ok([0.0, 1.0]));
        for refused in ["0.8-0.2", "0.2", "0.2-", "-0.2-0.5", "0.5-1.5", "NaN-1", ""] {
            assert!(parse_interval(refused).is_err(), "{refused}");
        }
    }
}
