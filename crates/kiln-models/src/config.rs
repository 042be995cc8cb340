//! The common part of the two configs: reading and writing diffusers' `config.json`, and checks of sizes.

use burn::module::Module;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ConfigError;
use crate::memory::too_little_memory;

/// The diffusers version whose behaviour we follow; written into every `config.json`.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// More channels than any such network has; stops a damaged config from asking for all memory.
const MAX_CHANNELS: usize = 16_384;
/// More halvings than any image survives.
const MAX_LEVELS: usize = 12;
/// More layers per level than any such network has.
const MAX_LAYERS: usize = 64;
/// More pixels along a side than any network here gets.
const MAX_SIDE: usize = 1 << 16;
/// More rows than any codebook or class table here has.
pub(crate) const MAX_ROWS: usize = 1 << 22;

/// More parameters than networks of these classes have (16 GB): stops a damaged config from asking for all memory.
const MAX_PARAMETERS: usize = 4_000_000_000;

/// Reads a config of the diffusers class `class`. It ignores keys that begin with `_`, diffusers' own bookkeeping
/// (`_diffusers_version`, `_name_or_path`), and unknown keys that are null.
pub(crate) fn from_json<C>(text: &str, class: &'static str) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Serialize + Default,
{
    from_json_with(text, class, &[])
}

/// Like [`from_json`], for a config with keys that it does not write at their defaults, `unwritten`.
pub(crate) fn from_json_with<C>(
    text: &str,
    class: &'static str,
    unwritten: &[&str],
) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Serialize + Default,
{
    let keys: Map<String, Value> = serde_json::from_str(text)
        .map_err(|problem| ConfigError::NotAnObject(problem.to_string()))?;
    if let Some(found) = keys.get("_class_name").and_then(Value::as_str)
        && found != class
    {
        return Err(ConfigError::OtherClass {
            found: found.to_owned(),
            expected: class,
        });
    }
    // A null option of another release asks for nothing.
    let mut valid = to_map(&C::default());
    valid.extend(unwritten.iter().map(|&key| (key.to_owned(), Value::Null)));
    let keys: Map<String, Value> = keys
        .into_iter()
        .filter(|(key, _)| !key.starts_with('_'))
        .filter(|(key, value)| valid.contains_key(key) || !value.is_null())
        .collect();

    // Every key has a default, so each can be read on its own. This way the error names the key, which serde does not.
    for (key, value) in &keys {
        if !valid.contains_key(key) {
            return Err(ConfigError::UnknownKey {
                key: key.clone(),
                value: value.to_string(),
                valid: valid.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        }
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        if let Err(problem) = serde_json::from_value::<C>(Value::Object(alone)) {
            return Err(invalid(key, value, problem));
        }
    }
    serde_json::from_value(Value::Object(keys))
        .map_err(|problem| ConfigError::NotAnObject(problem.to_string()))
}

/// Whether diffusers before release `[major, minor]` wrote a config; a config without a version counts as current.
pub(crate) fn was_written_before(text: &str, release: [u32; 2]) -> bool {
    let written = key(text, "_diffusers_version");
    let written = written
        .as_ref()
        .and_then(Value::as_str)
        .and_then(|version| {
            let mut numbers = version.split('.').map(|number| number.parse().ok());
            Some([numbers.next()??, numbers.next()??])
        });
    written.is_some_and(|written: [u32; 2]| written < release)
}

/// The class of models that a config belongs to, if it names one.
pub(crate) fn class_name(text: &str) -> Option<String> {
    let name = key(text, "_class_name")?;
    Some(name.as_str()?.to_owned())
}

/// Whether a config has a key.
pub(crate) fn has_key(text: &str, name: &str) -> bool {
    key(text, name).is_some()
}

fn key(text: &str, name: &str) -> Option<Value> {
    let mut keys: Map<String, Value> = serde_json::from_str(text).ok()?;
    keys.remove(name)
}

/// Writes a config as diffusers does, so that `from_pretrained` reads it.
pub(crate) fn to_json<C: Serialize>(config: &C, class: &str) -> String {
    let mut keys = Map::from_iter([
        ("_class_name".to_owned(), class.into()),
        ("_diffusers_version".to_owned(), DIFFUSERS_VERSION.into()),
    ]);
    for (key, value) in to_map(config) {
        // TOML's word for null, see `or_none`.
        let value = if value == "none" { Value::Null } else { value };
        keys.insert(key, value);
    }
    format!("{:#}\n", Value::Object(keys))
}

fn to_map<C: Serialize>(config: &C) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(keys)) => keys,
        // A struct of numbers, words and lists is always a JSON object.
        _ => Map::new(),
    }
}

pub(crate) fn invalid(key: &str, value: impl Serialize, problem: impl ToString) -> ConfigError {
    ConfigError::Invalid {
        key: key.to_owned(),
        value: serde_json::to_string(&value).unwrap_or_default(),
        problem: problem.to_string(),
    }
}

/// `Ok` if `holds`, otherwise the error that names `key`, its `value` and the `problem`.
pub(crate) fn require(
    holds: bool,
    key: &str,
    value: impl Serialize,
    problem: &str,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(invalid(key, value, problem))
    }
}

/// Refuses zero channels and absurdly many.
pub(crate) fn require_channels(key: &str, channels: usize) -> Result<(), ConfigError> {
    let problem = format!("it must be from 1 to {MAX_CHANNELS}");
    require(
        (1..=MAX_CHANNELS).contains(&channels),
        key,
        channels,
        &problem,
    )
}

/// Refuses numbers of channels that no image has. Training and drawing check that both are equal: diffusers' layout
/// allows autoencoders where they differ.
pub(crate) fn require_image_channels(ins: usize, outs: usize) -> Result<(), ConfigError> {
    require_channels("in_channels", ins)?;
    require_channels("out_channels", outs)
}

/// Refuses a factor outside f32's range, which would make latents infinite or zero.
pub(crate) fn require_scaling_factor(factor: f64) -> Result<(), ConfigError> {
    let (holds, inverse) = (
        (factor as f32).is_normal(),
        ((1.0 / factor) as f32).is_normal(),
    );
    let problem = "it must be a positive number, not too large or too small for f32";
    require(
        factor > 0.0 && holds && inverse,
        "scaling_factor",
        factor,
        problem,
    )
}

/// Refuses an empty and an absurdly long table.
pub(crate) fn require_rows(key: &str, rows: usize) -> Result<(), ConfigError> {
    let problem = format!("it must be from 1 to {MAX_ROWS}");
    require((1..=MAX_ROWS).contains(&rows), key, rows, &problem)
}

/// Checks the levels of an encoder and decoder: their number, widths, depth and group norms.
pub(crate) fn require_levels(
    block_out_channels: &[usize],
    down_blocks: usize,
    up_blocks: usize,
    layers_per_block: usize,
    norm_num_groups: usize,
) -> Result<(), ConfigError> {
    let levels = block_out_channels.len();
    require(
        (1..=MAX_LEVELS).contains(&levels),
        "block_out_channels",
        block_out_channels,
        &format!("it must list from 1 to {MAX_LEVELS} levels"),
    )?;
    for (key, blocks) in [
        ("down_block_types", down_blocks),
        ("up_block_types", up_blocks),
    ] {
        let problem = format!("it must have as many entries as `block_out_channels`, {levels}");
        require(blocks == levels, key, blocks, &problem)?;
    }
    for &channels in block_out_channels {
        require_channels("block_out_channels", channels)?;
        require(
            norm_num_groups > 0 && channels.is_multiple_of(norm_num_groups),
            "norm_num_groups",
            norm_num_groups,
            &format!("it must divide the {channels} channels of a level of `block_out_channels`"),
        )?;
    }
    require(
        (1..=MAX_LAYERS).contains(&layers_per_block),
        "layers_per_block",
        layers_per_block,
        &format!("it must be from 1 to {MAX_LAYERS}"),
    )
}

/// A side of the image must be divisible by every halving; otherwise skips and decoded images do not fit.
pub(crate) fn require_halving(key: &str, side: usize, levels: usize) -> Result<(), ConfigError> {
    let factor = 1usize << levels.saturating_sub(1);
    let problem = format!(
        "it must be a positive multiple of {factor}, to be halved between {levels} levels, and at most {MAX_SIDE}"
    );
    let halves = (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(factor);
    require(halves, key, side, &problem)
}

/// Refuses a network that is too large for any machine, or for this machine's memory. A fresh network has no values
/// yet, so this check comes before the allocation.
pub(crate) fn require_size<M: Module>(network: &M) -> Result<(), ConfigError> {
    let parameters = network.num_params();
    if parameters > MAX_PARAMETERS {
        return Err(ConfigError::TooLarge {
            parameters,
            most: MAX_PARAMETERS,
        });
    }
    let needed = (parameters * size_of::<f32>()) as f64;
    match too_little_memory(needed) {
        Some(free) => Err(ConfigError::Memory {
            parameters,
            needed: needed / 1e6,
            free: free / 1e6,
        }),
        None => Ok(()),
    }
}

/// serde for an option whose null means something other than its default.
///
/// JSON has null. TOML does not, and a missing key would mean the default, so TOML uses the word "none". Both are read
/// everywhere.
pub(crate) mod or_none {
    use serde::de::{DeserializeOwned, Error};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }

    pub(crate) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(None),
            Value::String(word) if word == "none" => Ok(None),
            value => serde_json::from_value(value)
                .map(Some)
                .map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AutoencoderKlConfig, MidBlockType, UNet2dConfig, VqVaeConfig};

    /// The error message for a refused config.
    fn unet_refusal(json: &str) -> String {
        UNet2dConfig::from_json(json).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_config_is_diffusers_defaults() {
        assert_eq!(
            UNet2dConfig::from_json("{}").unwrap(),
            UNet2dConfig::default()
        );
    }

    #[test]
    fn configs_survive_json_and_toml() {
        let configs = [
            UNet2dConfig::default(),
            UNet2dConfig {
                attention_head_dim: None,
                mid_block_type: None,
                num_class_embeds: Some(10),
                sample_size: Some(crate::SampleSize::Rectangle([16, 8])),
                dropout: 0.1,
                ..UNet2dConfig::default()
            },
        ];
        for config in configs {
            assert_eq!(UNet2dConfig::from_json(&config.to_json()).unwrap(), config);
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<UNet2dConfig>(&text).unwrap(), config);
        }
        let config = VqVaeConfig {
            norm_num_groups: 16,
            vq_embed_dim: Some(5),
            scaling_factor: 0.731_058_578_630_004_9,
            ..VqVaeConfig::default()
        };
        assert_eq!(VqVaeConfig::from_json(&config.to_json()).unwrap(), config);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<VqVaeConfig>(&text).unwrap(), config);
    }

    #[test]
    fn json_says_null_where_python_needs_it() {
        let config = UNet2dConfig {
            attention_head_dim: None,
            ..UNet2dConfig::default()
        };
        let written: Value = serde_json::from_str(&config.to_json()).unwrap();
        assert_eq!(written["attention_head_dim"], Value::Null);
        assert_eq!(written["mid_block_type"], "UNetMidBlock2D");
        assert_eq!(written["_class_name"], "UNet2DModel");
        assert_eq!(written["down_block_types"][1], "AttnDownBlock2D");
    }

    #[test]
    fn the_config_of_an_old_hub_model_is_read() {
        let json = r#"{
            "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "swish",
            "attention_head_dim": null, "block_out_channels": [128, 256], "center_input_sample": false,
            "down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"], "downsample_padding": 0,
            "flip_sin_to_cos": false, "freq_shift": 1, "mid_block_scale_factor": 1, "norm_eps": 1e-06,
            "sample_size": 32, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "an_option_of_tomorrow": null
        }"#;
        let config = UNet2dConfig::from_json(json).unwrap();
        assert_eq!(config.attention_head_dim, None);
        assert_eq!(config.norm_eps, 1e-6);
        assert_eq!(config.mid_block_type, Some(MidBlockType::UNetMidBlock2D));
    }

    #[test]
    fn refusals_name_the_key_the_value_and_what_is_valid() {
        let refusal = unet_refusal(r#"{"down_block_types": ["SkipDownBlock2D"]}"#);
        for part in ["`down_block_types`", "SkipDownBlock2D", "AttnDownBlock2D"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let refusal = unet_refusal(r#"{"mid_block_type": "UNetMidBlock2DCrossAttn"}"#);
        for part in [
            "`mid_block_type`",
            "UNetMidBlock2DCrossAttn",
            "`UNetMidBlock2D`",
        ] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let refusal = unet_refusal(r#"{"cross_attention_dim": 768}"#);
        for part in ["`cross_attention_dim`", "768", "attention_head_dim"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let refusal = unet_refusal(r#"{"layers_per_block": "two"}"#);
        assert!(
            refusal.contains("`layers_per_block` = \"two\""),
            "{refusal}"
        );
    }

    #[test]
    fn an_unknown_option_at_null_is_none() {
        let json = r#"{"some_future_option": null, "norm_num_groups": 16}"#;
        assert_eq!(UNet2dConfig::from_json(json).unwrap().norm_num_groups, 16);
        assert_eq!(VqVaeConfig::from_json(json).unwrap().norm_num_groups, 16);
        assert!(unet_refusal(r#"{"some_future_option": 0}"#).contains("some_future_option"));
        assert!(unet_refusal(r#"{"norm_num_groups": null}"#).contains("`norm_num_groups` = null"));
    }

    #[test]
    fn latents_were_not_scaled_before_there_was_a_key_for_it() {
        let factor = |json: &str| VqVaeConfig::from_json(json).unwrap().scaling_factor;
        assert_eq!(factor(r#"{"_diffusers_version": "0.1.2"}"#), 1.0);
        assert_eq!(factor(r#"{"_diffusers_version": "0.11.0.dev0"}"#), 1.0);
        let with_key = r#"{"_diffusers_version": "0.1.2", "scaling_factor": 0.5}"#;
        assert_eq!(factor(with_key), 0.5);
        for today in [
            r#"{"_diffusers_version": "0.12.1"}"#,
            r#"{"_diffusers_version": "x"}"#,
            "{}",
        ] {
            assert_eq!(factor(today), 0.18215, "{today}");
        }
    }

    #[test]
    fn another_class_or_no_object_is_refused() {
        assert!(unet_refusal(r#"{"_class_name": "VQModel"}"#).contains("`UNet2DModel` is needed"));
        assert!(unet_refusal("[1, 2]").contains("not a JSON object"));
        assert!(unet_refusal("{").contains("not a JSON object"));
    }

    #[test]
    fn impossible_unets_are_refused_by_the_key_to_change() {
        let cases = [
            (r#"{"norm_num_groups": 33}"#, "`norm_num_groups` = 33"),
            (r#"{"norm_num_groups": 0}"#, "`norm_num_groups` = 0"),
            (
                r#"{"attn_norm_num_groups": 5}"#,
                "`attn_norm_num_groups` = 5",
            ),
            (r#"{"attention_head_dim": 0}"#, "`attention_head_dim` = 0"),
            (r#"{"attention_head_dim": 449}"#, "the 448 channels"),
            (
                r#"{"block_out_channels": [32, 64]}"#,
                "`down_block_types` = 4",
            ),
            (r#"{"block_out_channels": []}"#, "`block_out_channels` = []"),
            (
                r#"{"block_out_channels": [32, 64, 0, 64]}"#,
                "`block_out_channels` = 0",
            ),
            (
                r#"{"block_out_channels": [32, 64, 64, 1000000000]}"#,
                "`block_out_channels` = 1000000000",
            ),
            (r#"{"in_channels": 18446744073709551615}"#, "`in_channels`"),
            (r#"{"layers_per_block": 0}"#, "`layers_per_block` = 0"),
            (r#"{"sample_size": 28}"#, "multiple of 8"),
            (r#"{"sample_size": [32, 20]}"#, "`sample_size` = 20"),
            (r#"{"sample_size": 0}"#, "`sample_size` = 0"),
            (r#"{"sample_size": "big"}"#, "[height, width]"),
            (r#"{"downsample_padding": 2}"#, "`downsample_padding` = 2"),
            (r#"{"freq_shift": 112}"#, "`freq_shift` = 112"),
            (r#"{"dropout": 1.0}"#, "`dropout` = 1.0"),
            (r#"{"norm_eps": 0.0}"#, "`norm_eps` = 0.0"),
            (
                r#"{"mid_block_scale_factor": 0}"#,
                "`mid_block_scale_factor` = 0.0",
            ),
            (
                r#"{"time_embedding_type": "learned"}"#,
                "`num_train_timesteps` = null",
            ),
            (r#"{"time_embedding_dim": 0}"#, "`time_embedding_dim` = 0"),
            (r#"{"num_class_embeds": 0}"#, "`num_class_embeds` = 0"),
        ];
        for (json, part) in cases {
            let refusal = unet_refusal(json);
            assert!(refusal.contains(part), "{json}: {refusal}");
        }
    }

    #[test]
    fn impossible_autoencoders_are_refused_by_the_key_to_change() {
        let cases = [
            (r#"{"latent_channels": 0}"#, "`latent_channels` = 0"),
            (r#"{"latents_mean": [0.1]}"#, "`latents_mean` = [0.1]"),
            (r#"{"latents_std": [0.1]}"#, "`latents_std` = [0.1]"),
            (r#"{"scaling_factor": 0.0}"#, "`scaling_factor` = 0.0"),
            (r#"{"shift_factor": 1e300}"#, "`shift_factor` = 1e+300"),
            (r#"{"norm_num_groups": 48}"#, "`norm_num_groups` = 48"),
            (r#"{"num_vq_embeddings": 8}"#, "`num_vq_embeddings` = 8"),
            (r#"{"sample_size": 99999}"#, "`sample_size` = 99999"),
        ];
        for (json, part) in cases {
            let refusal = AutoencoderKlConfig::from_json(json)
                .unwrap_err()
                .to_string();
            assert!(refusal.contains(part), "{json}: {refusal}");
        }
        // From stabilityai/sd-vae-ft-mse.
        let json = r#"{"_class_name": "AutoencoderKL", "_diffusers_version": "0.4.2", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512], "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
            "norm_num_groups": 32, "out_channels": 3, "sample_size": 256}"#;
        let config = AutoencoderKlConfig::from_json(json).unwrap();
        assert_eq!(config.scaling_factor, 0.18215);
        assert_eq!(
            AutoencoderKlConfig::from_json(&config.to_json()).unwrap(),
            config
        );
    }

    #[test]
    fn impossible_vqvaes_are_refused_by_the_key_to_change() {
        let cases = [
            (r#"{"norm_type": "spatial"}"#, "`norm_type` = \"spatial\""),
            (r#"{"act_fn": "mish"}"#, "`act_fn` = \"mish\""),
            (r#"{"norm_num_groups": 48}"#, "`norm_num_groups` = 48"),
            (r#"{"num_vq_embeddings": 0}"#, "`num_vq_embeddings` = 0"),
            (r#"{"vq_embed_dim": 0}"#, "`vq_embed_dim` = 0"),
            (r#"{"latent_channels": 0}"#, "`latent_channels` = 0"),
            (r#"{"scaling_factor": -1.0}"#, "`scaling_factor` = -1.0"),
            (r#"{"scaling_factor": 1e-300}"#, "`scaling_factor` = 1e-300"),
            (r#"{"scaling_factor": 1e39}"#, "`scaling_factor` = 1e+39"),
            (r#"{"down_block_types": []}"#, "`down_block_types` = 0"),
            (r#"{"up_block_types": ["UpBlock2D"]}"#, "UpDecoderBlock2D"),
            (r#"{"quantizer": "lfq"}"#, "`quantizer` = \"lfq\""),
            (r#"{"quantizer": "fsq"}"#, "`quantizer` = \"fsq\""),
            (
                r#"{"quantizer": {"fsq": {"levels": []}}}"#,
                "`quantizer` = {",
            ),
            (
                r#"{"quantizer": {"fsq": {"levels": [8, 2]}}}"#,
                "at least 3",
            ),
            (
                r#"{"quantizer": {"fsq": {"levels": [4294967296, 4294967296]}}}"#,
                "at most 4194304 codes",
            ),
            (
                r#"{"quantizer": {"fsq": {"levels": [8, 5, 5]}}}"#,
                "`num_vq_embeddings` = 256",
            ),
            (
                r#"{"quantizer": {"fsq": {"levels": [8, 5, 5]}}, "vq_embed_dim": 4, "num_vq_embeddings": 200}"#,
                "`vq_embed_dim` = 4",
            ),
            (
                r#"{"quantizer": {"residual": {"tables": 1}}}"#,
                "from 2 to 64",
            ),
            (
                r#"{"quantizer": {"residual": {"tables": 64}}, "num_vq_embeddings": 65537}"#,
                "`num_vq_embeddings` = 65537",
            ),
        ];
        for (json, part) in cases {
            let refusal = VqVaeConfig::from_json(json).unwrap_err().to_string();
            assert!(refusal.contains(part), "{json}: {refusal}");
        }
    }

    #[test]
    fn the_quantizer_is_a_key_of_its_own() {
        let written = VqVaeConfig::default().to_json();
        assert!(!written.contains("quantizer"), "{written}");
        for (quantizer, latent_dim) in [
            (r#""vq""#, 3),
            (r#""simvq""#, 3),
            (r#"{"residual": {"tables": 4}}"#, 3),
            (r#"{"fsq": {"levels": [8, 8, 4, 1000]}}"#, 4),
        ] {
            let codes = if latent_dim == 4 { 256_000 } else { 256 };
            let json = format!(r#"{{"quantizer": {quantizer}, "num_vq_embeddings": {codes}}}"#);
            let config = VqVaeConfig::from_json(&json).unwrap();
            assert_eq!(config.latent_dim(), latent_dim);
            assert_eq!(VqVaeConfig::from_json(&config.to_json()).unwrap(), config);
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<VqVaeConfig>(&text).unwrap(), config);
        }
    }

    #[test]
    fn a_network_that_fits_no_memory_is_refused_before_it_is_made() {
        let config = UNet2dConfig {
            block_out_channels: vec![4096; 4],
            layers_per_block: 64,
            ..UNet2dConfig::default()
        };
        let refusal = config.init(&burn::tensor::Device::flex(), 0).unwrap_err();
        assert!(
            refusal.to_string().contains("parameters, more than"),
            "{refusal}"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".*", value in "-?[0-9]{1,20}") {
            let _ = UNet2dConfig::from_json(&text);
            for key in to_map(&UNet2dConfig::default()).keys() {
                let _ = UNet2dConfig::from_json(&format!(r#"{{"{key}": {value}}}"#));
                let _ = UNet2dConfig::from_json(&format!(r#"{{"{key}": [{value}]}}"#));
            }
        }
    }
}
