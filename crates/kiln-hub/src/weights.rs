//! The weights of one network in its folder, however they are stored.
//!
//! | name | what it is |
//! | --- | --- |
//! | `diffusion_pytorch_model.safetensors` | all weights, as kiln and today's diffusers write them |
//! | `diffusion_pytorch_model.safetensors.index.json` | which of several files beside it has which tensor |
//! | `diffusion_pytorch_model.bin`, and `.bin.index.json` | the same as pickles, before 2023 |
//! | `diffusion_pytorch_model.fp16.safetensors`, `..index.fp16.json` | a *variant*: half as large, rounded |
//!
//! The first that is there is taken, exact weights before rounded ones.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use burn::module::Module;
use kiln_data::is_unprintable;
use kiln_models::load_weights_from_tensors;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value};

use crate::pickle::{PickledTensor, read_pickle};
use crate::{HubError, Metadata, ModelSource};

/// Weights as kiln writes them.
pub(crate) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// What the names of all weights begin with.
const STEM: &str = "diffusion_pytorch_model";
/// Rounded weights, the better ones first.
const VARIANTS: [&str; 2] = ["bf16", "fp16"];

/// The largest header of a safetensors file, and more than the largest pickle beside the tensors.
pub(crate) const LARGEST_HEADER: u64 = 128 << 20;
/// Bytes of the widest number that is read, an F64.
const WIDEST_NUMBER: u64 = 8;

/// One way to store weights: a file's name, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) file: String,
    /// Whether it is an index of several files.
    pub(crate) is_index: bool,
}

/// Every name that weights can have, in the order in which they are looked for.
pub(crate) fn forms() -> Vec<Form> {
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

/// Reads the weights in `folder`, which ends with a slash or is empty, into a network that was made for its
/// config.
///
/// # Errors
/// Names the file that is missing, damaged, larger than the network's could be, or that would run code in Python.
pub(crate) fn load_weights<M: Module>(
    source: &ModelSource,
    folder: &str,
    network: M,
) -> Result<(M, Metadata), HubError> {
    let missing = || HubError::MissingFile(source.name(&format!("{folder}{WEIGHTS}")));
    let form = (forms().into_iter())
        .find(|form| source.has(&format!("{folder}{}", form.file)))
        .ok_or_else(missing)?;
    let name = format!("{folder}{}", form.file);
    let files = if form.is_index {
        shards(source, folder, &name)?
    } else {
        vec![name.clone()]
    };

    let numbers = network.num_params() as u64;
    let largest = LARGEST_HEADER.saturating_add(WIDEST_NUMBER.saturating_mul(numbers));
    let stored = files
        .iter()
        .map(|file| Stored::read(source, file, largest))
        .collect::<Result<Vec<_>, _>>()?;
    let mut metadata = Metadata::default();
    let mut tensors: Vec<(String, TensorView<'_>)> = Vec::new();
    for (stored, file) in stored.iter().zip(&files) {
        if let Stored::Safetensors(bytes) = stored {
            let of_file = Metadata::from_weights(bytes, &source.name(file))?;
            if of_file != Metadata::default() {
                metadata = of_file;
            }
        }
        tensors.extend(stored.tensors(&source.name(file))?);
    }
    let network =
        load_weights_from_tensors(network, tensors).map_err(|problem| HubError::Weights {
            file: source.name(&name),
            problem,
        })?;
    Ok((network, metadata))
}

fn shards(source: &ModelSource, folder: &str, index: &str) -> Result<Vec<String>, HubError> {
    let names = shard_names(&source.text(index)?, source.name(index))?.into_iter();
    Ok(names.map(|name| format!("{folder}{name}")).collect())
}

/// The files that an index with this text names, each once. They lie beside it: a name that leads elsewhere is refused.
/// Errors call the index `file`.
pub(crate) fn shard_names(text: &str, file: String) -> Result<BTreeSet<String>, HubError> {
    let damaged = |problem: String| HubError::Damaged {
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
            return Err(HubError::ShardName {
                file,
                shard: shard.to_owned(),
            });
        }
        shards.insert(shard.to_owned());
    }
    Ok(shards)
}

/// The contents of a weights file.
enum Stored {
    /// The file as it is.
    Safetensors(Cow<'static, [u8]>),
    /// Tensors that have been taken out of a pickle, under their keys.
    Pickle(BTreeMap<String, PickledTensor>),
}

impl Stored {
    /// Reads a file of at most `largest` bytes.
    fn read(source: &ModelSource, file: &str, largest: u64) -> Result<Self, HubError> {
        if source.is_safetensors(file, largest)? {
            return Ok(Self::Safetensors(source.bytes(file, largest)?));
        }
        let path = source.path(file, largest)?;
        let tensors = read_pickle(&path, &source.name(file), largest, |_| true)?;
        Ok(Self::Pickle(tensors))
    }

    fn tensors(&self, file: &str) -> Result<Vec<(String, TensorView<'_>)>, HubError> {
        let damaged = |problem: safetensors::SafeTensorError| HubError::Damaged {
            file: file.to_owned(),
            problem: problem.to_string(),
        };
        match self {
            Self::Safetensors(bytes) => {
                let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
                let tensors = tensors.iter().map(|(key, tensor)| (key.to_owned(), tensor));
                Ok(tensors.collect())
            }
            Self::Pickle(tensors) => tensors
                .iter()
                .map(|(key, (dtype, shape, bytes))| {
                    let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(damaged)?;
                    Ok((key.clone(), view))
                })
                .collect(),
        }
    }
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
