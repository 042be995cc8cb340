//! Recognises, by their first bytes, valid files that are not what their names say.

use crate::CheckpointError;

/// This many first bytes are enough to recognise a file.
pub(crate) const START: usize = 512;

/// The beginning of every Git LFS pointer.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Other kinds of files: the offset, the bytes there, and the description.
const OTHERS: [(usize, &[u8], &str); 9] = [
    (0, b"\x1f\x8b", "is compressed by gzip: unpack it first"),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "is compressed by zstd: unpack it first",
    ),
    (0, b"\xfd7zXZ\0", "is compressed by xz: unpack it first"),
    (0, b"BZh", "is compressed by bzip2: unpack it first"),
    (
        0,
        b"7z\xbc\xaf\x27\x1c",
        "is an archive of 7z: unpack it first",
    ),
    (0, b"Rar!", "is an archive of rar: unpack it first"),
    (257, b"ustar", "is an archive of tar: unpack it first"),
    (
        0,
        b"\x89HDF",
        "is an HDF5 file, Keras' format, which kiln does not read",
    ),
    (0, b"GGUF", "is a GGUF file, which kiln does not read"),
];

/// Refuses, with its kind, a file that begins like this, unless it can be a file of a model.
pub(crate) fn refuse_foreign(start: &[u8], file: &str) -> Result<(), CheckpointError> {
    if is_pointer(start) {
        return Err(CheckpointError::Pointer(file.to_owned()));
    }
    if is_page(start) {
        return Err(CheckpointError::Page(file.to_owned()));
    }
    let begins = |from: usize, magic: &[u8]| {
        let rest = start.get(from..);
        rest.is_some_and(|rest| rest.starts_with(magic))
    };
    let other = OTHERS.iter().find(|(from, magic, _)| begins(*from, magic));
    match other {
        Some((_, _, what)) => Err(CheckpointError::Unsupported {
            file: file.to_owned(),
            what: (*what).to_owned(),
        }),
        None => Ok(()),
    }
}

/// Whether a file with this beginning is a Git LFS pointer.
pub fn is_pointer(start: &[u8]) -> bool {
    start.starts_with(POINTER)
}

/// Whether a file with this beginning is an HTML page.
pub fn is_page(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    let start = start[..start.len().min(14)].to_ascii_lowercase();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

/// Whether the weights `file` with this beginning are safetensors; otherwise they are a pickle. Names can be wrong, so
/// they count only if the bytes are ambiguous.
pub(crate) fn is_safetensors(start: &[u8], file: &str) -> bool {
    has_header(start) || (file.ends_with(".safetensors") && !is_pickle(start))
}

/// Whether a file with this beginning can be one of weights. A pickle of before 2003 may begin like anything else.
pub(crate) fn is_weights(start: &[u8]) -> bool {
    has_header(start) || is_pickle(start)
}

/// The length of a safetensors header that fits into memory, and the header.
fn has_header(start: &[u8]) -> bool {
    start.get(4..9) == Some(b"\0\0\0\0{")
}

/// An archive of PyTorch, or the version of a pickle.
fn is_pickle(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_how_they_begin() {
        let said = |start: &[u8]| refuse_foreign(start, "f").map_err(|error| error.to_string());
        for (start, words) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid"[..],
                "git lfs pull",
            ),
            (b"<!DOCTYPE html><p>", "HTML page"),
            (b"\n  <html lang=en>", "HTML page"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x28\xb5\x2f\xfd\0", "zstd"),
            (b"\x89HDF\r\n", "HDF5"),
            (&[&[b'a'; 257][..], b"ustar\0"].concat(), "tar"),
        ] {
            let sentence = said(start).unwrap_err();
            assert!(
                sentence.contains(words) && !sentence.contains("damaged"),
                "{sentence}"
            );
        }
        for start in [
            &b""[..],
            b"{\"a\": 1}",
            b"<svg>",
            b"<htm",
            b"PK\x03\x04",
            b"\x80\x02",
        ] {
            assert_eq!(said(start), Ok(()));
        }
    }

    #[test]
    fn weights_are_told_apart_whatever_they_are_called() {
        let header = b"\x80\x01\0\0\0\0\0\0{\"a\"";
        for name in ["a.bin", "a.safetensors"] {
            assert!(is_safetensors(header, name));
            assert!(!is_safetensors(b"PK\x03\x04\0\0\0\0\0", name));
            assert!(!is_safetensors(b"\x80\x02}q\0X\x05\0\0\0", name));
        }
        assert!(is_safetensors(b"", "a.safetensors") && !is_safetensors(b"", "a.bin"));
        assert!(is_safetensors(&[0xff; 9], "a.safetensors"));
    }
}
