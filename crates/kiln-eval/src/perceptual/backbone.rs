//! The three networks of LPIPS, as torchvision has them, up to the last features that it compares.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use kiln_data::TorchvisionWeights;
use kiln_kernels::{Convolution, Padding, Sampling, halving_max_pool};
use safetensors::Dtype;

use crate::EvalError;
use Part::{Compared, Conv, Fire, Pool};

/// A network that knows photographs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backbone {
    /// Simonyan and Zisserman 2015.
    Vgg16,
    /// Krizhevsky et al. 2012, in the form of Krizhevsky 2014.
    AlexNet,
    /// Iandola et al. 2016, version 1.1.
    SqueezeNet,
}

/// One operation of a network. All convolutions end in a ReLU.
#[derive(Clone, Copy)]
enum Part {
    /// A convolution: its number among torchvision's `features`, channels in and out, side, stride, border of zeros.
    Conv(usize, [usize; 2], usize, usize, usize),
    /// A 1x1 convolution, then a 1x1 and a 3x3 one side by side: its number, channels in, in between, and out of each.
    Fire(usize, [usize; 3]),
    /// Maxima of squares of this side, at every second place. Squares may extend over the edge if the last is true.
    Pool(usize, bool),
    /// These features are compared.
    Compared,
}

const VGG16: &[Part] = &[
    Conv(0, [3, 64], 3, 1, 1),
    Conv(2, [64, 64], 3, 1, 1),
    Compared,
    Pool(2, false),
    Conv(5, [64, 128], 3, 1, 1),
    Conv(7, [128, 128], 3, 1, 1),
    Compared,
    Pool(2, false),
    Conv(10, [128, 256], 3, 1, 1),
    Conv(12, [256, 256], 3, 1, 1),
    Conv(14, [256, 256], 3, 1, 1),
    Compared,
    Pool(2, false),
    Conv(17, [256, 512], 3, 1, 1),
    Conv(19, [512, 512], 3, 1, 1),
    Conv(21, [512, 512], 3, 1, 1),
    Compared,
    Pool(2, false),
    Conv(24, [512, 512], 3, 1, 1),
    Conv(26, [512, 512], 3, 1, 1),
    Conv(28, [512, 512], 3, 1, 1),
    Compared,
];

const ALEXNET: &[Part] = &[
    Conv(0, [3, 64], 11, 4, 2),
    Compared,
    Pool(3, false),
    Conv(3, [64, 192], 5, 1, 2),
    Compared,
    Pool(3, false),
    Conv(6, [192, 384], 3, 1, 1),
    Compared,
    Conv(8, [384, 256], 3, 1, 1),
    Compared,
    Conv(10, [256, 256], 3, 1, 1),
    Compared,
];

const SQUEEZENET: &[Part] = &[
    Conv(0, [3, 64], 3, 2, 0),
    Compared,
    Pool(3, true),
    Fire(3, [64, 16, 64]),
    Fire(4, [128, 16, 64]),
    Compared,
    Pool(3, true),
    Fire(6, [128, 32, 128]),
    Fire(7, [256, 32, 128]),
    Compared,
    Pool(3, true),
    Fire(9, [256, 48, 192]),
    Compared,
    Fire(10, [384, 48, 192]),
    Compared,
    Fire(11, [384, 64, 256]),
    Compared,
    Fire(12, [512, 64, 256]),
    Compared,
];

impl Backbone {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vgg16 => "VGG16",
            Self::AlexNet => "AlexNet",
            Self::SqueezeNet => "SqueezeNet 1.1",
        }
    }

    pub(super) fn download(self) -> TorchvisionWeights {
        match self {
            Self::Vgg16 => TorchvisionWeights::Vgg16,
            Self::AlexNet => TorchvisionWeights::AlexNet,
            Self::SqueezeNet => TorchvisionWeights::SqueezeNet,
        }
    }

    /// The smallest height and width of which each layer has an output.
    pub(super) fn smallest_side(self) -> usize {
        match self {
            Self::Vgg16 => 16,
            Self::AlexNet => 31,
            Self::SqueezeNet => 17,
        }
    }

    fn parts(self) -> &'static [Part] {
        match self {
            Self::Vgg16 => VGG16,
            Self::AlexNet => ALEXNET,
            Self::SqueezeNet => SQUEEZENET,
        }
    }

    /// The channels of the features that are compared.
    pub(super) fn channels(self) -> Vec<usize> {
        let mut channels = 3;
        let mut compared = Vec::new();
        for &part in self.parts() {
            match part {
                Conv(_, [_, out], ..) => channels = out,
                Fire(_, [.., out]) => channels = 2 * out,
                Pool(..) => {}
                Compared => compared.push(channels),
            }
        }
        compared
    }
}

/// A backbone with its weights.
#[derive(Module, Debug)]
pub(super) struct Layers {
    /// In the order of the network's parts; a fire has three.
    layers: Vec<Layer>,
    #[module(skip)]
    backbone: Backbone,
}

/// A convolution and ReLU.
#[derive(Module, Debug)]
struct Layer {
    /// `[channels_out, channels_in, side, side]`
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    stride: usize,
    border: usize,
}

impl Layers {
    /// Reads torchvision's file of the network, or a safetensors file with the same keys.
    pub(super) fn load(
        backbone: Backbone,
        path: &Path,
        device: &Device,
    ) -> Result<Self, EvalError> {
        // The layers after the features have most of the weights.
        let wanted = |key: &str| key.starts_with("features.");
        let mut file = File {
            backbone,
            path,
            tensors: kiln_checkpoint::read_tensors(path, crate::LARGEST, wanted)?,
            device,
        };
        let mut layers = Vec::new();
        for &part in backbone.parts() {
            match part {
                Conv(number, channels, side, stride, border) => {
                    let name = format!("features.{number}");
                    layers.push(file.layer(&name, channels, side, stride, border)?);
                }
                Fire(number, [channels_in, between, out]) => {
                    let mut layer = |name: &str, channels, side: usize| {
                        let name = format!("features.{number}.{name}");
                        file.layer(&name, channels, side, 1, side / 2)
                    };
                    layers.push(layer("squeeze", [channels_in, between], 1)?);
                    layers.push(layer("expand1x1", [between, out], 1)?);
                    layers.push(layer("expand3x3", [between, out], 3)?);
                }
                Pool(..) | Compared => {}
            }
        }
        if let Some(key) = file.tensors.keys().next() {
            return Err(file.wrong(format!("it has {}, too", key.escape_debug())));
        }
        Ok(Self { layers, backbone })
    }

    pub(super) fn backbone(&self) -> Backbone {
        self.backbone
    }

    /// The features that are compared, of `[batch, height, width, 3]`.
    pub(super) fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut layers = self.layers.iter();
        let mut next = |x: Tensor<4>| match layers.next() {
            Some(layer) => layer.forward(x),
            None => unreachable!("each part has its layers"),
        };
        let mut x = images;
        let mut compared = Vec::new();
        for &part in self.backbone.parts() {
            x = match part {
                Conv(..) => next(x),
                Fire(..) => {
                    let squeezed = next(x);
                    Tensor::cat(vec![next(squeezed.clone()), next(squeezed)], 3)
                }
                Pool(side, over_the_edge) => halving_max_pool(x, side, over_the_edge),
                Compared => {
                    compared.push(x.clone());
                    x
                }
            };
        }
        compared
    }
}

impl Layer {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let sampling = Sampling::Strided {
            stride: self.stride,
            padding: Padding::uniform(self.border),
        };
        let convolution = Convolution::new(x, self.weight.val(), sampling);
        relu(convolution.plus_bias(Some(self.bias.val())).forward())
    }
}

/// A file of weights, and the tensors that no layer has taken yet.
struct File<'a> {
    backbone: Backbone,
    path: &'a Path,
    tensors: BTreeMap<String, kiln_checkpoint::RawTensor>,
    device: &'a Device,
}

impl File<'_> {
    fn layer(
        &mut self,
        name: &str,
        [channels_in, channels_out]: [usize; 2],
        side: usize,
        stride: usize,
        border: usize,
    ) -> Result<Layer, EvalError> {
        let weight = self.take(
            &format!("{name}.weight"),
            [channels_out, channels_in, side, side],
        )?;
        let bias = self.take(&format!("{name}.bias"), [channels_out])?;
        Ok(Layer {
            weight,
            bias,
            stride,
            border,
        })
    }

    /// A parameter without gradients.
    fn take<const D: usize>(
        &mut self,
        key: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, EvalError> {
        let Some((dtype, found, bytes)) = self.tensors.remove(key) else {
            return Err(self.wrong(format!("{key} is missing")));
        };
        if found != shape {
            return Err(self.wrong(format!(
                "{key} has the shape {found:?} instead of {shape:?}"
            )));
        }
        let values = numbers(dtype, &bytes);
        if !values.iter().all(|value| value.is_finite()) {
            return Err(self.wrong(format!("{key} has numbers that are not finite")));
        }
        let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
        Ok(Param::initialized(ParamId::new(), tensor).set_require_grad(false))
    }

    fn wrong(&self, reason: String) -> EvalError {
        EvalError::Backbone {
            path: self.path.to_owned(),
            network: self.backbone.name(),
            file: self.backbone.download().file_name(),
            reason,
        }
    }
}

fn numbers(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F16 => of(bytes, |two| f16::from_le_bytes(two).to_f32()),
        Dtype::BF16 => of(bytes, |two| bf16::from_le_bytes(two).to_f32()),
        Dtype::F64 => of(bytes, |eight| f64::from_le_bytes(eight) as f32),
        // `read_tensors` gives floats only, and the rest of them are F32.
        _ => of(bytes, f32::from_le_bytes),
    }
}

fn of<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let chunks = bytes.as_chunks().0.iter();
    chunks.map(|&chunk| number(chunk)).collect()
}
