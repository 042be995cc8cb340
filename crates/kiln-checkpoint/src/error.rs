//! Errors about a model's folder.

use std::path::PathBuf;

use kiln_diffusion::DiffusionError;
use kiln_models::{ConfigError, WeightsError};

use crate::printable::printable;

/// Why a model cannot be read from or written to a folder. Each message is one sentence that names the file and says
/// what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is nothing at the path.
    #[error("there is no folder {folder}; give the folder of a model, or train the model first", folder = .0.display())]
    NoFolder(PathBuf),
    /// The folder contains something else.
    #[error(
        "{place} is not a {expected}: it has no {file}; give the folder that kiln or diffusers wrote"
    )]
    NotAModel {
        /// The place.
        place: String,
        /// The kind of folder that was expected.
        expected: &'static str,
        /// The file that all such folders have.
        file: &'static str,
    },
    /// The model is in pixel space, but an autoencoder was requested.
    #[error(
        "{0} is a model in pixel space, which has no first stage; give a latent diffusion model, a VQ-VAE or another autoencoder"
    )]
    NoFirstStage(String),
    /// A part of the model is missing.
    #[error("the model lacks {0}; copy or train it again")]
    MissingFile(String),
    /// A file is there but cannot be read.
    #[error("cannot read {file}: {problem}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        problem: std::io::Error,
    },
    /// A file is far larger than any such file is.
    #[error(
        "{file} has {bytes} bytes, too many for such a file; the model is damaged, copy or train it again"
    )]
    TooLarge {
        /// The file.
        file: String,
        /// Its size.
        bytes: u64,
    },
    /// A file's content does not match its name.
    #[error("{file} is damaged ({problem}); copy or train the model again", problem = printable(problem))]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A config has Python's word for infinity or "not a number".
    #[error(
        "{file} says that `{key}` is {word}, which JSON does not allow; give a finite number, or remove the key",
        key = printable(key)
    )]
    NotANumber {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// Python's word.
        word: &'static str,
    },
    /// There is a Git LFS pointer instead of a file.
    #[error(
        "{0} is a Git LFS pointer instead of the file; run `git lfs pull` in the model's folder, or fetch the model with `kiln pull`"
    )]
    Pointer(String),
    /// There is an HTML page instead of a file.
    #[error(
        "{0} is an HTML page, such as a login or error page, instead of the file; fetch the model again, for example with `kiln pull`"
    )]
    Page(String),
    /// A file is valid, but of a kind that is not supported.
    #[error("{file} {what}; if that cannot be changed, save the weights as safetensors", what = printable(what))]
    Unsupported {
        /// The file.
        file: String,
        /// What it is, as a phrase after its name.
        what: String,
    },
    /// An index of weights points out of its folder.
    #[error(
        "{file} points to {shard:?}, but weights must be beside their index; do not use this model"
    )]
    ShardName {
        /// The index.
        file: String,
        /// The name in the index.
        shard: String,
    },
    /// A pickle that would run code in Python.
    #[error(
        "{file} would run `{name}` in Python, so kiln does not read it; do not use this model, or get it as safetensors",
        name = printable(name)
    )]
    Code {
        /// The file.
        file: String,
        /// What it imports.
        name: String,
    },
    /// A checkpoint of the original code has a tensor that diffusers' networks do not have.
    #[error(
        "the checkpoint's `{key}`, of shape {shape:?}, does not exist in diffusers' UNet2DModel, VQModel or AutoencoderKL; \
         only CompVis' unconditional latent diffusion and its autoencoders can be converted",
        key = printable(key)
    )]
    NoPlace {
        /// The tensor's name.
        key: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A file that is no checkpoint at all.
    #[error(
        "{0} is not a checkpoint: it is neither a safetensors file nor one of PyTorch; give a checkpoint of CompVis' latent diffusion or of one of its autoencoders"
    )]
    NotACheckpoint(String),
    /// A model that needs no conversion.
    #[error(
        "{0} is in the diffusers layout already, so it needs no conversion; use it with --model {0}, or with --vqvae {0} if it is a first stage"
    )]
    Converted(String),
    /// A folder where the file of a checkpoint is asked for.
    #[error("{0} is a folder; give the file of the checkpoint")]
    Folder(String),
    /// A checkpoint of other code.
    #[error(
        "{0} holds no network that can be converted; give a checkpoint of CompVis' latent diffusion or of one of its autoencoders"
    )]
    NotConvertible(String),
    /// The kind of model is not supported.
    #[error(
        "{file} names the pipeline `{class}`, but only LDMPipeline, DDIMPipeline and DDPMPipeline are supported",
        class = printable(class)
    )]
    UnknownPipeline {
        /// The file.
        file: String,
        /// The pipeline's class.
        class: String,
    },
    /// The kind of a model's part is not supported.
    #[error("{file} says that `{part}` is {found}, but {expected} is needed")]
    UnknownPart {
        /// The file.
        file: String,
        /// The part's name, which is also its folder's.
        part: &'static str,
        /// What the file says, as JSON.
        found: String,
        /// The supported class or classes.
        expected: &'static str,
    },
    /// A network's options are impossible.
    #[error("{file}: {problem}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong with them.
        problem: ConfigError,
    },
    /// A network's weights do not fit or are damaged.
    #[error("{file}: {problem}")]
    Weights {
        /// The file.
        file: String,
        /// What is wrong with them.
        problem: WeightsError,
    },
    /// The noise schedule or the prediction type is not supported.
    #[error("{file}: {problem}")]
    Scheduler {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: DiffusionError,
    },
    /// A fact in a weights file's header cannot be understood.
    #[error(
        "{file} says `{key}` = {value:?} in its header, which is not {expected}; save the model again"
    )]
    Metadata {
        /// The file.
        file: String,
        /// The fact's name.
        key: &'static str,
        /// What is recorded.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The border is as large as the images.
    #[error(
        "{file} says `kiln.border` = {border} in its header, which must be less than half of the {side} pixels of the images; save the model again"
    )]
    Border {
        /// The file.
        file: String,
        /// What is recorded, in pixels.
        border: usize,
        /// The shorter side of the images, in pixels.
        side: usize,
    },
    /// The number of class names differs from the number of classes.
    #[error(
        "{file} says {named} names in `kiln.class_names` of its header, but the network has {rows} classes, the null class counted; save the model again"
    )]
    ClassNames {
        /// The file.
        file: String,
        /// How many names are recorded.
        named: usize,
        /// Rows of the network's table.
        rows: usize,
    },
    /// The scheduler has timesteps that are missing in the U-Net's table.
    #[error(
        "the scheduler has {timesteps} timesteps, but the U-Net's table of `num_train_timesteps` only {rows} rows; use the scheduler that the U-Net was trained with"
    )]
    Timesteps {
        /// Rows of the U-Net's table.
        rows: usize,
        /// Timesteps of the scheduler.
        timesteps: usize,
    },
    /// The U-Net's output does not have the shape of its input.
    #[error(
        "the U-Net has {takes} input channels but {gives} output channels, and they must be equal; \
         models that also predict a variance are not supported"
    )]
    Prediction {
        /// The U-Net's `in_channels`.
        takes: usize,
        /// The U-Net's `out_channels`.
        gives: usize,
    },
    /// The two networks cannot work together.
    #[error(
        "the VQ-VAE's latents have {latents} channels, but the U-Net takes {takes}; \
         use the VQ-VAE that the U-Net was trained with"
    )]
    Channels {
        /// Channels of the VQ-VAE's latents.
        latents: usize,
        /// The U-Net's `in_channels`.
        takes: usize,
    },
    /// The U-Net was trained in the latent space of another VQ-VAE.
    #[error(
        "the U-Net was trained with another VQ-VAE ({expected:.12}) than the one in the model ({found:.12}); \
         restore that VQ-VAE or train the U-Net again"
    )]
    OtherVqVae {
        /// Hash of the VQ-VAE that it was trained with.
        expected: String,
        /// Hash of the VQ-VAE beside it.
        found: String,
    },
    /// The guide is not a worse version of the same model.
    #[error(
        "the model and its guide differ in their {what}; a guide is a worse version of the same model: train it on the same latents with the same schedule"
    )]
    Guide {
        /// The difference.
        what: &'static str,
    },
    /// A file or folder cannot be written. Its earlier content is untouched.
    #[error("cannot write {path}: {problem}", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        problem: std::io::Error,
    },
    /// A model would be written into another one.
    #[error("{} is a part of the model {}: choose a folder outside of it", path.display(), model.display())]
    PartOfModel {
        /// The destination.
        path: PathBuf,
        /// The other model's folder.
        model: PathBuf,
    },
    /// The destination of a folder contains something that kiln did not write.
    #[error("{folder} {reason}; choose another folder or move this one away", folder = folder.display())]
    NotReplaced {
        /// The folder to write.
        folder: PathBuf,
        /// The problem: the part of the sentence after its name.
        reason: String,
    },
}
