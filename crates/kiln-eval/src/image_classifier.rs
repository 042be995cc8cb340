//! A residual network that classifies images of any size, in gray or colour.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use kiln_kernels::{Convolution, Padding, Sampling};
use kiln_models::{WeightsError, WeightsType, initialization};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::classifier::norm_silu;

const EPSILON: f64 = 1e-5;
/// The key of the config in the metadata of the weights' file.
const CONFIG: &str = "config";
/// More than any network needs: a file that asks for more is damaged.
const MOST_LEVELS: usize = 8;
const MOST_BLOCKS: usize = 64;
const MOST_CHANNELS: usize = 8192;
const MOST_CLASSES: usize = 1 << 20;

/// The sizes of an [`ImageClassifier`]: the table `[classifier]` of a TOML file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResidualConfig {
    /// Channels of each level. Every level but the first halves the sides of its input.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level.
    pub layers_per_block: usize,
    /// Groups of the normalisations; it divides all channels.
    pub norm_num_groups: usize,
}

impl Default for ResidualConfig {
    fn default() -> Self {
        Self {
            block_out_channels: vec![32, 64, 128],
            layers_per_block: 1,
            norm_num_groups: 8,
        }
    }
}

impl ResidualConfig {
    /// The first key whose value cannot work, the value, and what would be valid.
    pub fn problem(&self) -> Option<(&'static str, String, String)> {
        let Self {
            block_out_channels: channels,
            layers_per_block: blocks,
            norm_num_groups: groups,
        } = self;
        if !(1..=MOST_LEVELS).contains(&channels.len()) {
            let valid = format!("it needs the channels of 1 to {MOST_LEVELS} levels");
            return Some(("block_out_channels", format!("{channels:?}"), valid));
        }
        if !(1..=MOST_BLOCKS).contains(blocks) {
            let valid = format!("it must be from 1 to {MOST_BLOCKS}");
            return Some(("layers_per_block", blocks.to_string(), valid));
        }
        if *groups == 0 {
            let valid = "it must be at least 1".to_owned();
            return Some(("norm_num_groups", groups.to_string(), valid));
        }
        let fits = |channels: &usize| {
            (1..=MOST_CHANNELS).contains(channels) && channels.is_multiple_of(*groups)
        };
        (!channels.iter().all(fits)).then(|| {
            let valid = format!(
                "each must be a multiple of norm_num_groups = {groups} and at most {MOST_CHANNELS}"
            );
            ("block_out_channels", format!("{channels:?}"), valid)
        })
    }
}

/// Everything that an [`ImageClassifier`] is made from. Its weights' file has it in its metadata, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageClassifierConfig {
    /// 1 for gray images, 3 for RGB.
    pub in_channels: usize,
    /// The side of the images that it was trained on. It reads others, too.
    pub sample_size: usize,
    /// The number of classes.
    pub num_classes: usize,
    /// The sizes of the network.
    #[serde(flatten)]
    pub network: ResidualConfig,
}

/// A residual network (He et al. 2016, with the normalisation before each convolution) that classifies images.
///
/// ```text
/// x      = conv(image)
/// x      = shortcut(x) + conv(silu(norm(conv(silu(norm(x))))))    each block; the first of a level halves the sides
/// logits = linear(mean over all positions of silu(norm(x)))       one for each class
/// ```
///
/// It has group normalisation instead of batch normalisation, so that an image's result does not depend on the other
/// images of its batch. It is convolutional up to the mean, so it reads images of any size. `kiln train-classifier`
/// trains it.
#[derive(Module, Debug)]
pub struct ImageClassifier {
    conv_in: Conv2d,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    classify: Linear,
    #[module(skip)]
    config: ImageClassifierConfig,
}

#[derive(Module, Debug)]
struct Level {
    blocks: Vec<Block>,
}

#[derive(Module, Debug)]
struct Block {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ImageClassifier {
    /// An untrained classifier, whose weights are drawn from `seed`. The config must have no
    /// [`problem`](ResidualConfig::problem).
    pub fn new(config: ImageClassifierConfig, device: &Device, seed: u64) -> Self {
        let ResidualConfig {
            block_out_channels: widths,
            layers_per_block,
            norm_num_groups: groups,
        } = &config.network;
        let first = widths.first().copied().unwrap_or(*groups);
        let mut channels = first;
        let levels = widths.iter().enumerate().map(|(level, &width)| {
            let blocks = (0..*layers_per_block).map(|block| {
                let stride = if level > 0 && block == 0 { 2 } else { 1 };
                let made = Block::new([channels, width], stride, *groups, device);
                channels = width;
                made
            });
            Level {
                blocks: blocks.collect(),
            }
        });
        let levels = levels.collect();
        let classifier = Self {
            conv_in: convolution_of([config.in_channels, first], 3, 1, device),
            levels,
            norm_out: norm_of(channels, *groups, device),
            classify: LinearConfig::new(channels, config.num_classes).init(device),
            config,
        };
        initialization::seeded(classifier, seed)
    }

    /// Its config.
    pub fn config(&self) -> &ImageClassifierConfig {
        &self.config
    }

    /// Reads the bytes of a file that [`Self::save`] wrote; `Err` has what is wrong with them.
    pub(crate) fn from_bytes(bytes: &[u8], device: &Device) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes)
            .map_err(|problem| format!("it is no safetensors file: {problem}"))?;
        let facts = header.metadata().as_ref();
        let config = facts
            .and_then(|facts| facts.get(CONFIG))
            .ok_or("its metadata has no config")?;
        let config: ImageClassifierConfig = serde_json::from_str(config)
            .map_err(|problem| format!("its config cannot be read: {problem}"))?;
        if let Some((key, value, valid)) = config.network.problem() {
            return Err(format!(
                "{key} = {value} of its config cannot work: {valid}"
            ));
        }
        if !matches!(config.in_channels, 1 | 3) || !(1..=MOST_CLASSES).contains(&config.num_classes)
        {
            return Err(format!(
                "its config asks for {} channels and {} classes",
                config.in_channels, config.num_classes
            ));
        }
        kiln_models::load_weights_from_bytes(Self::new(config, device, 0), bytes)
            .map_err(|problem| problem.to_string())
    }

    /// Reads a file that [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`EvalError::File`] if it cannot be read, [`EvalError::NotAClassifier`] if it holds something else.
    pub fn load(path: &Path, device: &Device) -> Result<Self, EvalError> {
        Self::from_bytes(&crate::read(path)?, device).map_err(|reason| EvalError::NotAClassifier {
            path: path.to_owned(),
            reason,
        })
    }

    /// Writes a safetensors file with the config and `facts` in its metadata. The weights become 16-bit numbers.
    ///
    /// # Errors
    /// If it cannot be written, and if a number is not finite in 16 bits.
    pub fn save(&self, path: &Path, facts: &BTreeMap<String, String>) -> Result<(), WeightsError> {
        let mut facts = facts.clone();
        // A struct of numbers always has a JSON.
        let config = serde_json::to_string(&self.config).unwrap_or_default();
        facts.insert(CONFIG.to_owned(), config);
        kiln_models::save_weights(self, path, WeightsType::F16, &facts)
    }

    /// The unnormalised log-probabilities of the classes, `[batch, num_classes]`, of images
    /// `[batch, in_channels, height, width]` in [-1, 1].
    ///
    /// # Panics
    /// If the images have another number of channels.
    pub fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        let mut last = self.conv_in(images);
        for level in &self.levels {
            last = level.forward(last);
        }
        let maps = norm_silu(&self.norm_out).forward(last);
        let [batch, height, width, channels] = maps.dims();
        let maps: Tensor<3> = maps.reshape([batch, height * width, channels]);
        self.classify.forward(maps.mean_dim(1).squeeze_dim(1))
    }

    /// The feature maps after each level, channels-last: `[batch, height / 2^level, width / 2^level, channels]`, rounded
    /// up, of images as for [`Self::logits`].
    ///
    /// # Panics
    /// If the images have another number of channels.
    pub fn features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut last = self.conv_in(images);
        let maps = self.levels.iter().map(|level| {
            last = level.forward(last.clone());
            last.clone()
        });
        maps.collect()
    }

    fn conv_in(&self, images: Tensor<4>) -> Tensor<4> {
        convolution(&self.conv_in, images.permute([0, 2, 3, 1])).forward()
    }
}

impl Level {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.blocks.iter().fold(x, |x, block| block.forward(x))
    }
}

impl Block {
    fn new(
        [channels_in, channels_out]: [usize; 2],
        stride: usize,
        groups: usize,
        device: &Device,
    ) -> Self {
        let has_shortcut = channels_in != channels_out || stride != 1;
        Self {
            norm1: norm_of(channels_in, groups, device),
            conv1: convolution_of([channels_in, channels_out], 3, stride, device),
            norm2: norm_of(channels_out, groups, device),
            conv2: convolution_of([channels_out; 2], 3, 1, device),
            shortcut: has_shortcut
                .then(|| convolution_of([channels_in, channels_out], 1, stride, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let hidden = convolution(&self.conv1, x.clone()).after(norm_silu(&self.norm1));
        let shortcut = match &self.shortcut {
            Some(layer) => convolution(layer, x).forward(),
            None => x,
        };
        convolution(&self.conv2, hidden.forward())
            .after(norm_silu(&self.norm2))
            .plus_shortcut(shortcut)
            .forward()
    }
}

fn norm_of(channels: usize, groups: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(groups, channels)
        .with_epsilon(EPSILON)
        .init(device)
}

/// A convolution that keeps an image's size, or divides it by `stride`.
fn convolution_of(channels: [usize; 2], side: usize, stride: usize, device: &Device) -> Conv2d {
    let border = side / 2;
    Conv2dConfig::new(channels, [side; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(border, border, border, border))
        .init(device)
}

/// `layer` of channels-last images.
fn convolution(layer: &Conv2d, x: Tensor<4>) -> Convolution {
    let sampling = Sampling::Strided {
        stride: layer.stride[0],
        padding: Padding::uniform(layer.kernel_size[0] / 2),
    };
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    Convolution::new(x, layer.weight.val(), sampling).plus_bias(bias)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    fn config(in_channels: usize) -> ImageClassifierConfig {
        ImageClassifierConfig {
            in_channels,
            sample_size: 16,
            num_classes: 5,
            network: ResidualConfig {
                block_out_channels: vec![8, 16],
                layers_per_block: 2,
                norm_num_groups: 4,
            },
        }
    }

    #[test]
    fn images_of_any_size_are_read_alone_as_in_a_batch() {
        let device = Device::flex();
        for (channels, height, width) in [(3, 16, 16), (1, 9, 21), (3, 1, 1)] {
            let classifier = ImageClassifier::new(config(channels), &device, 3);
            let shape = [2, channels, height, width];
            let images = Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 1.0), &device);
            let together = classifier.logits(images.clone());
            assert_eq!(together.dims(), [2, 5]);
            let alone = classifier.logits(images.clone().narrow(0, 1, 1));
            let difference = (alone - together.narrow(0, 1, 1)).abs().max();
            assert!(difference.into_scalar::<f32>() < 1e-5);
            let shapes: Vec<_> = classifier
                .features(images)
                .iter()
                .map(|maps| maps.dims())
                .collect();
            let halves = [height.div_ceil(2), width.div_ceil(2)];
            assert_eq!(
                shapes,
                [[2, height, width, 8], [2, halves[0], halves[1], 16]]
            );
        }
    }

    #[test]
    fn a_saved_classifier_loads_without_its_shape_and_other_files_are_refused() {
        let (device, folder) = (Device::flex(), tempfile::tempdir().unwrap());
        let path = folder.path().join("model.safetensors");
        let classifier = ImageClassifier::new(config(3), &device, 7);
        let facts = BTreeMap::from([("steps".to_owned(), "12".to_owned())]);
        classifier.save(&path, &facts).unwrap();
        let loaded = ImageClassifier::load(&path, &device).unwrap();
        assert_eq!(loaded.config(), classifier.config());
        let image = Tensor::<4>::ones([1, 3, 8, 8], &device);
        let difference = (loaded.logits(image.clone()) - classifier.logits(image))
            .abs()
            .max();
        assert!(
            difference.into_scalar::<f32>() < 1e-2,
            "16 bits of each weight"
        );

        for (bytes, words) in [
            (&b"nothing"[..], "no safetensors file"),
            (crate::DigitClassifier::BUILT_IN, "no config"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let sentence = ImageClassifier::load(&path, &device)
                .unwrap_err()
                .to_string();
            assert!(sentence.contains(words), "{sentence}");
        }
        let mut wide = config(3);
        wide.network.block_out_channels = vec![1 << 40];
        let facts = BTreeMap::from([("config".into(), serde_json::to_string(&wide).unwrap())]);
        kiln_models::save_weights(&classifier, &path, WeightsType::F32, &facts).unwrap();
        let sentence = ImageClassifier::load(&path, &device)
            .unwrap_err()
            .to_string();
        assert!(sentence.contains("block_out_channels"), "{sentence}");
    }

    #[test]
    fn sizes_that_cannot_work_are_named() {
        let problem = |change: fn(&mut ResidualConfig)| {
            let mut config = ResidualConfig::default();
            change(&mut config);
            config.problem().map(|(key, ..)| key)
        };
        assert_eq!(problem(|_| ()), None);
        assert_eq!(
            problem(|config| config.block_out_channels.clear()),
            Some("block_out_channels")
        );
        assert_eq!(
            problem(|config| config.block_out_channels = vec![12]),
            Some("block_out_channels")
        );
        assert_eq!(
            problem(|config| config.block_out_channels = vec![0]),
            Some("block_out_channels")
        );
        assert_eq!(
            problem(|config| config.layers_per_block = 0),
            Some("layers_per_block")
        );
        assert_eq!(
            problem(|config| config.norm_num_groups = 0),
            Some("norm_num_groups")
        );
    }
}
