//! Your own noise schedule, drawn beside DDPM's and used without any network.
//!
//! ```text
//! cargo run --release --example own_schedule -- own_schedule.png
//! ```
//!
//! To train with it, set `experiment.schedule` to it before training: see `train_latent_diffusion.rs`.

use std::path::Path;

use kiln::burn::tensor::activation::tanh;
use kiln::burn::tensor::{Device, Tensor};
use kiln::diffusion::noise::ImageNoise;
use kiln::diffusion::sampler::Sampler;
use kiln::diffusion::schedule::ListedBetas;
use kiln::diffusion::{
    Level, LevelOptions, NetworkDenoiser, Prediction, Schedule, ScheduleConfig, ScheduleKind,
    Spacing, levels,
};
use kiln::plots::{PlottedSchedule, plot_schedules};

/// The signal rate at each of T timesteps: here a straight line from almost 1 to almost 0.
///
/// Any curve that falls, and stays between 1 and 0, is a schedule.
fn signal_rate(time: f64) -> f64 {
    0.999 + time * (0.005 - 0.999)
}

/// diffusers and papers know a schedule by its betas: how much of the variance each timestep replaces by noise. With
/// alpha_bar = signal rate², beta_t = 1 - alpha_bar_t / alpha_bar_(t-1).
fn own_schedule(timesteps: usize) -> ScheduleConfig {
    let mut alpha_bar_before = 1.0;
    let betas = (0..timesteps).map(|timestep| {
        let alpha_bar = signal_rate(timestep as f64 / (timesteps - 1) as f64).powi(2);
        let beta = 1.0 - alpha_bar / alpha_bar_before;
        alpha_bar_before = alpha_bar;
        beta
    });
    let betas = betas.collect();
    ScheduleConfig {
        num_train_timesteps: timesteps,
        ..ScheduleConfig::of(ScheduleKind::Betas(ListedBetas { betas }))
    }
}

/// For images of one pixel, black (-1) or white (1), the best prediction is known: E[z0 | zt] = tanh(a zt / b²).
fn best_guess(zt: Tensor<4>, level: Level) -> Tensor<4> {
    tanh(zt * (level.rates.signal / level.rates.noise.powi(2)))
}

fn main() -> anyhow::Result<()> {
    let picture = std::env::args_os()
        .nth(1)
        .unwrap_or("own_schedule.png".into());

    let mut plotted = Vec::new();
    for (name, config) in [
        ("straight line", own_schedule(1000)),
        ("DDPM", ScheduleConfig::default()),
    ] {
        let schedule = Schedule::new(config)?;
        // A schedule warns if it would train well but sample badly.
        if let Some(warning) = schedule.warning() {
            println!("{name}: {warning}");
        }
        let options = LevelOptions {
            spacing: Spacing::Trailing,
            ..LevelOptions::default()
        };
        let visited = levels(&schedule, 10, options)?;

        let noise = ImageNoise {
            seed: 0,
            images: (0..1000).collect(),
            shape: [1, 1, 1],
            device: Device::flex(),
        };
        let denoiser = NetworkDenoiser {
            network: best_guess,
            prediction: Prediction::Signal,
            clip: None,
        };
        let fresh_noise = &mut |step| noise.draw(step);
        let images = Sampler::default().sample(
            &denoiser,
            noise.draw(0),
            &visited,
            &schedule,
            fresh_noise,
            &mut |_| {},
        )?;
        // The distance from black and white is the error of sampling in only ten steps.
        let away = (images.abs() - 1.0).abs().mean().into_scalar::<f32>();
        println!("{name}: after 10 steps pixels are {away:.4} away from black or white");

        plotted.push(PlottedSchedule {
            name: name.to_owned(),
            schedule,
            // The levels of the denoiser's calls: the sampler ends at the last level, without a call.
            visited: visited[..10].to_vec(),
        });
    }
    let picture = plot_schedules(&plotted, Path::new(&picture))?;
    println!("drew {}", picture.display());
    Ok(())
}
