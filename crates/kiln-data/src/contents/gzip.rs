//! The content of a gzip file, checked to its end.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// Unpacks every member of a gzip file, one after the other.
///
/// A member ends with a checksum, which is compared when the member has been read to its end: a reader that stops
/// earlier calls [`Gzip::finish`]. Zeros may follow a member, as on tapes; other bytes are an error.
pub(crate) struct Gzip<R> {
    /// `None` after the end.
    member: Option<GzDecoder<BufReader<R>>>,
}

impl<R: Read> Gzip<R> {
    pub(crate) fn new(packed: R) -> Self {
        Self {
            member: Some(GzDecoder::new(BufReader::new(packed))),
        }
    }

    /// Reads the rest, so that every checksum is compared.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if is_at_end(member.get_mut())? {
                self.member = None;
            } else if let Some(member) = self.member.take() {
                self.member = Some(GzDecoder::new(member.into_inner()));
            }
        }
        Ok(0)
    }
}

/// Whether only zeros follow, and no other member.
fn is_at_end(rest: &mut impl BufRead) -> io::Result<bool> {
    loop {
        match rest.fill_buf()? {
            [] => return Ok(true),
            // The first bytes of every member.
            [0x1f, ..] => return Ok(false),
            [0, ..] => rest.consume(1),
            _ => return Err(io::Error::other("other bytes follow its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::gzip;

    fn unpacked(packed: &[u8]) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = Gzip::new(packed).read_to_end(&mut bytes);
        // If reading stops early, the rest is still checked.
        let mut stopped = Gzip::new(packed);
        let first = stopped.read(&mut [0]);
        let finished = first.and_then(|_| stopped.finish());
        assert_eq!(read.is_ok(), finished.is_ok());
        read.map(|_| bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn members_follow_one_another_and_zeros_fill_up() {
        let mut packed = gzip(b"one");
        packed.extend(gzip(b""));
        packed.extend(gzip(b" two"));
        assert_eq!(unpacked(&packed).unwrap(), b"one two");
        packed.extend([0; 20_000]);
        assert_eq!(unpacked(&packed).unwrap(), b"one two");
        packed.extend(gzip(b", three"));
        assert_eq!(unpacked(&packed).unwrap(), b"one two, three");
        packed.extend(b"PK");
        assert!(unpacked(&packed).unwrap_err().contains("follow its end"));
    }

    #[test]
    fn no_change_of_a_byte_changes_the_content() {
        let content: Vec<u8> = (0..3_000_u32)
            .map(|index| (index * index % 251) as u8)
            .collect();
        let packed = gzip(&content);
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 0x10;
            let read = unpacked(&changed);
            // The header's time and system may have any value.
            let is_harmless = at < 10 && read.as_ref() == Ok(&content);
            assert!(
                read.is_err() || is_harmless,
                "byte {at} of {}",
                packed.len()
            );
        }
        for len in 0..packed.len() {
            assert!(unpacked(&packed[..len]).is_err(), "cut to {len} bytes");
        }
    }
}
