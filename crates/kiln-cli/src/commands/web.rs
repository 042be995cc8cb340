//! `kiln web`: the page as a folder of files that any web server can serve.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::tensor::Device;
use clap::Args;
use flate2::read::GzDecoder;
use kiln::load_model;
use kiln_checkpoint::{DiffusionModel, NewFolder};
use kiln_models::WeightsType;
use serde::Serialize;

use super::hub_arguments::HubArguments;
use crate::page::{ENGINE, ENGINE_WASM, PAGE};
use crate::{pretrained, terminal};

/// Write a page that draws in the browser alone.
///
/// Writes a folder of files for any web server, such as GitHub Pages: the page of `kiln play`, its engine as WebAssembly,
/// and the models, with their weights in half precision. Who opens it needs no kiln, and nothing leaves the browser. Without
/// models it has the digits that are inside this program.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln web --out site
  kiln web runs/mnist pretrained/flowers --out site
  python3 -m http.server --directory site")]
pub struct Web {
    /// Models: folders, run folders, or repositories of the Hugging Face Hub; the first one is shown first
    #[arg(value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// Folder for the page; replaces only what kiln wrote there
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    hub: HubArguments,
}

/// A model to show.
struct Shown {
    name: String,
    title: String,
    model: DiffusionModel,
}

/// A model beside the page, as `web/src/worker.ts` reads it.
#[derive(Serialize)]
struct Shipped {
    /// Its folder in `models/`.
    model: String,
    title: String,
    files: Vec<String>,
}

/// The file that only a page has.
const PAGE_ENGINE: &str = "engine.wasm";

/// The written page, for `--json`.
#[derive(Serialize)]
struct Outcome {
    folder: PathBuf,
    models: Vec<String>,
    /// Of all files.
    bytes: u64,
}

impl Web {
    /// Writes the page and prints its place.
    pub fn run(self) -> anyhow::Result<()> {
        let has = |file| self.out.join(file).exists();
        if has("model_index.json") || has("config.json") || has(".kiln-files") && !has(PAGE_ENGINE)
        {
            bail!(
                "{} is a model, which the page would replace: name another folder",
                self.out.display()
            );
        }
        let site = NewFolder::begin(&self.out)?;
        let models = self.models()?;
        let models = models.iter().map(|shown| ship(&site, shown));
        let models = models.collect::<anyhow::Result<Vec<_>>>()?;
        site.write("models.json", &serde_json::to_string(&models)?)?;
        for asset in PAGE {
            let file = match asset.path.trim_start_matches('/') {
                "" => "index.html",
                file => file,
            };
            write(&site, file, asset.bytes)?;
        }
        for (file, bytes) in ENGINE {
            write(&site, file, bytes)?;
        }
        let mut wasm = Vec::new();
        GzDecoder::new(ENGINE_WASM).read_to_end(&mut wasm)?;
        write(&site, PAGE_ENGINE, &wasm)?;
        // GitHub Pages would leave out files whose names begin with an underscore.
        write(&site, ".nojekyll", &[])?;
        site.place()?;
        let outcome = Outcome {
            bytes: bytes_in(&self.out)?,
            models: models.into_iter().map(|shipped| shipped.model).collect(),
            folder: self.out,
        };
        terminal::print_outcome(&outcome, self.json, |outcome| {
            format!(
                "{}  {:.1} MB: the page, its engine and {}\n",
                outcome.folder.display(),
                outcome.bytes as f64 / 1e6,
                outcome.models.join(", ")
            )
        })
    }

    /// The models to show, in memory.
    fn models(&self) -> anyhow::Result<Vec<Shown>> {
        let device = Device::flex();
        if self.models.is_empty() {
            return Ok(vec![Shown {
                name: "digits".to_owned(),
                title: "digits".to_owned(),
                model: DiffusionModel::load(&pretrained::default_model()?, &device)?,
            }]);
        }
        let mut models: Vec<Shown> = Vec::new();
        for given in &self.models {
            let folder = self.hub.model(given)?;
            let name = name_of(&folder);
            // Some disks do not tell capitals from small letters.
            if (models.iter()).any(|shown| shown.name.eq_ignore_ascii_case(&name)) {
                bail!("two of the models are called `{name}`: rename the folder of one of them");
            }
            models.push(Shown {
                name,
                title: given.display().to_string(),
                model: load_model(&folder, &device)?,
            });
        }
        Ok(models)
    }
}

/// Writes a model into the page's folder.
fn ship(site: &NewFolder, shown: &Shown) -> anyhow::Result<Shipped> {
    let folder = site.path(&format!("models/{}", shown.name))?;
    shown.model.save(&folder, WeightsType::F16)?;
    let mut files = Vec::new();
    for file in files_in(&folder)? {
        let file = file.strip_prefix(&folder)?.to_owned();
        match file.to_str() {
            // The page's folder has one list of its own files, which has these.
            Some(".kiln-files") => fs::remove_file(folder.join(file))?,
            Some(file) => files.push(file.replace('\\', "/")),
            None => bail!("the file {} has no name for an address", file.display()),
        }
    }
    Ok(Shipped {
        model: shown.name.clone(),
        title: shown.title.clone(),
        files,
    })
}

/// What the page calls the model in a folder: its name, or that of its run for one that is called `model`.
fn name_of(folder: &Path) -> String {
    let names = folder.iter().rev().map(|name| name.to_string_lossy());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // A name that begins with a dot would be hidden.
    let plain = names.map(|name| {
        let name = name.replace(|c: char| !is_plain(c), "-");
        name.trim_start_matches('.').to_owned()
    });
    let mut plain = plain.filter(|name| !matches!(name.as_str(), "" | "model"));
    plain.next().unwrap_or_else(|| "model".to_owned())
}

fn write(site: &NewFolder, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(site.path(file)?, bytes).with_context(|| format!("cannot write {file}"))
}

/// All files in a folder and its folders, by name.
fn files_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(files_in(&path)?),
            false => files.push(path),
        }
    }
    files.sort();
    Ok(files)
}

fn bytes_in(folder: &Path) -> std::io::Result<u64> {
    let sizes = files_in(folder)?
        .into_iter()
        .map(|file| Ok(fs::metadata(file)?.len()));
    sizes.sum()
}
