//! Image data sets for kiln: MNIST, Flowers 102, CIFAR-10, folders of images and Parquet tables, as batches in [-1, 1].
//!
//! [`open`] turns a [`DataConfig`] (the `[data]` table of an experiment's TOML file) into a training and a
//! validation [`ImageDataset`]. Every image has the same shape, `[channels, height, width]`, and may have a label.
//! [`shuffled`] and [`flipped`] decide the order in which a training run sees the images and which of them are
//! mirrored, as functions of only the seed and the epoch; [`prefetch`] prepares the batches ahead of the trainer. An
//! [`ImageFile`] is a single image that belongs to no data set.
//!
//! The 10,000 digits of `mnist-10k` are compiled in, so this needs no data:
//!
//! ```
//! use kiln_data::{DataConfig, DatasetKind, NoProgress};
//!
//! let config = DataConfig::new(DatasetKind::Mnist10k, 32, 1);
//! let datasets = kiln_data::open(&config, &NoProgress)?;
//! assert_eq!(datasets.train.len() + datasets.validation.len(), 10_000);
//!
//! // The first batch of epoch 0 under seed 7: eight images, none mirrored.
//! let order = kiln_data::shuffled(datasets.train.len(), 7, 0);
//! let request: Vec<(u32, bool)> = order[..8].iter().map(|&index| (index, false)).collect();
//! let batch = kiln_data::prefetch(datasets.train, std::iter::once(request)).next().unwrap()?;
//! assert_eq!(batch.pixels.len(), 8 * 32 * 32);
//! assert!(batch.pixels.iter().all(|pixel| (-1.0..=1.0).contains(pixel)));
//! # Ok::<(), kiln_data::DataError>(())
//! ```

mod cifar;
mod config;
mod contents;
mod dataset;
mod dataset_kind;
mod decode;
mod digest;
#[cfg(feature = "download")]
mod download;
mod elsewhere;
mod error;
#[cfg(test)]
mod examples;
mod flowers;
mod folder;
mod folder_lock;
mod image_file;
mod image_shape;
mod item;
mod kind;
mod loading;
mod mat;
mod mnist;
mod names;
mod order;
mod originals;
#[cfg(feature = "download")]
mod pace;
mod passes;
mod path_text;
mod prefetch;
mod progress;
mod recognised;
mod regular_file;
#[cfg(feature = "download")]
mod request;
mod shards;
mod split_names;
mod table;
mod text_file;
#[cfg(feature = "download")]
mod transfer;
mod undecodable;

pub use config::{DataConfig, HUB_SCHEME, is_on_the_hub};
pub use dataset::{Datasets, ImageDataset};
pub use dataset_kind::DatasetKind;
pub use digest::{hexadecimal, sha256, sha256_of_file};
#[cfg(feature = "download")]
pub use download::{
    Downloaded, PYTORCH_FID_FILE, PYTORCH_FID_SHA256, TorchvisionWeights, cache_folder,
    forbid_downloads, pytorch_fid_weights,
};
pub use elsewhere::{FileSource, SourceError};
pub use error::DataError;
pub use folder_lock::FolderLock;
pub use image_file::ImageFile;
pub use image_shape::ImageShape;
pub use names::is_unprintable;
pub use order::{flipped, held_out, shuffled};
pub use originals::Originals;
#[cfg(feature = "download")]
pub use pace::{Pace, TooSlow, Watch};
pub use passes::{Pass, Passes};
pub use prefetch::{Ahead, ImageBatch, ahead, prefetch};
pub use progress::{NoProgress, Progress, ProgressUnit, Task};
pub use regular_file::{open_regular, read_regular};
#[cfg(feature = "download")]
pub use request::{Origin, Request, resolved};
pub use split_names::{TRAIN, VALIDATION};
pub use table::{RemoteTable, RemoteTables, Tables, open_remote_tables, open_tables};
pub use text_file::read_text;
#[cfg(feature = "download")]
pub use transfer::{DownloadFailure, Transfer, transfer_agent};

/// Opens the data set that `config` names, and first downloads MNIST if no path is given and it is not cached yet.
/// Without the feature `download` MNIST needs a path, too.
///
/// A set that is small enough is decoded here and kept in memory: files that cannot be decoded are left out with a warning.
/// Of a larger set, and of shards (tar archives in a folder, or `data/shard-{000..099}.tar`), images are decoded as they are
/// asked for: where one cannot be, the next one of its class takes its place. `progress` is told about downloads and
/// decoding.
///
/// # Errors
/// If the config is not usable, the path does not contain the data set, more than [`DataConfig::max_undecodable`] of
/// the files cannot be decoded, or a download fails.
pub fn open(config: &DataConfig, progress: &dyn Progress) -> Result<Datasets, DataError> {
    config.validate()?;
    if config.dataset == DatasetKind::Folder
        && let Some(path) = &config.path
        && table::is_table(path)
    {
        return open_tables(&Tables::of_file(path), config, progress);
    }
    config.ensure_no_columns()?;
    let found = match config.dataset {
        DatasetKind::Mnist => mnist::find(config, progress)?,
        DatasetKind::Mnist10k => mnist::find_embedded(config)?,
        DatasetKind::Flowers102 => flowers::find(config.required_path()?)?,
        DatasetKind::Cifar10 => cifar::find(config.required_path()?)?,
        DatasetKind::Folder => {
            let path = config.required_path()?;
            if shards::is_pattern(path) {
                return shards::open(path, &shards::of_pattern(path)?, config, progress);
            }
            let listing = contents::list(path)?;
            if let Some(files) = shards::of_folder(&listing) {
                return shards::open(path, &files, config, progress);
            }
            folder::find_in(path, listing, config.validation_fraction)?
        }
        DatasetKind::Own => return Err(DataError::Own),
    };
    loading::load(found, config, loading::MEMORY_BUDGET, progress)
}
