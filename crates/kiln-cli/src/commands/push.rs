//! `kiln push`: uploads a model to the Hugging Face Hub.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use kiln_hub::{Publication, RepositoryName, publish, push};
use kiln_models::WeightsType;
use kiln_train::{Experiment, FolderKind, RunRecord, check_destination, load_model};
use serde::Serialize;

use super::hub_arguments::HubArguments;
use crate::terminal::{self, DataProgress};

/// Share a model on the Hugging Face Hub, with a page that shows and explains it.
///
/// Makes the repository if there is none, and adds to it in one commit: the weights and configs as they are, and a model
/// card (README.md) with the recipe and the lines that load the model. If the model lies in its run folder, the newest
/// grid of samples (for a VQ-VAE alone: of reconstructions), the loss curves and the experiment come from there, without the
/// places of files on this machine. A model whose U-Net was trained with another VQ-VAE is refused.
///
/// Needs a token with write access in HF_TOKEN, or `hf auth login`.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln push runs/mnist/model ada/digits --license mit --private
  kiln push runs/mnist/model ada/digits --evaluation evaluation/results.json --revision candidate
  kiln push runs/mnist/model ada/digits --dry-run what-would-be-pushed/")]
pub struct Push {
    /// Folder of a model, of a run or of a checkpoint (RUN/diffusion/checkpoints/step-N), or of a VQ-VAE alone
    model: PathBuf,

    /// The repository: ORG is your name on the Hub, or an organisation that you may write to
    #[arg(value_name = "ORG/REPO")]
    name: RepositoryName,

    /// If the repository has to be made, hide it from others
    #[arg(long)]
    private: bool,

    /// The branch to push to, made if there is none [default: main]
    #[arg(long, value_name = "BRANCH")]
    revision: Option<String>,

    /// License of the weights, as the Hub calls it: mit, apache-2.0, cc-by-4.0 ... [default: unknown]
    #[arg(long, value_name = "NAME")]
    license: Option<String>,

    /// An image for the page: drawn images, or reconstructions [default: the newest of the run folder]
    #[arg(long, value_name = "IMAGE")]
    grid: Option<PathBuf>,

    /// Figures for the page: the results.json of `kiln evaluate`
    #[arg(long, value_name = "FILE")]
    evaluation: Option<PathBuf>,

    /// Push nothing: write what would be pushed to this folder
    #[arg(long, value_name = "FOLDER")]
    dry_run: Option<PathBuf>,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The pushed files, for `--json`.
#[derive(Serialize)]
struct Outcome {
    repository: String,
    /// Null if nothing was pushed.
    url: Option<String>,
    commit: Option<String>,
    /// The folder of a dry run.
    folder: Option<PathBuf>,
    files: Vec<String>,
}

impl Push {
    /// Writes the page, and pushes it with the model.
    pub fn run(self) -> anyhow::Result<()> {
        let name = match &self.revision {
            Some(branch) => self.name.at(branch)?,
            None => self.name.clone(),
        };
        if let Some(folder) = &self.dry_run {
            check_destination(folder, &self.model, &[])?;
        }
        let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
        let model = self.model_in(temporary.path())?;
        let publication = self.publication()?;
        let outcome = match &self.dry_run {
            Some(folder) => {
                publish(&model, &name, &publication, folder)?;
                Outcome {
                    repository: name.to_string(),
                    url: None,
                    commit: None,
                    files: kiln_hub::files_in(folder)?,
                    folder: Some(folder.clone()),
                }
            }
            None => {
                let folder = temporary.path().join("publication");
                publish(&model, &name, &publication, &folder)?;
                let settings = self.hub.settings();
                let progress = DataProgress::default();
                let pushed = push(&folder, &name, self.private, &settings, &progress)?;
                Outcome {
                    repository: name.to_string(),
                    url: Some(pushed.url),
                    commit: Some(pushed.commit),
                    folder: None,
                    files: pushed.files,
                }
            }
        };
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// The folder of the model: for a run, of its finished model; for a checkpoint, one that is written to `temporary`.
    fn model_in(&self, temporary: &Path) -> anyhow::Result<PathBuf> {
        match FolderKind::of(&self.model) {
            Some(FolderKind::Run) => Ok(RunRecord::finished_model(&self.model)?),
            Some(FolderKind::Checkpoint) => {
                let folder = temporary.join("model");
                load_model(&self.model, &Device::flex())?.save(&folder, WeightsType::F32)?;
                Ok(folder)
            }
            _ => Ok(self.model.clone()),
        }
    }

    /// The contents of the page: from the arguments, and from the run folder around the model.
    fn publication(&self) -> anyhow::Result<Publication> {
        let run = RunRecord::folder_around(&self.model);
        let run = run.as_deref();
        let file_in = |folder: &Path, file: &str| {
            let path = folder.join(file);
            path.is_file().then_some(path)
        };
        let of_run = |file: &str| file_in(run?, file);
        let stage_1 = ("Loss of stage 1", "vqvae/curves.svg");
        let stage_2 = ("Loss of stage 2", "diffusion/curves.svg");
        let (pictures, curves) = match FolderKind::of(&self.model) {
            Some(FolderKind::Network) => ("vqvae/reconstructions", vec![stage_1]),
            _ => ("diffusion/samples", vec![stage_1, stage_2]),
        };
        let newest_grid = || newest_picture(&run?.join(pictures));
        let curves = curves.into_iter();
        // A model that was shared before has its own config.
        let config = file_in(&self.model, "config.toml").or_else(|| of_run("config.toml"));
        Ok(Publication {
            license: self.license.clone(),
            grid: self.grid.clone().or_else(newest_grid),
            curves: curves
                .filter_map(|(title, file)| Some((title, of_run(file)?)))
                .collect(),
            config: config.as_deref().map(public_experiment).transpose()?,
            evaluation: self.evaluation.clone(),
        })
    }
}

/// The experiment in a file, without paths on this machine.
fn public_experiment(path: &Path) -> anyhow::Result<String> {
    let problem = || format!("cannot read {}", path.display());
    let text = kiln_data::read_text(path).with_context(problem)?;
    let experiment = Experiment::parse(&text, &path.display().to_string(), &[])?;
    let public = experiment.clone().without_places().to_toml()?;
    if public == experiment.to_toml()? {
        return Ok(text);
    }
    let comments = text.lines().take_while(|line| line.starts_with('#'));
    let comments: String = comments.map(|line| format!("{line}\n")).collect();
    Ok(comments + &public)
}

/// The last picture that was drawn during training; their names sort by time.
fn newest_picture(folder: &Path) -> Option<PathBuf> {
    let pictures = fs::read_dir(folder).ok()?.flatten();
    let pictures = pictures.map(|entry| entry.path());
    let is_picture = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "png");
    pictures.filter(is_picture).max()
}

impl Outcome {
    fn in_words(&self) -> String {
        let files = self.files.join("\n  ");
        match (&self.url, &self.commit, &self.folder) {
            (Some(url), Some(commit), _) => format!(
                "{url}\n{} files in commit {commit:.12}:\n  {files}\n",
                self.files.len()
            ),
            (_, _, folder) => {
                let folder = folder.as_deref().unwrap_or(Path::new("."));
                format!(
                    "{}\nnothing was pushed; {} would get {} files:\n  {files}\n",
                    folder.display(),
                    self.repository,
                    self.files.len()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_is_shared_without_the_place_of_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let public = |text: &str| {
            fs::write(&path, text).unwrap();
            public_experiment(&path).unwrap()
        };
        let flowers = include_str!("../../../../configs/flowers-vq.toml");
        let at = |place: &str| flowers.replace("[data]", &format!("[data]\npath = \"{place}\""));
        let shared = public(&at("/home/ada/photos"));
        assert!(
            !shared.contains("ada") && !shared.contains("path ="),
            "{shared}"
        );
        assert_eq!(shared.lines().next(), flowers.lines().next());
        fs::write(&path, &shared).unwrap();
        assert_eq!(Experiment::load(&path, &[]).unwrap().seed, 0);
        // Nothing to hide.
        let on_the_hub = at("hf:ada/photos");
        let by_hand = format!("overrides = ['data.path=\"/home/ada/photos\"']\n{flowers}");
        let measured = flowers.replace(
            "[stage_2.training]",
            "[stage_2.evaluation]\nfeatures = \"2048\"\nfeature_weights = \"/home/ada/w.pth\"\n\n[stage_2.training]",
        );
        let compared = flowers.replace(
            "[stage_1.training]",
            "[stage_1.perceptual]\nweight = 1.0\nnetwork = \"classifier\"\nweights = \"/home/ada/c.safetensors\"\n\n[stage_1.training]",
        );
        for text in [by_hand, measured, compared] {
            assert!(text.contains("ada"));
            let shared = public(&text);
            assert!(!shared.contains("ada"), "{shared}");
            fs::write(&path, &shared).unwrap();
            Experiment::load(&path, &[]).unwrap();
        }
        assert_eq!(public(flowers), flowers);
        assert_eq!(public(&on_the_hub), on_the_hub);
    }
}
