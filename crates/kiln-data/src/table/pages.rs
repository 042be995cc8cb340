//! Checks the claimed sizes of a table's pages before any page is unpacked.
//!
//! A column's values are in pages, each after a header with its packed and unpacked length, in Thrift's compact
//! protocol. The reader trusts the header and allocates the memory.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};

use super::bytes::TableBytes;
use crate::contents::unpacked_limit;
use crate::error::DataError;

/// How much to read for a header: enough for nearly all, and the limit for a header with the least and the greatest
/// value.
const HEADER_BYTES: [u64; 2] = [4 << 10, 16 << 20];
/// The deepest nesting of structures in a header.
const MAX_DEPTH: usize = 8;
/// Field numbers of the sizes in a page's header.
const UNPACKED: i64 = 2;
const PACKED: i64 = 3;

/// Refuses the table at `path` if a page of its column `leaf` claims to unpack to more than it can.
pub(super) fn check(
    path: &Path,
    bytes: &TableBytes,
    reader: &SerializedFileReader<TableBytes>,
    leaf: usize,
) -> Result<(), DataError> {
    let read_error = |error| DataError::reading(path, error);
    for group in reader.metadata().row_groups() {
        let Some(Range { start, end }) = place_of(path, bytes.len(), group, leaf)? else {
            continue;
        };
        let mut place = start;
        while place < end {
            let mut page = None;
            for most in HEADER_BYTES {
                let from_here = bytes.get_read(place).map_err(io::Error::other);
                let mut header = Vec::new();
                let mut reader = from_here.map_err(read_error)?.take(most.min(end - place));
                reader.read_to_end(&mut header).map_err(read_error)?;
                page = Page::parse(&header);
                if page.is_some() {
                    break;
                }
            }
            let page = page.ok_or_else(|| DataError::Unusable {
                path: path.to_owned(),
                problem: "has a page without a header: its columns are encrypted, which kiln does not read, or it is damaged; \
                          write it without encryption, or fetch it again"
                    .to_owned(),
            })?;
            if page.unpacked > unpacked_limit(page.packed) {
                return Err(damaged(
                    path,
                    &format!(
                        "a page of {} bytes claims to hold {}",
                        page.packed, page.unpacked
                    ),
                ));
            }
            place = place.saturating_add(page.header + page.packed);
        }
    }
    Ok(())
}

/// Where a row group of the table at `path`, of `len` bytes, has the pages of its column `leaf`; `None` if it has no such
/// column.
pub(super) fn place_of(
    path: &Path,
    len: u64,
    group: &RowGroupMetaData,
    leaf: usize,
) -> Result<Option<Range<u64>>, DataError> {
    let Some(chunk) = group.columns().get(leaf) else {
        return Ok(None);
    };
    let first = chunk.dictionary_page_offset().filter(|offset| *offset > 0);
    let start = first.unwrap_or(chunk.data_page_offset());
    let start = u64::try_from(start.min(chunk.data_page_offset())).unwrap_or(u64::MAX);
    let size = u64::try_from(chunk.compressed_size()).unwrap_or(u64::MAX);
    let end = start.checked_add(size).filter(|end| *end <= len);
    let end = end.ok_or_else(|| damaged(path, "a column is longer than the file"))?;
    Ok(Some(start..end))
}

fn damaged(path: &Path, reason: &str) -> DataError {
    DataError::Damaged {
        path: path.to_owned(),
        reason: format!("it cannot be read as a Parquet table ({reason})"),
    }
}

/// The sizes of a page in bytes.
#[derive(Debug, PartialEq)]
struct Page {
    header: u64,
    packed: u64,
    unpacked: u64,
}

impl Page {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut thrift = Thrift(bytes);
        let (mut packed, mut unpacked) = (None, None);
        thrift.structure(0, &mut |field, value| match field {
            PACKED => packed = u64::try_from(value).ok(),
            UNPACKED => unpacked = u64::try_from(value).ok(),
            _ => {}
        })?;
        Some(Self {
            header: (bytes.len() - thrift.0.len()) as u64,
            packed: packed?,
            unpacked: unpacked?,
        })
    }
}

/// The part of Thrift's compact protocol that is needed to skip other fields.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    /// Skips a structure, and passes its whole numbers to `number` with their field numbers.
    fn structure(&mut self, depth: usize, number: &mut dyn FnMut(i64, i64)) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut field = 0;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == 0 {
                return Some(());
            }
            field = match head >> 4 {
                0 => self.integer()?,
                step => field + i64::from(step),
            };
            match kind {
                // The type itself says true or false.
                1 | 2 => {}
                4..=6 => {
                    let value = self.integer()?;
                    number(field, value);
                }
                _ => self.value(kind, depth)?,
            }
        }
    }

    /// Skips a value outside of a field.
    fn value(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1..=3 => self.skip(1),
            4..=6 => self.integer().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let len = usize::try_from(self.unsigned()?).ok()?;
                self.skip(len)
            }
            9 | 10 => {
                let head = self.byte()?;
                let len = match head >> 4 {
                    15 => self.unsigned()?,
                    len => u64::from(len),
                };
                for _ in 0..len {
                    self.value(head & 0x0f, depth + 1)?;
                }
                Some(())
            }
            12 => self.structure(depth + 1, &mut |_, _| {}),
            _ => None,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let zigzag = self.unsigned()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_gives_its_sizes() {
        // A data page: type 0, 300 and 200 bytes, and a structure with statistics.
        let header = [
            0x15, 0, 0x15, 0xd8, 0x04, 0x15, 0x90, 0x03, 0x2c, 0x15, 4, 0x1c, 0x18, 2, 7, 7, 0, 0,
            0, 99,
        ];
        let expected = Page {
            header: 19,
            packed: 200,
            unpacked: 300,
        };
        assert_eq!(Page::parse(&header), Some(expected));
        for len in 0..18 {
            assert_eq!(Page::parse(&header[..len]), None, "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Page::parse(&bytes);
        }
    }
}
