//! `kiln inpaint`: new content for part of an image.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::Args;
use kiln::pictures::{Album, Images, columns_for, grid, make_folder, picture};
use kiln::{Moment, SampleOptions};
use kiln_data::{ImageFile, ImageShape};
use kiln_diffusion::sampler::{InpaintOptions, visits};
use kiln_train::counted;
use serde::Serialize;

use super::drawing::{DrawingArguments, IMAGES, ImageArguments, PICTURES, SAMPLING, fit};
use super::film::{FilmArguments, FilmPaths};
use super::numbers::{number, whole};
use crate::terminal;

/// The name of the pictures.
const STEM: &str = "inpainting";

/// Fill in part of an image.
///
/// White pixels of the mask are redrawn, black ones stay exactly as they are, grays mix both. While the model denoises,
/// the known part is restored after every step, with as much noise as the rest (the replacement method); --resamplings
/// goes back and forth on the way, which fits the parts together better (RePaint). Latents of a VQ-VAE are filled in
/// where any of their pixels is lighter than the middle gray. The seam is as sharp as the mask's edge: give the mask a
/// gray rim to soften it.
///
/// Writes each filled image as a file of its own, and a picture of the original, the hole and all of them; with --gif and
/// --strip also how they came about, as the model sees it: before the known pixels of the original are put back.
#[derive(Args)]
#[command(after_help = "Example:
  kiln inpaint rose.jpg --mask hole.png --model runs/flowers/model --count 4 --resamplings 5")]
pub struct Inpaint {
    /// The image file, cut to its centre and resized to the model's size
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// A gray image of the same size: white is filled in
    #[arg(long, help_heading = IMAGES, value_name = "IMAGE")]
    mask: PathBuf,

    #[command(flatten)]
    images: ImageArguments,

    #[command(flatten)]
    drawing: DrawingArguments,

    /// DDIM's stochasticity: 1 is as random as DDPM, as in RePaint
    #[arg(long, help_heading = SAMPLING, default_value_t = 1.0, value_parser = number(0.0..=1.0, 0.5))]
    eta: f64,

    /// How many times to repeat each stretch of the way
    #[arg(long, help_heading = SAMPLING, default_value_t = 0, value_name = "N", value_parser = whole::<u32>(0..=1000, 1))]
    resamplings: u32,

    /// Steps in such a stretch
    #[arg(long, help_heading = SAMPLING, default_value_t = 10, value_name = "N", requires = "resamplings", value_parser = whole::<u32>(1..=100_000, 10))]
    jump: u32,

    /// Number of different fillings
    #[arg(long, help_heading = IMAGES, default_value_t = 1, value_parser = whole::<u32>(1..=4096, 1))]
    count: u32,

    /// Seed of the noise: the same seed gives the same fillings
    #[arg(long, help_heading = IMAGES, default_value_t = 0, value_parser = whole::<u64>(0..=u64::MAX, 0))]
    seed: u64,

    #[command(flatten)]
    film: FilmArguments,

    /// Folder for the images
    #[arg(long, help_heading = PICTURES, default_value = "inpainting", value_name = "FOLDER")]
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
    resamplings: usize,
    seed: u64,
    images: Vec<PathBuf>,
    picture: PathBuf,
    #[serde(flatten)]
    film: FilmPaths,
    seconds: f64,
}

impl Inpaint {
    /// Fills in the hole, and writes the images.
    pub fn run(self) -> anyhow::Result<()> {
        let pipeline = self.drawing.pipeline()?;
        let options = SampleOptions {
            count: self.count as usize,
            seed: self.seed,
            ..self.drawing.options(&pipeline)?
        };
        let inpaint_options = InpaintOptions {
            eta: self.eta,
            resamplings: self.resamplings as usize,
            jump: self.jump as usize,
            ..InpaintOptions::default()
        };
        let file = ImageFile::open(&self.image)?;
        let mask = ImageFile::open(&self.mask)?;
        ensure!(
            (mask.width(), mask.height()) == (file.width(), file.height()),
            "the mask {} has {}x{} pixels and the image {} has {}x{}; give a mask of the same size",
            self.mask.display(),
            mask.width(),
            mask.height(),
            self.image.display(),
            file.width(),
            file.height()
        );
        let original = self.images.read(&pipeline, &[file])?;
        let gray = ImageShape {
            channels: 1,
            ..pipeline.image_shape()
        };
        let mask = fit(&[mask], gray)?;
        let _made = make_folder(&self.out)?;

        let started = Instant::now();
        let moves = visits(options.steps, inpaint_options).len() - 1;
        let passes = options.images().div_ceil(options.batch) * moves;
        let bar = terminal::progress_bar("inpainting".into(), passes, "steps");
        let mut films = self.film.begin(moves);
        let observer = &mut |moment: Moment<'_>| {
            bar.inc(u64::from(moment.steps_done > 0));
            films.record(&pipeline, moment)
        };
        let filled = pipeline.inpaint(
            &original,
            &mask,
            inpaint_options,
            options.observed(observer),
        )?;
        bar.finish_and_clear();

        let mut album = Album::default();
        let name_of = |image: usize| format!("{image:04}.png");
        for image in 0..filled.len() {
            album.add_png(&name_of(image), &picture(&filled, image))?;
        }
        let count = filled.len();
        let title = format!("inpainting, {}", counted(options.steps, "step"));
        let asked = (&pipeline, &options);
        films.add_to(&mut album, STEM, columns_for(count), &title, asked)?;
        let mut shown = original.clone();
        shown.append(with_hole(&original, &mask));
        shown.append(filled);
        let picture = format!("{STEM}.png");
        album.add_png(&picture, &grid(&shown, shown.len().min(8)))?;
        let saved = album.save(&self.out)?;
        let outcome = Outcome {
            model: pipeline.name().to_owned(),
            steps: options.steps,
            resamplings: inpaint_options.resamplings,
            seed: self.seed,
            images: (0..count)
                .map(|image| saved.path(&name_of(image)))
                .collect(),
            picture: saved.path(&picture),
            film: films.paths(&saved, STEM),
            seconds: started.elapsed().as_secs_f64(),
        };
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }
}

/// The original, gray where it will be filled in.
fn with_hole(original: &Images, mask: &Images) -> Images {
    let mut hollow = Images::empty(original.channels(), original.height(), original.width());
    let places = original.values().iter().zip(mask.values().iter().cycle());
    let kept = places.map(|(original, mask)| original * (1.0 - mask) / 2.0);
    hollow.extend(&kept.collect::<Vec<f32>>());
    hollow
}

impl Outcome {
    fn in_words(&self) -> String {
        let seconds = terminal::in_words(Duration::from_secs_f64(self.seconds));
        let mut lines = String::new();
        for image in &self.images {
            lines += &format!("{}\n", image.display());
        }
        lines
            + &format!(
                "{}  the original, the hole and what was filled in, {}, {seconds}\n",
                self.picture.display(),
                counted(self.steps, "step"),
            )
            + &self.film.in_words()
    }
}
