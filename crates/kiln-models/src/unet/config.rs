use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::blocks::{Activation, TimeScaleShift};
use crate::config::{
    self, or_none, require, require_channels, require_halving, require_levels, require_rows,
};

/// One level on the way down; every level but the last halves the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DownBlockType {
    /// Residual blocks.
    #[serde(alias = "UNetResDownBlock2D")]
    DownBlock2D,
    /// Residual blocks, each followed by self-attention.
    #[serde(alias = "UNetResAttnDownBlock2D")]
    AttnDownBlock2D,
}

/// One level on the way up; every level but the last doubles the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum UpBlockType {
    /// Residual blocks.
    #[serde(alias = "UNetResUpBlock2D")]
    UpBlock2D,
    /// Residual blocks, each followed by self-attention.
    #[serde(alias = "UNetResAttnUpBlock2D")]
    AttnUpBlock2D,
}

/// The block between the way down and the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MidBlockType {
    /// Residual block, self-attention (if `add_attention`), residual block.
    UNetMidBlock2D,
}

/// How a timestep becomes a vector, before the two linear layers that all kinds share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimeEmbeddingType {
    /// Sines and cosines of fixed frequencies, as in DDPM (Ho et al. 2020).
    Positional,
    /// Sines and cosines of random frequencies of ln t, as in score SDEs (Song et al. 2021); the
    /// network's output is divided by t, and t must be positive.
    Fourier,
    /// A learned table with a row for every whole timestep.
    Learned,
    /// Sines and cosines of the noise power `b^2` instead of the timestep, as in clear-diffusion-keras: the network is
    /// told only the amount of noise. Not in diffusers, which does not load such a network.
    NoisePower,
    /// Like `noise_power`, but the vector is joined to every pixel of the sample instead of being added in every
    /// residual block, as in Keras' example of DDIM. Not in diffusers either.
    NoisePowerInput,
}

/// How a class label becomes a vector that is added to the time embedding, if not by a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClassEmbeddingType {
    /// The label is embedded like a timestep.
    Timestep,
    /// The caller supplies the vector: see [`UNet2d::forward_embedded`](crate::UNet2d::forward_embedded).
    Identity,
}

/// How an attention level changes its resolution. Levels without attention always use `conv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResampleType {
    /// A 3x3 convolution, of stride 2 on the way down, after a doubling on the way up.
    Conv,
    /// A residual block that averages 2x2 pixels on the way down and repeats them on the way up.
    Resnet,
}

/// The side of the samples, or their height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or [height, width]")]
pub enum SampleSize {
    /// Height and width.
    Square(usize),
    /// `[height, width]`.
    Rectangle([usize; 2]),
}

/// The options of a [`UNet2d`](crate::UNet2d): with the names and defaults of diffusers' `UNet2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2dConfig {
    /// The size of the samples that the model was made for, and that samplers draw.
    pub sample_size: Option<SampleSize>,
    /// Channels of the samples.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether samples come in [0, 1] and are mapped to [-1, 1] first.
    pub center_input_sample: bool,
    /// How a timestep becomes a vector.
    pub time_embedding_type: TimeEmbeddingType,
    /// Width of the time embedding; four times the first level's width if absent.
    pub time_embedding_dim: Option<usize>,
    /// Positional: subtracted from the number of frequencies in their exponent. DDPM has 1.
    pub freq_shift: usize,
    /// Positional: whether the cosines come before the sines.
    pub flip_sin_to_cos: bool,
    /// The levels on the way down.
    pub down_block_types: Vec<DownBlockType>,
    /// The block in the middle, or none (null in JSON, "none" in TOML).
    #[serde(with = "or_none")]
    pub mid_block_type: Option<MidBlockType>,
    /// The levels on the way up.
    pub up_block_types: Vec<UpBlockType>,
    /// The width of each level, from the sample inwards.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; the way up has one more.
    pub layers_per_block: usize,
    /// The divisor of the outputs of the middle's blocks.
    pub mid_block_scale_factor: f64,
    /// Padding of the stride-2 convolutions: 1 on all sides, or 0 for one row and column on the far sides only, as in
    /// DDPM's own code.
    pub downsample_padding: usize,
    /// How attention levels halve.
    pub downsample_type: ResampleType,
    /// How attention levels double.
    pub upsample_type: ResampleType,
    /// Share of activations dropped in each residual block while training.
    pub dropout: f64,
    /// The activation of the residual blocks.
    pub act_fn: Activation,
    /// Channels of an attention head; none (null in JSON, "none" in TOML) is one head of all
    /// channels.
    #[serde(with = "or_none")]
    pub attention_head_dim: Option<usize>,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// Groups of the normalisation in the middle's attention. If absent, the attention has `norm_num_groups`, or no
    /// normalisation with `scale_shift`.
    pub attn_norm_num_groups: Option<usize>,
    /// Added to the variance in every group normalisation.
    pub norm_eps: f64,
    /// How residual blocks use the time embedding.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether the middle has self-attention.
    pub add_attention: bool,
    /// How class labels are embedded if not by a table.
    pub class_embed_type: Option<ClassEmbeddingType>,
    /// The number of classes: without a `class_embed_type`, the rows of a learned table.
    pub num_class_embeds: Option<usize>,
    /// Rows of the `learned` time embedding.
    pub num_train_timesteps: Option<usize>,
}

impl Default for UNet2dConfig {
    fn default() -> Self {
        use DownBlockType::{AttnDownBlock2D, DownBlock2D};
        use UpBlockType::{AttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            freq_shift: 0,
            flip_sin_to_cos: true,
            down_block_types: vec![
                DownBlock2D,
                AttnDownBlock2D,
                AttnDownBlock2D,
                AttnDownBlock2D,
            ],
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, AttnUpBlock2D, UpBlock2D],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: ResampleType::Conv,
            upsample_type: ResampleType::Conv,
            dropout: 0.0,
            act_fn: Activation::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
        }
    }
}

impl UNet2dConfig {
    /// The name of this model in diffusers.
    pub const CLASS: &'static str = "UNet2DModel";

    /// Reads and [validates](Self::validate) a diffusers `config.json`.
    ///
    /// # Errors
    /// Names the key that is unknown, of the wrong type, not supported or impossible.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::from_json(text, Self::CLASS)?;
        config.validate()?;
        Ok(config)
    }

    /// Writes the `config.json` that diffusers (and [`Self::from_json`]) reads.
    pub fn to_json(&self) -> String {
        config::to_json(self, Self::CLASS)
    }

    /// Checks that the options fit each other, before anything is allocated.
    ///
    /// # Errors
    /// Names the first option that does not fit, and what would be valid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_channels("in_channels", self.in_channels)?;
        require_channels("out_channels", self.out_channels)?;
        require_levels(
            &self.block_out_channels,
            self.down_block_types.len(),
            self.up_block_types.len(),
            self.layers_per_block,
            self.norm_num_groups,
        )?;
        if let Some(size) = self.sample_size {
            let [height, width] = size.height_and_width();
            for side in [height, width] {
                require_halving("sample_size", side, self.block_out_channels.len())?;
            }
        }
        require(
            self.downsample_padding <= 1,
            "downsample_padding",
            self.downsample_padding,
            "it must be 0 or 1, so that a level halves exactly",
        )?;
        self.validate_numbers()?;
        self.validate_attention()?;
        self.validate_embeddings()
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        let factor = self.mid_block_scale_factor;
        require(
            (factor as f32).is_normal(),
            "mid_block_scale_factor",
            factor,
            "it is a divisor, so it must not be 0, nor too large or too small for f32",
        )?;
        require(
            (0.0..1.0).contains(&self.dropout),
            "dropout",
            self.dropout,
            "it must be at least 0 and less than 1",
        )?;
        require(
            (self.norm_eps as f32).is_normal() && self.norm_eps > 0.0,
            "norm_eps",
            self.norm_eps,
            "it must be a small positive number",
        )
    }

    fn validate_attention(&self) -> Result<(), ConfigError> {
        let channels = &self.block_out_channels;
        let innermost = channels.last().copied().unwrap_or_default();
        let down = self.down_block_types.iter().zip(channels);
        let down = down.filter(|(kind, _)| **kind == DownBlockType::AttnDownBlock2D);
        let up = self.up_block_types.iter().zip(channels.iter().rev());
        let up = up.filter(|(kind, _)| **kind == UpBlockType::AttnUpBlock2D);
        let middle = (self.mid_block_type.is_some() && self.add_attention).then_some(innermost);
        let attended = down
            .map(|(_, &width)| width)
            .chain(up.map(|(_, &width)| width));
        for width in attended.chain(middle) {
            if let Some(head) = self.attention_head_dim {
                let problem =
                    format!("it must be from 1 to the {width} channels of a level with attention");
                require(
                    (1..=width).contains(&head),
                    "attention_head_dim",
                    head,
                    &problem,
                )?;
            }
        }
        if let Some(groups) = self.attn_norm_num_groups {
            let problem = format!("it must divide the innermost level's {innermost} channels");
            let divides = groups > 0 && innermost.is_multiple_of(groups);
            require(divides, "attn_norm_num_groups", groups, &problem)?;
        }
        Ok(())
    }

    fn validate_embeddings(&self) -> Result<(), ConfigError> {
        if let Some(channels) = self.time_channels() {
            require_channels("time_embedding_dim", channels)?;
        }
        let frequencies = self.time_projection_channels() / 2;
        match self.time_embedding_type {
            TimeEmbeddingType::Positional => require(
                self.freq_shift < frequencies,
                "freq_shift",
                self.freq_shift,
                &format!(
                    "it must be less than the {frequencies} frequencies (half of the first level's width)"
                ),
            )?,
            TimeEmbeddingType::Learned => match self.num_train_timesteps {
                Some(rows) => require_rows("num_train_timesteps", rows)?,
                None => {
                    let problem = "the `learned` time embedding needs to know its number of rows";
                    require(
                        false,
                        "num_train_timesteps",
                        self.num_train_timesteps,
                        problem,
                    )?;
                }
            },
            TimeEmbeddingType::NoisePower | TimeEmbeddingType::NoisePowerInput => require(
                frequencies > 1,
                "block_out_channels",
                self.time_projection_channels(),
                "the noise power's embedding has the first level's width and at least two frequencies: it must be at least 4",
            )?,
            TimeEmbeddingType::Fourier => {}
        }
        let is_conditional = self.num_class_embeds.is_some() || self.class_embed_type.is_some();
        require(
            !is_conditional || self.time_channels().is_some(),
            "time_embedding_type",
            "noise_power_input",
            "a network with classes adds their embedding to that of the time, so it must be another type",
        )?;
        match self.num_class_embeds {
            Some(rows) => require_rows("num_class_embeds", rows),
            None => Ok(()),
        }
    }

    /// The network's input for a level: its timestep or, for `noise_power` types, its noise power `b^2`.
    ///
    /// `fourier` takes the logarithm of timesteps and divides by them. Timesteps below 1, where schedules begin, therefore
    /// count as 1.
    pub fn condition(&self, timestep: f64, noise_power: f64) -> f64 {
        match self.time_embedding_type {
            TimeEmbeddingType::Positional | TimeEmbeddingType::Learned => timestep,
            TimeEmbeddingType::Fourier => timestep.max(1.0),
            TimeEmbeddingType::NoisePower | TimeEmbeddingType::NoisePowerInput => noise_power,
        }
    }

    /// Width of the time embedding in the residual blocks, if they use it.
    pub(crate) fn time_channels(&self) -> Option<usize> {
        let first = self.block_out_channels.first().copied().unwrap_or_default();
        (self.time_embedding_type != TimeEmbeddingType::NoisePowerInput)
            .then(|| self.time_embedding_dim.unwrap_or(4 * first))
    }

    /// Input channels of the first convolution: the sample's and, with `noise_power_input`, the embedding's.
    pub(crate) fn channels_in(&self) -> usize {
        match self.time_embedding_type {
            TimeEmbeddingType::NoisePowerInput => {
                self.in_channels + self.time_projection_channels()
            }
            _ => self.in_channels,
        }
    }

    /// Input width of the time embedding's linear layers.
    pub(crate) fn time_projection_channels(&self) -> usize {
        let first = self.block_out_channels.first().copied().unwrap_or_default();
        match self.time_embedding_type {
            TimeEmbeddingType::Fourier => 2 * first,
            _ => first,
        }
    }
}

impl SampleSize {
    /// `[height, width]`.
    pub fn height_and_width(self) -> [usize; 2] {
        match self {
            Self::Square(side) => [side, side],
            Self::Rectangle(sides) => sides,
        }
    }
}
