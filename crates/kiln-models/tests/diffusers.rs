//! Autoencoders and UNet2d against diffusers, on the fixtures of `tests/fixtures/models/make.py`.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use kiln_models::bottleneck::{Bottleneck, vq};
use kiln_models::{
    AutoencoderConfig, UNet2d, UNet2dConfig, VqVaeConfig, WeightsType, load_weights_from_bytes,
    save_weights,
};
use safetensors::{Dtype, SafeTensors};

/// Greatest difference from diffusers' outputs, relative to their greatest magnitude.
const OUTPUT_TOLERANCE: f32 = 1e-5;
/// The same for gradients.
const GRADIENT_TOLERANCE: f32 = 1e-4;

/// One file: a model, its inputs, and diffusers' outputs.
struct Fixture {
    config: String,
    /// A safetensors file of the weights alone.
    weights: Vec<u8>,
    tensors: Tensors,
}

/// Shapes and values under keys.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let numbers = |tensor: &safetensors::tensor::TensorView| -> Vec<f32> {
        let words = tensor.data().as_chunks().0.iter();
        match tensor.dtype() {
            Dtype::I32 => words.map(|&word| i32::from_le_bytes(word) as f32).collect(),
            _ => words.map(|&word| f32::from_le_bytes(word)).collect(),
        }
    };
    let tensors = file
        .iter()
        .filter(|(_, tensor)| tensor.dtype() != Dtype::F16);
    tensors
        .map(|(key, tensor)| (key.to_owned(), (tensor.shape().to_vec(), numbers(&tensor))))
        .collect()
}

impl Fixture {
    fn load(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models");
        let bytes = std::fs::read(format!("{folder}/{name}.safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let weights = file
            .iter()
            .filter_map(|(key, tensor)| Some((key.strip_prefix("weights.")?, tensor)));
        Self {
            config: header.metadata().as_ref().unwrap()["config"].clone(),
            weights: safetensors::serialize(weights, None).unwrap(),
            tensors: read(&bytes),
        }
    }

    fn tensor<const D: usize>(&self, key: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = &self.tensors[key];
        Tensor::from_data(TensorData::new(values.clone(), shape.clone()), device)
    }

    /// A U-Net's prediction for the sample, with the file's class labels or embeddings.
    fn predict(&self, model: &UNet2d, sample: Tensor<4>) -> Tensor<4> {
        let device = sample.device();
        let timesteps = self.tensor("input.timesteps", &device);
        let labels = self.tensors.get("input.class_labels");
        match labels.map(|(shape, _)| shape.len()) {
            None => model.forward(sample, timesteps, None),
            Some(1) => {
                let labels = self.tensor::<1>("input.class_labels", &device).int();
                model.forward(sample, timesteps, Some(labels))
            }
            Some(_) => {
                let embedding = self.tensor("input.class_labels", &device);
                model.forward_embedded(sample, timesteps, Some(embedding))
            }
        }
    }

    /// Asserts that `found` is close to the file's tensor `key`, and prints the difference.
    fn assert_near<const D: usize>(&self, key: &str, found: Tensor<D>, tolerance: f32) {
        assert_eq!(found.dims().to_vec(), self.tensors[key].0, "shape of {key}");
        let found: Vec<f32> = found.into_data().iter::<f32>().collect();
        self.assert_values_near(key, &found, tolerance);
    }

    fn assert_values_near(&self, key: &str, found: &[f32], tolerance: f32) {
        let expected = &self.tensors[key].1;
        assert_eq!(found.len(), expected.len(), "{key}");
        let greatest = expected
            .iter()
            .fold(0.0f32, |max, value| max.max(value.abs()));
        let pairs = found.iter().zip(expected);
        let error = pairs.fold(0.0f32, |max, (a, b)| max.max((a - b).abs())) / greatest;
        println!("{key}: {error:.1e}");
        assert!(error <= tolerance, "{key} is {error:e} off");
    }

    /// Asserts all gradients in the file: with respect to the sample and to some parameters.
    fn assert_gradients<M: Module>(&self, model: M, sample: &Tensor<4>, gradients: Gradients) {
        let of_sample = sample.grad(&gradients).unwrap();
        self.assert_near("gradient.sample", of_sample, GRADIENT_TOLERANCE);

        // The gradients replace their parameters, so that a saved file has them under diffusers' keys.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gradients.safetensors");
        let model = model.map(&mut ToGradients(gradients));
        save_weights(&model, &path, WeightsType::F32, &BTreeMap::new()).unwrap();
        let found = read(&std::fs::read(path).unwrap());
        let keys = self.tensors.keys();
        let keys = keys.filter_map(|key| key.strip_prefix("gradient."));
        let mut compared = 0;
        for key in keys.filter(|key| *key != "sample") {
            let (shape, values) = &found[key];
            let key = format!("gradient.{key}");
            assert_eq!(*shape, self.tensors[&key].0, "shape of {key}");
            self.assert_values_near(&key, values, GRADIENT_TOLERANCE);
            compared += 1;
        }
        assert!(compared > 4, "the fixture has gradients");
    }
}

struct ToGradients(Gradients);

impl ModuleMapper for ToGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let gradient = tensor.grad(&self.0).unwrap_or_else(|| tensor.zeros_like());
        Param::from_mapped_value(id, gradient, mapper)
    }
}

fn assert_unet(name: &str) {
    let fixture = Fixture::load(name);
    let mut config = UNet2dConfig::from_json(&fixture.config).unwrap();
    let run = |config: &UNet2dConfig, device: &Device| {
        let model = config.init(device, 0).unwrap();
        let model = load_weights_from_bytes(model, &fixture.weights).unwrap();
        let sample = fixture.tensor::<4>("input.sample", device);
        let sample = if device.is_autodiff() {
            sample.require_grad()
        } else {
            sample
        };
        let prediction = fixture.predict(&model, sample.clone());
        (model, sample, prediction)
    };

    let (_, _, prediction) = run(&config, &Device::flex());
    fixture.assert_near("output.prediction", prediction, OUTPUT_TOLERANCE);

    // Dropout is active when gradients are tracked; diffusers' gradients are without it.
    config.dropout = 0.0;
    let device = Device::flex().autodiff();
    let (model, sample, prediction) = run(&config, &device);
    fixture.assert_near("output.prediction", prediction.clone(), OUTPUT_TOLERANCE);
    let target = fixture.tensor("input.target", &device);
    let loss = (prediction - target).square().mean();
    fixture.assert_near("output.loss", loss.clone(), OUTPUT_TOLERANCE);
    fixture.assert_gradients(model, &sample, loss.backward());
}

fn assert_vqvae(name: &str) {
    let fixture = Fixture::load(name);
    let config = VqVaeConfig::from_json(&fixture.config).unwrap();
    let device = Device::flex().autodiff();
    let model = config.init(&device, 0).unwrap();
    let model = load_weights_from_bytes(model, &fixture.weights).unwrap();
    let sample = fixture.tensor::<4>("input.sample", &device).require_grad();

    let latents = model.encode(sample.clone());
    fixture.assert_near("output.latents", latents.clone(), OUTPUT_TOLERANCE);
    let decoded = model.decode(latents);
    fixture.assert_near("output.reconstruction", decoded, OUTPUT_TOLERANCE);

    let (reconstruction, passed) = model.forward(sample.clone(), None);
    let codes = passed.codes.clone().unwrap();
    let expected_codes: Tensor<3, Int> = fixture.tensor::<3>("output.codes", &device).int();
    assert_eq!(
        codes.to_data().iter::<i64>().collect::<Vec<_>>(),
        expected_codes.to_data().iter::<i64>().collect::<Vec<_>>()
    );
    let Bottleneck::Vq(quantizer) = &model.bottleneck else {
        panic!("a codebook")
    };
    let looked_up = quantizer.look_up(codes.squeeze_dim(1));
    fixture.assert_near("output.quantized", looked_up, OUTPUT_TOLERANCE);
    fixture.assert_near("output.quantized", passed.latents.clone(), OUTPUT_TOLERANCE);
    fixture.assert_near(
        "output.reconstruction",
        reconstruction.clone(),
        OUTPUT_TOLERANCE,
    );
    let [codebook_loss, commitment_loss] =
        [vq::CODEBOOK, vq::COMMITMENT].map(|name| passed.term(name).unwrap());
    fixture.assert_near(
        "output.codebook_loss",
        codebook_loss.clone(),
        OUTPUT_TOLERANCE,
    );
    fixture.assert_near(
        "output.commitment_loss",
        commitment_loss.clone(),
        OUTPUT_TOLERANCE,
    );

    let target = fixture.tensor("input.target", &device);
    let loss = (reconstruction - target).square().mean() + codebook_loss + commitment_loss * 0.25;
    fixture.assert_near("output.loss", loss.clone(), OUTPUT_TOLERANCE);
    fixture.assert_gradients(model, &sample, loss.backward());
}

#[test]
fn ddpm_unet_matches() {
    assert_unet("unet-ddpm");
}

#[test]
fn unet_with_classes_and_heads_matches() {
    assert_unet("unet-classes");
}

#[test]
fn unet_with_scale_shift_and_residual_resampling_matches() {
    assert_unet("unet-scale-shift");
}

#[test]
fn unet_with_fourier_embeddings_matches() {
    assert_unet("unet-fourier");
}

#[test]
fn unet_with_learned_timesteps_and_no_middle_matches() {
    assert_unet("unet-learned");
}

#[test]
fn unet_with_identity_class_embeddings_matches() {
    assert_unet("unet-identity");
}

#[test]
fn gray_vqvae_matches() {
    assert_vqvae("vqvae-gray");
}

#[test]
fn vqvae_with_attention_levels_matches() {
    assert_vqvae("vqvae-attention");
}

#[test]
fn vqvae_without_attention_in_the_middle_matches() {
    assert_vqvae("vqvae-plain");
}

fn assert_kl(name: &str) {
    let fixture = Fixture::load(name);
    let device = Device::flex();
    let config = AutoencoderConfig::from_json(&fixture.config).unwrap();
    assert_eq!(config.class(), "AutoencoderKL");
    let model = config.init(&device, 0).unwrap();
    assert!(model.bottleneck.codebook().is_none());
    let model = load_weights_from_bytes(model, &fixture.weights).unwrap();
    let latents = model.encode(fixture.tensor("input.sample", &device));
    let normalised = model.normalised(latents.clone());
    let back = model.denormalised(normalised.clone());
    fixture.assert_near("output.latents", back, OUTPUT_TOLERANCE);
    fixture.assert_near("output.normalised", normalised, OUTPUT_TOLERANCE);
    let decoded = model.decode(latents.clone());
    fixture.assert_near("output.reconstruction", decoded, OUTPUT_TOLERANCE);
    fixture.assert_near("output.latents", latents, OUTPUT_TOLERANCE);
    // What is written is what was read.
    let again = AutoencoderConfig::from_json(&config.to_json()).unwrap();
    assert_eq!(again, config);
    let again = again.init(&device, 0).unwrap();
    assert_eq!(again.num_params(), model.num_params());
}

#[test]
fn kl_like_stable_diffusions() {
    assert_kl("kl-stable");
}

#[test]
fn kl_without_quant_convolutions_and_with_a_shift() {
    assert_kl("kl-shifted");
}
