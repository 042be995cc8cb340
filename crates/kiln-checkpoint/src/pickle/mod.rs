//! Reads files of PyTorch without trusting them.
//!
//! A pickle is a program. Python runs it, so the author of a `.bin` or `.ckpt` file can call any function there. kiln
//! calls nothing: its own machine interprets the program, knows a handful of PyTorch's functions by name, and refuses
//! every file that names anything besides them and plain data, so that the file does not reach a program that would run
//! it. The machine copies nothing out of the pickle, so the size of its result is bounded by the pickle's length.
//!
//! ```text
//! container.rs   finds a file's pickle, and the numbers beside it
//! globals.rs     the names that a pickle may import, and their meanings
//! machine.rs     the instructions
//! values.rs      their results
//! tensors.rs     from these values to storages and tensors
//! problem.rs     what is wrong with a file
//! storage.rs     the position of a tensor's numbers in the file
//! ```

mod container;
mod globals;
mod machine;
mod problem;
mod storage;
mod tensors;
mod values;

use std::collections::BTreeMap;

use safetensors::Dtype;

use crate::CheckpointError;
use crate::source::Readable;
use container::Container;
use problem::Problem;

/// A tensor in memory: type, shape and little-endian numbers.
pub type RawTensor = (Dtype, Vec<usize>, Vec<u8>);

/// Takes the tensors of floats whose keys are `wanted` from a file of PyTorch, called `file` in messages; they may need at
/// most `largest` bytes. The keys of nested dictionaries are joined by dots. Values under a key that is neither text nor a
/// whole number, such as a class, are ignored.
///
/// # Errors
/// If the file names anything but data, is damaged, too large, or of a kind that is not supported.
pub(crate) fn read_pickle(
    opened: impl Readable,
    file: &str,
    largest: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, RawTensor>, CheckpointError> {
    read(opened, largest, wanted).map_err(|problem| match problem {
        Problem::Damaged(problem) => CheckpointError::Damaged {
            file: file.to_owned(),
            problem,
        },
        Problem::Unsupported(what) => CheckpointError::Unsupported {
            file: file.to_owned(),
            what,
        },
        Problem::Code(name) => CheckpointError::Code {
            file: file.to_owned(),
            name,
        },
        Problem::TooLarge(bytes) => CheckpointError::TooLarge {
            file: file.to_owned(),
            bytes,
        },
    })
}

fn read(
    opened: impl Readable,
    largest: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, RawTensor>, Problem> {
    let mut container = Container::open(opened)?;
    let (tensors, storages) = container.tensors()?;
    let mut total = 0u64;
    let mut read = BTreeMap::new();
    for (key, tensor) in tensors.into_iter().filter(|(key, _)| wanted(key)) {
        // Other types are counters of training steps, not weights.
        let Some(dtype) = tensor.kind.float() else {
            continue;
        };
        // A view can ask for more bytes than the file has.
        let window = tensor.window();
        total = total.saturating_add(tensor.bytes().max(window.end - window.start));
        if total > largest {
            return Err(Problem::TooLarge(total));
        }
        let storage = &storages[tensor.storage];
        let bytes = container.storage(storage, window)?;
        let numbers = tensor.gather(bytes);
        read.insert(key, (dtype, tensor.shape, numbers));
    }
    Ok(read)
}
