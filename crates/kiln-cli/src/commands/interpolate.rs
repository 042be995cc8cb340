//! `kiln interpolate`: draws the images from one noise to the next.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::ensure;
use burn::tensor::Tensor;
use clap::Args;
use kiln::pictures::{Album, Images, Picture, grid, make_folder, picture};
use kiln::{Interpolation, Moment, Pipeline, SampleOptions, Stops};
use kiln_data::ImageFile;
use kiln_eval::mean_psnr;
use kiln_train::counted;
use serde::Serialize;

use super::drawing::{DrawingArguments, IMAGES, ImageArguments, PICTURES};
use super::numbers::whole;
use crate::terminal;

/// Fixed-point refinements of the noise of a given image: see `kiln invert --help`.
const REFINEMENTS: usize = 5;

/// Draw the images between two noises, or along several.
///
/// Walks on an arc from noise to noise (spherical interpolation) and draws an image from each noise on it, with DDIM
/// and no fresh noise, or as a distilled model draws. Writes a picture with a row for each part of the way, and an animation of all of it. The ends of
/// a row are the images that `kiln sample --eta 0` draws first from the same seeds; with --images they are what the model
/// makes of the given images, without its guide if --guidance does not ask for it.
#[derive(Args)]
#[command(mut_arg("negate", |negate| negate.conflicts_with("seeds")))]
#[command(after_help = "Examples:
  kiln interpolate --seeds 0,1
  kiln interpolate --seeds 3,5,8 --loop --frames 12 --out round-trip/
  kiln interpolate --model runs/flowers/model --images rose.jpg lily.jpg")]
pub struct Interpolate {
    #[command(flatten)]
    drawing: DrawingArguments,

    /// The seeds to pass through
    #[arg(
        long, help_heading = IMAGES,
        value_name = "A,B[,C...]",
        value_delimiter = ',',
        value_parser = whole::<u64>(0..=u64::MAX, 0),
        required_unless_present = "images"
    )]
    seeds: Vec<u64>,

    /// The images to pass through, each encoded into its noise first
    #[arg(long, help_heading = IMAGES, value_name = "IMAGE", num_args = 2.., conflicts_with = "seeds")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    reading: ImageArguments,

    /// Images from each seed to the next, both ends counted
    #[arg(long, help_heading = IMAGES, default_value_t = 9, value_name = "N", value_parser = whole::<u32>(2..=1000, 9))]
    frames: u32,

    /// Go on from the last seed back to the first
    #[arg(long = "loop", help_heading = IMAGES)]
    is_loop: bool,

    /// Folder for the pictures
    #[arg(long, help_heading = PICTURES, default_value = "interpolation", value_name = "FOLDER")]
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
    seeds: Vec<u64>,
    images: Vec<PathBuf>,
    /// The PSNR between the given images and the model's, in decibels.
    psnr: Option<f64>,
    count: usize,
    picture: PathBuf,
    gif: PathBuf,
    seconds: f64,
}

impl Interpolate {
    /// Finds the noises, draws the images between them, and writes the pictures.
    pub fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.seeds.len() + self.images.len() >= 2,
            "interpolation needs at least two seeds, as in --seeds 0,1"
        );
        let pipeline = self.drawing.pipeline()?;
        let options = if self.images.is_empty() {
            self.drawing.options_of_one_class(&pipeline)?
        } else {
            self.drawing.options_to_invert(&pipeline)?
        };
        let originals = self.originals(&pipeline)?;
        let _made = make_folder(&self.out)?;
        let started = Instant::now();
        let inverted = (originals.as_ref()).map(|originals| invert(&pipeline, originals, &options));
        let inverted = inverted.transpose()?;
        let stops = match &inverted {
            Some((noises, _)) => Stops::Noises(noises),
            None => Stops::Seeds(&self.seeds),
        };
        let interpolation = Interpolation {
            frames: self.frames as usize,
            is_loop: self.is_loop,
        };
        let legs = interpolation.legs(self.seeds.len() + self.images.len());
        let images = draw(&pipeline, stops, interpolation, &options)?;

        let (png, gif) = ("interpolation.png", "interpolation.gif");
        let mut album = Album::default();
        album.add_png(png, &rows(&images, legs, interpolation.frames))?;
        let frames: Vec<Picture> = (0..images.len())
            .map(|image| picture(&images, image))
            .collect();
        album.add_gif(gif, &frames, self.is_loop)?;
        let saved = album.save(&self.out)?;
        let outcome = Outcome {
            model: pipeline.name().to_owned(),
            steps: options.steps,
            seeds: self.seeds,
            images: self.images,
            psnr: inverted.map(|(_, psnr)| psnr),
            count: images.len(),
            picture: saved.path(png),
            gif: saved.path(gif),
            seconds: started.elapsed().as_secs_f64(),
        };
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// The images of `--images`, in the model's shape.
    fn originals(&self, pipeline: &Pipeline) -> anyhow::Result<Option<Images>> {
        if self.images.is_empty() {
            return Ok(None);
        }
        let files = self.images.iter().map(|path| ImageFile::open(path));
        let files: Vec<ImageFile> = files.collect::<Result<_, _>>()?;
        Ok(Some(self.reading.read(pipeline, &files)?))
    }
}

/// The noises of images, and the PSNR of the images that the model draws from them.
fn invert(
    pipeline: &Pipeline,
    originals: &Images,
    options: &SampleOptions,
) -> anyhow::Result<(Tensor<4>, f64)> {
    let bar = terminal::progress_bar("inverting".into(), options.steps, "steps");
    let observer = &mut |_: Moment<'_>| {
        bar.inc(1);
        Ok(())
    };
    let noises = pipeline.invert(originals, REFINEMENTS, options.observed(observer))?;
    bar.finish_and_clear();
    let drawn = pipeline.sample_from(noises.clone(), options)?;
    Ok((noises, mean_psnr(originals.iter(), drawn.iter())))
}

fn draw(
    pipeline: &Pipeline,
    stops: Stops<'_>,
    interpolation: Interpolation,
    options: &SampleOptions,
) -> anyhow::Result<Images> {
    let bar = terminal::progress_bar("drawing".into(), options.steps, "steps");
    let observer = &mut |moment: Moment<'_>| {
        bar.set_position(moment.steps_done as u64);
        Ok(())
    };
    let images = pipeline.interpolate(stops, interpolation, options.observed(observer))?;
    bar.finish_and_clear();
    Ok(images)
}

/// A row for each part of the way, with both of its ends.
fn rows(images: &Images, legs: usize, frames: usize) -> Picture {
    let number = |leg: usize, frame: usize| (leg * (frames - 1) + frame) % images.len().max(1);
    let numbers = (0..legs).flat_map(|leg| (0..frames).map(move |frame| number(leg, frame)));
    grid(&images.select(numbers), frames)
}

impl Outcome {
    fn in_words(&self) -> String {
        let seconds = terminal::in_words(Duration::from_secs_f64(self.seconds));
        let mut lines = format!(
            "{}  {} in {} each, {seconds}\n{}  one after the other\n",
            self.picture.display(),
            counted(self.count, "image"),
            counted(self.steps, "step"),
            self.gif.display(),
        );
        if let Some(psnr) = self.psnr {
            lines += &format!("PSNR of the given images: {psnr:.2} dB\n");
        }
        lines
    }
}
