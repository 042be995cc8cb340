//! Files that came while a training went on: as many as there is room for, for all data sets and programs together.
//!
//! ```text
//! .kiln/
//!   lock                      held while the files are counted, or some are taken away
//!   CHECKSUM                  a content, complete and right
//!   CHECKSUM.SIZE.incomplete  one that is being fetched, and has this size in the end
//!   locks/CHECKSUM            held while it is fetched
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::checksum::Checksum;

/// The folder, in that of the cache.
const FOLDER: &str = ".kiln";
/// The ending of a content that is not complete.
const INCOMPLETE: &str = ".incomplete";

/// A folder whose files never take more than so many bytes.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
    bound: u64,
}

/// The right to fetch a content: no other thread or program does until this is dropped.
pub(crate) struct Turn<'a> {
    shelf: &'a Shelf,
    checksum: &'a Checksum,
    size: u64,
    _lock: File,
}

/// How much a content is needed, by its checksum: the next one has the least number; `None` if it is not known to be.
pub(crate) type Needed<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// A file in the folder.
struct Kept {
    path: PathBuf,
    /// The checksum of its content.
    digits: String,
    /// Its size, in the end.
    size: u64,
    is_complete: bool,
    used: SystemTime,
}

impl Shelf {
    /// The folder in the cache at `root`. Nothing is made yet.
    pub(crate) fn new(root: &Path, bound: u64) -> Self {
        Self {
            folder: root.join(FOLDER),
            bound,
        }
    }

    /// The bytes that the folder's files take in the end.
    pub(crate) fn taken(&self) -> u64 {
        self.kept().iter().map(|kept| kept.size).sum()
    }

    fn content(&self, checksum: &Checksum) -> PathBuf {
        self.folder.join(checksum.digits())
    }

    /// Opens a content of `size` bytes, if it is there, and notes that it was used.
    pub(crate) fn open(&self, checksum: &Checksum, size: u64) -> Option<File> {
        let path = self.content(checksum);
        // A link could lead elsewhere, and a pipe would block.
        let found = fs::symlink_metadata(&path).ok()?;
        if !found.is_file() || found.len() != size {
            return None;
        }
        let file = File::open(&path).ok()?;
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// Whether a content is right. One that is not is taken away.
    pub(crate) fn check(&self, checksum: &Checksum) -> io::Result<bool> {
        let path = self.content(checksum);
        let is_right = checksum.matches(&path)?;
        if !is_right {
            fs::remove_file(&path)?;
        }
        Ok(is_right)
    }

    /// Waits until no other program and no other thread fetches this content.
    pub(crate) fn turn<'a>(&'a self, checksum: &'a Checksum, size: u64) -> io::Result<Turn<'a>> {
        let locks = self.folder.join("locks");
        fs::create_dir_all(&locks)?;
        let lock = open_lock(&locks.join(checksum.digits()))?;
        // If the file system has no locks, the checksum still protects the content.
        let _ = lock.lock();
        Ok(Turn {
            shelf: self,
            checksum,
            size,
            _lock: lock,
        })
    }

    /// Whether a partial content is being fetched.
    fn is_coming(&self, digits: &str) -> bool {
        let lock = open_lock(&self.folder.join("locks").join(digits));
        lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)))
    }

    /// Removes one of `kept`, and returns its place.
    fn take_one(
        &self,
        kept: &[Kept],
        needed: Needed<'_>,
        than: Option<usize>,
    ) -> io::Result<Option<usize>> {
        let mut places: Vec<(usize, usize)> = (0..kept.len())
            .map(|place| (needed(&kept[place].digits).unwrap_or(usize::MAX), place))
            .filter(|(need, _)| than.is_none_or(|than| *need > than))
            .collect();
        // The least needed first; of those that are not needed, the one that was used the longest time ago.
        places.sort_by_key(|&(need, place)| (std::cmp::Reverse(need), kept[place].used));
        for (_, place) in places {
            let Kept {
                path,
                digits,
                is_complete,
                ..
            } = &kept[place];
            if *is_complete || !self.is_coming(digits) {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => return Ok(Some(place)),
                }
            }
        }
        Ok(None)
    }

    fn lock(&self) -> io::Result<File> {
        let lock = open_lock(&self.folder.join("lock"))?;
        let _ = lock.lock();
        Ok(lock)
    }

    fn kept(&self) -> Vec<Kept> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let kept = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let found = entry.metadata().ok()?;
            let (digits, size) = match name.strip_suffix(INCOMPLETE) {
                Some(rest) => {
                    let (digits, size) = rest.split_once('.')?;
                    (digits, size.parse::<u64>().ok()?.max(found.len()))
                }
                None => (name.as_str(), found.len()),
            };
            Checksum::parse(digits).filter(|_| found.is_file())?;
            Some(Kept {
                path: entry.path(),
                digits: digits.to_owned(),
                size,
                is_complete: digits == name,
                used: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            })
        });
        kept.collect()
    }
}

impl Turn<'_> {
    /// The path of the content while it is not complete.
    pub(crate) fn partial(&self) -> PathBuf {
        let (digits, size) = (self.checksum.digits(), self.size);
        self.shelf
            .folder
            .join(format!("{digits}.{size}{INCOMPLETE}"))
    }

    /// Makes room for the content, by taking away what is needed less than `than`, or anything that is complete. Returns
    /// whether there is room now; if not, nothing was taken away that is needed more.
    pub(crate) fn make_room(&self, needed: Needed<'_>, than: Option<usize>) -> io::Result<bool> {
        let partial = self.partial();
        let _lock = self.shelf.lock()?;
        let mut kept = self.shelf.kept();
        kept.retain(|kept| kept.path != partial);
        loop {
            let taken: u64 = kept.iter().map(|kept| kept.size).sum();
            if taken.saturating_add(self.size) <= self.shelf.bound {
                // From now on it counts with its whole size.
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&partial)?;
                return Ok(true);
            }
            match self.shelf.take_one(&kept, needed, than)? {
                Some(place) => drop(kept.swap_remove(place)),
                None => return Ok(false),
            }
        }
    }

    /// Takes away the content that is needed least, whatever the bound; returns whether there was one.
    pub(crate) fn take_away(&self, needed: Needed<'_>) -> bool {
        let partial = self.partial();
        let mut kept = self.shelf.kept();
        kept.retain(|kept| kept.path != partial);
        let taken = (self.shelf.lock()).and_then(|_lock| self.shelf.take_one(&kept, needed, None));
        taken.is_ok_and(|gone| gone.is_some())
    }

    /// The content, which is complete and right, under its name.
    pub(crate) fn finish(self) -> io::Result<File> {
        let partial = self.partial();
        // Opened before others can take it away.
        let file = File::open(&partial)?;
        fs::rename(&partial, self.shelf.content(self.checksum))?;
        Ok(file)
    }
}

/// Opens a file for its lock. Anything else than a file is not opened: a link could lead elsewhere, and a pipe would block.
fn open_lock(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        fs::remove_file(path)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn checksum(number: usize) -> Checksum {
        Checksum::parse(&format!("{number:040x}")).unwrap()
    }

    fn put(
        shelf: &Shelf,
        number: usize,
        size: u64,
        needed: Needed<'_>,
        than: Option<usize>,
    ) -> bool {
        let checksum = checksum(number);
        let turn = shelf.turn(&checksum, size).unwrap();
        if !turn.make_room(needed, than).unwrap() {
            return false;
        }
        assert!(shelf.taken() <= shelf.bound);
        fs::write(turn.partial(), vec![0; size as usize]).unwrap();
        turn.finish().unwrap();
        // The time of use orders them, and may be coarse.
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64);
        let file = OpenOptions::new()
            .append(true)
            .open(shelf.content(&checksum));
        file.unwrap().set_modified(used).unwrap();
        true
    }

    fn there(shelf: &Shelf) -> Vec<usize> {
        let kept = shelf.kept().into_iter();
        let mut there: Vec<usize> = kept
            .map(|kept| usize::from_str_radix(&kept.digits, 16).unwrap())
            .collect();
        there.sort_unstable();
        there
    }

    #[test]
    fn what_is_needed_least_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path(), 30);
        // 1 is needed next, then 2; the others are not.
        let needed = |digits: &str| match usize::from_str_radix(digits, 16).unwrap() {
            number @ (1 | 2) => Some(number),
            _ => None,
        };
        for number in [2, 1, 4] {
            assert!(put(&shelf, number, 10, &needed, None));
        }
        assert_eq!(there(&shelf), [1, 2, 4]);
        assert!(put(&shelf, 3, 10, &needed, None), "4 goes");
        assert!(
            put(&shelf, 5, 10, &needed, None),
            "3 goes, although 4 came later"
        );
        assert_eq!(there(&shelf), [1, 2, 5]);
        assert!(!put(&shelf, 6, 30, &needed, Some(1)), "1 is needed more");
        assert_eq!(there(&shelf), [1], "what is needed less went");
        assert!(put(&shelf, 6, 30, &needed, None));
        assert_eq!(there(&shelf), [6]);
        assert!(!put(&shelf, 7, 31, &needed, None));
    }

    #[test]
    fn what_is_being_fetched_counts_whole_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path(), 30);
        let (first, none) = (checksum(1), |_: &str| None);
        let turn = shelf.turn(&first, 20).unwrap();
        assert!(turn.make_room(&none, None).unwrap());
        assert_eq!(shelf.taken(), 20);
        assert!(!put(&shelf, 2, 20, &none, None));
        assert!(put(&shelf, 2, 10, &none, None));
        drop(turn);
        // It is not being fetched any more.
        assert!(put(&shelf, 3, 20, &none, None));
        assert!(!there(&shelf).contains(&1));
    }

    #[test]
    fn a_content_that_changed_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path(), 30);
        assert!(put(&shelf, 1, 10, &|_| None, None));
        assert!(shelf.open(&checksum(1), 11).is_none());
        assert!(shelf.open(&checksum(1), 10).is_some());
        assert!(!shelf.check(&checksum(1)).unwrap());
        assert!(shelf.open(&checksum(1), 10).is_none());
    }
}
