//! The tensors of any weights file, by name.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use kiln_models::{SafetensorsFile, StoredTensor};
use safetensors::{Dtype, SafeTensorError};

use crate::CheckpointError;
use crate::foreign::is_safetensors;
use crate::pickle::{RawTensor, read_pickle};
use crate::source::{Readable, open_file, start};

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
    let opened = open_safetensors(opened, &file)?;
    let tensors = opened.tensors().filter(|(key, tensor)| {
        use Dtype::{BF16, F16, F32, F64};
        wanted(key) && matches!(tensor.dtype(), F16 | BF16 | F32 | F64)
    });
    tensors
        .map(|(key, tensor)| Ok((key, raw(&tensor).map_err(problem)?)))
        .collect()
}

/// Reads a tensor.
pub(crate) fn raw(tensor: &impl StoredTensor) -> io::Result<RawTensor> {
    let bytes = tensor.bytes()?.into_owned();
    Ok((tensor.dtype(), tensor.shape().to_vec(), bytes))
}

/// Opens a safetensors file, which errors call `file`.
pub(crate) fn open_safetensors<R: Readable>(
    opened: R,
    file: &str,
) -> Result<SafetensorsFile<R>, CheckpointError> {
    SafetensorsFile::open(opened, file).map_err(|problem| of_safetensors(problem, file))
}

/// The error of a safetensors file.
pub(crate) fn of_safetensors(problem: SafeTensorError, file: &str) -> CheckpointError {
    let file = file.to_owned();
    match problem {
        SafeTensorError::IoError(problem) => CheckpointError::Read { file, problem },
        problem => CheckpointError::Damaged {
            file,
            problem: problem.to_string(),
        },
    }
}
