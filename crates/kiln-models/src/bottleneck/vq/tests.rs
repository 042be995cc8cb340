use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
use safetensors::SafeTensors;

use super::quantizer::flatten;
use super::*;

/// Made by `tests/fixtures/quantizer/make.py` with diffusers.
const FIXTURE: &[u8] =
    include_bytes!("../../../../../tests/fixtures/quantizer/quantizer.safetensors");

fn fixture<const D: usize>(name: &str, device: &Device) -> Tensor<D> {
    let file = SafeTensors::deserialize(FIXTURE).expect("a safetensors file");
    let view = file.tensor(name).expect("a known tensor");
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    Tensor::from_data(TensorData::new(values, view.shape().to_vec()), device)
}

fn fixture_codes() -> Vec<i32> {
    let file = SafeTensors::deserialize(FIXTURE).expect("a safetensors file");
    let view = file.tensor("codes").expect("codes");
    view.data()
        .chunks_exact(4)
        .map(|bytes| i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect()
}

fn integers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
    tensor.into_data().iter::<i32>().collect()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn assert_close<const D: usize>(ours: Tensor<D>, expected: Tensor<D>) {
    ours.into_data()
        .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
}

fn quantizer_from_fixture(device: &Device) -> VectorQuantizer {
    VectorQuantizer::new(24, 3, device).with_codes(fixture("weight", device))
}

#[test]
fn finds_the_codes_and_losses_of_diffusers() {
    let device = Device::flex();
    let found = quantizer_from_fixture(&device).quantize(fixture("latents", &device));
    assert_eq!(found.codes.dims(), [2, 4, 5]);
    assert_eq!(integers(found.codes.clone()), fixture_codes());
    assert_close(found.quantized.clone(), fixture("quantized", &device));
    assert_close(found.codebook_loss.clone(), fixture("term", &device));
    assert_close(found.commitment_loss.clone(), fixture("term", &device));
    assert_close(found.loss(0.25), fixture("loss", &device));
}

#[test]
fn has_the_gradients_of_diffusers() {
    let device = Device::flex().autodiff();
    let quantizer = quantizer_from_fixture(&device);
    let latents = fixture::<4>("latents", &device).require_grad();
    let found = quantizer.quantize(latents.clone());
    let objective =
        (found.quantized.clone() * fixture("upstream", &device)).sum() + found.loss(0.25);
    let gradients = objective.backward();
    let plain = Device::flex();
    let of_latents = latents.grad(&gradients).expect("a gradient");
    let of_codes = quantizer
        .embedding
        .weight
        .grad(&gradients)
        .expect("a gradient");
    assert_close(of_latents, fixture("latents_gradient", &plain));
    assert_close(of_codes, fixture("weight_gradient", &plain));
}

#[test]
fn each_gradient_goes_where_it_belongs() {
    let device = Device::flex().autodiff();
    let quantizer = quantizer_from_fixture(&device);
    let latents = fixture::<4>("latents", &device).require_grad();
    let run = |pick: fn(Quantized) -> Tensor<1>| {
        let gradients = pick(quantizer.quantize(latents.clone())).backward();
        let of_codes = quantizer.embedding.weight.grad(&gradients);
        (latents.grad(&gradients), of_codes)
    };

    let (of_latents, of_codes) = run(|found| found.quantized.sum());
    let of_latents = of_latents.expect("the decoder's gradient reaches the encoder");
    assert_eq!(floats(of_latents), vec![1.0; 2 * 3 * 4 * 5]);
    assert!(
        of_codes.is_none(),
        "straight through must pass the codes by"
    );

    let (of_latents, of_codes) = run(|found| found.codebook_loss);
    assert!(
        of_latents.is_none(),
        "the codebook loss must not pull the encoder"
    );
    assert!(of_codes.is_some());

    let (of_latents, of_codes) = run(|found| found.commitment_loss);
    assert!(of_latents.is_some());
    assert!(
        of_codes.is_none(),
        "the commitment loss must not pull the codes"
    );
}

#[test]
fn every_code_finds_itself() {
    let device = Device::flex();
    let quantizer = quantizer_from_fixture(&device);
    let indices = Tensor::<1, Int>::arange(0..24, &device).reshape([2, 3, 4]);
    let latents = quantizer.look_up(indices.clone());
    assert_eq!(latents.dims(), [2, 3, 3, 4]);
    let found = quantizer.quantize(latents.clone());
    assert_eq!(integers(found.codes), integers(indices));
    assert_close(found.quantized, latents);
}

#[test]
fn the_only_parameter_is_the_codes() {
    let device = Device::flex();
    let quantizer = VectorQuantizer::new(7, 5, &device);
    assert_eq!(quantizer.num_params(), 35);
    let codes = floats(quantizer.codes());
    assert!(codes.iter().all(|code| code.abs() <= 1.0 / 7.0));
    assert!(codes.iter().any(|&code| code != codes[0]));
}

#[test]
fn normalised_codes_are_found_by_diffusers_euclidean_look_up() {
    let device = Device::flex();
    let quantizer = quantizer_from_fixture(&device).with_l2_normalize(true);
    // Latents of all lengths: their length must not affect a look-up by distance among codes of
    // length one.
    let latents = fixture::<4>("latents", &device).mul_scalar(7.0);
    let normalised = quantizer.quantize(latents.clone());
    let plain = quantizer.into_plain();
    let exported = plain.quantize(latents);
    assert_eq!(integers(normalised.codes), integers(exported.codes));
    normalised
        .quantized
        .into_data()
        .assert_approx_eq::<f32>(&exported.quantized.into_data(), Tolerance::absolute(1e-5));
    for code in floats(plain.codes()).chunks(3) {
        let length = code.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-6, "length {length}");
    }
}

#[test]
fn a_latent_of_zero_has_a_finite_gradient_when_normalised() {
    let device = Device::flex().autodiff();
    let quantizer = quantizer_from_fixture(&device).with_l2_normalize(true);
    let latents = Tensor::<4>::zeros([1, 3, 1, 1], &device).require_grad();
    let gradients = quantizer.quantize(latents.clone()).loss(1.0).backward();
    let gradient = latents.grad(&gradients).expect("a gradient");
    assert!(floats(gradient).iter().all(|value| value.is_finite()));
}

#[test]
fn new_codes_keep_the_parameter() {
    let device = Device::flex().autodiff();
    let quantizer = VectorQuantizer::new(24, 3, &device);
    let id = quantizer.embedding.weight.id;
    let quantizer = quantizer.with_codes(fixture("weight", &Device::flex()));
    assert_eq!(quantizer.embedding.weight.id, id);
    assert!(quantizer.embedding.weight.is_require_grad());
    let frozen = quantizer
        .set_require_grad(false)
        .with_codes(fixture("weight", &device));
    assert!(!frozen.embedding.weight.is_require_grad());
    assert!(frozen.embedding.weight.is_autodiff());
    assert!(!frozen.valid().embedding.weight.is_autodiff());
}

#[test]
fn kmeans_start_puts_codes_among_the_latents() {
    let device = Device::flex();
    let latents = fixture::<4>("latents", &device).add_scalar(100.0);
    let quantizer =
        VectorQuantizer::new(8, 3, &device).with_kmeans(latents.clone(), 10, 1, &mut |_| true);
    let before = VectorQuantizer::new(8, 3, &device).quantize(latents.clone());
    let after = quantizer.quantize(latents);
    let loss = |found: Quantized| floats(found.commitment_loss)[0];
    assert!(loss(after.clone()) < 1.0, "{}", loss(after));
    assert!(loss(before) > 5000.0);
}

#[test]
fn statistics_of_shards_add_up_to_those_of_the_batch() {
    let device = Device::flex();
    for l2_normalize in [false, true] {
        let quantizer = quantizer_from_fixture(&device).with_l2_normalize(l2_normalize);
        let latents = fixture::<4>("latents", &device);
        // Eight images made from two, each pair half as far out as the previous one.
        let latents = Tensor::cat(
            (0..4)
                .map(|power| latents.clone() * 0.5_f64.powi(power))
                .collect(),
            0,
        );
        let codes = quantizer.nearest(latents.clone());
        let of = |first: usize, len: usize| {
            let position = BatchPosition {
                seed: 5,
                step: 17,
                first_image: first,
                total_images: 8,
            };
            quantizer.statistics(
                latents.clone().narrow(0, first, len),
                codes.clone().narrow(0, first, len),
                position,
            )
        };
        let whole = of(0, 8);
        assert_eq!(floats(whole.counts.clone().sum()), [160.0]);
        for shards in [2, 4, 8] {
            let len = 8 / shards;
            let sum = (1..shards).fold(of(0, len), |sum, shard| sum + of(shard * len, len));
            assert_eq!(floats(sum.counts), floats(whole.counts.clone()));
            // Exactly one shard contributes to each candidate.
            assert_eq!(floats(sum.candidates), floats(whole.candidates.clone()));
            sum.sums.into_data().assert_approx_eq::<f32>(
                &whole.sums.clone().into_data(),
                Tolerance::absolute(1e-5),
            );
        }
    }
}

#[test]
fn candidates_are_latents_and_change_with_the_step() {
    let device = Device::flex();
    let quantizer = quantizer_from_fixture(&device);
    let latents = fixture::<4>("latents", &device);
    let codes = quantizer.nearest(latents.clone());
    let candidates = |step| {
        let position = BatchPosition {
            seed: 1,
            step,
            first_image: 0,
            total_images: 2,
        };
        floats(
            quantizer
                .statistics(latents.clone(), codes.clone(), position)
                .candidates,
        )
    };
    let rows = floats(flatten(latents.clone()));
    for candidate in candidates(3).chunks(3) {
        assert!(rows.chunks(3).any(|row| row == candidate));
    }
    assert_eq!(candidates(3), candidates(3));
    assert_ne!(candidates(3), candidates(4));
}

#[test]
fn statistics_survive_packing() {
    let device = Device::flex();
    let statistics = CodeStatistics {
        counts: Tensor::from_data([1.0, 2.0], &device),
        sums: Tensor::from_data([[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]], &device),
        candidates: Tensor::from_data([[9.0, 10.0, 11.0], [12.0, 13.0, 14.0]], &device),
    };
    let copy = CodeStatistics::unpacked(statistics.clone().packed());
    assert_eq!(floats(copy.counts), floats(statistics.counts));
    assert_eq!(floats(copy.sums), floats(statistics.sums));
    assert_eq!(floats(copy.candidates), floats(statistics.candidates));
}

#[test]
fn perplexity_lies_between_one_and_all() {
    assert!((perplexity(&[5.0; 16]) - 16.0).abs() < 1e-9);
    assert!((perplexity(&[0.0, 9.0, 0.0]) - 1.0).abs() < 1e-12);
    assert!((perplexity(&[1.0, 1.0, 0.0, 0.0]) - 2.0).abs() < 1e-12);
    assert_eq!(perplexity(&[0.0; 4]), 0.0);
    assert_eq!(perplexity(&[]), 0.0);
    assert_eq!(codes_in_use(&[0.0, 0.5, 3.0, 0.0]), 2);
}
