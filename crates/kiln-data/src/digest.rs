//! SHA-256, in the hexadecimal digits that `sha256sum` prints.

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::regular_file::open_regular;

/// The SHA-256 of `bytes`, as 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The SHA-256 of a file, as 64 hexadecimal digits. The file need not fit into memory.
///
/// # Errors
/// Those of [`open_regular`], and of reading.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = open_regular(path)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            count => hash.update(&chunk[..count]),
        }
    }
}

/// Two hexadecimal digits for each byte of a digest, in lower case.
pub fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
