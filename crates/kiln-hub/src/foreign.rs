//! Files that are sound, but not what their names say: told apart by how they begin.

use crate::HubError;

/// Bytes from a file's beginning that are enough to know it.
pub(crate) const START: usize = 512;

/// How every Git LFS pointer begins.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// How compressed files begin, and what they are called.
const COMPRESSED: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!", "rar"),
];

/// Says what a file that begins so is, if it is none that a model has.
pub(crate) fn refuse_foreign(start: &[u8], file: &str) -> Result<(), HubError> {
    if is_pointer(start) {
        return Err(HubError::Pointer(file.to_owned()));
    }
    if is_page(start) {
        return Err(HubError::Page(file.to_owned()));
    }
    let compression = COMPRESSED
        .iter()
        .find(|(magic, _)| start.starts_with(magic));
    match compression {
        Some((_, name)) => Err(HubError::Unsupported {
            file: file.to_owned(),
            what: format!("is compressed by {name}: unpack it first"),
        }),
        None => Ok(()),
    }
}

/// Whether a file that begins so is a Git LFS pointer.
pub(crate) fn is_pointer(start: &[u8]) -> bool {
    start.starts_with(POINTER)
}

/// Whether a file that begins so is a page of HTML.
pub(crate) fn is_page(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    let start = start[..start.len().min(14)].to_ascii_lowercase();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

/// Whether a file of weights that begins so, called `file`, is in safetensors; else it is a pickle. Names are wrong at times,
/// and count only where the bytes do not tell.
pub(crate) fn is_safetensors(start: &[u8], file: &str) -> bool {
    // The length of a header that fits into memory, and the header.
    let is_header = start.get(4..9) == Some(b"\0\0\0\0{");
    let is_pickle = start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80");
    is_header || (file.ends_with(".safetensors") && !is_pickle)
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
            (b"<!DOCTYPE html><p>", "page of HTML"),
            (b"\n  <html lang=en>", "page of HTML"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x28\xb5\x2f\xfd\0", "zstd"),
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
