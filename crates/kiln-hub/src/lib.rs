//! The Hugging Face Hub: [`pull`] fetches a repository's files into the cache that Python uses, too; [`push`] makes a
//! repository from a model that [`publish`] has prepared. [`open_data_set`] opens the Hub's data sets.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use kiln_checkpoint::{DiffusionModel, ModelSource};
//! use kiln_data::NoProgress;
//! use kiln_hub::{HubSettings, Wanted, pull};
//!
//! let name = "CompVis/ldm-celebahq-256".parse()?;
//! let pulled = pull(&name, Wanted::Model, &HubSettings::from_environment(), &NoProgress)?;
//! let model = DiffusionModel::load(&ModelSource::Folder(pulled.folder), &Device::flex())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How kiln speaks with it
//!
//! `api.rs` asks the Hub's API for the commit of a revision and for its files, within bounds of size and time.
//! Downloads use [`kiln_data::Transfer`], like MNIST's: resumed where they stopped, checked against size and checksum,
//! and renamed when they are right. Uploads use the Git LFS batch API, which both the Hub and its mirrors have: see
//! [`push`]. All three send the token only to the Hub's own scheme, host and port.
//!
//! A data set that is streamed ([`open_data_set`]) comes file by file: `range.rs` asks for the parts that say what is in a file,
//! `fetching.rs` fetches each file ahead of its turn (`ahead.rs` knows it), and `shelf.rs` keeps as many as there is room for.
//!
//! The `hf-hub` crate names the folders of the cache. Its client is not used: the one of 1.0.0 sends the token to any server
//! that a list of files names for its next page, and reads such lists without end; it writes answers into the cache without
//! checking status, size or checksum; and it uploads large files only through Xet, which mirrors do not have. Version 0.5
//! without its client builds in seconds; 1.0.0 takes five CPU minutes.

mod ahead;
mod answer;
mod api;
mod cache;
mod card;
mod checksum;
mod client;
mod data_set;
mod error;
mod fetching;
mod markdown;
mod name;
mod parts;
mod publication;
mod pull;
mod push;
mod range;
mod refusal;
mod room;
mod selection;
mod settings;
mod shelf;
mod stream;
mod upload;

pub use data_set::open_data_set;
pub use error::TransportError;
pub use name::RepositoryName;
pub use publication::{Publication, publish};
pub use pull::{Pulled, pull};
pub use push::{Pushed, files_in, push};
pub use selection::Wanted;
pub use settings::HubSettings;
