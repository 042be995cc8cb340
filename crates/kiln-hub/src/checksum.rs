//! Checks whether a file is the right one.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use kiln_data::hexadecimal;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A file's checksum, the Hub's name for the file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 of the content, in hexadecimal, for files in Git LFS.
    Sha256(String),
    /// Git's name for the content, in hexadecimal: SHA-1 over `blob SIZE`, a zero byte and the content.
    GitBlob(String),
}

impl Checksum {
    /// Reads a checksum, or an HTTP answer's `ETag`, a checksum in quotes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        let is_hexadecimal = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match text.len() {
            64 if is_hexadecimal => Some(Self::Sha256(text.to_owned())),
            40 if is_hexadecimal => Some(Self::GitBlob(text.to_owned())),
            _ => None,
        }
    }

    pub(crate) fn is_sha256(&self) -> bool {
        matches!(self, Self::Sha256(_))
    }

    /// The digits, which are also the content's name in the cache.
    pub(crate) fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }

    /// Whether the file at `path` has this checksum.
    pub(crate) fn matches(&self, path: &Path) -> io::Result<bool> {
        self.matches_with(path, &|_| ())
    }

    /// The same for a large file: `read` is told the bytes as they are read.
    pub(crate) fn matches_with(&self, path: &Path, read: &dyn Fn(u64)) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let digits = match self {
            Self::Sha256(_) => digest(&mut file, Sha256::new(), read)?,
            Self::GitBlob(_) => {
                let size = file.metadata()?.len();
                digest(
                    &mut file,
                    Sha1::new_with_prefix(format!("blob {size}\0")),
                    read,
                )?
            }
        };
        Ok(digits == self.digits())
    }
}

/// The digest of everything from `reader`, in hexadecimal.
fn digest<D: Digest>(
    reader: &mut impl Read,
    mut digest: D,
    read: &dyn Fn(u64),
) -> io::Result<String> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        digest.update(&chunk[..count]);
        read(count as u64);
    }
    Ok(hexadecimal(&digest.finalize()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_data::sha256_of_file;

    use super::*;

    // The output of `sha256sum` and `git hash-object` for a file with these bytes.
    const CONTENT: &str = "kiln\n";
    const SHA256: &str = "ecdcbd502c7c341b7d547760cc09270a43d82db3257b8b0f96e98083e4e5643d";
    const GIT_BLOB: &str = "8c4affaf78f224a09b03812946fb6bf33f62e8a6";

    #[test]
    fn files_are_told_apart_as_git_and_git_lfs_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, CONTENT).unwrap();
        assert_eq!(sha256_of_file(&path).unwrap(), SHA256);
        for digits in [SHA256, GIT_BLOB] {
            assert!(Checksum::parse(digits).unwrap().matches(&path).unwrap());
        }
        fs::write(&path, "Kiln\n").unwrap();
        for digits in [SHA256, GIT_BLOB] {
            assert!(!Checksum::parse(digits).unwrap().matches(&path).unwrap());
        }
    }

    #[test]
    fn entity_tags_are_checksums_in_quotes_or_none() {
        let expected = Some(Checksum::Sha256(SHA256.to_owned()));
        for tag in [format!("\"{SHA256}\""), format!("W/\"{SHA256}\"")] {
            assert_eq!(Checksum::parse(&tag), expected);
        }
        for tag in [
            "",
            "\"abc\"",
            "../../etc/passwd",
            &"g".repeat(40),
            &"é".repeat(20),
        ] {
            assert_eq!(Checksum::parse(tag), None);
        }
    }
}
