//! `kiln play`: a page that shows what a model does, in the browser of this machine.

mod reach;
mod runs;

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use kiln_kernels::Precision;
use kiln_play::{Engine, Server};

use super::data_arguments::DataArguments;
use super::drawing::COMPUTING;
use super::numbers::whole;
use super::one_device;
use crate::page::PAGE;
use reach::Reach;

/// See a model think, in the browser.
///
/// Serves a page on this machine's loopback: images while they are denoised and every step of one, samplers side by side,
/// schedules, what the first stage keeps of an image, holes to fill in, errors by level of noise, the training images that are most
/// like a drawn one, and how a training goes. It has the models in the given folders, the run folders in runs/, the models in
/// pretrained/ and the digits inside this program. The address contains a random token, and nobody can ask without it. Nothing
/// is written, and no server is asked. Ctrl-C ends it.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln play
  kiln play runs/mnist --port 8000
  kiln play pretrained/mnist-many-steps --config configs/mnist.toml --data FOLDER")]
pub struct Play {
    /// Run folders and folders of models to show first
    #[arg(value_name = "RUN|MODEL")]
    models: Vec<PathBuf>,

    /// Where to listen, at 127.0.0.1; 0 takes a free port
    #[arg(long, default_value_t = 7860, value_name = "PORT", value_parser = whole::<u16>(0..=u64::from(u16::MAX), 7860))]
    port: u16,

    #[command(flatten)]
    data: DataArguments,

    /// Where to compute: cpu, cuda:0, rocm:0, metal or wgpu
    #[arg(long, help_heading = COMPUTING, default_value = "cpu", value_name = "DEVICE")]
    devices: String,
}

impl Play {
    /// Serves until the program is interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        self.data.check()?;
        let mut reach = Reach::new(self.data);
        for given in &self.models {
            ensure!(
                reach.add(given),
                "{} has no model and is no run; name a folder with a model_index.json, or a run folder",
                given.display()
            );
        }
        reach.end_of_named();
        for folder in ["runs", "pretrained"] {
            reach.add_all_in(Path::new(folder));
        }
        reach.check_names()?;
        let device = one_device(&self.devices, Precision::F32)?;
        let server = Server::listen(Engine::new(reach, device), PAGE, self.port)?;
        println!("{}", server.address());
        eprintln!("open this address in a browser; Ctrl-C ends kiln play");
        Ok(server.serve()?)
    }
}
