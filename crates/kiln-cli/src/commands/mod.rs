//! The subcommands, one file each, with its arguments, its work and its output.

mod bench;
mod check;
mod class_list;
mod completions;
mod convert;
mod data_arguments;
mod distill;
mod doctor;
mod drawing;
mod evaluate;
mod expectations;
mod fact_table;
mod film;
mod git;
mod hub_arguments;
mod image_files;
mod init;
mod inpaint;
mod interpolate;
mod invert;
mod man;
mod model_average;
mod model_guide;
mod model_info;
mod next_commands;
mod numbers;
mod perceptual_arguments;
mod play;
mod pull;
mod push;
mod reconstruct;
mod runs;
mod sample;
mod sampler_arguments;
mod schedule;
mod sweep;
mod train_classifier;
mod train_diffusion;
mod train_latent_diffusion;
mod train_vqvae;
mod trainable;
mod training;
mod web;

use anyhow::ensure;
use burn::tensor::Device;
use clap::Subcommand;
use kiln::Devices;
use kiln_kernels::Precision;

/// What kiln can do.
#[derive(Subcommand)]
pub enum Command {
    Init(init::Init),
    Check(check::Check),
    TrainVqvae(train_vqvae::TrainVqvae),
    TrainLatentDiffusion(train_latent_diffusion::TrainLatentDiffusion),
    TrainDiffusion(train_diffusion::TrainDiffusion),
    Distill(distill::Distill),
    TrainClassifier(train_classifier::TrainClassifier),
    Sample(sample::Sample),
    Reconstruct(reconstruct::Reconstruct),
    Evaluate(evaluate::Evaluate),
    Schedule(schedule::ShowSchedule),
    Doctor(doctor::Examine),
    Play(play::Play),
    Web(web::Web),
    Runs(runs::Runs),
    Sweep(sweep::RunSweep),
    Interpolate(interpolate::Interpolate),
    Invert(invert::Invert),
    Inpaint(inpaint::Inpaint),
    Convert(convert::Convert),
    Bench(bench::Bench),
    Pull(pull::Pull),
    Push(push::Push),
    /// Look at models, and put them together.
    #[command(subcommand)]
    Model(ModelCommand),
    Completions(completions::Completions),
    Man(man::ManualPages),
}

/// What can be done with a model's files.
#[derive(Subcommand)]
pub enum ModelCommand {
    Info(model_info::ModelInfo),
    Guide(model_guide::ModelGuide),
    Average(model_average::ModelAverage),
}

impl Command {
    /// Runs this command of the `program`; results go to stdout and to files.
    pub fn run(self, program: clap::Command) -> anyhow::Result<()> {
        match self {
            Command::Init(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::TrainVqvae(command) => command.run(),
            Command::TrainLatentDiffusion(command) => command.run(),
            Command::TrainDiffusion(command) => command.run(),
            Command::Distill(command) => command.run(),
            Command::TrainClassifier(command) => command.run(),
            Command::Sample(command) => command.run(),
            Command::Reconstruct(command) => command.run(),
            Command::Evaluate(command) => command.run(),
            Command::Schedule(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Play(command) => command.run(),
            Command::Web(command) => command.run(),
            Command::Runs(command) => command.run(),
            Command::Sweep(command) => command.run(),
            Command::Interpolate(command) => command.run(),
            Command::Invert(command) => command.run(),
            Command::Inpaint(command) => command.run(),
            Command::Convert(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Pull(command) => command.run(),
            Command::Push(command) => command.run(),
            Command::Model(ModelCommand::Info(command)) => command.run(),
            Command::Model(ModelCommand::Guide(command)) => command.run(),
            Command::Model(ModelCommand::Average(command)) => command.run(),
            Command::Completions(command) => command.run(program),
            Command::Man(command) => command.run(program),
        }
    }
}

/// The device of a command that computes on a single one, after a check that it can compute in
/// `precision`.
fn one_device(text: &str, precision: Precision) -> anyhow::Result<Device> {
    let devices = Devices::parse(text)?;
    devices.check_precision(precision)?;
    ensure!(
        devices.all().len() == 1,
        "only training uses several devices; give one device instead of `{text}` (`cpu` uses all cores)"
    );
    Ok(devices.first())
}
