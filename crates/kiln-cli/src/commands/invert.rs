//! `kiln invert`: finds the noise that gives an image.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use burn::tensor::Tensor;
use clap::Args;
use kiln::Moment;
use kiln::pictures::{Album, Images, grid, make_folder};
use kiln_data::ImageFile;
use kiln_eval::mean_psnr;
use kiln_train::counted;
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;

use super::drawing::{DrawingArguments, ImageArguments, PICTURES, SAMPLING};
use super::numbers::whole;
use crate::terminal;

/// Find the noise from which a model draws an image.
///
/// Runs DDIM backwards, from the image (through the VQ-VAE, if there is one) up to its noise, then draws the image from
/// that noise again. Writes the noises as noise.safetensors (`noise`, of shape [images, channels, height, width]) and a
/// picture with a row for each image: the original, its noise, what is drawn from it. Says how near the drawn image is,
/// as PSNR on pixels in [0, 1]; with a VQ-VAE also compared with its reconstruction, which is the best possible result.
///
/// A model's own guide is not used unless --guidance asks for it: a guided walk restores few images.
#[derive(Args)]
#[command(after_help = "Example:
  kiln invert --model runs/flowers/model rose.jpg lily.jpg --steps 100 --out noises/")]
pub struct Invert {
    /// Image files, each cut to its centre and resized to the model's size
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    reading: ImageArguments,

    #[command(flatten)]
    drawing: DrawingArguments,

    /// Corrections per step: more are closer and slower
    #[arg(long, help_heading = SAMPLING, default_value_t = 5, value_name = "N", value_parser = whole::<u32>(0..=1000, 5))]
    refinements: u32,

    /// Folder for the noise and the picture
    #[arg(long, help_heading = PICTURES, default_value = "inversion", value_name = "FOLDER")]
    out: PathBuf,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The result, for `--json`.
#[derive(Serialize)]
struct Outcome {
    model: String,
    steps: usize,
    refinements: usize,
    images: Vec<Inverted>,
    /// Standard deviation of the noises; 1 for true noise.
    noise_deviation: f64,
    noise: PathBuf,
    picture: PathBuf,
    seconds: f64,
}

/// One image. PSNRs are in decibels.
#[derive(Serialize)]
struct Inverted {
    image: PathBuf,
    /// PSNR of the image that is drawn from the noise.
    psnr: f64,
    /// PSNR of the VQ-VAE's reconstruction, without diffusion.
    reconstruction_psnr: Option<f64>,
    /// PSNR of the drawn image, compared with the VQ-VAE's reconstruction.
    psnr_to_reconstruction: Option<f64>,
}

impl Invert {
    /// Inverts, draws again, writes noise and picture, and prints how close the result is.
    pub fn run(self) -> anyhow::Result<()> {
        let pipeline = self.drawing.pipeline()?;
        let options = self.drawing.options_to_invert(&pipeline)?;
        let files = self.images.iter().map(|path| ImageFile::open(path));
        let files: Vec<ImageFile> = files.collect::<Result<_, _>>()?;
        let originals = self.reading.read(&pipeline, &files)?;
        let _made = make_folder(&self.out)?;

        let started = Instant::now();
        let passes = originals.len().div_ceil(options.batch) * options.steps;
        let bar = terminal::progress_bar("inverting".into(), passes, "steps");
        let refinements = self.refinements as usize;
        let observer = &mut |_: Moment<'_>| {
            bar.inc(1);
            Ok(())
        };
        let noises = pipeline.invert(&originals, refinements, options.observed(observer))?;
        bar.finish_and_clear();
        let bar = terminal::progress_bar("drawing again".into(), passes, "steps");
        let observer = &mut |moment: Moment<'_>| {
            bar.inc(u64::from(moment.steps_done > 0));
            Ok(())
        };
        let drawn = pipeline.sample_from(noises.clone(), options.observed(observer))?;
        bar.finish_and_clear();
        let mut reconstructions = None;
        if pipeline.has_first_stage() {
            let mut all = Images::empty(0, 0, 0);
            for images in originals.batches(options.batch) {
                all.append(pipeline.decode(pipeline.encode(&images)?)?);
            }
            reconstructions = Some(all);
        }

        let (noise, picture) = ("noise.safetensors", "inversion.png");
        let mut album = Album::default();
        album.add_file(noise, noise_file(&noises, options.steps)?);
        let mut shown = originals.clone();
        for noises in noises.clone().split(options.batch, 0) {
            shown.append(pipeline.decode(noises)?);
        }
        shown.append(drawn.clone());
        let rows = (0..originals.len()).flat_map(|image| (0..3).map(move |kind| (image, kind)));
        let numbers = rows.map(|(image, kind)| kind * originals.len() + image);
        album.add_png(picture, &grid(&shown.select(numbers), 3))?;
        let saved = album.save(&self.out)?;

        let measure = |image: usize, one: &Images, other: &Images| {
            let [one, other] = [one, other].map(|images| images.select([image]));
            mean_psnr(one.iter(), other.iter())
        };
        let inverted = |(image, path)| {
            let reconstructions = reconstructions.as_ref();
            Inverted {
                image: path,
                psnr: measure(image, &originals, &drawn),
                reconstruction_psnr: reconstructions
                    .map(|reconstructions| measure(image, &originals, reconstructions)),
                psnr_to_reconstruction: reconstructions
                    .map(|reconstructions| measure(image, reconstructions, &drawn)),
            }
        };
        let outcome = Outcome {
            model: pipeline.name().to_owned(),
            steps: options.steps,
            refinements,
            images: self.images.into_iter().enumerate().map(inverted).collect(),
            noise_deviation: deviation(&noises),
            noise: saved.path(noise),
            picture: saved.path(picture),
            seconds: started.elapsed().as_secs_f64(),
        };
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }
}

/// The root of the mean square.
fn deviation(noises: &Tensor<4>) -> f64 {
    let variance = noises.clone().square().mean().into_data();
    variance.iter::<f64>().sum::<f64>().sqrt()
}

/// The noises as a safetensors file.
fn noise_file(noises: &Tensor<4>, steps: usize) -> anyhow::Result<Vec<u8>> {
    let shape = noises.dims().to_vec();
    let data = noises.clone().into_data();
    let bytes: Vec<u8> = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
    // Facts for the header. Only one, because the order of several would differ between runs.
    let facts = HashMap::from([("steps".to_owned(), steps.to_string())]);
    let noise = TensorView::new(Dtype::F32, shape, &bytes)?;
    Ok(safetensors::serialize([("noise", noise)], Some(facts))?)
}

impl Outcome {
    fn in_words(&self) -> String {
        let mut lines = String::new();
        for inverted in &self.images {
            lines += &format!("{}  {:.2} dB", inverted.image.display(), inverted.psnr);
            if let (Some(best), Some(to_best)) = (
                inverted.reconstruction_psnr,
                inverted.psnr_to_reconstruction,
            ) {
                lines += &format!(
                    "; {best:.2} dB for the VQ-VAE alone, {to_best:.2} dB compared with its reconstruction"
                );
            }
            lines += "\n";
        }
        let seconds = terminal::in_words(Duration::from_secs_f64(self.seconds));
        lines
            + &format!(
                "{}  the noises, with a standard deviation of {:.3}\n{}  originals, noises and what is drawn from them, {}, {seconds}\n",
                self.noise.display(),
                self.noise_deviation,
                self.picture.display(),
                counted(self.steps, "step"),
            )
    }
}
