//! Models in the layout of Hugging Face's diffusers: Python loads models trained here, and the other way round.
//! CompVis' checkpoints become such models by [`convert()`].
//!
//! ```text
//! model/
//!   model_index.json                                            the parts of the model
//!   vqvae/config.json, diffusion_pytorch_model.safetensors      VQModel or AutoencoderKL; not in pixel-space models
//!   unet/config.json, diffusion_pytorch_model.safetensors       UNet2DModel
//!   scheduler/scheduler_config.json                             DDIMScheduler, DDPMScheduler, ...
//!   guide/config.json, ..., guidance.json                       a worse UNet2DModel that guides the other; kiln's own
//! ```
//!
//! Models from elsewhere may also have their weights in several files, in half precision or as pickles, whose code
//! never runs. Models from diffusers' first months have U-Net and scheduler beside the index.
//!
//! [`DiffusionModel`] is a whole model; [`FirstStage`] is an autoencoder alone, the result of stage 1. Both are read from a
//! [`ModelSource`], a folder or files compiled into the program, and written to a folder that appears only when it is
//! complete. Facts without a key in diffusers are [`Metadata`] in the headers of the weights.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use kiln_checkpoint::{DiffusionModel, ModelSource};
//! use kiln_models::WeightsType;
//!
//! let source = ModelSource::Folder("runs/mnist/model".into());
//! let model = DiffusionModel::load(&source, &Device::flex())?;
//! println!("{:?}", model.metadata.training);
//! model.save("smaller".as_ref(), WeightsType::F16)?;
//! # Ok::<(), kiln_checkpoint::CheckpointError>(())
//! ```

#![recursion_limit = "256"]

mod convert;
mod error;
mod first_stage;
mod folder;
pub mod foreign;
mod guide;
mod index;
pub mod layout;
mod metadata;
mod model;
mod not_a_number;
mod pickle;
mod printable;
mod source;
mod tensors;
mod unet;
mod weights;

pub use convert::{ConvertOptions, Converted, convert};
pub use error::CheckpointError;
pub use first_stage::{FirstStage, vqvae_hash, weights_hash};
pub use folder::{Differences, NewFolder, check_outside_models, check_place, differences, settled};
pub use guide::Guide;
pub use index::ModelIndex;
pub use metadata::{DISTILLED_BY, Metadata, PERCEPTUAL_NETWORK};
pub use model::DiffusionModel;
pub use pickle::RawTensor;
pub use printable::printable;
pub use source::ModelSource;
pub use tensors::read_tensors;
