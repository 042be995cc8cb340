//! `kiln sample`: noise in, pictures out.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use kiln::pictures::{Album, Images, Labels, columns_for, grid, labelled, make_folder};
use kiln::{Moment, Pipeline, SampleOptions, Start};
use kiln_data::ImageFile;
use kiln_diffusion::{Clip, LevelOptions, Spacing, StepGrid, sampler::Sampler};
use kiln_train::counted;
use serde::Serialize;

use super::numbers::{MANY, number, whole};
use super::{
    drawing::{
        ComputingArguments, ConditionArguments, IMAGES, ImageArguments, ModelArguments, PICTURES,
        SAMPLING, calls_before, class_names,
    },
    film::{FilmArguments, FilmPaths},
    image_files::{FileArguments, ImageFiles},
    sampler_arguments::{SamplerArguments, warn_of_settings},
};
use crate::{preview, terminal};

/// Images per row of the comparison picture if there are no classes: the first ones of every grid.
const COMPARED: usize = 8;
/// The comparison picture.
const COMPARISON: &str = "comparison.png";
/// The largest number of images in one grid.
const LARGEST_GRID: usize = 4096;

/// Draw images with a trained model.
///
/// Writes one grid per number of steps, and with several numbers a comparison whose rows start from the same noises.
/// Image number i of a seed is the same whatever --count and --batch are. Pictures that are there already stay: new ones get
/// a number, steps-0050-2.png.
///
/// A model with classes draws a row for each class, from the same noises. With --from, drawing begins with a given
/// image plus noise instead of noise alone (image to image, SDEdit).
#[derive(Args)]
#[command(mut_arg("negate", |negate| negate.requires("from")))]
#[command(after_help = "Examples:
  kiln sample --steps 50
  kiln sample --model runs/mnist --steps 50/100/200 --count 64 --seed 0 --out samples/ --gif
  kiln sample --from sketch.png --strength 0.6 --count 8
  kiln sample --model runs/mnist-classes --class 3,7 --guidance 2 --strip 10
  kiln sample --model runs/mnist --files --count 50000 --out for-fid/")]
pub struct Sample {
    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArguments,

    /// Number of images, of each class where there are classes [default: the model's own, or else 64, or 8 of each of several
    /// classes]
    #[arg(long, help_heading = IMAGES, value_parser = whole::<u32>(1..=MANY, 64))]
    count: Option<u32>,

    /// Seed of the noise: the same seed gives the same images
    #[arg(long, help_heading = IMAGES, default_value_t = 0, value_parser = whole::<u64>(0..=u64::MAX, 0))]
    seed: u64,

    /// Begin with this image, cut to its centre and resized to the model's size
    #[arg(long, help_heading = IMAGES, value_name = "IMAGE")]
    from: Option<PathBuf>,

    /// How much of the denoising is done again on that image: 0 leaves it as it is, 1 leaves nothing of it
    #[arg(long, help_heading = IMAGES, default_value_t = 0.6, requires = "from", value_parser = number(0.0..=1.0, 0.6))]
    strength: f64,

    #[command(flatten)]
    reading: ImageArguments,

    #[command(flatten)]
    conditions: ConditionArguments,

    /// Denoising steps: a number, or several separated by / or , [default: the model's own, or else 50]
    #[arg(long, help_heading = SAMPLING, value_name = "N[/N...]", value_parser = parse_steps)]
    steps: Option<StepCounts>,

    #[command(flatten, next_help_heading = SAMPLING)]
    sampler: SamplerArguments,

    /// Which of the training timesteps are visited [default: the model's own]
    #[arg(long, help_heading = SAMPLING, value_enum)]
    spacing: Option<SpacingName>,

    /// The training timesteps to visit, from the noisiest down, separated by commas: one step from each
    #[arg(
        long, help_heading = SAMPLING,
        value_name = "T,T,...",
        value_parser = parse_timesteps,
        conflicts_with_all = ["steps", "spacing"]
    )]
    timesteps: Option<Timesteps>,

    /// Limit the predicted clean images to [-CLIP, CLIP], or `dynamic`: each by its own range [default: the model's own]
    #[arg(long, help_heading = SAMPLING)]
    clip: Option<Clip>,

    /// Folder for the pictures
    #[arg(long, help_heading = PICTURES, default_value = "samples", value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    film: FilmArguments,

    #[command(flatten)]
    files: FileArguments,

    /// Show no preview in the terminal
    #[arg(long, help_heading = PICTURES)]
    no_preview: bool,

    #[command(flatten)]
    computing: ComputingArguments,
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
    /// Evenly in the log-SNR: best for dpm-solver and unipc
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

/// The result, for `--json`.
#[derive(Serialize)]
struct Outcome {
    model: String,
    sampler: Sampler,
    /// Null with `--timesteps`.
    spacing: Option<Spacing>,
    /// Those of `--timesteps`.
    timesteps: Option<Vec<f64>>,
    seed: u64,
    /// Names of the classes; each has `count` images.
    classes: Vec<String>,
    count: usize,
    /// The image that all began with, and the strength.
    from: Option<PathBuf>,
    strength: Option<f64>,
    grids: Vec<Drawn>,
    comparison: Option<PathBuf>,
}

/// The result for one number of steps.
#[derive(Serialize)]
struct Drawn {
    steps: usize,
    /// The grid; null with `--files`.
    picture: Option<PathBuf>,
    /// The folder of the images with `--files`.
    folder: Option<PathBuf>,
    #[serde(flatten)]
    film: FilmPaths,
    seconds: f64,
}

impl Sample {
    /// Draws, writes the pictures and prints their paths.
    pub fn run(self) -> anyhow::Result<()> {
        let pipeline = self.model.open(&self.conditions, &self.computing)?;
        let original = match &self.from {
            Some(path) => Some(self.reading.read(&pipeline, &[ImageFile::open(path)?])?),
            None => None,
        };
        let steps = match &self.steps {
            Some(StepCounts(steps)) => steps.clone(),
            None => vec![pipeline.default_options().steps],
        };
        let all_options: Vec<SampleOptions> = (steps.iter())
            .map(|&steps| self.options(&pipeline, steps))
            .collect::<Result<_, _>>()?;
        for options in &all_options {
            pipeline.last_part(options, self.strength())?;
        }
        warn_of_settings(&pipeline, &all_options)?;
        let Some(options) = all_options.first() else {
            return Ok(());
        };
        let learnt = pipeline.model().scheduler.sampler.segments();
        if let (Some(asked), Some(learnt)) = (options.sampler.segments(), learnt) {
            if asked != learnt {
                terminal::note(&format!(
                    "the model has learnt {}, not {asked}: it draws best with its own",
                    counted(learnt, "segment")
                ));
            } else if all_options.iter().any(|options| options.steps < learnt) {
                terminal::note(&format!(
                    "the model has learnt to draw in {learnt} steps: in fewer it draws worse"
                ));
            }
        }
        let mut outcome = Outcome {
            model: pipeline.name().to_string(),
            sampler: options.sampler,
            spacing: options
                .timesteps
                .is_none()
                .then_some(options.levels.spacing),
            timesteps: options.timesteps.clone(),
            seed: self.seed,
            classes: class_names(&pipeline, options),
            count: options.count,
            strength: self.from.is_some().then_some(self.strength),
            from: self.from.clone(),
            grids: Vec::new(),
            comparison: None,
        };
        ensure!(
            self.files.files || options.images() <= LARGEST_GRID,
            "a grid has at most {LARGEST_GRID} images, but {} were requested; add --files to write them one by one",
            options.images()
        );
        let _made = make_folder(&self.out)?;

        let mut compared = Images::empty(0, 0, 0);
        for options in &all_options {
            let (drawn, images) = self.draw(&pipeline, original.as_ref(), options)?;
            compared.append(images);
            outcome.grids.push(drawn);
        }
        if outcome.grids.len() > 1 && !self.files.files {
            let columns = compared.len() / outcome.grids.len();
            let comparison = labelled(
                &grid(&compared, columns),
                &Labels {
                    title: words_of(options.sampler),
                    rows: steps.iter().map(|&steps| counted(steps, "step")).collect(),
                    columns: match outcome.classes.as_slice() {
                        [_] => Vec::new(),
                        classes => classes.to_vec(),
                    },
                },
            );
            let mut album = Album::default();
            album.add_png(COMPARISON, &comparison)?;
            outcome.comparison = Some(album.save(&self.out)?.path(COMPARISON));
        }
        if !(self.json || self.no_preview) {
            preview::show(&compared);
        }
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// The share of the trajectory to walk.
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
                // The grid belongs to the model's own sampler.
                grid: if self.sampler.is_of_model() {
                    defaults.levels.grid
                } else {
                    StepGrid::default()
                },
                ..defaults.levels
            },
            clip: self.clip.or(defaults.clip),
            seed: self.seed,
            ..defaults
        };
        if let Some(Timesteps(timesteps)) = &self.timesteps {
            options = options.at_timesteps(timesteps.clone());
        }
        self.computing.apply(&mut options);
        self.conditions.apply(pipeline, &mut options)?;
        options.count = match self.count {
            Some(count) => count as usize,
            None => pipeline.default_count(options.classes.len()),
        };
        Ok(options)
    }

    /// Draws the images for one number of steps and writes them one by one, or as a grid and, if asked for, a GIF and a
    /// strip. Also returns the images for the comparison: the first ones, or the first of each class.
    fn draw(
        &self,
        pipeline: &Pipeline,
        original: Option<&Images>,
        options: &SampleOptions,
    ) -> anyhow::Result<(Drawn, Images)> {
        let started = Instant::now();
        let strength = self.strength();
        let steps = pipeline
            .last_part(options, strength)?
            .len()
            .saturating_sub(1);
        let start = match original {
            Some(original) => Start::Image { original, strength },
            None => Start::Noise,
        };
        let rows = options.classes.len().max(1);
        // The calls in these steps, which are fewer if drawing begins with an image.
        let calls = options.images() * options.calls() * steps / options.steps;
        let task = counted(options.steps, "step");
        let bar = terminal::progress_bar(task, calls, "network calls");
        let mut films = self.film.begin(steps);
        let observer = &mut |moment: Moment<'_>| {
            bar.inc(calls_before(&moment, options));
            films.record(pipeline, moment)
        };
        let stem = format!("steps-{:04}", options.steps);
        let mut drawn = Drawn {
            steps: options.steps,
            picture: None,
            folder: None,
            film: FilmPaths::default(),
            seconds: 0.0,
        };
        let mut compared = Images::empty(0, 0, 0);
        if self.files.files {
            let names = class_names(pipeline, options);
            let mut files =
                ImageFiles::begin(&self.out, &stem, self.files.scale, names, options.count)?;
            pipeline.sample_each(start, options.observed(observer), |images| {
                compared.append(images.first(COMPARED.saturating_sub(compared.len())));
                files.write(&images)
            })?;
            drawn.folder = Some(files.folder().to_owned());
        } else {
            let mut images = Images::empty(0, 0, 0);
            pipeline.sample_each(start, options.observed(observer), |batch| {
                images.append(batch);
                Ok(())
            })?;
            compared = match rows {
                1 => images.first(COMPARED),
                _ => images.select((0..rows).map(|class| class * options.count)),
            };
            let columns = match rows {
                1 => columns_for(options.count),
                _ => options.count,
            };
            let picture = format!("{stem}.png");
            let mut album = Album::default();
            album.add_png(&picture, &grid(&images, columns))?;
            let steps = counted(options.steps, "step");
            let title = format!("{}, {steps}", words_of(options.sampler));
            films.add_to(&mut album, &stem, columns, &title, (pipeline, options))?;
            let saved = album.save(&self.out)?;
            drawn.picture = Some(saved.path(&picture));
            drawn.film = films.paths(&saved, &stem);
        }
        bar.finish_and_clear();
        drawn.seconds = started.elapsed().as_secs_f64();
        Ok((drawn, compared))
    }
}

/// A sampler's name and its randomness.
fn words_of(sampler: Sampler) -> String {
    match sampler.eta().filter(|&eta| eta > 0.0) {
        Some(eta) => format!("{}, eta {eta}", sampler.name()),
        None => sampler.name().to_owned(),
    }
}

impl Outcome {
    fn in_words(&self) -> String {
        let mut lines = String::new();
        for grid in &self.grids {
            let seconds = terminal::in_words(Duration::from_secs_f64(grid.seconds));
            let count = self.count * self.classes.len().max(1);
            let place = grid.picture.as_ref().or(grid.folder.as_ref());
            lines += &format!(
                "{}  {} in {}, {seconds}\n",
                place.map_or_else(String::new, |place| place.display().to_string()),
                counted(count, "image"),
                counted(grid.steps, "step")
            );
            lines += &grid.film.in_words();
        }
        if self.classes.len() > 1 && self.grids.iter().all(|grid| grid.folder.is_none()) {
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

/// `--timesteps`: one timestep per step.
#[derive(Clone, Debug, PartialEq)]
pub struct Timesteps(pub Vec<f64>);

/// Reads `--timesteps`.
pub fn parse_timesteps(text: &str) -> Result<Timesteps, String> {
    let read = |word: &str| match word.trim().parse::<f64>() {
        Ok(timestep) if timestep.is_finite() => Ok(timestep),
        _ => Err(format!(
            "`{word}` is not a timestep; write them as 999,749,499,249"
        )),
    };
    let timesteps: Result<_, _> = text.split(',').map(read).collect();
    Ok(Timesteps(timesteps?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_separated_by_slashes_or_commas_and_timesteps_by_commas() {
        assert_eq!(parse_steps("50"), Ok(StepCounts(vec![50])));
        assert_eq!(
            parse_steps("50/100,200"),
            Ok(StepCounts(vec![50, 100, 200]))
        );
        let (three, half) = (Timesteps(vec![999.0, 10.5, 0.0]), Timesteps(vec![0.5]));
        assert_eq!(parse_timesteps("999,10.5, 0"), Ok(three));
        assert_eq!(parse_timesteps("0.5"), Ok(half));
        for refused in ["", "9,", "9,x", "nan", "inf"] {
            assert!(parse_timesteps(refused).is_err(), "{refused}");
        }
        for refused in ["", "0", "5/", "5/5", "-1", "1e3", "5 6"] {
            assert!(parse_steps(refused).is_err(), "{refused}");
        }
    }
}
