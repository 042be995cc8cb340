//! `kiln sample`: noise in, pictures out.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use kiln::{
    Images, Pipeline, SampleOptions,
    pictures::{columns_for, grid, make_folder, save_gif, save_png},
};
use kiln_diffusion::{Clip, LevelOptions, Spacing, sampler::Sampler};
use kiln_kernels::Precision;
use serde::Serialize;

use super::{film::Film, one_device, sampler_arguments::SamplerArguments};
use crate::terminal;

/// Images per row of the comparison picture: the first ones of every grid.
const COMPARED: usize = 8;

/// Draw images with a trained model.
///
/// Writes one grid per number of steps, and with several numbers a comparison whose rows start from the same noises.
/// Image number i of a seed is the same whatever --count and --batch are.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln sample --steps 50
  kiln sample --model runs/mnist/model --steps 50/100/200 --count 64 --seed 0 --out samples/ --gif")]
pub struct Sample {
    /// Folder of a model in the diffusers layout; without it, the digits model inside this program
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,

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

    /// Number of images
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    count: u32,

    /// Which noise to start from: the same seed gives the same images
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for the pictures
    #[arg(long, default_value = "samples", value_name = "FOLDER")]
    out: PathBuf,

    /// Images that are denoised together: changes memory and speed, not the images
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    /// Also write the denoising of each grid as an animated GIF
    #[arg(long)]
    gif: bool,

    /// Frames in such a GIF
    #[arg(long, default_value_t = 25, value_name = "N", requires = "gif", value_parser = clap::value_parser!(u32).range(2..=1000))]
    gif_frames: u32,

    /// Where to compute: cpu, cuda:0, rocm:0, metal or wgpu
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    devices: String,

    /// Which numbers the convolutions multiply, f32 or bf16: bf16 is faster on a CPU with a matrix unit
    #[arg(long, default_value_t)]
    precision: Precision,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// `--spacing`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SpacingName {
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
    count: usize,
    grids: Vec<Grid>,
    comparison: Option<PathBuf>,
}

/// One number of steps.
#[derive(Serialize)]
struct Grid {
    steps: usize,
    picture: PathBuf,
    gif: Option<PathBuf>,
    seconds: f64,
}

impl Sample {
    /// Draws, writes the pictures and says where they are.
    pub fn run(self) -> anyhow::Result<()> {
        let device = one_device(&self.devices, self.precision)?;
        let pipeline = match &self.model {
            Some(path) => Pipeline::load(path, &device)?,
            None => Pipeline::pretrained(&device)?,
        };
        let all_options: Vec<SampleOptions> = (self.steps.0.iter())
            .map(|&steps| self.options(&pipeline, steps))
            .collect::<Result<_, _>>()?;
        let Some(options) = all_options.first() else {
            return Ok(());
        };
        let mut outcome = Outcome {
            model: pipeline.name().to_string(),
            sampler: options.sampler,
            spacing: options.levels.spacing,
            seed: self.seed,
            count: self.count as usize,
            grids: Vec::new(),
            comparison: None,
        };
        for options in &all_options {
            pipeline.trajectory(options)?;
        }
        make_folder(&self.out)?;

        let mut compared = Images::empty(0, 0, 0);
        for options in &all_options {
            let (drawn, images) = self.draw(&pipeline, options)?;
            compared.append(images.first(COMPARED));
            outcome.grids.push(drawn);
        }
        if outcome.grids.len() > 1 {
            let path = self.out.join("comparison.png");
            save_png(&grid(&compared, COMPARED.min(outcome.count)), &path)?;
            outcome.comparison = Some(path);
        }
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    fn options(&self, pipeline: &Pipeline, steps: usize) -> anyhow::Result<SampleOptions> {
        let defaults = pipeline.default_options();
        let sampler = self.sampler.sampler(defaults.sampler)?;
        let spacing = self.spacing.map_or(defaults.levels.spacing, Spacing::from);
        Ok(SampleOptions {
            steps,
            sampler,
            levels: LevelOptions {
                spacing,
                ..defaults.levels
            },
            clip: self.clip.or(defaults.clip),
            count: self.count as usize,
            seed: self.seed,
            batch: self.batch as usize,
            precision: self.precision,
        })
    }

    /// Draws the images for one number of steps and writes their grid and, if asked for, its GIF.
    fn draw(&self, pipeline: &Pipeline, options: &SampleOptions) -> anyhow::Result<(Grid, Images)> {
        let started = Instant::now();
        let passes = options.count.div_ceil(options.batch) * options.steps;
        let bar = terminal::progress_bar(format!("{} steps", options.steps), passes, "passes");
        let frames = if self.gif {
            self.gif_frames as usize
        } else {
            0
        };
        let mut film = Film::new(frames, options.steps);
        let images = pipeline.sample(options, |moment| {
            bar.inc(u64::from(moment.steps_done > 0));
            film.record(pipeline, moment)
        })?;
        bar.finish_and_clear();

        let columns = columns_for(options.count);
        let stem = format!("steps-{:04}", options.steps);
        let picture = self.out.join(format!("{stem}.png"));
        save_png(&grid(&images, columns), &picture)?;
        let seconds = started.elapsed().as_secs_f64();
        let gif = self.gif.then(|| self.out.join(format!("{stem}.gif")));
        if let Some(path) = &gif {
            save_gif(&film.pictures(columns), path)?;
        }
        let drawn = Grid {
            steps: options.steps,
            picture,
            gif,
            seconds,
        };
        Ok((drawn, images))
    }
}

impl Outcome {
    fn in_words(&self) -> String {
        let mut lines = String::new();
        for grid in &self.grids {
            let seconds = terminal::in_words(Duration::from_secs_f64(grid.seconds));
            lines += &format!(
                "{}  {} images in {} steps, {seconds}\n",
                grid.picture.display(),
                self.count,
                grid.steps
            );
            if let Some(gif) = &grid.gif {
                lines += &format!("{}  the denoising\n", gif.display());
            }
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
struct StepCounts(Vec<usize>);

fn parse_steps(text: &str) -> Result<StepCounts, String> {
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
