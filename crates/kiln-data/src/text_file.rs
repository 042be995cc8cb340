//! Small text files: configs and results, written by people or programs.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::regular_file::open_regular;

/// Many times the size of any config or table of results, in bytes.
const LARGEST: u64 = 4 << 20;

/// The text of a small file, such as an experiment's config. Reads at most a few megabytes of a larger one.
///
/// # Errors
/// Those of [`open_regular`]; and a file that is larger, or not UTF-8 text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        let megabytes = LARGEST >> 20;
        let problem = format!("it has more than {megabytes} MB, so it is not such a file");
        return Err(io::Error::new(ErrorKind::FileTooLarge, problem));
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn only_small_texts_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "seed = 0\n").unwrap();
        assert_eq!(read_text(&path).unwrap(), "seed = 0\n");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("UTF-8"));
        // A hole takes no room on the disk, but would take all of the memory.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(
            read_text(&path).unwrap_err().kind(),
            ErrorKind::FileTooLarge
        );
    }
}
