//! The files of a zip archive.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use zip::result::ZipError;
use zip::{CompressionMethod, ExtraField};

use super::content::{Content, Listing};
use super::limits::read_at_most;
use super::skipped::Why;
use super::tree::{Link, Tree, too_many_links};
use super::zipped::Zipped;
use crate::error::DataError;
use crate::names;

/// The mark of an entry whose name is UTF-8.
const UTF8: u16 = 1 << 11;
/// The bits of a Unix mode for the kind of file, and their value for a regular file.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
/// The longest path in a link.
const MAX_LINK_BYTES: u64 = 4096;

/// The upper half of code page 437, the encoding of names that are not marked as UTF-8.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
                     └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

pub(super) fn list(path: &Path, file: BufReader<File>) -> Result<Listing, DataError> {
    let unusable = |problem: String| DataError::Unusable {
        path: path.to_owned(),
        problem,
    };
    let damaged = |error: ZipError| match error {
        ZipError::UnsupportedArchive(reason) => unusable(format!(
            "is a zip of a kind that kiln does not read ({reason}): unpack it and pass the folder"
        )),
        error => DataError::Damaged {
            path: path.to_owned(),
            reason: format!("the list of files in the zip cannot be read ({error})"),
        },
    };
    let mut zip = zip::ZipArchive::new(file).map_err(damaged)?;
    if zip.has_duplicate_names() {
        tracing::warn!(
            "{} has several files with one name; the last one is used",
            path.display()
        );
    }
    if zip.offset() > 0 {
        tracing::warn!(
            "{} has {} bytes before its files, which are not read: if archives were joined, unpack each and pass the folder",
            path.display(),
            zip.offset()
        );
    }
    let archive: Arc<Path> = path.into();
    let mut found = Vec::with_capacity(zip.len());
    let mut all_utf8 = true;
    for index in 0..zip.len() {
        let file = zip.by_index_raw(index).map_err(damaged)?;
        let is_marked = file.flags().as_u16() & UTF8 != 0
            || file
                .extra_data_fields()
                .any(|field| matches!(field, ExtraField::UnicodePath(_)));
        all_utf8 &= is_marked || std::str::from_utf8(file.name_raw()).is_ok();
        if file.is_dir() {
            continue;
        }
        if file.encrypted() {
            return Err(unusable(
                "has a password: unpack it and pass the folder".to_owned(),
            ));
        }
        let method = file.compression();
        if !matches!(
            method,
            CompressionMethod::Stored | CompressionMethod::Deflated
        ) {
            let method = CompressionMethod::name_from_u16(method_number(method));
            return Err(unusable(format!(
                "is a zip packed with {method}, which is not unpacked here: unpack it and pass the folder"
            )));
        }
        let start = file
            .data_start()
            .ok_or_else(|| damaged(ZipError::InvalidArchive("a file begins nowhere".into())))?;
        let zipped = Zipped {
            archive: archive.clone(),
            start,
            compressed_len: file.compressed_size(),
            len: file.size(),
            crc32: file.crc32(),
            method,
        };
        let kind = file.unix_mode().map_or(0, |mode| mode & KIND);
        found.push(Found {
            name: file.name_raw().to_vec(),
            header: file.header_start(),
            is_marked,
            is_link: file.is_symlink(),
            is_special: !matches!(kind, 0 | REGULAR),
            zipped,
        });
    }
    let mut zip = zip.into_inner();
    let mut tree = Tree::default();
    for file in found {
        let own_name = name_in_header(&mut zip, file.header);
        let own_name = own_name.map_err(|error| damaged(error.into()))?;
        if own_name != file.name {
            return Err(DataError::Damaged {
                path: path.to_owned(),
                reason: format!(
                    "its list of files has the name {} for a file that is stored as {}",
                    names::from_bytes(&file.name),
                    names::from_bytes(&own_name)
                ),
            });
        }
        let name = text(&file.name, file.is_marked || all_utf8);
        if file.is_link {
            let target = read_at_most(
                file.zipped
                    .open()
                    .map_err(|error| DataError::reading(path, error))?,
                MAX_LINK_BYTES,
            );
            match target {
                Ok(target) => {
                    let target = text(&target, file.is_marked || all_utf8);
                    tree.add_link(&name, Link::Symbolic(target));
                }
                Err(_) => tree.skipped.add(Why::Dangling, &name),
            }
        } else if file.is_special {
            tree.skipped.add(Why::Special, &name);
        } else {
            tree.add_file(&name, Content::Zipped(file.zipped));
        }
    }
    tree.into_listing().ok_or_else(|| too_many_links(path))
}

/// A file of the archive whose name is still bytes.
struct Found {
    name: Vec<u8>,
    /// The position of the header before its content, which repeats the name.
    header: u64,
    /// Whether the archive says that the name is UTF-8.
    is_marked: bool,
    is_link: bool,
    is_special: bool,
    zipped: Zipped,
}

/// The name in the header at this position: two bytes with its length are at 26, two more follow, and then the name.
fn name_in_header(zip: &mut (impl Read + Seek), position: u64) -> io::Result<Vec<u8>> {
    zip.seek(SeekFrom::Start(position))?;
    let mut fixed = [0; 30];
    zip.read_exact(&mut fixed)?;
    let mut name = vec![0; usize::from(u16::from_le_bytes([fixed[26], fixed[27]]))];
    zip.read_exact(&mut name)?;
    Ok(name)
}

/// A name as text, printable and with `/` between its parts.
///
/// As in the format and in Python's `zipfile`, names are in code page 437 unless they are marked as UTF-8. That is
/// rarely the intended encoding, but keeps names distinct. macOS writes UTF-8 without the mark: if all names of an
/// archive are valid UTF-8, they are read as UTF-8.
fn text(name: &[u8], is_utf8: bool) -> String {
    if is_utf8 {
        names::from_bytes(&name.iter().map(slash).collect::<Vec<_>>())
    } else {
        let upper: Vec<char> = CP437.chars().collect();
        let decoded: String = name
            .iter()
            .map(slash)
            .map(|byte| match byte.checked_sub(128) {
                Some(index) => upper.get(usize::from(index)).copied().unwrap_or('?'),
                None => char::from(byte),
            })
            .collect();
        names::printable(&decoded)
    }
}

/// Some Windows programs write `\` between the parts of a path.
fn slash(byte: &u8) -> u8 {
    if *byte == b'\\' { b'/' } else { *byte }
}

/// The format's number for a method.
#[expect(deprecated, reason = "there is no other way to the number")]
fn method_number(method: CompressionMethod) -> u16 {
    method.to_u16()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use ::zip::write::SimpleFileOptions;

    use super::*;
    use crate::contents::list;

    /// A zip of stored files; each contains its own name.
    fn archive(names: &[&str]) -> Vec<u8> {
        let mut writer = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for name in names {
            writer.start_file(*name, stored).unwrap();
            writer.write_all(name.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// Replaces bytes in names, as programs without UTF-8 write them.
    fn renamed(mut zip: Vec<u8>, renames: &[(&[u8], &[u8])]) -> Vec<u8> {
        for (from, to) in renames {
            assert_eq!(from.len(), to.len());
            let places: Vec<usize> = (0..zip.len() - from.len())
                .filter(|&place| {
                    // A name follows a header; contents stay.
                    zip[place..].starts_with(from)
                        && zip[place.saturating_sub(46)..place]
                            .windows(2)
                            .any(|pk| pk == b"PK")
                })
                .collect();
            for place in places {
                zip[place..place + from.len()].copy_from_slice(to);
            }
        }
        zip
    }

    /// Sets a number in both headers of all files, `at` bytes after their flags.
    fn with_number(mut zip: Vec<u8>, at: usize, number: u8) -> Vec<u8> {
        for place in 0..zip.len() - 4 {
            match &zip[place..place + 4] {
                b"PK\x03\x04" => zip[place + 6 + at] = number,
                b"PK\x01\x02" => zip[place + 8 + at] = number,
                _ => {}
            }
        }
        zip
    }

    fn listed(zip: &[u8]) -> Result<(Vec<String>, String), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        std::fs::write(&path, zip).unwrap();
        let listing = list(&path).map_err(|error| error.to_string())?;
        let names = listing.entries.into_iter().map(|entry| entry.name);
        Ok((names.collect(), listing.skipped.to_string()))
    }

    #[test]
    fn names_without_a_mark_are_those_that_python_reads() {
        // "кот" and "пёс" in code page 866, and "猫" in GBK. Python's zipfile gives the strings below for them.
        let zip = archive(&["AAA/1", "BBB/1", "CC/1"]);
        let zip = renamed(
            zip,
            &[
                (b"AAA", b"\xaa\xae\xe2"),
                (b"BBB", b"\xaf\xf1\xe1"),
                (b"CC", b"\xc3\xa8"),
            ],
        );
        let (names, _) = listed(&zip).unwrap();
        // "猫" in GBK happens to be "è" in UTF-8; the others show that this archive is not UTF-8.
        assert_eq!(names, ["¬«Γ/1", "»±ß/1", "├¿/1"]);
    }

    #[test]
    fn names_that_are_all_utf8_are_read_so() {
        let zip = renamed(
            archive(&["AAAAA/1", "B/1"]),
            &[(b"AAAAA", "köln".as_bytes())],
        );
        assert_eq!(listed(&zip).unwrap().0, ["B/1", "köln/1"]);
        assert_eq!(listed(&archive(&["köln/1"])).unwrap().0, ["köln/1"]);
    }

    #[test]
    fn paths_are_brought_into_order() {
        let (names, skipped) = listed(&archive(&["./a/1", "a\\2", "../3", "/4", "b/./5"])).unwrap();
        assert_eq!(names, ["a/1", "a/2", "b/5"]);
        assert!(
            skipped.contains("2 whose paths leave the archive"),
            "{skipped}"
        );
        let zip = renamed(archive(&["AAAA/1", "b/2"]), &[(b"AAAA", b"\x1b[2J")]);
        assert_eq!(listed(&zip).unwrap().0, ["\\u{1b}[2J/1", "b/2"]);
    }

    #[test]
    fn a_list_that_names_files_otherwise_than_they_are_stored_is_damage() {
        let zip = archive(&["cat/1", "dog/2"]);
        let list = zip.windows(4).position(|four| four == b"PK\x01\x02");
        let (files, list) = zip.split_at(list.unwrap());
        for (from, to) in [
            (b"cat/1", b"dog/1"),
            (b"dog/2", b"dog/3"),
            (b"cat/1", b"cbt/1"),
        ] {
            let at = list.windows(5).position(|name| name == from).unwrap();
            let mut other = list.to_vec();
            other[at..at + 5].copy_from_slice(to);
            let message = listed(&[files, &other].concat()).unwrap_err();
            let [from, to] = [from, to].map(|name| String::from_utf8_lossy(name));
            assert!(
                message.contains(&format!(
                    "the name {to} for a file that is stored as {from}"
                )),
                "{message}"
            );
        }
        // A program before the archive moves all positions.
        let (names, _) = listed(&[b"#!/bin/sh\n", &zip[..]].concat()).unwrap();
        assert_eq!(names, ["cat/1", "dog/2"]);
    }

    #[test]
    fn links_in_a_zip_are_followed() {
        let mut writer = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default();
        writer.start_file("cat/1", options).unwrap();
        writer.write_all(b"one").unwrap();
        writer.add_symlink("dog", "cat", options).unwrap();
        writer.add_symlink("out", "/etc", options).unwrap();
        let (names, skipped) = listed(&writer.finish().unwrap().into_inner()).unwrap();
        assert_eq!(names, ["cat/1", "dog/1"]);
        assert!(
            skipped.contains("1 whose path leaves the archive (out)"),
            "{skipped}"
        );
    }

    #[test]
    fn passwords_and_other_methods_are_said() {
        let zip = archive(&["a/1", "a/2"]);
        let message = listed(&with_number(zip.clone(), 0, 1)).unwrap_err();
        assert!(message.contains("a.zip has a password"), "{message}");
        for (method, name) in [
            (12, "bzip2"),
            (95, "xz"),
            (93, "zstd"),
            (9, "deflate64"),
            (14, "lzma"),
        ] {
            let message = listed(&with_number(zip.clone(), 2, method)).unwrap_err();
            assert!(message.to_lowercase().contains(name), "{message}");
            assert!(
                message.contains("unpack it and pass the folder"),
                "{message}"
            );
        }
    }
}
