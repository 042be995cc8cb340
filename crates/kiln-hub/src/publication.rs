//! A folder that is ready to push: a model, and the page that describes it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_checkpoint::layout::GUIDE;
use kiln_checkpoint::{
    CheckpointError, DiffusionModel, FirstStage, Guide, ModelSource, NewFolder, check_place,
};
use kiln_data::{ImageFile, open_regular};
use kiln_diffusion::Prediction;
use kiln_models::TimeEmbeddingType;
use serde_json::Value;

use crate::card::{Card, Part};
use crate::selection::{Selection, Wanted};
use crate::{RepositoryName, TransportError};

/// The page's file.
const CARD: &str = "README.md";

/// The experiment's file.
const EXPERIMENT: &str = "config.toml";

/// The files for the Hub besides the model itself. All are optional.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// The Hub's name of a license, such as `apache-2.0`; without it, `unknown`.
    pub license: Option<String>,
    /// A picture of drawn images or, for an autoencoder alone, of its reconstructions.
    pub grid: Option<PathBuf>,
    /// Pictures of the loss over the training, for the first and the second stage.
    pub curves: Vec<(&'static str, PathBuf)>,
    /// The experiment that was run, as TOML.
    pub config: Option<String>,
    /// The results.json of `kiln evaluate`.
    pub evaluation: Option<PathBuf>,
}

/// Writes to `folder` exactly the files that [`push`](crate::push) uploads: the unchanged files of the model in
/// `model`, the model card in `README.md`, and the files that it shows. It first reads the whole model. It replaces a
/// folder that kiln wrote there before.
///
/// # Errors
/// If the model is damaged, has parts that do not belong together, or weights other than safetensors; if a file cannot
/// be read or written, or something else is there: see [`check_place`].
pub fn publish(
    model: &Path,
    name: &RepositoryName,
    publication: &Publication,
    folder: &Path,
) -> Result<(), TransportError> {
    check_place(folder)?;
    let source = ModelSource::Folder(model.to_owned());
    source.require_folder()?;
    let (class, parts) = describe(&source)?;
    let wanted = match source.is_network() {
        true => Wanted::FirstStage,
        false => Wanted::Model,
    };
    let mut files = BTreeSet::new();
    for part in ["", "scheduler/", "unet/", "vqvae/", "vae/", GUIDE] {
        let entries = fs::read_dir(model.join(part))
            .into_iter()
            .flatten()
            .flatten();
        let entries = entries.filter(|entry| !entry.path().is_dir());
        files.extend(
            entries.filter_map(|entry| Some(format!("{part}{}", entry.file_name().to_str()?))),
        );
    }
    let selection = Selection {
        repository: &source.place(),
        files: &files,
        read: &mut |file| Ok(source.text(file)?),
    };
    let selected = selection.of(wanted)?;
    if let Some(pickle) = selected.iter().find(|file| file.ends_with(".bin")) {
        return Err(TransportError::Pickle(source.name(pickle)));
    }

    let new = NewFolder::begin(folder)?;
    for file in selected {
        copy(&new, &model.join(&file), &file)?;
    }
    let copied = |path: &Path, name: &str| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_plain =
            |extension: &&str| extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let extension = extension.filter(is_plain);
        let name = format!("{name}.{}", extension.unwrap_or("png"));
        copy(&new, path, &name).map(|()| name)
    };
    let grid = match &publication.grid {
        None => None,
        Some(path) => {
            let image = ImageFile::open(path)?;
            let name = format!("samples.{}", image.extension());
            copy(&new, path, &name)?;
            Some(name)
        }
    };
    let mut curves = Vec::new();
    for (title, path) in &publication.curves {
        let name = title.to_lowercase().replace(' ', "-");
        curves.push((*title, copied(path, &name)?));
    }
    if let Some(config) = &publication.config {
        new.write(EXPERIMENT, config)?;
    }
    let text = |path: &PathBuf| {
        kiln_data::read_text(path).map_err(|problem| CheckpointError::Read {
            file: path.display().to_string(),
            problem,
        })
    };
    let evaluation =
        publication
            .evaluation
            .as_ref()
            .map(|path| -> Result<Value, CheckpointError> {
                serde_json::from_str(&text(path)?).map_err(|problem| CheckpointError::Damaged {
                    file: path.display().to_string(),
                    problem: problem.to_string(),
                })
            });
    let evaluation = evaluation.transpose()?;
    let card = Card {
        repository: &name.to_string(),
        license: publication.license.as_deref().unwrap_or("unknown"),
        class,
        parts: &parts,
        grid: grid.as_deref(),
        curves: &curves,
        config: publication.config.as_deref(),
        evaluation: evaluation.as_ref(),
    };
    new.write(CARD, &card.to_markdown())?;
    Ok(new.place()?)
}

fn copy(new: &NewFolder, from: &Path, name: &str) -> Result<(), CheckpointError> {
    let to = new.path(name)?;
    let copy = || io::copy(&mut open_regular(from)?, &mut File::create(to)?);
    copy().map(drop).map_err(|problem| CheckpointError::Read {
        file: from.display().to_string(),
        problem,
    })
}

/// Why there is no class for a model with a quantizer of kiln's own.
const OWN_QUANTIZER: &str = "It loads in kiln alone: diffusers' `VQModel` has no such quantizer, and would put random codes in its place.";

/// diffusers' class for the model, or the reason if there is none.
type Class = Result<&'static str, &'static str>;

/// diffusers' class that draws with the model, and the model's parts. Reads the whole model, so that nothing damaged is
/// published.
fn describe(source: &ModelSource) -> Result<(Class, Vec<Part>), CheckpointError> {
    let device = Device::flex();
    if source.is_network() {
        let first_stage = FirstStage::load(source, &device)?;
        let config = first_stage.network.config();
        let class = config
            .own_quantizer()
            .map_or(Ok(config.class()), |_| Err(OWN_QUANTIZER));
        return Ok((class, vec![describe_first_stage(first_stage)]));
    }
    let model = DiffusionModel::load(source, &device)?;
    let scheduler = &model.scheduler;
    let first_stage = model.first_stage.as_ref();
    let own_quantizer = first_stage.and_then(|stage| stage.network.config().own_quantizer());
    let class = match model.unet.config().time_embedding_type {
        _ if own_quantizer.is_some() => Err(OWN_QUANTIZER),
        // kiln's own.
        TimeEmbeddingType::NoisePower | TimeEmbeddingType::NoisePowerInput => Err(
            "diffusers does not load it: its U-Net takes the noise power instead of the timestep.",
        ),
        _ if scheduler.prediction == Prediction::Flow => Err(
            "diffusers does not draw with it: its schedulers have no prediction type `flow` for such a schedule.",
        ),
        _ => Ok("DiffusionPipeline"),
    };
    // kiln's training records say more; for another trainer's model there is only its scheduler.
    let mut facts = Vec::new();
    let known = |name: &str| model.metadata.training.contains_key(name);
    if !known("schedule") {
        facts.push(("schedule", scheduler.schedule.kind.name().to_owned()));
    }
    if !known("prediction") {
        facts.push(("prediction", scheduler.prediction.name().to_owned()));
    }
    if let Some(classes) = model.unet.config().num_class_embeds {
        facts.push(("classes", classes.to_string()));
    }
    let unet = Part {
        title: "U-Net",
        facts,
        metadata: model.metadata,
    };
    let parts = [unet].into_iter();
    let parts = parts.chain(model.first_stage.map(describe_first_stage));
    let parts = parts.chain(model.guide.map(describe_guide));
    Ok((class, parts.collect()))
}

fn describe_guide(guide: Guide) -> Part {
    let guidance = guide.guidance;
    let [from, to] = guidance.interval();
    Part {
        title: "Guide",
        facts: vec![
            ("guidance", guidance.scale().to_string()),
            ("at noise rates", format!("{from} to {to}")),
        ],
        metadata: guide.metadata,
    }
}

fn describe_first_stage(first_stage: FirstStage) -> Part {
    let config = first_stage.network.config();
    let codes = first_stage.network.bottleneck.codes();
    let mut facts = vec![("latent channels", config.latent_dim().to_string())];
    if let Some(codes) = codes {
        facts.push(("codes", codes.to_string()));
    }
    if let Some(quantizer) = config.own_quantizer() {
        facts.push(("quantizer", quantizer.to_string()));
    }
    let factor = first_stage.measured_scaling_factor();
    facts.push((
        "scaling factor",
        factor.map_or_else(|| "not measured".to_owned(), |it| format!("{it:.5}")),
    ));
    Part {
        title: match codes {
            Some(_) => "VQ-VAE",
            None => "VAE",
        },
        facts,
        metadata: first_stage.metadata,
    }
}
