//! The denoising network of both pixel and latent diffusion: diffusers' `UNet2DModel`.

mod config;
mod embedded_levels;
mod embedding;
mod levels;
mod time;

pub use config::{
    ClassEmbeddingType, DownBlockType, MidBlockType, ResampleType, SampleSize, TimeEmbeddingType,
    UNet2dConfig, UpBlockType,
};
pub use embedded_levels::EmbeddedLevels;
pub use embedding::ProjectedTimes;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm};
use burn::tensor::{Device, Int, Tensor, TensorData};

use kiln_kernels::beside;

use crate::ConfigError;
use crate::blocks::{
    DownBlock, MidBlock, UpBlock, channels_first, conv3x3, convolution, group_norm, norm_silu,
};
use crate::config::require_size;
use crate::initialization::seeded;
use embedding::EmbeddedTimes;
use time::{TimeProjection, TimestepEmbedding};

/// A U-Net that predicts the noise, the signal or the velocity from a noisy sample and its timestep: diffusers'
/// `UNet2DModel`, which generalises the network of DDPM (Ho et al. 2020).
///
/// Levels of residual blocks (with self-attention if the config says so) halve the sample on the way down and double it
/// on the way up, where every layer is joined with its counterpart on the way down.
#[derive(Module, Debug)]
pub struct UNet2d {
    conv_in: Conv2d,
    time_proj: TimeProjection,
    time_embedding: Option<TimestepEmbedding>,
    class_embedding: Option<ClassEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: UNet2dConfig,
}

/// How a class label becomes a vector.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a network holds one of these, and a module cannot be boxed"
)]
enum ClassEmbedding {
    Table(Embedding),
    Timestep(TimestepEmbedding),
}

impl UNet2dConfig {
    /// A new network with PyTorch's initial weights (which diffusers trains from), drawn from `seed`:
    /// the same on every device.
    ///
    /// # Errors
    /// Those of [`Self::validate`], and if the network would have billions of parameters.
    pub fn init(&self, device: &Device, seed: u64) -> Result<UNet2d, ConfigError> {
        Ok(seeded(self.without_values(device)?, seed))
    }

    /// The number of the network's weights. This allocates nothing for them.
    ///
    /// # Errors
    /// Those of [`Self::init`].
    pub fn num_weights(&self) -> Result<usize, ConfigError> {
        Ok(self.without_values(&Device::flex())?.num_params())
    }

    /// A network whose weights have shapes, but no values until something reads them.
    fn without_values(&self, device: &Device) -> Result<UNet2d, ConfigError> {
        self.validate()?;
        let projected = self.time_projection_channels();
        let time_embedding = |channels: usize| TimestepEmbedding::new(projected, channels, device);
        let time_channels = self.time_channels();
        let options = self.block_options(device);
        let outermost = self.block_out_channels.first().copied().unwrap_or_default();
        let network = UNet2d {
            conv_in: conv3x3(self.channels_in(), outermost, device),
            time_proj: TimeProjection::new(self, device),
            time_embedding: time_channels.map(time_embedding),
            class_embedding: time_channels.and_then(|channels| {
                match (self.class_embed_type, self.num_class_embeds) {
                    (Some(ClassEmbeddingType::Timestep), _) => {
                        Some(ClassEmbedding::Timestep(time_embedding(channels)))
                    }
                    (None, Some(classes)) => Some(ClassEmbedding::Table(
                        EmbeddingConfig::new(classes, channels).init(device),
                    )),
                    (Some(ClassEmbeddingType::Identity), _) | (None, None) => None,
                }
            }),
            down_blocks: self.down_blocks(&options),
            mid_block: self.mid_block(&options),
            up_blocks: self.up_blocks(&options),
            conv_norm_out: group_norm(self.norm_num_groups, outermost, self.norm_eps, device),
            conv_out: conv3x3(outermost, self.out_channels, device),
            config: self.clone(),
        };
        require_size(&network)?;
        Ok(network)
    }
}

impl UNet2d {
    /// The options that the network was made from.
    pub fn config(&self) -> &UNet2dConfig {
        &self.config
    }

    /// The network's prediction `[batch, out_channels, height, width]` for noisy samples
    /// `[batch, in_channels, height, width]` at `timesteps` `[batch]`, or `[1]` for all of them, which may be fractional
    /// (the `learned` embedding drops the fraction and needs them in `0..num_train_timesteps`; `fourier` needs them
    /// positive). For the `noise_power` types they are noise powers in [0, 1] instead: see [`UNet2dConfig::condition`].
    ///
    /// `class_labels` `[batch]` in `0..num_class_embeds` are for networks with classes only.
    ///
    /// # Panics
    /// If labels are given to a network without classes or the other way round, if height or width do not
    /// halve between all levels, and if a label or a `learned` timestep has no row in its table.
    pub fn forward(
        &self,
        sample: Tensor<4>,
        timesteps: Tensor<1>,
        class_labels: Option<Tensor<1, Int>>,
    ) -> Tensor<4> {
        let class_embedding = self.embed_classes(class_labels);
        self.forward_embedded(sample, timesteps, class_embedding)
    }

    /// Like [`Self::forward`], for a batch at one level, with this timestep and noise power `b^2`. See [`Self::embed_levels`]
    /// for levels that come again and again.
    pub fn forward_at(
        &self,
        sample: Tensor<4>,
        timestep: f64,
        noise_power: f64,
        class_labels: Option<Tensor<1, Int>>,
    ) -> Tensor<4> {
        self.forward_at_each(sample, [(timestep, noise_power)], class_labels)
    }

    /// Like [`Self::forward_at`], with a timestep and a noise power for each image of the batch, or one for all.
    pub fn forward_at_each(
        &self,
        sample: Tensor<4>,
        levels: impl IntoIterator<Item = (f64, f64)>,
        class_labels: Option<Tensor<1, Int>>,
    ) -> Tensor<4> {
        let times = self.project_levels(levels, &sample.device());
        self.forward_projected(sample, times, class_labels)
    }

    /// The timestep and the noise power of some levels, as the network is told of them.
    pub fn project_levels(
        &self,
        levels: impl IntoIterator<Item = (f64, f64)>,
        device: &Device,
    ) -> ProjectedTimes {
        let levels = levels.into_iter();
        let conditions = levels.map(|(timestep, power)| self.condition(timestep, power));
        self.project_times(vector(conditions.collect(), device))
    }

    /// Like [`Self::forward_at_each`], for levels from [`Self::project_levels`].
    ///
    /// If [`Self::is_recordable`], this brings no other numbers to the device.
    pub fn forward_projected(
        &self,
        sample: Tensor<4>,
        times: ProjectedTimes,
        class_labels: Option<Tensor<1, Int>>,
    ) -> Tensor<4> {
        let class_embedding = self.embed_classes(class_labels);
        self.forward_projected_with(sample, times, class_embedding)
    }

    /// Whether [`Self::forward_projected`] and its gradients launch the same kernels each time, so that a GPU can record a
    /// training step: without dropout, and without learnt numbers or frequencies before the first layer.
    pub fn is_recordable(&self) -> bool {
        self.config.dropout == 0.0
            && self.config.time_embedding_type != TimeEmbeddingType::Learned
            && !matches!(self.class_embedding, Some(ClassEmbedding::Timestep(_)))
    }

    /// Like [`Self::forward`], with the class embeddings `[batch, time_embedding_dim]` themselves; the only way to
    /// condition under `class_embed_type = "identity"`.
    pub fn forward_embedded(
        &self,
        sample: Tensor<4>,
        timesteps: Tensor<1>,
        class_embedding: Option<Tensor<2>>,
    ) -> Tensor<4> {
        let times = self.project_times(timesteps);
        self.forward_projected_with(sample, times, class_embedding)
    }

    fn forward_projected_with(
        &self,
        sample: Tensor<4>,
        times: ProjectedTimes,
        class_embedding: Option<Tensor<2>>,
    ) -> Tensor<4> {
        let time = self.embed_times(times.projected);
        let times = self.in_layers(times.timesteps, time, class_embedding);
        self.forward_at_times(sample, times)
    }

    /// See [`UNet2dConfig::condition`].
    fn condition(&self, timestep: f64, noise_power: f64) -> f32 {
        self.config.condition(timestep, noise_power) as f32
    }

    /// The prediction, see [`Self::forward`], at `times`, one or as many as samples.
    fn forward_at_times(&self, sample: Tensor<4>, times: EmbeddedTimes) -> Tensor<4> {
        let EmbeddedTimes {
            timesteps,
            of_pixels,
            of_blocks,
        } = times;
        let times = &mut of_blocks.into_iter();
        let sample = if self.config.center_input_sample {
            sample * 2.0 - 1.0
        } else {
            sample
        };
        // Channels last from here on.
        let mut hidden = sample.permute([0, 2, 3, 1]);
        if let Some(vector) = of_pixels {
            hidden = joined_to_every_pixel(hidden, vector);
        }
        let mut hidden = convolution(&self.conv_in, hidden).forward();
        let mut skips = vec![hidden.clone()];
        for block in &self.down_blocks {
            hidden = block.forward(hidden, times, |layer| skips.push(layer.clone()));
        }
        if let Some(block) = &self.mid_block {
            hidden = block.forward(hidden, times);
        }
        for block in &self.up_blocks {
            // One skip was kept for every layer here, so there is always one to pop.
            let join = |hidden| match skips.pop() {
                Some(skip) => beside(hidden, skip),
                None => hidden.into(),
            };
            hidden = block.forward(hidden, times, join);
        }
        debug_assert!(times.next().is_none(), "each block takes its own");
        let output = convolution(&self.conv_out, hidden).after(norm_silu(&self.conv_norm_out));
        let output = channels_first(output.forward());

        match self.config.time_embedding_type {
            TimeEmbeddingType::Fourier => {
                let [levels] = timesteps.dims();
                output / timesteps.reshape([levels, 1, 1, 1])
            }
            _ => output,
        }
    }
}

/// `[numbers]`
fn vector(numbers: Vec<f32>, device: &Device) -> Tensor<1> {
    let shape = [numbers.len()];
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

/// `[batch, height, width, channels]` and `[batch or 1, more]` to `[batch, height, width, channels + more]`.
fn joined_to_every_pixel(sample: Tensor<4>, vector: Tensor<2>) -> Tensor<4> {
    let [batch, height, width, _] = sample.dims();
    let [vectors, channels] = vector.dims();
    let vector: Tensor<4> = vector.reshape([vectors, 1, 1, channels]);
    Tensor::cat(
        vec![sample, vector.expand([batch, height, width, channels])],
        3,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    fn config() -> UNet2dConfig {
        UNet2dConfig {
            in_channels: 2,
            out_channels: 2,
            down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D],
            up_block_types: vec![UpBlockType::AttnUpBlock2D, UpBlockType::UpBlock2D],
            block_out_channels: vec![8, 16],
            norm_num_groups: 4,
            layers_per_block: 1,
            ..UNet2dConfig::default()
        }
    }

    fn sample(shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn keeps_the_size_of_any_image_that_halves() {
        let device = Device::flex();
        let network = config().init(&device, 0).unwrap();
        for shape in [[1, 2, 8, 8], [3, 2, 4, 10], [2, 2, 2, 2]] {
            let timesteps = Tensor::full([shape[0]], 12.0, &device);
            let prediction = network.forward(sample(shape, &device), timesteps, None);
            assert_eq!(prediction.dims(), shape);
        }
    }

    #[test]
    fn images_of_a_batch_do_not_see_each_other() {
        let device = Device::flex();
        let network = config().init(&device, 0).unwrap();
        let samples = sample([3, 2, 8, 8], &device);
        let timesteps = Tensor::from_data([3.0, 500.0, 999.0], &device);
        let all = network.forward(samples.clone(), timesteps.clone(), None);
        for image in 0..3 {
            let alone = network.forward(
                samples.clone().narrow(0, image, 1),
                timesteps.clone().narrow(0, image, 1),
                None,
            );
            let difference = (alone - all.clone().narrow(0, image, 1)).abs().max();
            assert!(difference.into_scalar::<f32>() < 1e-5);
        }
    }

    #[test]
    fn one_level_is_that_of_all_images() {
        let device = Device::flex();
        let kinds = [
            TimeEmbeddingType::Positional,
            TimeEmbeddingType::Fourier,
            TimeEmbeddingType::NoisePowerInput,
        ];
        for kind in kinds {
            let config = UNet2dConfig {
                time_embedding_type: kind,
                resnet_time_scale_shift: match kind {
                    TimeEmbeddingType::Fourier => crate::TimeScaleShift::ScaleShift,
                    _ => crate::TimeScaleShift::Default,
                },
                ..config()
            };
            let network = config.init(&device, 0).unwrap();
            let samples = sample([3, 2, 8, 8], &device);
            let one = network.forward_at(samples.clone(), 500.0, 0.25, None);
            let each = network.forward_at_each(samples, [(500.0, 0.25); 3], None);
            assert_eq!(one.into_data(), each.into_data(), "{kind:?}");
        }
    }

    #[test]
    fn noise_power_changes_the_prediction_however_it_comes_in() {
        let device = Device::flex();
        for kind in [
            TimeEmbeddingType::NoisePower,
            TimeEmbeddingType::NoisePowerInput,
        ] {
            let config = UNet2dConfig {
                time_embedding_type: kind,
                ..config()
            };
            assert_eq!(config.condition(500.0, 0.25), 0.25);
            let network = config.init(&device, 0).unwrap();
            let samples = sample([1, 2, 8, 8], &device);
            let at = |power: f32| {
                network.forward(samples.clone(), Tensor::full([1], power, &device), None)
            };
            let change = (at(0.2) - at(0.8)).abs().max().into_scalar::<f32>();
            assert!(change > 1e-3, "{kind:?}: {change}");
        }
    }

    #[test]
    fn every_way_to_tell_the_time_has_an_answer_from_the_first_timestep_on() {
        let device = Device::flex();
        for kind in [
            TimeEmbeddingType::Positional,
            TimeEmbeddingType::Fourier,
            TimeEmbeddingType::Learned,
            TimeEmbeddingType::NoisePower,
            TimeEmbeddingType::NoisePowerInput,
        ] {
            let config = UNet2dConfig {
                time_embedding_type: kind,
                num_train_timesteps: Some(1000),
                ..config()
            };
            let network = config.init(&device, 0).unwrap();
            for (timestep, power) in [(0.0, 0.0), (1e-9, 1e-9), (0.5, 0.1), (999.0, 1.0)] {
                let samples = sample([1, 2, 8, 8], &device);
                let answer = network.forward_at(samples, timestep, power, None);
                let sum = answer.sum().into_scalar::<f32>();
                assert!(sum.is_finite(), "{kind:?} at {timestep}: {sum}");
            }
        }
    }

    #[test]
    fn noise_power_at_the_input_leaves_classes_no_way_in() {
        let config = UNet2dConfig {
            time_embedding_type: TimeEmbeddingType::NoisePowerInput,
            num_class_embeds: Some(3),
            ..config()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("`time_embedding_type` = "), "{error}");
    }

    #[test]
    fn dropout_is_at_work_only_in_training() {
        let dropping = UNet2dConfig {
            dropout: 0.5,
            ..config()
        };
        let device = Device::flex().autodiff();
        let network = dropping.init(&device, 0).unwrap();
        let samples = sample([1, 2, 8, 8], &device);
        let time = Tensor::<1>::full([1], 10.0, &device);
        let run = || {
            network
                .forward(samples.clone(), time.clone(), None)
                .into_data()
        };
        assert_ne!(run(), run());
        let (network, samples) = (network.valid(), samples.without_autodiff());
        let time = time.without_autodiff();
        let run = || {
            network
                .forward(samples.clone(), time.clone(), None)
                .into_data()
        };
        assert_eq!(run(), run());
    }

    #[test]
    #[should_panic(expected = "it needs class labels")]
    fn a_conditional_network_asks_for_labels() {
        let conditional = UNet2dConfig {
            num_class_embeds: Some(3),
            ..config()
        };
        let device = Device::flex();
        let network = conditional.init(&device, 0).unwrap();
        network.forward(
            sample([1, 2, 4, 4], &device),
            Tensor::ones([1], &device),
            None,
        );
    }
}
