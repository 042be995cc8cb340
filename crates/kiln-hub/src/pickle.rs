//! What a pickle would have Python import: known before anything in it is believed.
//!
//! A pickle is a program. Python runs it, so whoever wrote a `.bin` or `.ckpt` file can have any function
//! called there. Nothing is called here: the reader of weights knows a handful of PyTorch's functions and takes
//! everything else for an opaque value. A file that names anything but data is refused all the same, so that it
//! does not go on to where it would be run.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zip::ZipArchive;

use crate::HubError;

/// More bytes than any pickle has around its tensors, which lie outside of it.
const LARGEST_PICKLE: u64 = 100 << 20;

/// What the file of PyTorch before 1.6 begins with: a pickle of this number, 10 bytes long.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Such a file has five pickles: the number, a version, the machine, the weights, and names of the storages.
const LEGACY_PICKLES: usize = 5;

/// Modules whose objects lie about in training checkpoints as data: hyperparameters and callbacks.
const DATA_MODULES: [&str; 4] = ["omegaconf", "pytorch_lightning", "lightning", "typing"];

/// Refuses a file that PyTorch wrote if reading it in Python would import anything but data. `file` is its name in
/// the error.
pub(crate) fn refuse_code(path: &Path, file: &str) -> Result<(), HubError> {
    let damaged = |problem: String| HubError::Damaged {
        file: file.to_owned(),
        problem,
    };
    let pickles = pickles_of(path).map_err(|problem| damaged(problem.to_string()))?;
    for (bytes, count) in pickles {
        let mut rest = &bytes[..];
        for _ in 0..count {
            let (imports, after) = imports(rest).map_err(|problem| damaged(problem.into()))?;
            if let Some(import) = imports.into_iter().find(|import| !is_data(import)) {
                return Err(HubError::Code {
                    file: file.to_owned(),
                    name: import.join("."),
                });
            }
            rest = after;
        }
    }
    Ok(())
}

/// The bytes that hold pickles, and how many they begin with.
fn pickles_of(path: &Path) -> io::Result<Vec<(Vec<u8>, usize)>> {
    let mut file = File::open(path)?;
    let mut start = [0; 64];
    let count = file.by_ref().take(64).read(&mut start)?;
    let start = start.get(..count).unwrap_or_default();
    if start.starts_with(b"PK") {
        let mut archive = ZipArchive::new(File::open(path)?).map_err(io::Error::other)?;
        let mut pickles = Vec::new();
        for index in 0..archive.len() {
            let entry = archive.by_index(index).map_err(io::Error::other)?;
            let is_pickle = entry.name().is_ok_and(|name| name.ends_with(".pkl"));
            if is_pickle {
                pickles.push((read_at_most(entry)?, 1));
            }
        }
        return Ok(pickles);
    }
    let is_legacy = start
        .windows(LEGACY_MAGIC.len())
        .any(|bytes| bytes == LEGACY_MAGIC);
    let mut bytes = Vec::new();
    // The storages follow the pickles, and may be as long as they like.
    File::open(path)?
        .take(LARGEST_PICKLE)
        .read_to_end(&mut bytes)?;
    Ok(vec![(bytes, if is_legacy { LEGACY_PICKLES } else { 1 })])
}

fn read_at_most(entry: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(LARGEST_PICKLE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_PICKLE {
        return Err(io::Error::other("its pickle has more than 100 MB"));
    }
    Ok(bytes)
}

/// A module and a name in it.
type Import = [String; 2];

/// Whether what is imported is a piece of data in a checkpoint: tensors, their types, plain containers, and what
/// trainers keep beside them.
fn is_data([module, name]: &Import) -> bool {
    let known_module = |known: &&str| {
        let rest = module.strip_prefix(*known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match module.as_str() {
        "collections" => matches!(name.as_str(), "OrderedDict" | "defaultdict" | "Counter"),
        "builtins" | "__builtin__" => matches!(
            name.as_str(),
            "set"
                | "frozenset"
                | "dict"
                | "list"
                | "tuple"
                | "int"
                | "float"
                | "complex"
                | "bytearray"
                | "slice"
        ),
        "numpy" => matches!(name.as_str(), "dtype" | "ndarray"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => {
            matches!(name.as_str(), "scalar" | "_reconstruct")
        }
        "_codecs" => name == "encode",
        "argparse" => name == "Namespace",
        "pathlib" => matches!(name.as_str(), "PosixPath" | "WindowsPath" | "Path"),
        "torch._utils" | "torch._tensor" => name.starts_with("_rebuild_"),
        "torch.nn.parameter" => matches!(name.as_str(), "Parameter" | "Buffer"),
        "torch.serialization" => name == "_get_layout",
        "torch" | "torch.storage" | "torch.cuda" => {
            let types = [
                "Tensor",
                "Size",
                "device",
                "dtype",
                "float32",
                "float64",
                "float16",
                "bfloat16",
                "int64",
                "int32",
                "int16",
                "int8",
                "uint8",
                "bool",
                "strided",
                "FloatTensor",
            ];
            name.ends_with("Storage") || types.contains(&name.as_str())
        }
        _ => DATA_MODULES.iter().any(known_module),
    }
}

/// All that the first pickle in `bytes` imports, and what follows it.
///
/// The opcodes are those of Python's `pickletools`. Where a name is taken from the stack, it must have been put there just
/// before, as every pickler does; a pickle that hides it is refused.
fn imports(bytes: &[u8]) -> Result<(Vec<Import>, &[u8]), &'static str> {
    const TRUNCATED: &str = "its pickle ends too early";
    let mut rest = bytes;
    let mut imports = Vec::new();
    // The strings on top of the stack, as far as nothing else has been done since, and those that were kept.
    let mut recent: Vec<String> = Vec::new();
    let mut memo: HashMap<u64, String> = HashMap::new();
    let mut memoized = 0;
    loop {
        let (&opcode, after) = rest.split_first().ok_or(TRUNCATED)?;
        rest = after;
        let mut string = None;
        let mut keeps_recent = false;
        match opcode {
            b'.' => return Ok((imports, rest)),
            // GLOBAL and INST.
            b'c' | b'i' => {
                let [module, name] = [line(&mut rest), line(&mut rest)];
                imports.push([module.ok_or(TRUNCATED)?, name.ok_or(TRUNCATED)?]);
            }
            // STACK_GLOBAL.
            0x93 => match &recent[..] {
                [.., module, name] => imports.push([module.clone(), name.clone()]),
                _ => return Err("its pickle hides what it imports"),
            },
            // Lines: numbers, and the strings that no pickler has written since Python 1.
            b'I' | b'L' | b'F' | b'S' | b'P' => {
                line(&mut rest).ok_or(TRUNCATED)?;
            }
            b'V' => string = Some(line(&mut rest).ok_or(TRUNCATED)?),
            b'X' | 0x8c | 0x8d | b'U' | b'T' => {
                let width = match opcode {
                    b'X' | b'T' => 4,
                    0x8d => 8,
                    _ => 1,
                };
                let text = counted(&mut rest, width).ok_or(TRUNCATED)?;
                string = Some(String::from_utf8_lossy(text).into_owned());
            }
            // Bytes and long integers.
            b'C' | 0x8a => drop(counted(&mut rest, 1).ok_or(TRUNCATED)?),
            b'B' | 0x8b => drop(counted(&mut rest, 4).ok_or(TRUNCATED)?),
            0x8e | 0x96 => drop(counted(&mut rest, 8).ok_or(TRUNCATED)?),
            // What is kept, and taken out again.
            0x94 | b'p' | b'q' | b'r' => {
                let place = match opcode {
                    0x94 => Some(memoized),
                    b'p' => line(&mut rest).and_then(|text| text.parse().ok()),
                    b'q' => number(&mut rest, 1),
                    _ => number(&mut rest, 4),
                };
                let place = place.ok_or(TRUNCATED)?;
                memoized += 1;
                match recent.last() {
                    Some(string) => memo.insert(place, string.clone()),
                    None => memo.remove(&place),
                };
                keeps_recent = true;
            }
            b'g' | b'h' | b'j' => {
                let place = match opcode {
                    b'g' => line(&mut rest).and_then(|text| text.parse().ok()),
                    b'h' => number(&mut rest, 1),
                    _ => number(&mut rest, 4),
                };
                string = memo.get(&place.ok_or(TRUNCATED)?).cloned();
            }
            // The protocol, frames, numbers, and classes from a registry that files cannot name.
            0x80 | 0x95 => {
                let width = if opcode == 0x80 { 1 } else { 8 };
                number(&mut rest, width).ok_or(TRUNCATED)?;
                keeps_recent = true;
            }
            b'K' => drop(number(&mut rest, 1).ok_or(TRUNCATED)?),
            b'M' => drop(number(&mut rest, 2).ok_or(TRUNCATED)?),
            b'J' => drop(number(&mut rest, 4).ok_or(TRUNCATED)?),
            b'G' => drop(number(&mut rest, 8).ok_or(TRUNCATED)?),
            0x82..=0x84 => return Err("its pickle uses Python's registry of extensions"),
            b'('
            | b')'
            | b'['
            | b']'
            | b'{'
            | b'}'
            | b'0'
            | b'1'
            | b'2'
            | b'N'
            | b'Q'
            | b'R'
            | b'b'
            | b'd'
            | b'l'
            | b't'
            | b's'
            | b'a'
            | b'u'
            | b'e'
            | b'o'
            | 0x81
            | 0x85..=0x89
            | 0x8f..=0x92
            | 0x97
            | 0x98 => (),
            _ => return Err("its pickle has an unknown instruction"),
        }
        match string {
            Some(string) => recent.push(string),
            None if !keeps_recent => recent.clear(),
            None => (),
        }
    }
}

/// A line of text.
fn line(rest: &mut &[u8]) -> Option<String> {
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    let (text, after) = (rest.get(..end)?, rest.get(end + 1..)?);
    *rest = after;
    Some(String::from_utf8_lossy(text).trim_end().to_owned())
}

/// A little-endian number of `width` bytes.
fn number(rest: &mut &[u8], width: usize) -> Option<u64> {
    let (digits, after) = rest.split_at_checked(width)?;
    *rest = after;
    Some(
        digits
            .iter()
            .rev()
            .fold(0, |number, &digit| (number << 8) | u64::from(digit)),
    )
}

/// Bytes after their count, which has `width` bytes.
fn counted<'bytes>(rest: &mut &'bytes [u8], width: usize) -> Option<&'bytes [u8]> {
    let count = usize::try_from(number(rest, width)?).ok()?;
    let (bytes, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pickle: &[u8]) -> Result<Vec<String>, &'static str> {
        let (imports, _) = imports(pickle)?;
        Ok(imports.into_iter().map(|import| import.join(".")).collect())
    }

    #[test]
    fn imports_are_found_in_every_protocol() {
        // os.system in protocol 0, with INST, and from the stack with and without the memo.
        assert_eq!(
            names(b"cos\nsystem\n(S'id'\ntR."),
            Ok(vec!["os.system".to_owned()])
        );
        assert_eq!(
            names(b"(S'id'\nios\nsystem\n."),
            Ok(vec!["os.system".to_owned()])
        );
        let direct = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x85R.";
        assert_eq!(names(direct), Ok(vec!["os.system".to_owned()]));
        let by_memo = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.";
        assert_eq!(names(by_memo), Ok(vec!["os.system".to_owned()]));
        assert_eq!(names(b"\x80\x02}q\x00."), Ok(vec![]));
    }

    #[test]
    fn a_name_that_is_hidden_is_refused() {
        // What lies on the stack is not what was pushed last.
        let hidden =
            b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x0bcollections\x8c\x0bOrderedDict00\x93.";
        assert!(names(hidden).is_err());
        assert!(names(b"\x80\x02\x82\x01.").is_err());
        for damaged in [
            &b""[..],
            b"\x80",
            b"cos\nsystem",
            b"X\xff\xff\xff\xffa.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        ] {
            assert!(names(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn only_data_may_be_imported() {
        let import = |module: &str, name: &str| [module.to_owned(), name.to_owned()];
        for (module, name) in [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "HalfStorage"),
            ("collections", "OrderedDict"),
            ("numpy.core.multiarray", "scalar"),
            (
                "pytorch_lightning.callbacks.model_checkpoint",
                "ModelCheckpoint",
            ),
        ] {
            assert!(is_data(&import(module, name)), "{module}.{name}");
        }
        for (module, name) in [
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("numpy", "load"),
            ("lightningx", "run"),
            ("subprocess", "Popen"),
            ("torch.utils.data", "DataLoader"),
        ] {
            assert!(!is_data(&import(module, name)), "{module}.{name}");
        }
    }
}
