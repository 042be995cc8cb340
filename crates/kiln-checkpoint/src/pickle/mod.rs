//! Files that PyTorch wrote, read without believing them.
//!
//! A pickle is a program. Python runs it, so the author of a `.bin` or `.ckpt` file can have any function called there.
//! Nothing is called here: a machine of our own follows the program, knows a handful of PyTorch's functions by name, and
//! refuses every file that names anything beside them and plain data, so that it does not go on to where it would be run.
//! The machine copies nothing out of the pickle, so what it builds is bounded by the pickle's length.
//!
//! ```text
//! container.rs   where a file has its pickle, and the numbers beside it
//! globals.rs     the names that a pickle may import, and what they mean
//! machine.rs     the instructions
//! values.rs      what they build
//! tensors.rs     what the values say of storages and tensors
//! problem.rs     what is wrong with a file
//! storage.rs     where in the file a tensor's numbers lie
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

/// A tensor of a pickle: type, shape and little-endian numbers.
pub(crate) type PickledTensor = (Dtype, Vec<usize>, Vec<u8>);

/// Takes the tensors of floats whose keys are `wanted` out of what PyTorch wrote, called `file` in messages; they must need no more than
/// `largest` bytes. Keys are joined by dots where dictionaries hold dictionaries; what stands under a key that is neither
/// text nor a whole number, such as a class, is passed over.
///
/// # Errors
/// If it names anything but data, is damaged, of a kind that is not supported, or larger.
pub(crate) fn read_pickle(
    opened: impl Readable,
    file: &str,
    largest: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, PickledTensor>, CheckpointError> {
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
) -> Result<BTreeMap<String, PickledTensor>, Problem> {
    let mut container = Container::open(opened)?;
    let (tensors, storages) = container.tensors()?;
    let mut total = 0u64;
    let mut read = BTreeMap::new();
    for (key, tensor) in tensors.into_iter().filter(|(key, _)| wanted(key)) {
        // Others are counters of training steps; no weight is one.
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
