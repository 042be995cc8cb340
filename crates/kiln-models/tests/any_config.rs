//! Every config either is refused with a sentence or makes a usable network.

use burn::tensor::{Device, Int, Tensor};
use kiln_models::{AutoencoderConfig, UNet2dConfig};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// Small numbers, and sometimes an impossible one.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (1u64..9).prop_map(Value::from),
        1 => select(vec![json!(0), json!(12), json!(16), json!(null), json!(-1), json!(1u64 << 40)]),
    ]
}

fn real() -> impl Strategy<Value = Value> {
    let extremes = [0.0, -1.0, 1e-300, 1e300, 1e-40, 1e39];
    prop_oneof![4 => (0.001..2.0).prop_map(Value::from), 1 => select(extremes.map(Value::from).to_vec())]
}

/// Some of these options, with values of their strategies.
fn options(
    all: Vec<(&'static str, BoxedStrategy<Value>)>,
) -> impl Strategy<Value = Map<String, Value>> {
    let count = all.len();
    subsequence(all, 0..=count).prop_flat_map(|some| {
        let (keys, values): (Vec<_>, Vec<_>) = some.into_iter().unzip();
        values.prop_map(move |values| {
            let keys = keys.iter().map(|&key| key.to_owned());
            keys.zip(values).collect()
        })
    })
}

fn word(words: &'static [&'static str]) -> BoxedStrategy<Value> {
    select(words).prop_map(Value::from).boxed()
}

/// Levels of small widths, with blocks from `down` and `up`.
fn levels(
    down: &'static [&'static str],
    up: &'static [&'static str],
) -> impl Strategy<Value = Map<String, Value>> {
    let level = (select(vec![2u64, 4, 6, 8]), select(down), select(up));
    prop::collection::vec(level, 1..4).prop_map(|levels| {
        let widths: Vec<_> = levels.iter().map(|level| level.0).collect();
        let down: Vec<_> = levels.iter().map(|level| level.1).collect();
        let up: Vec<_> = levels.iter().map(|level| level.2).collect();
        Map::from_iter([
            ("block_out_channels".to_owned(), json!(widths)),
            ("down_block_types".to_owned(), json!(down)),
            ("up_block_types".to_owned(), json!(up)),
            ("norm_num_groups".to_owned(), json!(2)),
            ("sample_size".to_owned(), json!(8)),
            ("layers_per_block".to_owned(), json!(1)),
        ])
    })
}

fn unet() -> impl Strategy<Value = Map<String, Value>> {
    let levels = levels(
        &["DownBlock2D", "AttnDownBlock2D"],
        &["UpBlock2D", "AttnUpBlock2D"],
    );
    let size = prop_oneof![
        (1u64..17).prop_map(Value::from),
        [1u64..17, 1u64..17].prop_map(|sides| json!(sides)),
    ];
    let types = &[
        "positional",
        "fourier",
        "learned",
        "noise_power",
        "noise_power_input",
    ];
    let options = options(vec![
        ("sample_size", size.boxed()),
        ("in_channels", number().boxed()),
        ("out_channels", number().boxed()),
        (
            "center_input_sample",
            any::<bool>().prop_map(Value::from).boxed(),
        ),
        ("time_embedding_type", word(types)),
        ("time_embedding_dim", number().boxed()),
        ("freq_shift", number().boxed()),
        (
            "flip_sin_to_cos",
            any::<bool>().prop_map(Value::from).boxed(),
        ),
        ("mid_block_type", Just(Value::Null).boxed()),
        ("layers_per_block", number().boxed()),
        ("mid_block_scale_factor", real().boxed()),
        (
            "downsample_padding",
            (0u64..3).prop_map(Value::from).boxed(),
        ),
        ("downsample_type", word(&["conv", "resnet"])),
        ("upsample_type", word(&["conv", "resnet"])),
        ("dropout", real().boxed()),
        ("attention_head_dim", number().boxed()),
        ("norm_num_groups", number().boxed()),
        ("attn_norm_num_groups", number().boxed()),
        ("norm_eps", real().boxed()),
        ("resnet_time_scale_shift", word(&["default", "scale_shift"])),
        ("add_attention", any::<bool>().prop_map(Value::from).boxed()),
        ("class_embed_type", word(&["timestep"])),
        ("num_class_embeds", number().boxed()),
        ("num_train_timesteps", number().boxed()),
    ]);
    joined(levels, options)
}

fn autoencoder() -> impl Strategy<Value = Map<String, Value>> {
    let levels = levels(
        &["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        &["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
    );
    let class = || select(vec!["VQModel", "AutoencoderKL"]).prop_map(Value::from);
    let options = options(vec![
        ("_class_name", class().boxed()),
        ("in_channels", number().boxed()),
        ("out_channels", number().boxed()),
        ("layers_per_block", number().boxed()),
        ("latent_channels", number().boxed()),
        ("sample_size", (1u64..17).prop_map(Value::from).boxed()),
        ("norm_num_groups", number().boxed()),
        ("scaling_factor", real().boxed()),
        (
            "mid_block_add_attention",
            any::<bool>().prop_map(Value::from).boxed(),
        ),
    ]);
    let of_class = |mut keys: Map<String, Value>, numbers: Vec<Value>, quantizer: Option<Value>| {
        let class = keys
            .entry("_class_name")
            .or_insert(json!("VQModel"))
            .clone();
        let own: &[&str] = match class == "VQModel" {
            true => &["num_vq_embeddings", "vq_embed_dim"],
            false => &["shift_factor"],
        };
        for (&key, number) in own.iter().zip(numbers) {
            keys.insert(key.to_owned(), number);
        }
        if class == "VQModel" {
            keys.extend(quantizer.map(|value| ("quantizer".to_owned(), value)));
        }
        keys
    };
    let numbers = prop::collection::vec(number(), 0..3);
    let quantizers = vec![
        None,
        Some(json!("vq")),
        Some(json!("simvq")),
        Some(json!({"fsq": {"levels": [4]}})),
        Some(json!({"fsq": {"levels": [3, 0]}})),
        Some(json!({"residual": {"tables": 2}})),
        Some(json!({"residual": {"tables": 0}})),
    ];
    (joined(levels, options), numbers, select(quantizers))
        .prop_map(move |(keys, numbers, quantizer)| of_class(keys, numbers, quantizer))
}

fn joined(
    first: impl Strategy<Value = Map<String, Value>>,
    second: impl Strategy<Value = Map<String, Value>>,
) -> impl Strategy<Value = Map<String, Value>> {
    (first, second).prop_map(|(first, second)| first.into_iter().chain(second).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_unet_is_refused_or_denoises(keys in unet()) {
        let device = Device::flex();
        let config = UNet2dConfig::from_json(&Value::Object(keys).to_string());
        let network = config.and_then(|config| config.init(&device, 0));
        if let Ok(network) = network {
            let config = network.config();
            let [height, width] = config.sample_size.unwrap().height_and_width();
            let sample = Tensor::ones([1, config.in_channels, height, width], &device);
            let has_classes = config.num_class_embeds.is_some() || config.class_embed_type.is_some();
            let labels = has_classes.then(|| Tensor::<1, Int>::zeros([1], &device));
            let out = network.forward_at(sample.clone(), 0.5, 0.5, labels.clone());
            prop_assert_eq!(out.dims(), [1, config.out_channels, height, width]);
            let levels = network.embed_levels([(0.9, 0.9), (0.5, 0.5)]);
            let same = levels.forward_at(sample, 0.5, 0.5, labels);
            let bits = |out: Tensor<4>| out.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
            prop_assert_eq!(bits(same), bits(out));
        }
    }

    #[test]
    fn an_autoencoder_is_refused_or_gives_images_back(keys in autoencoder()) {
        let device = Device::flex();
        let text = Value::Object(keys.clone()).to_string();
        if let Ok(network) = AutoencoderConfig::from_json(&text).and_then(|config| config.init(&device, 0)) {
            let outs = keys.get("out_channels").and_then(Value::as_u64).unwrap_or(3) as usize;
            let side = network.config().sample_size();
            let images = Tensor::ones([1, network.config().in_channels(), side, side], &device);
            let latents = network.normalised(network.encode(images));
            let [_, channels, height, _] = latents.dims();
            prop_assert_eq!([channels, height * network.config().downscale_factor()], [network.config().latent_dim(), side]);
            let images = network.decode(network.denormalised(latents));
            prop_assert_eq!(images.dims(), [1, outs, side, side]);
        }
    }
}
