//! One file of a zip archive, which is read on its own.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use flate2::read::DeflateDecoder;
use zip::CompressionMethod;

use super::limits::{MAX_FILE_BYTES, read_at_most, unpacked_limit};

/// A stretch of a zip archive. Reading it opens the archive again, so that all cores can read at once.
#[derive(Clone, Debug)]
pub(crate) struct Zipped {
    pub(super) archive: Arc<Path>,
    pub(super) start: u64,
    pub(super) compressed_len: u64,
    pub(super) len: u64,
    pub(super) crc32: u32,
    pub(super) method: CompressionMethod,
}

impl Zipped {
    /// The whole file; its length and checksum must be right.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let limit = self.len.min(MAX_FILE_BYTES);
        let limit = limit.min(unpacked_limit(self.compressed_len));
        let bytes = read_at_most(self.open()?, limit)?;
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes);
        if bytes.len() as u64 != self.len || checksum.sum() != self.crc32 {
            return Err(io::Error::other(
                "its checksum in the archive does not match",
            ));
        }
        Ok(bytes)
    }

    /// The file, as a stream.
    pub(super) fn open(&self) -> io::Result<Box<dyn Read>> {
        let mut archive = File::open(&self.archive)?;
        archive.seek(SeekFrom::Start(self.start))?;
        let compressed = BufReader::new(archive.take(self.compressed_len));
        Ok(match self.method {
            CompressionMethod::Deflated => Box::new(DeflateDecoder::new(compressed)),
            _ => Box::new(compressed),
        })
    }
}
