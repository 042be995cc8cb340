//! The `[data]` table of an experiment's TOML file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset_kind::DatasetKind;
use crate::error::DataError;
use crate::image_shape::ImageShape;

/// The images to train on, and their form: the `[data]` table of an experiment.
///
/// In TOML, `dataset`, `size` and `channels` are required; a key that is not one of these fields is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Which data set.
    pub dataset: DatasetKind,
    /// The folder or file of the data set; `--data` overrides it. MNIST needs none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::path_text"
    )]
    pub path: Option<PathBuf>,
    /// Images are cropped to their centre square and resized to `size` x `size` pixels. MNIST's 28x28 is padded with
    /// black to 32, which can be halved to 8, 4, 2; see [`crate::ImageDataset::border`].
    pub size: usize,
    /// 1 for gray, 3 for RGB.
    pub channels: usize,
    /// Whether training mirrors half of the images, chosen again in each pass.
    #[serde(default)]
    pub horizontal_flip: bool,
    /// The share of the images that is held out for validation, for a folder without its own validation split.
    #[serde(default = "DataConfig::default_validation_fraction")]
    pub validation_fraction: f32,
    /// The column of a table (of a data set on the Hub) that holds the images, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// The column of a table that holds the classes, as whole numbers from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// The share of the files (or shards) that may be impossible to decode before the data set is refused.
    #[serde(default = "DataConfig::default_max_undecodable")]
    pub max_undecodable: f32,
    /// Whether images are read while the training goes on (`true`) or all of them before (`false`). If absent: shards
    /// are, and other sets if they have more than 1 GiB of decoded pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Of a data set on the Hub that is read while the training goes on: how many GiB of its files are kept on this machine.
    /// If absent: 16, or half of the free disk if that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<f64>,
    /// Of shards: each image of a pass moves by fewer places than this. It mixes neighbours, and is about half of the
    /// images that must be in reach at a time.
    #[serde(
        default = "DataConfig::default_shuffle_buffer",
        skip_serializing_if = "DataConfig::is_default_buffer"
    )]
    pub shuffle_buffer: usize,
}

impl DataConfig {
    /// The largest [`DataConfig::size`].
    pub const MAX_SIZE: usize = 4096;
    /// The largest [`DataConfig::shuffle_buffer`].
    pub const MAX_BUFFER: usize = 1 << 24;

    /// A config with every other field at its default.
    pub fn new(dataset: DatasetKind, size: usize, channels: usize) -> Self {
        Self {
            dataset,
            path: None,
            size,
            channels,
            horizontal_flip: false,
            image_column: None,
            label_column: None,
            validation_fraction: Self::default_validation_fraction(),
            max_undecodable: Self::default_max_undecodable(),
            stream: None,
            cache: None,
            shuffle_buffer: Self::default_shuffle_buffer(),
        }
    }

    fn default_shuffle_buffer() -> usize {
        8192
    }

    fn is_default_buffer(buffer: &usize) -> bool {
        *buffer == Self::default_shuffle_buffer()
    }

    fn default_validation_fraction() -> f32 {
        0.1
    }

    fn default_max_undecodable() -> f32 {
        0.01
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        ImageShape {
            channels: self.channels,
            height: self.size,
            width: self.size,
        }
    }

    /// Checks every value, without looking at any file.
    ///
    /// # Errors
    /// [`DataError::Config`] with the key, its value and what would be valid.
    pub fn validate(&self) -> Result<(), DataError> {
        let check = |valid: bool, key, value: String, expected: &str| {
            if valid {
                Ok(())
            } else {
                Err(DataError::Config {
                    key,
                    value,
                    expected: expected.to_owned(),
                })
            }
        };
        check(
            (1..=Self::MAX_SIZE).contains(&self.size),
            "size",
            self.size.to_string(),
            &format!("use a number of pixels from 1 to {}", Self::MAX_SIZE),
        )?;
        check(
            matches!(self.channels, 1 | 3),
            "channels",
            self.channels.to_string(),
            "use 1 for gray or 3 for RGB",
        )?;
        check(
            self.validation_fraction > 0.0 && self.validation_fraction < 1.0,
            "validation_fraction",
            self.validation_fraction.to_string(),
            "use a share above 0 and below 1, such as 0.1",
        )?;
        check(
            (0.0..=1.0).contains(&self.max_undecodable),
            "max_undecodable",
            self.max_undecodable.to_string(),
            "use a share from 0 to 1, such as 0.01",
        )?;
        check(
            (1..=Self::MAX_BUFFER).contains(&self.shuffle_buffer),
            "shuffle_buffer",
            self.shuffle_buffer.to_string(),
            &format!("use a number of images from 1 to {}", Self::MAX_BUFFER),
        )?;
        check(
            self.cache
                .is_none_or(|cache| cache > 0.0 && cache.is_finite()),
            "cache",
            self.cache.unwrap_or_default().to_string(),
            "use a number of GiB above 0, such as 16",
        )?;
        let is_read_from_files = self.dataset == DatasetKind::Folder;
        check(
            is_read_from_files || self.stream.is_none(),
            "stream",
            format!("{:?}", self.stream.unwrap_or_default()),
            "only data.dataset = \"folder\" can be read while training (a folder, shards or a table): leave it out",
        )
    }

    /// Refuses the keys that only tables use.
    pub(crate) fn ensure_no_columns(&self) -> Result<(), DataError> {
        let columns = [
            ("image_column", &self.image_column),
            ("label_column", &self.label_column),
        ];
        match columns
            .into_iter()
            .find_map(|(key, name)| Some((key, name.clone()?)))
        {
            Some((key, value)) => Err(DataError::Config {
                key,
                value: format!("{value:?}"),
                expected: "only tables have columns, so leave it out or use a data set in Parquet"
                    .to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// The path, for the data sets that need one.
    pub(crate) fn required_path(&self) -> Result<&Path, DataError> {
        self.path
            .as_deref()
            .ok_or(DataError::PathNeeded(self.dataset))
    }
}

/// The beginning of a path that names a data set on the Hugging Face Hub.
pub const HUB_SCHEME: &str = "hf:";

/// Whether a path names a data set on the Hub.
pub fn is_on_the_hub(path: &Path) -> bool {
    path.to_string_lossy().starts_with(HUB_SCHEME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_are_filled_in() {
        let config: DataConfig =
            toml::from_str("dataset = \"flowers-102\"\nsize = 64\nchannels = 3").unwrap();
        assert_eq!(config, DataConfig::new(DatasetKind::Flowers102, 64, 3));
        assert!(!config.horizontal_flip && config.max_undecodable == 0.01);
    }

    #[test]
    fn every_dataset_is_written_as_it_is_shown() {
        for dataset in [
            DatasetKind::Mnist,
            DatasetKind::Mnist10k,
            DatasetKind::Flowers102,
            DatasetKind::Cifar10,
            DatasetKind::Folder,
            DatasetKind::Own,
        ] {
            let text = toml::to_string(&DataConfig::new(dataset, 32, 1)).unwrap();
            assert!(text.contains(&format!("dataset = \"{dataset}\"")), "{text}");
            assert_eq!(
                toml::from_str::<DataConfig>(&text).unwrap().dataset,
                dataset
            );
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let text = "dataset = \"mnist\"\nsize = 32\nchannels = 1\nhorizontal_flips = true";
        let error = toml::from_str::<DataConfig>(text).unwrap_err().to_string();
        assert!(error.contains("horizontal_flips"), "{error}");
    }

    #[test]
    fn unusable_values_are_named_with_what_is_valid() {
        let valid = DataConfig::new(DatasetKind::Mnist, 32, 1);
        let refused = |config: DataConfig| config.validate().unwrap_err().to_string();
        assert_eq!(
            refused(DataConfig {
                size: 0,
                ..valid.clone()
            }),
            "data.size = 0 is not usable: use a number of pixels from 1 to 4096"
        );
        assert_eq!(
            refused(DataConfig {
                channels: 4,
                ..valid.clone()
            }),
            "data.channels = 4 is not usable: use 1 for gray or 3 for RGB"
        );
        assert!(
            refused(DataConfig {
                validation_fraction: 1.0,
                ..valid.clone()
            })
            .starts_with("data.validation_fraction = 1 ")
        );
        assert!(
            refused(DataConfig {
                validation_fraction: f32::NAN,
                ..valid.clone()
            })
            .starts_with("data.validation_fraction = NaN ")
        );
        assert!(
            refused(DataConfig {
                max_undecodable: -0.5,
                ..valid.clone()
            })
            .starts_with("data.max_undecodable = -0.5 ")
        );
        for cache in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let config = DataConfig {
                cache: Some(cache),
                ..valid.clone()
            };
            assert!(refused(config).contains("data.cache = "), "{cache}");
        }
        assert!(valid.validate().is_ok());
    }

    #[test]
    fn a_data_set_without_a_path_says_what_to_pass() {
        let error = DataConfig::new(DatasetKind::Flowers102, 64, 3)
            .required_path()
            .unwrap_err();
        assert!(error.to_string().contains("--data"), "{error}");
    }

    proptest! {
        #[test]
        fn a_config_survives_toml(size in 1usize..4096, gray: bool, horizontal_flip: bool, fraction in 0.01f32..0.99) {
            let config = DataConfig {
                path: Some("some/folder".into()),
                horizontal_flip,
                validation_fraction: fraction,
                ..DataConfig::new(DatasetKind::Folder, size, if gray { 1 } else { 3 })
            };
            prop_assert_eq!(toml::from_str::<DataConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
    }
}
