//! `kiln play`: a page that shows what a model does, in the browser of this machine.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use burn::tensor::Device;
use clap::Args;
use kiln::{Pipeline, load_model};
use kiln_kernels::Precision;
use kiln_play::protocol::ModelName;
use kiln_play::{Engine, Server, Shelf};

use super::drawing::COMPUTING;
use super::numbers::whole;
use super::one_device;
use crate::page::PAGE;
use crate::pretrained;

/// The name of the compiled-in model in the page's addresses.
const BUILT_IN: &str = "built-in";

/// See a model think, in the browser.
///
/// Serves a page on this machine's loopback: images while they are denoised and every step of one, samplers side by side,
/// schedules, what the first stage keeps of an image, holes to fill in, and errors by level of noise. It has the models in the given folders, the run folders in runs/,
/// the models in pretrained/ and the digits inside this program. The address contains a random token, and nobody can
/// ask without it. Nothing is written. Ctrl-C ends it.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln play
  kiln play runs/mnist --port 8000")]
pub struct Play {
    /// Run folders and folders of models to show first
    #[arg(value_name = "RUN|MODEL")]
    models: Vec<PathBuf>,

    /// Where to listen, at 127.0.0.1; 0 takes a free port
    #[arg(long, default_value_t = 7860, value_name = "PORT", value_parser = whole::<u16>(0..=u64::from(u16::MAX), 7860))]
    port: u16,

    /// Where to compute: cpu, cuda:0, rocm:0, metal or wgpu
    #[arg(long, help_heading = COMPUTING, default_value = "cpu", value_name = "DEVICE")]
    devices: String,
}

impl Play {
    /// Serves until the program is interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let mut reach = Reach::default();
        for given in &self.models {
            let before = reach.models.len();
            reach.add(given);
            ensure!(
                reach.models.len() > before,
                "{} has no model and is no run with one; name a folder with a model_index.json, or a run folder",
                given.display()
            );
        }
        reach.named = reach.models.len();
        for folder in ["runs", "pretrained"] {
            reach.add_all_in(Path::new(folder));
        }
        let device = one_device(&self.devices, Precision::F32)?;
        let server = Server::listen(Engine::new(reach, device), PAGE, self.port)?;
        println!("{}", server.address());
        eprintln!("open this address in a browser; Ctrl-C ends kiln play");
        Ok(server.serve()?)
    }
}

/// The models in reach: folders, and the compiled-in one.
#[derive(Default)]
struct Reach {
    models: Vec<PathBuf>,
    /// How many of them were named: they come before the compiled-in one, the others after it.
    named: usize,
}

impl Reach {
    /// Adds the models of a folder: itself, or those of a run with its checkpoints, the newest first.
    fn add(&mut self, folder: &Path) {
        let mut found = vec![folder.to_owned(), folder.join("model"), folder.join("best")];
        found.retain(|folder| folder.join("model_index.json").is_file());
        let mut checkpoints = folders_in(&folder.join("diffusion/checkpoints"));
        checkpoints.reverse();
        found.extend(checkpoints);
        found.retain(|folder| !self.models.contains(folder));
        self.models.extend(found);
    }

    fn add_all_in(&mut self, folder: &Path) {
        for folder in folders_in(folder) {
            self.add(&folder);
        }
    }
}

/// The folders in a folder, by name; none if there is no such folder.
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

impl Shelf for Reach {
    fn models(&self) -> Vec<ModelName> {
        let name_of = |folder: &PathBuf| ModelName {
            title: folder.display().to_string(),
            model: folder.display().to_string(),
        };
        let built_in = pretrained::default_model().ok().map(|_| ModelName {
            model: BUILT_IN.to_owned(),
            title: "digits, built in".to_owned(),
        });
        let (named, found) = self.models.split_at(self.named);
        let before = named.iter().map(name_of).chain(built_in);
        before.chain(found.iter().map(name_of)).collect()
    }

    fn load(&self, model: &str, device: &Device) -> Option<Result<Pipeline, String>> {
        if model == BUILT_IN {
            let source = pretrained::default_model().map_err(|error| error.to_string());
            return Some(source.and_then(|source| {
                Pipeline::from_source(&source, device).map_err(|error| error.to_string())
            }));
        }
        // Only what the list has: a page cannot name any other folder.
        let folder = (self.models.iter()).find(|folder| folder.display().to_string() == model)?;
        let loaded = load_model(folder, device).map_err(|error| error.to_string());
        Some(loaded.and_then(|loaded| {
            Pipeline::from_model(model.to_owned(), loaded, device)
                .map_err(|error| error.to_string())
        }))
    }
}
