//! PyTorch's initial weights, drawn on the host from a seed.
//!
//! Burn draws them from a generator that is shared by all threads of the process, so that two runs with
//! the same seed may differ. Here every parameter has a generator of its own, keyed by the seed and the
//! parameter's name.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use sha2::{Digest, Sha256};

use crate::keys::KeyPath;
use crate::unet::FOURIER_SCALE;

/// The module with its parameters to be drawn from `seed`. Nothing is drawn before it is needed: loading
/// weights into the module costs no draws.
pub(crate) fn seeded<M: Module>(module: M, seed: u64) -> M {
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
    /// The bound of the weights seen last: a bias has that of the weights before it.
    bound: f32,
}

impl Seeding {
    /// PyTorch's defaults. `None` for normalisations, whose ones and zeros need no draw.
    fn law(&mut self, shape: &Shape) -> Option<Law> {
        match self.path.owner() {
            "Conv2d" | "Linear" => {
                // kaiming_uniform with a = sqrt(5), which comes to 1 / sqrt(fan_in).
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
        let trained = self.path.owner() != "FourierProjection";
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

/// `count` values that depend on nothing but the arguments.
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
