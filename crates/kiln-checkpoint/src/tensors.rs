//! The tensors of any weights file, by name.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::CheckpointError;
use crate::foreign::is_safetensors;
use crate::pickle::{RawTensor, read_pickle};
use crate::source::{open_file, start};

/// Reads the floating-point tensors whose keys are `wanted` from a safetensors file or a pickle of PyTorch (whose code
/// never runs): their type, shape and little-endian numbers. The file and the tensors may have at most `largest` bytes
/// each.
///
/// # Errors
/// If the file cannot be read, is damaged, too large, or would run code in Python.
pub fn read_tensors(
    path: &Path,
    largest: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, RawTensor>, CheckpointError> {
    let file = path.display().to_string();
    let problem = |problem| CheckpointError::Read {
        file: file.clone(),
        problem,
    };
    let mut opened = open_file(path, largest)?;
    let beginning = start(&mut opened).map_err(problem)?;
    if !is_safetensors(&beginning, &file) {
        return read_pickle(opened, &file, largest, wanted);
    }
    let bytes = kiln_data::read_regular(path, largest).map_err(problem)?;
    let read = SafeTensors::deserialize(&bytes).map_err(|problem| CheckpointError::Damaged {
        file: file.clone(),
        problem: problem.to_string(),
    })?;
    let tensors = read.iter().filter(|(key, tensor)| {
        use Dtype::{BF16, F16, F32, F64};
        wanted(key) && matches!(tensor.dtype(), F16 | BF16 | F32 | F64)
    });
    Ok(tensors
        .map(|(key, tensor)| {
            let parts = (
                tensor.dtype(),
                tensor.shape().to_vec(),
                tensor.data().to_vec(),
            );
            (key.to_owned(), parts)
        })
        .collect())
}
