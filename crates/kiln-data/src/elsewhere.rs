//! Files of a data set that are somewhere else, such as on a server, and come here when it is their turn.

use std::error::Error;
use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;

/// The files of a data set, by number from 0, wherever they are. They never change.
///
/// Training sees the same images as if all files were here: what this answers decides only when a file comes.
pub trait FileSource: Debug + Send + Sync {
    /// These bytes of file `file`, all of them.
    ///
    /// # Errors
    /// If they cannot be had: one sentence that says what to do.
    fn read(&self, file: usize, range: Range<u64>) -> Result<Vec<u8>, SourceError>;

    /// File `file`, complete and right. Waits until it is here, however often that has to be tried. The file may lose its name
    /// while it is open.
    ///
    /// # Errors
    /// If it cannot be had: one sentence that says what to do. This is never a damaged file, which another takes the place of.
    fn open(&self, file: usize) -> Result<File, SourceError>;

    /// Tells which files will be opened, the next one first, instead of all that was told before. They may be fetched ahead;
    /// this does not wait.
    fn expect(&self, files: &[usize]);
}

/// Why a file of a [`FileSource`] cannot be had.
pub type SourceError = Box<dyn Error + Send + Sync>;
