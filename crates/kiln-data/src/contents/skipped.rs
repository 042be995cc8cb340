//! Entries that were found but not used, with the reasons, so that every omission is reported.

use std::collections::BTreeMap;
use std::fmt;

/// Why a file, a folder or a link is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// A file of a system or a program: `.git`, `.DS_Store`, `__MACOSX`.
    Hidden,
    /// A link to nothing.
    Dangling,
    /// A link to a folder that contains it.
    Circle,
    /// A link to a folder that is read under another name.
    Repeated,
    /// The system does not allow reading it.
    Unreadable,
    /// A path or a link that leaves the archive.
    Outside,
    /// Folders nested too deeply.
    Deep,
    /// A device, a named pipe or a socket.
    Special,
    /// A file with holes, in a form that is not supported.
    Sparse,
    /// A later file of the archive has the same name.
    Replaced,
    /// An archive within the data set.
    Archive,
    /// A Parquet file, which must be opened on its own.
    Table,
    Pointer,
    /// An image of a format that is not supported.
    Format(&'static str),
    NoImage,
}

/// `.DS_Store`, `._picture.jpg`, `__MACOSX`: files of a system, not data.
pub(super) fn is_hidden(part: &[u8]) -> bool {
    part.starts_with(b".") || part == b"__MACOSX"
}

impl Why {
    /// The words for `count` such entries.
    fn words(self, count: usize) -> String {
        let of = |one: &str, several: &str| {
            let words = if count == 1 { one } else { several };
            format!("{count} {words}")
        };
        match self {
            Self::Hidden => format!("{count} hidden"),
            Self::Dangling => of("link to nothing", "links to nothing"),
            Self::Circle => of("link in a circle", "links in circles"),
            Self::Repeated => of(
                "link to a folder that is read already",
                "links to folders that are read already",
            ),
            Self::Unreadable => format!("{count} unreadable"),
            Self::Outside => of(
                "whose path leaves the archive",
                "whose paths leave the archive",
            ),
            Self::Deep => format!("{count} too deep in folders"),
            Self::Special => of("device or pipe", "devices or pipes"),
            Self::Sparse => of("sparse file", "sparse files"),
            Self::Replaced => format!("{count} replaced by a later file of the same name"),
            Self::Archive => of("archive within", "archives within"),
            Self::Table => of(
                "Parquet file, to be passed as --data itself",
                "Parquet files, of which one is to be passed as --data",
            ),
            Self::Pointer => of("Git LFS pointer", "Git LFS pointers"),
            Self::Format(name) => of(
                &format!("{name} image, which kiln does not read"),
                &format!("{name} images, which are not read"),
            ),
            Self::NoImage => of("not an image", "not images"),
        }
    }
}

/// How many entries were skipped, by reason, with the first of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skipped(BTreeMap<Why, (usize, String)>);

impl Skipped {
    pub(crate) fn add(&mut self, why: Why, name: &str) {
        let (count, _) = self.0.entry(why).or_insert_with(|| (0, name.to_owned()));
        *count += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `skipped 4 entries: 3 hidden (as .git), 1 link to nothing (README)`.
impl fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.0.values().map(|(count, _)| count).sum();
        let entries = if all == 1 { "entry" } else { "entries" };
        let reasons = self.0.iter().map(|(why, (count, first))| {
            let as_first = if *count == 1 { "" } else { "as " };
            format!("{} ({as_first}{first})", why.words(*count))
        });
        let reasons: Vec<_> = reasons.collect();
        write!(formatter, "skipped {all} {entries}: {}", reasons.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_how_many_and_why() {
        let mut passed = Skipped::default();
        assert!(passed.is_empty());
        passed.add(Why::Hidden, ".git");
        passed.add(Why::Dangling, "README");
        passed.add(Why::Hidden, ".DS_Store");
        passed.add(Why::Format("HEIC"), "a.heic");
        assert_eq!(
            passed.to_string(),
            "skipped 4 entries: 2 hidden (as .git), 1 link to nothing (README), \
             1 HEIC image, which kiln does not read (a.heic)"
        );
    }
}
