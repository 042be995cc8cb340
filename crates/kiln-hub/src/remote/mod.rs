//! The Hugging Face Hub: [`pull`] brings a repository's files into the cache that Python uses too, [`push`] makes a
//! repository out of a model.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use kiln_data::NoProgress;
//! use kiln_hub::{HubSettings, LatentDiffusion, ModelSource, Wanted, pull};
//!
//! let name = "CompVis/ldm-celebahq-256".parse()?;
//! let pulled = pull(&name, Wanted::Model, &HubSettings::from_environment(), &NoProgress)?;
//! let model = LatentDiffusion::load(&ModelSource::Folder(pulled.folder), &Device::flex())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What `hf-hub` does, and what it does not
//!
//! The `hf-hub` crate speaks the Hub's API here: which commit a revision is, which files it has, and making
//! repositories and branches. The files themselves take another road, because `hf-hub` 1.0.0
//!
//! - begins a broken download anew, and writes whatever the server answers into the cache without looking at the HTTP
//!   status, the size or the checksum, so that a page that says "try again later" becomes the model;
//! - sends large files only by way of Xet, and to a server that has plain Git LFS sends them inside the commit, which no
//!   server takes for more than some megabytes.
//!
//! So downloads go through [`kiln_data::Transfer`], which MNIST's take too: continued where they stopped, checked against
//! size and checksum, and renamed when they are right. Uploads go through the Git LFS batch API, which the Hub and its
//! mirrors have alike: see [`push`].

mod cache;
mod card;
mod checksum;
mod client;
mod data_set;
mod error;
mod name;
mod publication;
mod pull;
mod push;
mod refusal;
mod selection;
mod settings;
mod upload;

pub use data_set::open_data_set;
pub use error::TransportError;
pub use name::RepositoryName;
pub use publication::{Publication, publish};
pub use pull::{Pulled, Wanted, pull};
pub use push::{Pushed, files_in, push};
pub use settings::HubSettings;
