//! Models and data sets on the Hugging Face Hub.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use kiln_data::forbid_downloads;
use kiln_hub::{HubSettings, Pulled, RepositoryName, Wanted, pull};
use kiln_train::{FolderKind, RunRecord};

use crate::terminal::{self, DataProgress};

/// How models and data sets are found that are not in a folder.
#[derive(Args)]
pub struct HubArguments {
    /// Ask no server: take models, data and weights from the cache (as HF_HUB_OFFLINE=1 does)
    #[arg(long)]
    offline: bool,
}

impl HubArguments {
    /// The settings of the Hub, from the environment. Offline, other downloads are forbidden from now on, too.
    pub fn settings(&self) -> HubSettings {
        let mut settings = HubSettings::from_environment();
        settings.offline |= self.offline;
        if settings.offline {
            forbid_downloads();
        }
        settings
    }

    /// The folder of the model at `place`: a path, or `ORG/REPO[@REVISION]` if no such path exists. For a run it is the
    /// folder of its finished model.
    pub fn model(&self, place: &Path) -> anyhow::Result<PathBuf> {
        if FolderKind::of(place) == Some(FolderKind::Run) {
            return Ok(RunRecord::finished_model(place)?);
        }
        self.folder(place, Wanted::Model)
    }

    /// The same for a VQ-VAE: only the VQ-VAE is fetched from the Hub.
    pub fn first_stage(&self, place: &Path) -> anyhow::Result<PathBuf> {
        if FolderKind::of(place) == Some(FolderKind::Run) {
            return Ok(RunRecord::finished_first_stage(place)?);
        }
        if FolderKind::of(place) == Some(FolderKind::Checkpoint) {
            return Ok(RunRecord::start_of(place)?);
        }
        self.folder(place, Wanted::FirstStage)
    }

    /// Like [`Self::model`], for a command that accepts a run.
    pub fn run_or_model(&self, place: &Path) -> anyhow::Result<PathBuf> {
        self.folder(place, Wanted::Model)
    }

    fn folder(&self, place: &Path, wanted: Wanted) -> anyhow::Result<PathBuf> {
        let name = place.to_str().and_then(|text| text.parse().ok());
        match name {
            Some(name) if !place.exists() => {
                let pulled = self.pull(&name, wanted);
                let pulled = pulled.with_context(|| {
                    format!("there is no folder {name}, so kiln looked for it on the Hub")
                })?;
                Ok(pulled.folder)
            }
            // If nothing is there, reading it will report that.
            _ => Ok(place.to_owned()),
        }
    }

    /// Fetches a repository into the cache, with a bar for each file.
    pub fn pull(&self, name: &RepositoryName, wanted: Wanted) -> anyhow::Result<Pulled> {
        let pulled = pull(name, wanted, &self.settings(), &DataProgress::default())?;
        if let Some(reason) = &pulled.unreachable {
            terminal::note(&format!("using the cached {name}: {reason}"));
        }
        Ok(pulled)
    }
}
