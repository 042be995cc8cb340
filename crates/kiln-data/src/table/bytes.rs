//! The bytes of a Parquet file: all of them in a file, or the stretches that have come from somewhere else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// The bytes of a Parquet file.
#[derive(Clone)]
pub(super) enum TableBytes {
    /// All of them.
    Whole(Arc<File>),
    /// Some of them.
    Outline(Arc<Outline>),
}

/// Some stretches of a file.
pub(super) struct Outline {
    /// The file's length in bytes.
    length: u64,
    /// By their first byte.
    stretches: RwLock<BTreeMap<u64, Bytes>>,
}

impl Outline {
    /// Nothing yet of a file of so many bytes.
    pub(super) fn new(length: u64) -> Self {
        Self {
            length,
            stretches: RwLock::default(),
        }
    }

    /// Adds the bytes from `start` on.
    pub(super) fn add(&self, start: u64, bytes: Vec<u8>) {
        let mut stretches = (self.stretches.write()).unwrap_or_else(PoisonError::into_inner);
        stretches.insert(start, bytes.into());
    }

    /// Whether these bytes are here, in one stretch.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        let from_start = self.from(range.start);
        from_start.is_ok_and(|bytes| bytes.len() as u64 >= range.end - range.start)
    }

    /// The bytes from `start` to the end of their stretch.
    fn from(&self, start: u64) -> Result<Bytes> {
        let stretches = (self.stretches.read()).unwrap_or_else(PoisonError::into_inner);
        let before = stretches.range(..=start).rev();
        let mut within = before.filter_map(|(first, bytes)| {
            let skipped = usize::try_from(start - first).ok()?;
            (skipped < bytes.len()).then(|| bytes.slice(skipped..))
        });
        within
            .next()
            .ok_or_else(|| ParquetError::EOF(format!("byte {start} is not here")))
    }
}

impl Length for TableBytes {
    fn len(&self) -> u64 {
        match self {
            Self::Whole(file) => Length::len(&**file),
            Self::Outline(outline) => outline.length,
        }
    }
}

impl ChunkReader for TableBytes {
    type T = Stretch;

    fn get_read(&self, start: u64) -> Result<Stretch> {
        Ok(match self {
            Self::Whole(file) => Stretch::Whole(file.get_read(start)?),
            Self::Outline(outline) => Stretch::Outline(Cursor::new(outline.from(start)?)),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::Whole(file) => file.get_bytes(start, length),
            Self::Outline(_) if length == 0 => Ok(Bytes::new()),
            Self::Outline(outline) => {
                let bytes = outline.from(start)?;
                if bytes.len() < length {
                    return Err(ParquetError::EOF(format!(
                        "of {length} bytes from {start} on, {} are here",
                        bytes.len()
                    )));
                }
                Ok(bytes.slice(..length))
            }
        }
    }
}

/// Reads on from some place.
pub(super) enum Stretch {
    Whole(<File as ChunkReader>::T),
    Outline(Cursor<Bytes>),
}

impl Read for Stretch {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Whole(file) => file.read(target),
            Self::Outline(bytes) => bytes.read(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_gives_what_it_has_and_nothing_else() {
        let outline = Arc::new(Outline::new(100));
        outline.add(10, (10..20).collect());
        outline.add(90, (90..100).collect());
        let bytes = TableBytes::Outline(outline.clone());
        assert_eq!(Length::len(&bytes), 100);
        assert_eq!(bytes.get_bytes(12, 3).unwrap()[..], [12, 13, 14]);
        let mut rest = Vec::new();
        let mut reader = bytes.get_read(95).unwrap();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [95, 96, 97, 98, 99]);
        for (start, length) in [
            (9, 1),
            (20, 1),
            (15, 6),
            (100, 1),
            (0, 100),
            (15, usize::MAX),
        ] {
            assert!(bytes.get_bytes(start, length).is_err(), "{start}, {length}");
        }
        assert!(bytes.get_bytes(50, 0).unwrap().is_empty());
        assert!(outline.has(&(10..20)) && !outline.has(&(10..21)) && !outline.has(&(9..12)));
    }
}
