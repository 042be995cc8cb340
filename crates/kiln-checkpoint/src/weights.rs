//! The weights of one network in its folder, in any form: see [`forms`].

use std::collections::BTreeMap;

use burn::module::Module;
use kiln_models::{SafetensorsFile, StoredTensor, load_weights_from_tensors};
use safetensors::tensor::TensorView;

use crate::layout::{WEIGHTS, forms, shard_names};
use crate::pickle::{RawTensor, read_pickle};
use crate::source::Readable;
use crate::tensors::{of_safetensors, open_safetensors};
use crate::{CheckpointError, Metadata, ModelSource};

/// The largest header of a safetensors file, and more than the largest pickle beside the tensors.
pub(crate) const LARGEST_HEADER: u64 = 128 << 20;
/// Bytes of the widest supported number, an F64.
const WIDEST_NUMBER: u64 = 8;

/// Reads the weights in `folder`, which ends with a slash or is empty, into a network that was made from its config.
///
/// # Errors
/// Names the file that is missing, damaged, too large for the network, or that would run code in Python.
pub(crate) fn load_weights<M: Module>(
    source: &ModelSource,
    folder: &str,
    network: M,
) -> Result<(M, Metadata), CheckpointError> {
    let missing = || CheckpointError::MissingFile(source.name(&format!("{folder}{WEIGHTS}")));
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
    let mut tensors = Vec::new();
    for (stored, file) in stored.iter().zip(&files) {
        let file = source.name(file);
        if let Stored::Safetensors(opened) = stored {
            let of_file = Metadata::of_weights(opened.header(), &file)?;
            if of_file != Metadata::default() {
                metadata = of_file;
            }
        }
        tensors.extend(stored.tensors(&file)?);
    }
    let network = load_weights_from_tensors(network, tensors).map_err(|problem| {
        CheckpointError::Weights {
            file: source.name(&name),
            problem,
        }
    })?;
    Ok((network, metadata))
}

fn shards(source: &ModelSource, folder: &str, index: &str) -> Result<Vec<String>, CheckpointError> {
    let names = shard_names(&source.text(index)?, source.name(index))?.into_iter();
    Ok(names.map(|name| format!("{folder}{name}")).collect())
}

/// A tensor with its key.
type Named<'file> = (String, Box<dyn StoredTensor + 'file>);

/// A weights file.
enum Stored {
    Safetensors(SafetensorsFile<Box<dyn Readable>>),
    /// Tensors from a pickle, under their keys.
    Pickle(BTreeMap<String, RawTensor>),
}

impl Stored {
    /// Opens a file of at most `largest` bytes.
    fn read(source: &ModelSource, file: &str, largest: u64) -> Result<Self, CheckpointError> {
        let is_safetensors = source.is_safetensors(file, largest)?;
        let (opened, name) = (source.opened(file, largest)?, source.name(file));
        if is_safetensors {
            return Ok(Self::Safetensors(open_safetensors(opened, &name)?));
        }
        let tensors = read_pickle(opened, &name, largest, |_| true)?;
        Ok(Self::Pickle(tensors))
    }

    /// The tensors of `file` by key.
    fn tensors(&self, file: &str) -> Result<Vec<Named<'_>>, CheckpointError> {
        match self {
            Self::Safetensors(opened) => {
                let boxed = |(key, tensor)| (key, Box::new(tensor) as Box<dyn StoredTensor>);
                Ok(opened.tensors().map(boxed).collect())
            }
            Self::Pickle(tensors) => tensors
                .iter()
                .map(|(key, (dtype, shape, bytes))| {
                    let view = TensorView::new(*dtype, shape.clone(), bytes);
                    let view = view.map_err(|problem| of_safetensors(problem, file))?;
                    Ok((key.clone(), Box::new(view) as Box<dyn StoredTensor>))
                })
                .collect(),
        }
    }
}
