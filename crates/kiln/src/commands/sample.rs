//! `kiln sample`: noise in, pictures out.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use kiln::{
    Images, Moment, Pipeline, SampleOptions,
    pictures::{columns_for, grid, make_folder, save_png},
};
use kiln_data::ImageFile;
use kiln_diffusion::{Clip, LevelOptions, Spacing, StepGrid, sampler::Sampler};
use kiln_kernels::Precision;
use serde::Serialize;

use super::{
    drawing::{ConditionArguments, open_pipeline, read_images},
    film::{FilmArguments, FilmPaths},
    hub_arguments::HubArguments,
    sampler_arguments::{SamplerArguments, warn_of_spacing},
};
use crate::{preview, terminal};

/// Images per row of the comparison picture: the first ones of every grid.
const COMPARED: usize = 8;

/// Draw images with a trained model.
///
/// Writes one grid per number of steps, and with several numbers a comparison whose rows start from the same noises.
/// Image number i of a seed is the same whatever --count and --batch are.
///
/// A model with classes gives each of them a row, in which the same noises are used. With --from the images begin as a
/// given image with noise over it instead of as noise alone (image to image, SDEdit).
#[derive(Args)]
#[command(after_help = "Examples:
  kiln sample --steps 50
  kiln sample --model runs/mnist/model --steps 50/100/200 --count 64 --seed 0 --out samples/ --gif
  kiln sample --from sketch.png --strength 0.6 --count 8
  kiln sample --model runs/mnist-classes/model --class 3,7 --guidance 2 --strip 10")]
pub struct Sample {
    /// Folder of a model in the diffusers layout, or one on the Hub; without it, the digits model inside this program
    #[arg(long, value_name = "PATH|ORG/REPO[@REVISION]")]
    model: Option<PathBuf>,

    #[command(flatten)]
    hub: HubArguments,

    /// Denoising steps: a number, or several separated by / or ,
    #[arg(long, default_value = "50", value_name = "N[/N...]", value_parser = parse_steps)]
    steps: StepCounts,

    #[command(flatten)]
    sampler: SamplerArguments,

    /// Which of the training timesteps are visited [default: the model's own]
    #[arg(long, value_enum)]
    spacing: Option<SpacingName>,

    /// Limit the predicted clean images to [-CLIP, CLIP], or `dynamic`: each by its own range [default: the model's own]
    #[arg(long)]
    clip: Option<Clip>,

    /// Number of images [default: 64, or 8 of each of several classes]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    count: Option<u32>,

    #[command(flatten)]
    conditions: ConditionArguments,

    /// Begin with this image, cut to its centre and resized to the model's size
    #[arg(long, value_name = "IMAGE")]
    from: Option<PathBuf>,

    /// How much of the denoising is done again on that image: 0 leaves it as it is, 1 leaves nothing of it
    #[arg(long, default_value_t = 0.6, requires = "from")]
    strength: f64,

    /// Which noise to start from: the same seed gives the same images
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for the pictures
    #[arg(long, default_value = "samples", value_name = "FOLDER")]
    out: PathBuf,

    /// Images that are denoised together: changes memory and speed, not the images
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    #[command(flatten)]
    film: FilmArguments,

    /// Where to compute: cpu, cuda:0, rocm:0, metal or wgpu
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    devices: String,

    /// Which numbers the convolutions multiply, f32 or bf16: bf16 is faster on a CPU with a matrix unit
    #[arg(long, default_value_t)]
    precision: Precision,

    /// Show no preview in the terminal
    #[arg(long)]
    no_preview: bool,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// `--spacing`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SpacingName {
    /// Every k-th timestep, counted from the clean end
    Leading,
    /// Evenly from the first timestep to the last
    Linspace,
    /// Every k-th timestep, counted from the noisy end
    Trailing,
    /// Denser near the clean end
    Quadratic,
    /// Evenly in sigma^(1/7), by Karras et al.: much denser near the clean end
    Karras,
    /// Evenly in the log-SNR: what dpm-solver and unipc like best
    LogSnr,
}

impl From<SpacingName> for Spacing {
    fn from(name: SpacingName) -> Spacing {
        match name {
            SpacingName::Leading => Spacing::Leading,
            SpacingName::Linspace => Spacing::Linspace,
            SpacingName::Trailing => Spacing::Trailing,
            SpacingName::Quadratic => Spacing::Quadratic,
            SpacingName::Karras => Spacing::Karras,
            SpacingName::LogSnr => Spacing::LogSnr,
        }
    }
}

/// What was drawn, for `--json`.
#[derive(Serialize)]
struct Outcome {
    model: String,
    sampler: Sampler,
    spacing: Spacing,
    seed: u64,
    /// Names of the classes; each has `count` images.
    classes: Vec<String>,
    count: usize,
    /// The image that all began with, and how much was done again.
    from: Option<PathBuf>,
    strength: Option<f64>,
    grids: Vec<Grid>,
    comparison: Option<PathBuf>,
}

/// One number of steps.
#[derive(Serialize)]
struct Grid {
    steps: usize,
    picture: PathBuf,
    #[serde(flatten)]
    film: FilmPaths,
    seconds: f64,
}

impl Sample {
    /// Draws, writes the pictures and says where they are.
    pub fn run(self) -> anyhow::Result<()> {
        let pipeline = open_pipeline(
            self.model.as_deref(),
            &self.conditions,
            &self.hub,
            &self.devices,
            self.precision,
        )?;
        let original = match &self.from {
            Some(path) => Some(read_images(&pipeline, &[ImageFile::open(path)?])?),
            None => None,
        };
        let all_options: Vec<SampleOptions> = (self.steps.0.iter())
            .map(|&steps| self.options(&pipeline, steps))
            .collect::<Result<_, _>>()?;
        warn_of_spacing(&pipeline, &all_options)?;
        let Some(options) = all_options.first() else {
            return Ok(());
        };
        let mut outcome = Outcome {
            model: pipeline.name().to_string(),
            sampler: options.sampler,
            spacing: options.levels.spacing,
            seed: self.seed,
            classes: class_names(&pipeline, options),
            count: options.count,
            strength: self.from.is_some().then_some(self.strength),
            from: self.from.clone(),
            grids: Vec::new(),
            comparison: None,
        };
        for options in &all_options {
            pipeline.last_part(options, self.strength())?;
        }
        make_folder(&self.out)?;

        let mut compared = Images::empty(0, 0, 0);
        for options in &all_options {
            let (drawn, images) = self.draw(&pipeline, original.as_ref(), options)?;
            compared.append(images.first(COMPARED));
            outcome.grids.push(drawn);
        }
        if outcome.grids.len() > 1 {
            let path = self.out.join("comparison.png");
            save_png(
                &grid(&compared, compared.len() / outcome.grids.len()),
                &path,
            )?;
            outcome.comparison = Some(path);
        }
        if !(self.json || self.no_preview) {
            preview::show(&compared);
        }
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// How much of the trajectory is walked.
    fn strength(&self) -> f64 {
        if self.from.is_some() {
            self.strength
        } else {
            1.0
        }
    }

    fn options(&self, pipeline: &Pipeline, steps: usize) -> anyhow::Result<SampleOptions> {
        let defaults = pipeline.default_options();
        let sampler = self.sampler.sampler(defaults.sampler)?;
        let spacing = self.spacing.map_or(defaults.levels.spacing, Spacing::from);
        let mut options = SampleOptions {
            steps,
            sampler,
            levels: LevelOptions {
                spacing,
                // It goes with the model's own sampler.
                grid: if self.sampler.is_of_model() {
                    defaults.levels.grid
                } else {
                    StepGrid::default()
                },
                ..defaults.levels
            },
            clip: self.clip.or(defaults.clip),
            seed: self.seed,
            batch: self.batch as usize,
            precision: self.precision,
            ..defaults
        };
        self.conditions.apply(pipeline, &mut options)?;
        options.count = match self.count {
            Some(count) => count as usize,
            None if options.classes.len() > 1 => 8,
            None => 64,
        };
        Ok(options)
    }

    /// Draws the images for one number of steps and writes their grid and, if asked for, its GIF and its strip.
    fn draw(
        &self,
        pipeline: &Pipeline,
        original: Option<&Images>,
        options: &SampleOptions,
    ) -> anyhow::Result<(Grid, Images)> {
        let started = Instant::now();
        let strength = self.strength();
        let steps = pipeline
            .last_part(options, strength)?
            .len()
            .saturating_sub(1);
        let rows = options.classes.len().max(1);
        let passes = (rows * options.count).div_ceil(options.batch) * steps;
        let bar = terminal::progress_bar(format!("{} steps", options.steps), passes, "passes");
        let mut films = self.film.begin(steps);
        let observe = |moment: Moment<'_>| {
            bar.inc(u64::from(moment.steps_done > 0));
            films.record(pipeline, moment)
        };
        let images = match original {
            Some(original) => pipeline.image_to_image(original, strength, options, observe)?,
            None => pipeline.sample(options, observe)?,
        };
        bar.finish_and_clear();

        let columns = if rows > 1 {
            options.count
        } else {
            columns_for(options.count)
        };
        let stem = format!("steps-{:04}", options.steps);
        let picture = self.out.join(format!("{stem}.png"));
        save_png(&grid(&images, columns), &picture)?;
        let seconds = started.elapsed().as_secs_f64();
        let film = films.save(&self.out, &stem, columns)?;
        let drawn = Grid {
            steps: options.steps,
            picture,
            film,
            seconds,
        };
        Ok((drawn, images))
    }
}

/// What the classes are called that are drawn.
fn class_names(pipeline: &Pipeline, options: &SampleOptions) -> Vec<String> {
    let names = pipeline.classes().into_iter().flat_map(|classes| {
        let names = options.classes.iter().map(|&class| classes.name(class));
        names.collect::<Vec<String>>()
    });
    names.collect()
}

impl Outcome {
    fn in_words(&self) -> String {
        let mut lines = String::new();
        for grid in &self.grids {
            let seconds = terminal::in_words(Duration::from_secs_f64(grid.seconds));
            let count = self.count * self.classes.len().max(1);
            lines += &format!(
                "{}  {count} images in {} steps, {seconds}\n",
                grid.picture.display(),
                grid.steps
            );
            lines += &grid.film.in_words();
        }
        if self.classes.len() > 1 {
            lines += &format!("one row each for {}\n", self.classes.join(", "));
        }
        if let Some(comparison) = &self.comparison {
            let steps: Vec<String> = self
                .grids
                .iter()
                .map(|grid| grid.steps.to_string())
                .collect();
            let steps = steps.join(", ");
            lines += &format!(
                "{}  the same noises, one row each for {steps} steps\n",
                comparison.display()
            );
        }
        lines
    }
}

/// `--steps`: different numbers, each at least 1, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub struct StepCounts(pub Vec<usize>);

/// Reads `--steps`.
pub fn parse_steps(text: &str) -> Result<StepCounts, String> {
    let mut counts = Vec::new();
    for word in text.split(['/', ',']) {
        match word.trim().parse::<usize>() {
            Ok(0) | Err(_) => {
                return Err(format!(
                    "`{word}` is not a number of steps; write 50 or 50/100/200"
                ));
            }
            Ok(steps) if counts.contains(&steps) => return Err(format!("{steps} is there twice")),
            Ok(steps) => counts.push(steps),
        }
    }
    Ok(StepCounts(counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_separated_by_slashes_or_commas() {
        assert_eq!(parse_steps("50"), Ok(StepCounts(vec![50])));
        assert_eq!(
            parse_steps("50/100,200"),
            Ok(StepCounts(vec![50, 100, 200]))
        );
        for refused in ["", "0", "5/", "5/5", "-1", "1e3", "5 6"] {
            assert!(parse_steps(refused).is_err(), "{refused}");
        }
    }
}
