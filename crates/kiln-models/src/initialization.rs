//! PyTorch's initial weights, drawn on the host from a seed.
//!
//! Burn draws them from a generator that all threads of the process share, so two runs with the same seed may differ.
//! Here every parameter has its own generator, keyed by the seed and the parameter's name.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use sha2::{Digest, Sha256};

use crate::bottleneck::sim_vq::SimVq;
use crate::keys::KeyPath;

/// Standard deviation of the random frequencies of a timestep: diffusers' choice for `UNet2DModel`.
pub(crate) const FOURIER_SCALE: f32 = 16.0;

/// The module whose parameters will be drawn from `seed`, when they are first used: loading weights into the module
/// draws nothing.
pub fn seeded<M: Module>(module: M, seed: u64) -> M {
    module.map(&mut Seeding {
        seed,
        path: KeyPath::default(),
        bound: 0.0,
    })
}

/// How a parameter's values are distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Law {
    /// Uniform between minus and plus this.
    Uniform(f32),
    /// Normal around 0 with this standard deviation.
    Normal(f32),
}

struct Seeding {
    seed: u64,
    path: KeyPath,
    /// The bound of the last weights: a bias has the bound of the weights before it.
    bound: f32,
}

impl Seeding {
    /// PyTorch's defaults. `None` for normalisations, whose ones and zeros need no draw.
    fn law(&mut self, shape: &Shape) -> Option<Law> {
        match self.path.owner() {
            "Conv2d" | "Linear" => {
                // kaiming_uniform with a = sqrt(5), which equals 1 / sqrt(fan_in).
                let fan_in = match **shape {
                    [inputs, _] => Some(inputs),
                    [_, inputs, height, width] => Some(inputs * height * width),
                    _ => None,
                };
                if let Some(fan_in) = fan_in {
                    self.bound = 1.0 / (fan_in as f32).sqrt();
                }
                Some(Law::Uniform(self.bound))
            }
            "Embedding" if self.path.key().starts_with("quantize.") => {
                Some(Law::Uniform(1.0 / shape[0] as f32))
            }
            "Embedding" => Some(Law::Normal(1.0)),
            "SimVq" => Some(Law::Normal(SimVq::deviation(shape[1]) as f32)),
            "FourierProjection" => Some(Law::Normal(FOURIER_SCALE)),
            _ => None,
        }
    }
}

impl ModuleMapper for Seeding {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        let Some(law) = self.law(&shape) else {
            return param;
        };
        let (seed, key) = (self.seed, self.path.key());
        let trained = !["FourierProjection", "SimVq"].contains(&self.path.owner());
        let drawn_shape = shape.clone();
        let draw = move |device: &Device, require_grad: bool| {
            let values = draw(law, seed, &key, drawn_shape.num_elements());
            let tensor = Tensor::from_data(TensorData::new(values, drawn_shape), device);
            if require_grad {
                tensor.require_grad()
            } else {
                tensor
            }
        };
        Param::uninitialized(param.id, draw, param.lazy_device(), trained, shape)
    }
}

/// `count` values that depend only on the arguments.
fn draw(law: Law, seed: u64, key: &str, count: usize) -> Vec<f32> {
    let digest = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(key)
        .finalize();
    let mut generator = ChaCha8Rng::from_seed(digest.into());
    let mut value = || match law {
        Law::Uniform(bound) => bound * (2.0 * generator.random::<f32>() - 1.0),
        Law::Normal(deviation) => deviation * generator.sample::<f32, _>(StandardNormal),
    };
    (0..count).map(|_| value()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottleneck::QuantizerConfig;
    use crate::parameters::Parameter;
    use crate::{TimeEmbeddingType, UNet2d, UNet2dConfig, VqVaeConfig};

    fn unet_config() -> UNet2dConfig {
        UNet2dConfig {
            down_block_types: vec![crate::DownBlockType::AttnDownBlock2D],
            up_block_types: vec![crate::UpBlockType::UpBlock2D],
            block_out_channels: vec![32],
            norm_num_groups: 8,
            num_class_embeds: Some(64),
            time_embedding_type: TimeEmbeddingType::Fourier,
            ..UNet2dConfig::default()
        }
    }

    fn unet(seed: u64) -> UNet2d {
        unet_config().init(&Device::flex(), seed).unwrap()
    }

    fn values(module: &impl Module) -> Vec<(String, Vec<f32>)> {
        let parameters = Parameter::all_of(module).into_iter();
        parameters
            .map(|(key, parameter)| (key, parameter.values))
            .collect()
    }

    #[test]
    fn a_seed_decides_all_and_another_seed_changes_all() {
        // The process-wide generator must have no effect.
        Device::flex().seed(1);
        let first = values(&unet(0));
        Device::flex().seed(2);
        assert_eq!(values(&unet(0)), first);
        for ((key, values), (_, others)) in values(&unet(1)).iter().zip(&first) {
            assert_eq!(values == others, key.contains("norm"), "{key}");
        }
    }

    #[test]
    fn a_parameter_does_not_depend_on_the_rest_of_the_network() {
        let deeper = UNet2dConfig {
            layers_per_block: 3,
            ..unet_config()
        };
        let deeper = deeper.init(&Device::flex(), 0).unwrap();
        let key = "down_blocks.0.attentions.1.to_q.weight";
        assert_eq!(
            Parameter::all_of(&deeper)[key].values,
            Parameter::all_of(&unet(0))[key].values
        );
    }

    #[test]
    fn laws_are_those_of_pytorch() {
        for (key, values) in values(&unet(0)) {
            let count = values.len() as f32;
            let greatest = values
                .iter()
                .fold(0.0f32, |max, value| max.max(value.abs()));
            let deviation = (values.iter().map(|value| value * value).sum::<f32>() / count).sqrt();
            let uniform = |fan_in: f32| {
                let bound = fan_in.sqrt().recip();
                assert!(
                    greatest <= bound && greatest > 0.9 * bound,
                    "{key}: {greatest}"
                );
                let expected = bound / 3.0f32.sqrt();
                assert!(
                    (deviation / expected - 1.0).abs() < 0.2,
                    "{key}: {deviation}"
                );
            };
            let normal = |expected: f32| {
                assert!(
                    (deviation / expected - 1.0).abs() < 0.3,
                    "{key}: {deviation}"
                );
                assert!(greatest > 1.5 * expected, "{key}: {greatest}");
            };
            match key.as_str() {
                key if key.contains("norm") && key.ends_with("weight") => {
                    assert!(values.iter().all(|&value| value == 1.0), "{key}");
                }
                key if key.contains("norm") => {
                    assert!(values.iter().all(|&value| value == 0.0), "{key}");
                }
                // Inputs: 128 of the second linear layer and of the projections of time, 64 of the first.
                "time_embedding.linear_1.weight" => uniform(64.0),
                "time_embedding.linear_2.weight" | "time_embedding.linear_2.bias" => uniform(128.0),
                "down_blocks.0.resnets.0.conv1.weight" => uniform(9.0 * 32.0),
                "down_blocks.0.resnets.0.time_emb_proj.bias" => uniform(128.0),
                "down_blocks.0.attentions.0.to_q.weight" => uniform(32.0),
                "conv_in.weight" => uniform(27.0),
                "class_embedding.weight" => normal(1.0),
                "time_proj.weight" => normal(16.0),
                _ => assert!(greatest > 0.0 && greatest < 1.0, "{key}: {greatest}"),
            }
        }
    }

    #[test]
    fn codes_start_near_zero() {
        let config = VqVaeConfig {
            num_vq_embeddings: 50,
            ..VqVaeConfig::default()
        };
        let model = config.init(&Device::flex(), 0).unwrap();
        let codes = &Parameter::all_of(&model)["quantize.embedding.weight"].values;
        let greatest = codes.iter().fold(0.0f32, |max, code| max.max(code.abs()));
        assert!(greatest <= 1.0 / 50.0 && greatest > 0.9 / 50.0);
    }

    #[test]
    fn quantizers_of_kilns_own_start_from_the_seed() {
        let of = |quantizer: QuantizerConfig, seed| {
            let config = VqVaeConfig {
                num_vq_embeddings: 4096,
                vq_embed_dim: Some(4),
                quantizer,
                ..VqVaeConfig::default()
            };
            let mut values = values(&config.init(&Device::flex(), seed).unwrap());
            values.retain(|(key, _)| key.starts_with("quantize."));
            values
        };
        let simvq = of(QuantizerConfig::SimVq, 0);
        let keys: Vec<_> = simvq.iter().map(|(key, _)| key.as_str()).collect();
        let expected = ["quantize.code_transform.weight", "quantize.frozen_codebook"];
        assert_eq!(keys, expected);
        assert_eq!(simvq, of(QuantizerConfig::SimVq, 0));
        assert_ne!(simvq, of(QuantizerConfig::SimVq, 1));
        let frozen = &simvq[1].1;
        let power = frozen.iter().map(|value| value * value).sum::<f32>() / frozen.len() as f32;
        assert!((power - 0.25).abs() < 0.01, "{power}");

        let residual = of(QuantizerConfig::Residual { tables: 2 }, 0);
        let keys: Vec<_> = residual.iter().map(|(key, _)| key.as_str()).collect();
        let table = |index| format!("quantize.tables.{index}.embedding.weight");
        assert_eq!(keys, [table(0), table(1)]);
        assert_ne!(residual[0].1, residual[1].1);
        let fsq = QuantizerConfig::Fsq { levels: vec![8; 4] };
        assert_eq!(of(fsq, 0), []);
    }

    #[test]
    fn all_but_random_frequencies_are_trained() {
        struct Frozen(Vec<String>, KeyPath);
        impl burn::module::ModuleVisitor for Frozen {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.1.enter(name, container_type);
            }
            fn exit_module(&mut self, _name: &str, _container_type: &str) {
                self.1.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if !param.val().is_require_grad() {
                    self.0.push(self.1.key());
                }
            }
        }
        let network = unet_config().init(&Device::flex().autodiff(), 0).unwrap();
        let mut frozen = Frozen(Vec::new(), KeyPath::default());
        network.visit(&mut frozen);
        assert_eq!(frozen.0, ["time_proj.weight"]);
        let mut frozen = Frozen(Vec::new(), KeyPath::default());
        unet(0).train().visit(&mut frozen);
        assert_eq!(frozen.0, ["time_proj.weight"]);
        let config = VqVaeConfig {
            quantizer: QuantizerConfig::SimVq,
            ..VqVaeConfig::default()
        };
        let mut frozen = Frozen(Vec::new(), KeyPath::default());
        let network = config.init(&Device::flex().autodiff(), 0).unwrap();
        network.visit(&mut frozen);
        assert_eq!(frozen.0, ["quantize.frozen_codebook"]);
    }
}
