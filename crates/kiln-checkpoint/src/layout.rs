//! The content of a folder in diffusers' layout, by the names of its files.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use kiln_data::is_unprintable;
use serde_json::{Map, Value};

use crate::{CheckpointError, ModelSource};

/// The list of a model's parts, which identifies its folder.
pub const INDEX: &str = "model_index.json";
/// A network's options, in its folder.
pub const CONFIG: &str = "config.json";
/// A network's weights from kiln, in its folder.
pub const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
/// A scheduler's options, in its folder.
pub const SCHEDULER_CONFIG: &str = "scheduler_config.json";
/// The folder of a model's guide.
pub const GUIDE: &str = "guide/";
/// How much the guide guides, in its folder.
pub const GUIDANCE: &str = "guidance.json";

/// The beginning of all weights' names.
const STEM: &str = "diffusion_pytorch_model";
/// Rounded weights, the better ones first.
const VARIANTS: [&str; 2] = ["bf16", "fp16"];

impl ModelSource {
    /// Whether it is a whole model: it has its index or, if that was lost, one of its parts.
    pub fn is_model(&self) -> bool {
        let files = [INDEX, "unet/config.json", "scheduler/scheduler_config.json"];
        files.iter().any(|file| self.has(file))
    }

    /// Whether it is a network alone, such as the autoencoder of stage 1, or what is left of one.
    pub fn is_network(&self) -> bool {
        !self.is_model() && (self.has(CONFIG) || self.has(WEIGHTS))
    }
}

/// One way to store weights: a file's name and its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Its name, within the folder of the network.
    pub file: String,
    /// Whether it is an index of several files.
    pub is_index: bool,
}

/// Every possible name of weights, in the order of preference: exact weights before rounded ones.
///
/// | name | what it is |
/// | --- | --- |
/// | `diffusion_pytorch_model.safetensors` | all weights, as written by kiln and current diffusers |
/// | `diffusion_pytorch_model.safetensors.index.json` | for each tensor, the file beside it that has it |
/// | `diffusion_pytorch_model.bin`, and `.bin.index.json` | the same as pickles, before 2023 |
/// | `diffusion_pytorch_model.fp16.safetensors`, `..index.fp16.json` | a *variant*: half as large, rounded |
pub fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    let exact = [""].into_iter();
    for variant in exact.chain(VARIANTS) {
        let variant = match variant {
            "" => String::new(),
            name => format!(".{name}"),
        };
        for kind in ["safetensors", "bin"] {
            for (file, is_index) in [
                (format!("{STEM}{variant}.{kind}"), false),
                (format!("{STEM}.{kind}.index{variant}.json"), true),
            ] {
                forms.push(Form { file, is_index });
            }
        }
    }
    forms
}

/// The files that an index with this text names, each once. They must be beside it: a name that leads elsewhere is
/// refused.
///
/// # Errors
/// [`CheckpointError::Damaged`] if it is not such an index, and [`CheckpointError::ShardName`] for such a name. Both
/// call the index `file`.
pub fn shard_names(text: &str, file: String) -> Result<BTreeSet<String>, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged {
        file: file.clone(),
        problem,
    };
    let index: Map<String, Value> =
        serde_json::from_str(text).map_err(|problem| damaged(problem.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| damaged("it has no `weight_map`".to_owned()))?;
    let mut shards = BTreeSet::new();
    for shard in map.values() {
        let shard = shard
            .as_str()
            .ok_or_else(|| damaged(format!("{shard} is no file name")))?;
        let mut parts = Path::new(shard).components();
        let is_plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        );
        if !is_plain || shard.contains(['/', '\\']) || shard.contains(is_unprintable) {
            return Err(CheckpointError::ShardName {
                file,
                shard: shard.to_owned(),
            });
        }
        shards.insert(shard.to_owned());
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_weights_are_looked_for_first_and_safetensors_before_pickles() {
        let files: Vec<String> = forms().into_iter().map(|form| form.file).collect();
        let expected = [
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.bin.index.json",
            "diffusion_pytorch_model.bf16.safetensors",
            "diffusion_pytorch_model.safetensors.index.bf16.json",
            "diffusion_pytorch_model.bf16.bin",
            "diffusion_pytorch_model.bin.index.bf16.json",
            "diffusion_pytorch_model.fp16.safetensors",
        ];
        assert_eq!(files[..expected.len()], expected);
    }
}
