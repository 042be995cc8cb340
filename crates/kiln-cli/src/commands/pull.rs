//! `kiln pull`: fetches a model from the Hugging Face Hub.

use std::path::PathBuf;

use clap::Args;
use kiln_hub::{RepositoryName, Wanted};
use serde::Serialize;

use super::hub_arguments::HubArguments;
use crate::terminal;
use kiln_train::counted;

/// Fetch a model from the Hugging Face Hub into the cache that Python uses too.
///
/// Fetches only the files that the model needs, safetensors instead of pickles if possible. Each is verified against
/// its checksum, and an interrupted transfer continues where it stopped. Every command that takes a model also takes
/// ORG/REPO, and fetches it the same way.
///
/// Reads Python's environment variables: HF_TOKEN (or `hf auth login`) for private models, HF_ENDPOINT for a mirror,
/// HF_HOME or HF_HUB_CACHE for the place of the cache, HF_HUB_OFFLINE.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln pull CompVis/ldm-celebahq-256
  kiln pull google/ddpm-cifar10-32@main --json
  kiln sample --model google/ddpm-cifar10-32 --steps 50")]
pub struct Pull {
    /// The repository, and a branch, tag or commit of it if not the newest of main
    #[arg(value_name = "ORG/REPO[@REVISION]")]
    name: RepositoryName,

    /// Fetch only the VQ-VAE
    #[arg(long)]
    vqvae_only: bool,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The fetched model, for `--json`.
#[derive(Serialize)]
struct Outcome {
    repository: String,
    commit: String,
    folder: PathBuf,
    files: Vec<String>,
    /// The files without a known checksum.
    unverified: Vec<String>,
    bytes: u64,
}

impl Pull {
    /// Fetches the missing files, and prints the model's place.
    pub fn run(self) -> anyhow::Result<()> {
        let wanted = if self.vqvae_only {
            Wanted::FirstStage
        } else {
            Wanted::Model
        };
        let pulled = self.hub.pull(&self.name, wanted)?;
        let outcome = Outcome {
            repository: self.name.to_string(),
            commit: pulled.commit,
            folder: pulled.folder,
            files: pulled.files,
            unverified: pulled.unverified,
            bytes: pulled.bytes,
        };
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }
}

impl Outcome {
    fn in_words(&self) -> String {
        let verified = match self.unverified.len() {
            0 => "verified".to_owned(),
            1 => "of which 1 has no known checksum".to_owned(),
            count => format!("of which {count} have no known checksum"),
        };
        format!(
            "{}\n{}, {}, {verified}; commit {:.12} of {}\n",
            self.folder.display(),
            counted(self.files.len(), "file"),
            terminal::size_in_words(self.bytes),
            self.commit,
            self.repository,
        )
    }
}
