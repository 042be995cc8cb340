//! Weights files: loading gives what was saved, and checks everything in a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_models::{
    Autoencoder, VqVaeConfig, WeightsError, WeightsType, load_weights, load_weights_from_bytes,
    save_weights,
};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

fn init(config: &str, seed: u64) -> Autoencoder {
    let config = VqVaeConfig::from_json(config).unwrap();
    config.init(&Device::flex(), seed).unwrap()
}

fn model(seed: u64) -> Autoencoder {
    let config = r#"{ "block_out_channels": [4, 8], "norm_num_groups": 2, "num_vq_embeddings": 5,
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] }"#;
    init(config, seed)
}

fn codes(model: &Autoencoder) -> Tensor<2> {
    model.bottleneck.codebook().unwrap()
}

fn saved(model: &Autoencoder, weights_type: WeightsType) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    save_weights(model, &path, weights_type, &BTreeMap::new()).unwrap();
    std::fs::read(path).unwrap()
}

fn load(bytes: &[u8]) -> Result<Autoencoder, WeightsError> {
    load_weights_from_bytes(model(1), bytes)
}

/// A safetensors file made by hand: a header, and zeros.
fn file(header: &str, length: u64, data: usize) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// The file with every tensor edited by `edit`: unchanged, renamed, replaced or left out.
fn edited<'a>(
    bytes: &'a [u8],
    edit: impl Fn(&str, TensorView<'a>) -> Option<(String, TensorView<'a>)>,
) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors = file.iter().filter_map(|(key, tensor)| edit(key, tensor));
    safetensors::serialize(tensors, None).unwrap()
}

#[test]
fn f32_comes_back_exactly() {
    let original = model(0);
    let bytes = saved(&original, WeightsType::F32);
    let loaded = load(&bytes).unwrap();
    assert_eq!(saved(&loaded, WeightsType::F32), bytes);
    let image: Tensor<4> = Tensor::ones([1, 3, 4, 4], &Device::flex());
    let [expected, found] =
        [&original, &loaded].map(|model| model.encode(image.clone()).into_data());
    assert_eq!(expected, found);
}

#[test]
fn f16_comes_back_as_f32_to_three_digits() {
    let bytes = saved(&model(0), WeightsType::F16);
    let exact = saved(&model(0), WeightsType::F32);
    assert!(exact.len() - bytes.len() >= 2 * model(0).num_params());
    let loaded = load(&bytes).unwrap();
    assert_eq!(saved(&loaded, WeightsType::F16), bytes);
    let [found, expected] = [loaded, model(0)].map(|model| codes(&model).into_data());
    let tolerance = burn::tensor::Tolerance::<f32>::relative(1e-3);
    found.assert_approx_eq::<f32>(&expected, tolerance);
}

#[test]
fn keys_are_those_of_diffusers_with_metadata_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let metadata = BTreeMap::from([("dataset".to_owned(), "mnist".to_owned())]);
    save_weights(&model(0), &path, WeightsType::F32, &metadata).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(metadata["dataset"], "mnist");
    assert_eq!(metadata["format"], "pt");
    let shapes = [
        ("encoder.conv_in.weight", vec![4, 3, 3, 3]),
        (
            "encoder.down_blocks.1.attentions.0.to_out.0.weight",
            vec![8, 8],
        ),
        ("encoder.down_blocks.0.downsamplers.0.conv.bias", vec![4]),
        ("decoder.mid_block.attentions.0.group_norm.weight", vec![8]),
        (
            "decoder.up_blocks.1.resnets.0.conv_shortcut.weight",
            vec![4, 8, 1, 1],
        ),
        ("quantize.embedding.weight", vec![5, 3]),
    ];
    for (key, shape) in shapes {
        assert_eq!(header.info(key).unwrap().shape, shape, "{key}");
    }
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    save_weights(&model(0), &path, WeightsType::F32, &BTreeMap::new()).unwrap();
    save_weights(&model(7), &path, WeightsType::F32, &BTreeMap::new()).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert_eq!(before, saved(&model(7), WeightsType::F32));

    // A number that F16 cannot hold is found before anything is written.
    let mut broken = model(0);
    let codes = TensorData::new(vec![1e9f32; 15], [5, 3]);
    let codes = Tensor::from_data(codes, &Device::flex());
    broken.bottleneck = broken.bottleneck.with_codebook(codes);
    let refusal = save_weights(&broken, &path, WeightsType::F16, &BTreeMap::new()).unwrap_err();
    assert!(
        refusal.to_string().contains("`quantize.embedding.weight`"),
        "{refusal}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let nowhere = Path::new("/nonexistent/weights.safetensors");
    let refusal = save_weights(&model(0), nowhere, WeightsType::F32, &BTreeMap::new());
    assert!(matches!(refusal, Err(WeightsError::Write { .. })));
    assert!(matches!(
        load_weights(model(0), nowhere),
        Err(WeightsError::Read { .. })
    ));
}

/// Such as the `num_batches_tracked` and `position_ids` that PyTorch saves beside weights.
#[test]
fn integers_beside_the_weights_are_passed_over() {
    let bytes = saved(&model(0), WeightsType::F32);
    let counter = 7i64.to_le_bytes();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let counters = ["steps", "decoder.mask"]
        .into_iter()
        .zip([Dtype::I64, Dtype::U8]);
    let counters = counters.map(|(key, dtype)| {
        let length = if dtype == Dtype::I64 { 8 } else { 1 };
        let view = TensorView::new(dtype, vec![1], &counter[..length]).unwrap();
        (key.to_owned(), view)
    });
    let all: Vec<_> = file
        .iter()
        .map(|(key, tensor)| (key.to_owned(), tensor))
        .chain(counters)
        .collect();
    let loaded = load(&safetensors::serialize(all, None).unwrap()).unwrap();
    assert_eq!(saved(&loaded, WeightsType::F32), bytes);
}

#[test]
fn missing_and_unexpected_keys_are_named() {
    let bytes = saved(&model(0), WeightsType::F32);
    let renamed = edited(&bytes, |key, tensor| match key {
        "quantize.embedding.weight" => Some(("quantize.codes".to_owned(), tensor)),
        key if key.starts_with("decoder.mid_block") => None,
        key => Some((key.to_owned(), tensor)),
    });
    let refusal = load(&renamed).unwrap_err();
    let WeightsError::Keys { missing, unused } = &refusal else {
        panic!("{refusal}");
    };
    assert_eq!(unused, &["quantize.codes"]);
    assert!(missing.contains(&"quantize.embedding.weight".to_owned()));
    let text = refusal.to_string();
    assert!(text.contains("unexpected `quantize.codes`"), "{text}");
    assert!(
        text.contains(&format!("and {} more", missing.len() - 4)),
        "{text}"
    );
}

#[test]
fn other_shapes_and_types_are_named() {
    let bytes = saved(&model(0), WeightsType::F32);
    let replaced = |dtype, shape: &[usize], data: &[u8]| {
        let bytes = edited(&bytes, |key, tensor| {
            let tensor = match key {
                "quant_conv.bias" => TensorView::new(dtype, shape.to_vec(), data).unwrap(),
                _ => tensor,
            };
            Some((key.to_owned(), tensor))
        });
        load(&bytes)
            .map(|_| ())
            .map_err(|refusal| refusal.to_string())
    };
    let refusal = replaced(Dtype::F32, &[4], &[0; 16]).unwrap_err();
    assert!(
        refusal.contains("`quant_conv.bias` has shape [4]"),
        "{refusal}"
    );
    assert!(refusal.contains("[3]"), "{refusal}");
    let refusal = replaced(Dtype::I32, &[3], &[0; 12]).unwrap_err();
    assert!(
        refusal.contains("`quant_conv.bias` is of type I32"),
        "{refusal}"
    );
    for bad in [f32::NAN, f32::INFINITY] {
        let data: Vec<u8> = [0.0, bad, 0.0]
            .iter()
            .flat_map(|x: &f32| x.to_le_bytes())
            .collect();
        let refusal = replaced(Dtype::F32, &[3], &data).unwrap_err();
        assert!(refusal.contains("`quant_conv.bias` holds"), "{refusal}");
    }
    assert_eq!(replaced(Dtype::BF16, &[3], &[0; 6]), Ok(()));
}

#[test]
fn attention_keys_from_before_2023_are_read() {
    let bytes = saved(&model(0), WeightsType::F32);
    let renamed = edited(&bytes, |key, tensor| {
        let old = key
            .replace(".to_q.", ".query.")
            .replace(".to_k.", ".key.")
            .replace(".to_v.", ".value.")
            .replace(".to_out.0.", ".proj_attn.");
        Some((old, tensor))
    });
    assert_ne!(renamed, bytes);
    assert_eq!(saved(&load(&renamed).unwrap(), WeightsType::F32), bytes);
}

#[test]
fn a_key_in_both_spellings_is_refused() {
    let bytes = saved(&model(0), WeightsType::F32);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let layer = "decoder.mid_block.attentions.0";
    let old = file.tensor(&format!("{layer}.to_q.bias")).unwrap();
    let both = file.iter().map(|(key, tensor)| (key.to_owned(), tensor));
    let both = both.chain([(format!("{layer}.query.bias"), old)]);
    let both = safetensors::serialize(both, None).unwrap();
    let Err(WeightsError::Keys { unused, .. }) = load(&both) else {
        panic!("two tensors for one parameter were accepted");
    };
    assert_eq!(unused.len(), 1);
}

#[test]
fn lying_headers_are_refused() {
    let tensor = |shape: &str, offsets: &str| {
        let header = format!(
            r#"{{"quant_conv.bias":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#
        );
        file(&header, header.len() as u64, 16)
    };
    let files = [
        Vec::new(),
        vec![0; 7],
        file("{}", 2, 0),
        file("{}", u64::MAX, 0),
        file("{}", 1 << 40, 0),
        file("{}", 3, 0),
        file("[]", 2, 0),
        tensor("[4]", "[0,16]"),
        tensor("[4]", "[0,17]"),
        tensor("[4]", "[16,0]"),
        tensor("[4]", "[0,18446744073709551615]"),
        tensor("[18446744073709551615]", "[0,16]"),
        tensor("[4294967296,4294967296,4]", "[0,16]"),
        tensor("[-4]", "[0,16]"),
        tensor("[]", "[0,16]"),
    ];
    for bytes in files {
        assert!(
            load(&bytes).is_err(),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn loading_keeps_the_parameters_identities_and_gradients() {
    let bytes = saved(&model(0), WeightsType::F32);
    let device = Device::flex().autodiff();
    let fresh = model(3).config().init(&device, 3).unwrap();
    let ids = burn::module::list_param_ids(&fresh);
    let loaded = load_weights_from_bytes(fresh, &bytes).unwrap();
    assert_eq!(burn::module::list_param_ids(&loaded), ids);
    assert!(codes(&loaded).is_require_grad());
    // On a plain device the setting is kept until training begins.
    let trained = load(&bytes).unwrap().train();
    assert!(codes(&trained).is_require_grad());
}

/// A file to damage.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| saved(&model(0), WeightsType::F16));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(load(&bytes).is_err());
    }

    #[test]
    fn no_damage_panics(position in any::<prop::sample::Index>(), value: u8, keep in any::<prop::sample::Index>()) {
        let mut bytes = SOUND.clone();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let position = position.index(header);
        bytes[position] = value;
        let _ = load(&bytes);
        bytes.truncate(keep.index(bytes.len()));
        prop_assert!(load(&bytes).is_err());
    }
}

/// Large enough for weights that stay in their file.
fn large_model(seed: u64) -> Autoencoder {
    let config = r#"{ "block_out_channels": [32, 48], "norm_num_groups": 4, "num_vq_embeddings": 2048,
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] }"#;
    init(config, seed)
}

/// What a model makes of an image.
fn used(model: &Autoencoder) -> TensorData {
    let image = Tensor::<1, burn::tensor::Int>::arange(0..3 * 16 * 16, &Device::flex());
    let image = image.float().sin().reshape([1, 3, 16, 16]);
    model.decode(model.encode(image)).into_data()
}

#[test]
fn weights_that_stay_in_their_file_are_as_good_as_others() {
    let folder = tempfile::tempdir().unwrap();
    for weights_type in [WeightsType::F32, WeightsType::F16] {
        let bytes = saved(&large_model(0), weights_type);
        let path = folder.path().join("weights.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let in_memory = load_weights_from_bytes(large_model(1), &bytes).unwrap();
        let in_file = load_weights(large_model(1), &path).unwrap();
        // Another file in its place is another matter.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another").unwrap();
        assert_eq!(saved(&in_file, weights_type), bytes);
        assert_eq!(used(&in_file), used(&in_memory));
        assert_eq!(saved(&in_file, weights_type), bytes);
        // As at the beginning of a training.
        let learning = in_file.to_device(&Device::flex().autodiff());
        assert_eq!(saved(&learning, weights_type), bytes);
    }
}

/// Loads a model from a file, changes the file in its place, and uses the model.
fn used_after(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> TensorData {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let bytes = saved(&large_model(0), WeightsType::F32);
    std::fs::write(&path, &bytes).unwrap();
    let model = load_weights(large_model(1), &path).unwrap();
    std::fs::write(&path, change(bytes)).unwrap();
    used(&model)
}

#[test]
fn a_file_that_is_written_again_is_the_same() {
    assert_eq!(used_after(|bytes| bytes), used(&large_model(0)));
}

#[test]
#[cfg(unix)]
#[should_panic(expected = "the model cannot be used any more: `encoder.")]
fn a_file_that_becomes_another_is_told() {
    used_after(|_| b"another".to_vec());
}

#[test]
#[cfg(unix)]
#[should_panic(expected = "weights.safetensors: it is not what it was when the model was loaded")]
fn a_number_that_changes_in_its_file_is_told() {
    used_after(|mut bytes| {
        // The lowest bits of all numbers.
        let places = bytes.rchunks_exact_mut(4).take(1000);
        places.for_each(|number| number[0] ^= 1);
        bytes
    });
}
