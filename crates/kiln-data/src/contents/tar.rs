//! The files of a tar archive, plain or gzipped.
//!
//! A plain one is read where it is. A gzipped one cannot be read out of order, so its files go to a temporary file.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tar::EntryType;

use super::content::{Content, Listing};
use super::gzip::Gzip;
use super::limits::{MAX_FILE_BYTES, unpacked_limit};
use super::skipped::Why;
use super::spool::{Place, Spool, Stretch};
use super::tree::{Link, Tree, too_many_links};
use crate::error::DataError;
use crate::kind::{Kind, START};
use crate::names;

/// The largest header of one file: names, and extensions by programs.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// The size of an archive's blocks.
const BLOCK: u64 = 512;
/// More zeros than any program puts behind the end of an archive to fill its last record.
const MAX_PADDING: u64 = 64 << 20;

/// Lists a plain tar of `len` bytes.
pub(super) fn list(path: &Path, file: BufReader<File>, len: u64) -> Result<Listing, DataError> {
    let watched = Watched::new(file);
    let mut reading = Reading::new(path, &watched, len);
    reading.in_place = Some(Arc::new(Place::Kept(path.to_owned())));
    let mut archive = tar::Archive::new(watched);
    let entries = archive.entries_with_seek();
    reading.all(entries.map_err(|error| damaged(path, &error))?)?;
    reading.finish(archive.into_inner().reader)
}

/// Lists a gzipped tar of `len` bytes.
pub(super) fn list_gzipped(
    path: &Path,
    file: BufReader<File>,
    len: u64,
) -> Result<Listing, DataError> {
    let mut unpacked = Gzip::new(file);
    let mut start = Vec::new();
    let begun = unpacked.by_ref().take(START as u64).read_to_end(&mut start);
    begun.map_err(|error| damaged(path, &error))?;
    let is_without_files = start.len() == START && start.iter().all(|&byte| byte == 0);
    if Kind::of(&start) != Kind::Tar && !is_without_files {
        return Err(DataError::Unexpected {
            path: path.to_owned(),
            expected: "a tar archive within its gzip".to_owned(),
        });
    }
    let watched = Watched::new(io::Cursor::new(start).chain(unpacked));
    let mut reading = Reading::new(path, &watched, len);
    let mut archive = tar::Archive::new(watched);
    let entries = archive.entries();
    reading.all(entries.map_err(|error| damaged(path, &error))?)?;
    let mut rest = archive.into_inner().reader;
    let listing = reading.finish(&mut rest)?;
    // A tar marks its own end, which comes before the checksum.
    let (_, unpacked) = rest.into_inner();
    unpacked.finish().map_err(|error| damaged(path, &error))?;
    Ok(listing)
}

/// An archive that is being listed.
struct Reading<'a> {
    path: &'a Path,
    /// The archive's own bytes.
    len: u64,
    progress: Rc<Progress>,
    /// The archive itself, if its files can be read where they are.
    in_place: Option<Arc<Place>>,
    /// The place for files that cannot be read in the archive itself.
    spool: Option<Spool>,
    tree: Tree,
}

impl<'a> Reading<'a> {
    fn new<R>(path: &'a Path, watched: &Watched<R>, len: u64) -> Self {
        Self {
            path,
            len,
            progress: watched.progress.clone(),
            in_place: None,
            spool: None,
            tree: Tree::default(),
        }
    }

    fn all<R: Read>(&mut self, entries: tar::Entries<'_, R>) -> Result<(), DataError> {
        let path = self.path;
        for entry in entries {
            let mut entry = entry.map_err(|error| damaged(path, &error))?;
            self.progress.left.set(u64::MAX);
            self.add(&mut entry)?;
            if self.in_place.is_none() {
                // Skips unused content, so that only headers are left.
                io::copy(&mut entry, &mut io::sink()).map_err(|error| damaged(path, &error))?;
            }
            self.progress.left.set(MAX_HEADER_BYTES);
        }
        Ok(())
    }

    fn add<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), DataError> {
        let path = entry.path_bytes().into_owned();
        let name = names::from_bytes(&path);
        let target = entry.link_name_bytes();
        let target = target.map(|target| names::from_bytes(&target));
        match (entry.header().entry_type(), target) {
            (EntryType::Directory | EntryType::XGlobalHeader, _) => {}
            // In old archives a folder is a file whose name ends with a slash.
            (EntryType::Regular, _) if path.ends_with(b"/") => {}
            (EntryType::Symlink, Some(target)) => {
                self.tree.add_link(&name, Link::Symbolic(target));
            }
            (EntryType::Link, Some(target)) if entry.size() == 0 => {
                self.tree.add_link(&name, Link::Hard(target));
            }
            (
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Link,
                _,
            ) => {
                if has_map_of_holes(entry) {
                    self.tree.skipped.add(Why::Sparse, &name);
                } else if let Some(stretch) = self.stretch(entry)? {
                    self.tree.add_file(&name, Content::Stretch(stretch));
                } else {
                    self.tree.skipped.add(Why::NoImage, &name);
                }
            }
            _ => self.tree.skipped.add(Why::Special, &name),
        }
        Ok(())
    }

    /// Where a file's content is, or `None` if it is larger than any image.
    fn stretch<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<Option<Stretch>, DataError> {
        let cut_short = || damaged(self.path, &io::ErrorKind::UnexpectedEof.into());
        let size = entry.size();
        if size > MAX_FILE_BYTES {
            return Ok(None);
        }
        let has_holes = entry.header().entry_type() == EntryType::GNUSparse;
        if let Some(archive) = self.in_place.as_ref().filter(|_| !has_holes) {
            let start = entry.raw_file_position();
            // Every file is padded to a whole block.
            let end = start.checked_add(size.next_multiple_of(BLOCK));
            if end.is_none_or(|end| end > self.len) {
                return Err(cut_short());
            }
            return Ok(Some(Stretch {
                file: archive.clone(),
                start,
                len: size,
            }));
        }
        let spool = match &mut self.spool {
            Some(spool) => spool,
            None => self.spool.insert(Spool::new().map_err(not_kept)?),
        };
        let most = unpacked_limit(self.len);
        if spool.len().saturating_add(size) > most {
            return Err(DataError::Unusable {
                path: self.path.to_owned(),
                problem: format!(
                    "unpacks to more than {most} bytes, which images do not: unpack it and pass the folder"
                ),
            });
        }
        let stretch = spool.take(entry).map_err(not_kept)?;
        let stretch = stretch.map_err(|error| damaged(self.path, &error))?;
        if stretch.len != size {
            return Err(cut_short());
        }
        Ok(Some(stretch))
    }

    /// Completes the listing; `rest` follows the end of the archive.
    fn finish(self, rest: impl Read) -> Result<Listing, DataError> {
        if self.progress.at_end.get() {
            tracing::warn!(
                "{} has no end-of-archive mark: it may be cut short",
                self.path.display()
            );
        } else if !is_padding(rest).map_err(|error| damaged(self.path, &error))? {
            tracing::warn!(
                "{} goes on after its end-of-archive mark, and what follows is not read: if archives were joined there, \
                 unpack it with `tar --ignore-zeros` and pass the folder",
                self.path.display()
            );
        }
        if let Some(spool) = self.spool {
            spool.finish().map_err(not_kept)?;
        }
        let path = self.path;
        self.tree.into_listing().ok_or_else(|| too_many_links(path))
    }
}

/// Whether only a few zeros are left, as programs write them to fill an archive's last record.
fn is_padding(rest: impl Read) -> io::Result<bool> {
    let mut rest = rest.take(MAX_PADDING);
    let mut piece = [0; 16 << 10];
    loop {
        match rest.read(&mut piece) {
            Ok(0) => return Ok(rest.limit() > 0),
            Ok(count) if piece[..count].iter().any(|&byte| byte != 0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether POSIX headers describe a file as sparse: its content then begins with a map of its holes.
fn has_map_of_holes<R: Read>(entry: &mut tar::Entry<'_, R>) -> bool {
    let Ok(Some(extensions)) = entry.pax_extensions() else {
        return false;
    };
    extensions
        .flatten()
        .any(|extension| extension.key_bytes().starts_with(b"GNU.sparse."))
}

/// The state of reading, shared by the reader and the code that drives it.
#[derive(Default)]
struct Progress {
    /// The bytes that may still be read.
    left: Cell<u64>,
    /// Whether the reader is at the end.
    at_end: Cell<bool>,
}

/// A reader with a limit.
struct Watched<R> {
    reader: R,
    progress: Rc<Progress>,
}

impl<R> Watched<R> {
    fn new(reader: R) -> Self {
        let progress = Rc::new(Progress::default());
        progress.left.set(MAX_HEADER_BYTES);
        Self { reader, progress }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.progress.left.get();
        if left == 0 {
            return Err(io::Error::other("a name in it is too long"));
        }
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.reader.read(&mut buffer[..most])?;
        self.progress.left.set(left - count as u64);
        self.progress.at_end.set(count == 0);
        Ok(count)
    }
}

impl<R: Seek> Seek for Watched<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.reader.seek(position)
    }
}

fn damaged(path: &Path, error: &io::Error) -> DataError {
    DataError::Damaged {
        path: path.to_owned(),
        reason: format!("it cannot be unpacked ({error})"),
    }
}

fn not_kept(error: io::Error) -> DataError {
    DataError::writing(&std::env::temp_dir(), error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ::tar::{Builder, Header};

    use super::*;
    use crate::contents::list;
    use crate::examples::gzip;

    fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o644);
        header
    }

    /// Adds an entry whose name is these bytes, which the library would not write.
    fn add(tar: &mut Builder<Vec<u8>>, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) {
        let mut header = header(kind, content.len());
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name);
        fields.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }

    fn file(tar: &mut Builder<Vec<u8>>, name: &[u8], content: &[u8]) {
        add(tar, EntryType::Regular, name, b"", content);
    }

    /// Names, contents and skipped entries of the archive, plain and gzipped.
    fn listed(tar: &[u8]) -> Result<(Vec<(String, String)>, String), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let all = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let listing = list(&path).map_err(|error| error.to_string())?;
            let read = |entry: &super::super::Entry| {
                let content = entry.content.read().unwrap();
                (entry.name.clone(), String::from_utf8(content).unwrap())
            };
            let files: Vec<_> = listing.entries.iter().map(read).collect();
            Ok((files, listing.skipped.to_string()))
        };
        let plain: Result<_, String> = all(tar);
        let gzipped = all(&gzip(tar));
        assert_eq!(plain.is_ok(), gzipped.is_ok());
        if let (Ok(plain), Ok(gzipped)) = (&plain, &gzipped) {
            assert_eq!(plain, gzipped);
        }
        plain
    }

    fn names(files: &[(String, String)]) -> Vec<&str> {
        files.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn hard_and_symbolic_links_lead_to_their_files() {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, EntryType::Directory, b"./", b"", b"");
        file(&mut tar, b"./cat/1", b"one");
        add(&mut tar, EntryType::Link, b"./dog/1", b"./cat/1", b"");
        add(&mut tar, EntryType::Link, b"dog/2", b"cat/1", b"");
        add(&mut tar, EntryType::Symlink, b"dog/3", b"../cat/1", b"");
        add(&mut tar, EntryType::Symlink, b"kitten", b"cat", b"");
        // POSIX allows a hard link to have content.
        add(&mut tar, EntryType::Link, b"dog/4", b"cat/1", b"four");
        let (files, _) = listed(&tar.into_inner().unwrap()).unwrap();
        let expected = ["cat/1", "dog/1", "dog/2", "dog/3", "dog/4", "kitten/1"];
        assert_eq!(names(&files), expected);
        for (name, content) in &files {
            assert_eq!(
                content,
                if name == "dog/4" { "four" } else { "one" },
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_file_is_counted() {
        let mut tar = Builder::new(Vec::new());
        file(&mut tar, b"a/1", b"one");
        file(&mut tar, b"../2", b"two");
        file(&mut tar, b"/3", b"three");
        file(&mut tar, b"old-folder/", b"");
        for (kind, name) in [
            (EntryType::Fifo, b"pipe"),
            (EntryType::Char, b"null"),
            (EntryType::Block, b"disk"),
        ] {
            add(&mut tar, kind, name, b"", b"");
        }
        add(&mut tar, EntryType::Link, b"a/gone", b"b/1", b"");
        file(&mut tar, b"a/1", b"again");
        let (files, skipped) = listed(&tar.into_inner().unwrap()).unwrap();
        assert_eq!(files, [("a/1".to_owned(), "again".to_owned())]);
        for words in [
            "2 whose paths leave the archive (as ../2)",
            "3 devices or pipes (as pipe)",
            "1 link to nothing (a/gone)",
            "1 replaced by a later file of the same name (a/1)",
        ] {
            assert!(skipped.contains(words), "{skipped}");
        }
    }

    #[test]
    fn names_are_any_bytes_and_any_length() {
        let mut tar = Builder::new(Vec::new());
        file(&mut tar, b"\xca\xd0/1", b"one");
        file(&mut tar, b"\xca\xd1/1", b"two");
        file(&mut tar, b"\x1b]0;x\x07/1", b"three");
        let long = format!("{}/1", "long".repeat(60));
        let mut of_long = header(EntryType::Regular, 4);
        tar.append_data(&mut of_long, &long, &b"four"[..]).unwrap();
        let (files, _) = listed(&tar.into_inner().unwrap()).unwrap();
        assert_eq!(
            names(&files),
            [
                "\\u{1b}]0;x\\u{7}/1",
                "\\xca\\xd0/1",
                "\\xca\\xd1/1",
                long.as_str()
            ]
        );
    }

    #[test]
    fn sparse_files_are_filled_with_zeros() {
        // Only the second half of the 1,024 bytes is stored.
        let mut tar = Builder::new(Vec::new());
        let mut header = header(EntryType::GNUSparse, 512);
        let fields = header.as_gnu_mut().unwrap();
        fields.name[0] = b'a';
        fields.sparse[0].offset = *b"00000001000\0";
        fields.sparse[0].numbytes = *b"00000001000\0";
        fields.realsize = *b"00000002000\0";
        header.set_cksum();
        tar.append(&header, &[b'x'; 512][..]).unwrap();
        let (files, _) = listed(&tar.into_inner().unwrap()).unwrap();
        assert_eq!(files[0].1, "\0".repeat(512) + &"x".repeat(512));
    }

    #[test]
    fn a_name_without_end_is_damage() {
        // Gzipped, such an archive is tiny.
        let mut tar = Builder::new(Vec::new());
        let name = vec![b'a'; 4 << 20];
        add(
            &mut tar,
            EntryType::GNULongName,
            b"././@LongLink",
            b"",
            &name,
        );
        file(&mut tar, b"a", b"one");
        let message = listed(&tar.into_inner().unwrap()).unwrap_err();
        assert!(message.contains("a name in it is too long"), "{message}");
    }

    #[test]
    fn a_wrong_checksum_after_the_end_of_the_tar_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tgz");
        let mut tar = Builder::new(Vec::new());
        file(&mut tar, b"a", b"one");
        let mut packed = gzip(&tar.into_inner().unwrap());
        std::fs::write(&path, &packed).unwrap();
        assert!(list(&path).is_ok());
        // The last eight bytes are the checksum and the length.
        let at = packed.len() - 8;
        packed[at] ^= 1;
        std::fs::write(&path, &packed).unwrap();
        let message = list(&path).unwrap_err().to_string();
        assert!(message.contains("checksum"), "{message}");
    }

    #[test]
    fn only_zeros_are_the_padding_of_an_archive() {
        let mut one = Builder::new(Vec::new());
        file(&mut one, b"a", b"one");
        let one = one.into_inner().unwrap();
        let mark = one.len() - 2 * BLOCK as usize;
        // The position of the reader behind the first block of the mark.
        let rest = |bytes: &[u8]| is_padding(&bytes[mark + BLOCK as usize..]).unwrap();
        assert!(rest(&one));
        assert!(rest(&[&one[..], &[0; 20_000]].concat()));
        assert!(!rest(&[&one[..], &one[..]].concat()));
        assert!(!rest(&[&one[..], &[0; 20_000], b"x"].concat()));
        assert!(!is_padding(io::repeat(0)).unwrap());
        // What follows is no part of the archive, whether it is one or not.
        for more in [&one[..], b"garbage"] {
            let (files, _) = listed(&[&one[..], more].concat()).unwrap();
            assert_eq!(names(&files), ["a"]);
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.tgz");
        let mut tar = Builder::new(Vec::new());
        for name in [b"a", b"b", b"c"] {
            file(&mut tar, name, &vec![0; 30 << 20]);
        }
        let best = flate2::Compression::best();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), best);
        packed.write_all(&tar.into_inner().unwrap()).unwrap();
        std::fs::write(&path, packed.finish().unwrap()).unwrap();
        let message = list(&path).unwrap_err().to_string();
        assert!(message.contains("unpacks to more than"), "{message}");
    }
}
