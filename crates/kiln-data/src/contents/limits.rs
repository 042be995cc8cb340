//! How much is read, whatever a header says.

use std::io::{self, Read};

use crate::kind::START;

/// A larger file than this is not an image, and may be an attempt to fill the memory.
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;
/// The largest accepted compression ratio: images are compressed already, and even flat uncompressed ones shrink less.
const MAX_RATIO: u64 = 200;
/// Up to this many bytes, any ratio is accepted.
const HARMLESS_BYTES: u64 = 64 << 20;

/// Reads to the end, and fails if there are more than `limit` bytes, whatever a header says.
pub(crate) fn read_at_most(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    refuse_larger(bytes.len() as u64, limit)?;
    Ok(bytes)
}

pub(super) fn refuse_larger(len: u64, limit: u64) -> io::Result<()> {
    if len > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(())
}

/// The largest accepted size of `packed` compressed bytes.
pub(crate) fn unpacked_limit(packed: u64) -> u64 {
    HARMLESS_BYTES.max(packed.saturating_mul(MAX_RATIO))
}

/// The first [`START`] bytes, or all if there are fewer.
pub(crate) fn start_of(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(START);
    reader.take(START as u64).read_to_end(&mut start)?;
    Ok(start)
}
