//! A network that is asked at the same levels again and again, as a drawing does.

use burn::tensor::{Int, Tensor};

use kiln_kernels::{AnyTensor, Repeated, copied, records_launches};

use super::embedding::{EmbeddedTimes, Widths};
use super::{UNet2d, vector};

/// A network and some levels whose embeddings are computed: see [`UNet2d::embed_levels`].
#[derive(Debug)]
pub struct EmbeddedLevels<'a> {
    network: &'a UNet2d,
    /// The network's input for each level.
    conditions: Vec<f32>,
    /// `None` without levels.
    embedded: Option<Embedded>,
    /// Of the parts of [`EmbeddedTimes::joined`].
    widths: Widths,
    /// The calls of the network.
    repeated: Repeated<'a, Tensor<4>>,
}

/// What is known of the levels.
#[derive(Debug)]
enum Embedded {
    /// All that the layers need.
    Whole(EmbeddedTimes),
    /// The timesteps `[levels]` and the time embedding `[levels, time_embedding_dim]` of a network with classes, which each
    /// call adds.
    WithoutClasses(Tensor<1>, Tensor<2>),
}

impl UNet2d {
    /// This network with the embeddings of `levels`, each a timestep and a noise power `b^2`.
    ///
    /// A call of [`Self::forward_at`] computes a single row in each linear layer for the time, and reads all their weights
    /// for it. Here all levels are the rows of one product for each layer, and a call takes its row. In a network with
    /// classes this covers the layers before the classes are added; those in the residual blocks come after.
    ///
    /// Embed with the precision of the calls, see [`with_precision`](kiln_kernels::with_precision).
    ///
    /// ```
    /// # use burn::tensor::{Device, Distribution, Tensor};
    /// # use kiln_models::UNet2dConfig;
    /// # let config = UNet2dConfig::from_json(
    /// #     r#"{ "_class_name": "UNet2DModel", "block_out_channels": [8], "norm_num_groups": 4, "in_channels": 1,
    /// #     "out_channels": 1, "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"] }"#,
    /// # )?;
    /// # let network = config.init(&Device::flex(), 0)?;
    /// # let sample = Tensor::<4>::random([2, 1, 8, 8], Distribution::Default, &Device::flex());
    /// let levels = [(900.0, 0.99), (500.0, 0.6), (100.0, 0.1)];
    /// let network = network.embed_levels(levels);
    /// for (timestep, noise_power) in levels {
    ///     let prediction = network.forward_at(sample.clone(), timestep, noise_power, None);
    ///     assert_eq!(prediction.dims(), [2, 1, 8, 8]);
    /// }
    /// # Ok::<(), kiln_models::ConfigError>(())
    /// ```
    ///
    /// # Panics
    /// If a `learned` timestep has no row in its table.
    pub fn embed_levels(&self, levels: impl IntoIterator<Item = (f64, f64)>) -> EmbeddedLevels<'_> {
        let levels = levels.into_iter();
        let conditions = levels.map(|(timestep, power)| self.condition(timestep, power));
        let conditions: Vec<f32> = conditions.collect();
        let embedded = (!conditions.is_empty()).then(|| {
            let timesteps = vector(conditions.clone(), &self.conv_in.weight.device());
            let time = self.embed_times(self.project_times(timesteps.clone()).projected);
            match self.class_embedding {
                Some(_) => Embedded::WithoutClasses(timesteps, time),
                None => Embedded::Whole(self.in_layers(timesteps, time, None)),
            }
        });
        EmbeddedLevels {
            network: self,
            conditions,
            embedded,
            widths: self.widths(),
            repeated: Repeated::default(),
        }
    }
}

impl EmbeddedLevels<'_> {
    /// [`UNet2d::forward_at`], with less work at the embedded levels. On a processor the results have the same bits. A GPU
    /// that records (see [`Repeated`]) keeps the precision of the first call with a shape.
    ///
    /// # Panics
    /// As [`UNet2d::forward`] does.
    pub fn forward_at(
        &self,
        sample: Tensor<4>,
        timestep: f64,
        noise_power: f64,
        class_labels: Option<Tensor<1, Int>>,
    ) -> Tensor<4> {
        let network = self.network;
        let condition = network.condition(timestep, noise_power);
        let index = self.conditions.iter().position(|known| *known == condition);
        let (Some(embedded), Some(index)) = (&self.embedded, index) else {
            return network.forward_at(sample, timestep, noise_power, class_labels);
        };
        let times = network.at_level(embedded, index, network.embed_classes(class_labels));
        match records_launches() {
            true => self.repeated(sample, times),
            false => network.forward_at_times(sample, times),
        }
    }

    /// The prediction, by launches that a GPU has recorded if it can.
    fn repeated(&self, sample: Tensor<4>, times: EmbeddedTimes) -> Tensor<4> {
        let (network, joined) = (self.network, times.joined());
        let at = |widths: &Widths, sample, joined| {
            network.forward_at_times(sample, widths.split(joined))
        };
        let inputs = AnyTensor::of(sample.clone()).zip(AnyTensor::of(joined.clone()));
        let found = inputs.and_then(|(images, matrix)| {
            let widths = self.widths.clone();
            let work = move |mut inputs: Vec<AnyTensor>| {
                let [images, matrix] = [inputs.remove(0), inputs.remove(0)];
                let (images, matrix) = (images.into_tensor(), matrix.into_tensor());
                move || at(&widths, images.clone(), matrix.clone())
            };
            let kept = |prediction: &Tensor<4>| copied(prediction.clone());
            (self.repeated).call(&sample.device(), vec![images, matrix], work, kept)
        });
        found.unwrap_or_else(|| at(&self.widths, sample, joined))
    }
}

impl UNet2d {
    /// What the layers need at one of the levels.
    fn at_level(
        &self,
        embedded: &Embedded,
        index: usize,
        class_embedding: Option<Tensor<2>>,
    ) -> EmbeddedTimes {
        match embedded {
            Embedded::Whole(times) => times.only(index),
            Embedded::WithoutClasses(timesteps, time) => self.in_layers(
                timesteps.clone().narrow(0, index, 1),
                time.clone().narrow(0, index, 1),
                class_embedding,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::{
        ClassEmbeddingType, DownBlockType, ResampleType, TimeEmbeddingType, TimeScaleShift,
        UNet2dConfig, UpBlockType,
    };

    /// More levels than a product computes rows at a time, and sums of more numbers than stay in the nearest cache.
    const LEVELS: usize = 40;
    const TIME_CHANNELS: usize = 160;

    /// A network with all kinds of layers.
    fn config(kind: TimeEmbeddingType, shift: TimeScaleShift) -> UNet2dConfig {
        UNet2dConfig {
            in_channels: 2,
            out_channels: 2,
            time_embedding_type: kind,
            time_embedding_dim: Some(TIME_CHANNELS),
            num_train_timesteps: Some(1000),
            down_block_types: vec![DownBlockType::AttnDownBlock2D, DownBlockType::DownBlock2D],
            up_block_types: vec![UpBlockType::UpBlock2D, UpBlockType::AttnUpBlock2D],
            block_out_channels: vec![8, 20],
            downsample_type: ResampleType::Resnet,
            upsample_type: ResampleType::Resnet,
            layers_per_block: 1,
            norm_num_groups: 4,
            resnet_time_scale_shift: shift,
            ..UNet2dConfig::default()
        }
    }

    fn levels() -> impl Iterator<Item = (f64, f64)> {
        (0..LEVELS).map(|level| (24.7 * level as f64, level as f64 / LEVELS as f64))
    }

    /// Compares the predictions at embedded levels and at another one with those of the network alone.
    fn same_bits(config: &UNet2dConfig, labels: Option<[i32; 3]>) {
        let device = Device::flex();
        let network = config.init(&device, 3).unwrap();
        let embedded = network.embed_levels(levels());
        let samples = Tensor::random([3, 2, 4, 4], Distribution::Normal(0.0, 1.0), &device);
        let labels = || labels.map(|labels| Tensor::from_ints(labels, &device));
        let mut predictions = Vec::new();
        let asked = levels().step_by(13).chain([(999.0, 0.999)]);
        for (timestep, power) in asked {
            let alone = network.forward_at(samples.clone(), timestep, power, labels());
            let found = embedded.forward_at(samples.clone(), timestep, power, labels());
            let [alone, found] = [alone, found].map(Tensor::into_data);
            assert_eq!(found, alone, "{config:?} at {timestep}");
            let class_embedding = network.embed_classes(labels());
            let condition = network.condition(timestep, power);
            if let Some(index) = (embedded.conditions.iter()).position(|known| *known == condition)
            {
                let times = embedded.embedded.as_ref();
                let times = network.at_level(times.unwrap(), index, class_embedding);
                let found = embedded.repeated(samples.clone(), times);
                assert_eq!(found.into_data(), alone, "{config:?} at {timestep}, joined");
            }
            assert!(!predictions.contains(&found), "{config:?} at {timestep}");
            predictions.push(found);
        }
    }

    #[test]
    fn embedded_levels_change_no_bit() {
        for kind in [
            TimeEmbeddingType::Positional,
            TimeEmbeddingType::Fourier,
            TimeEmbeddingType::Learned,
            TimeEmbeddingType::NoisePower,
            TimeEmbeddingType::NoisePowerInput,
        ] {
            for shift in [TimeScaleShift::Default, TimeScaleShift::ScaleShift] {
                let config = config(kind, shift);
                same_bits(&config, None);
                if kind == TimeEmbeddingType::NoisePowerInput {
                    continue;
                }
                for class_embed_type in [None, Some(ClassEmbeddingType::Timestep)] {
                    let with_classes = UNet2dConfig {
                        num_class_embeds: Some(4),
                        class_embed_type,
                        ..config.clone()
                    };
                    same_bits(&with_classes, Some([2, 0, 2]));
                }
            }
        }
    }

    #[test]
    fn bf16_products_change_no_bit_either() {
        let config = config(TimeEmbeddingType::Positional, TimeScaleShift::Default);
        kiln_kernels::with_exact_precision(kiln_kernels::Precision::Bf16, || {
            same_bits(&config, None);
        });
    }

    #[test]
    fn without_levels_it_is_the_network_alone() {
        let config = config(TimeEmbeddingType::Positional, TimeScaleShift::Default);
        let network = config.init(&Device::flex(), 0).unwrap();
        let sample = || Tensor::ones([1, 2, 4, 4], &Device::flex());
        let alone = network.forward_at(sample(), 5.0, 0.1, None);
        let found = network
            .embed_levels([])
            .forward_at(sample(), 5.0, 0.1, None);
        assert_eq!(found.into_data(), alone.into_data());
    }
}
