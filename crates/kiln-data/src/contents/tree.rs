//! The files of an archive as a tree of folders, so that links within it can be followed.
//!
//! Nothing is unpacked: a path that would leave the archive is skipped, because its target is unknown.

use std::collections::BTreeMap;
use std::path::Path;

use super::content::{Content, Entry, Listing};
use super::skipped::{Skipped, Why, is_hidden};
use crate::error::DataError;

/// More links in a row than this count as a circle. Linux has the same limit.
const MAX_LINKS: usize = 40;
/// Nesting of folders; deeper ones are a mistake or an attack.
const MAX_DEPTH: usize = 100;
/// Links to folders can turn few files into many: no honest archive makes more than this.
const MAX_LINKED: usize = 1_000_000;

/// A folder of an archive, by names.
#[derive(Default)]
pub(super) struct Tree {
    root: BTreeMap<String, Node>,
    pub(super) skipped: Skipped,
}

enum Node {
    Folder(BTreeMap<String, Node>),
    File(Content),
    Link(Link),
}

/// A link within an archive.
pub(super) enum Link {
    /// Another name of a file; its path begins at the archive's root.
    Hard(String),
    /// A path that begins at the link.
    Symbolic(String),
}

/// The target of a path: a folder, by its own path and with its content, or a file.
enum Target<'a> {
    Folder(Vec<&'a str>, &'a BTreeMap<String, Node>),
    File(&'a Content),
}

impl Tree {
    pub(super) fn add_file(&mut self, name: &str, content: Content) {
        self.add(name, Node::File(content));
    }

    pub(super) fn add_link(&mut self, name: &str, link: Link) {
        self.add(name, Node::Link(link));
    }

    fn add(&mut self, name: &str, node: Node) {
        let mut parts = Vec::new();
        let outside = name.starts_with('/') || !follow(&mut parts, name);
        let why = if outside {
            Some(Why::Outside)
        } else if parts.len() > MAX_DEPTH {
            Some(Why::Deep)
        } else {
            None
        };
        if let Some(why) = why {
            self.skipped.add(why, name);
            return;
        }
        let Some(last) = parts.pop() else {
            return;
        };
        let mut folder = &mut self.root;
        for part in parts {
            let inner = folder
                .entry(part.to_owned())
                .or_insert_with(|| Node::Folder(BTreeMap::new()));
            if !matches!(inner, Node::Folder(_)) {
                // A former file or link is a folder now.
                self.skipped.add(Why::Replaced, name);
                *inner = Node::Folder(BTreeMap::new());
            }
            let Node::Folder(inner) = inner else {
                return;
            };
            folder = inner;
        }
        if folder.insert(last.to_owned(), node).is_some() {
            self.skipped.add(Why::Replaced, name);
        }
    }

    /// All files, including the targets of links; `None` if links make too many of them.
    pub(super) fn into_listing(mut self) -> Option<Listing> {
        let mut listing = Listing {
            entries: Vec::new(),
            skipped: std::mem::take(&mut self.skipped),
        };
        let mut linked = 0;
        let at = At {
            name: String::new(),
            path: Vec::new(),
            above: vec![Vec::new()],
            linked: false,
        };
        self.collect(&self.root, &at, &mut linked, &mut listing)?;
        Some(listing)
    }

    fn collect<'a>(
        &'a self,
        folder: &'a BTreeMap<String, Node>,
        at: &At<'a>,
        linked: &mut usize,
        listing: &mut Listing,
    ) -> Option<()> {
        for (part, node) in folder {
            let name = if at.name.is_empty() {
                part.clone()
            } else {
                format!("{}/{part}", at.name)
            };
            if is_hidden(part.as_bytes()) {
                listing.skipped.add(Why::Hidden, &name);
                continue;
            }
            let mut path = at.path.clone();
            path.push(part);
            let (target, through_link) = match node {
                Node::File(content) => (Ok(Target::File(content)), false),
                Node::Folder(inner) => (Ok(Target::Folder(path, inner)), false),
                Node::Link(link) => (self.resolve(&at.path, link, &mut MAX_LINKS.clone()), true),
            };
            match target {
                Err(why) => listing.skipped.add(why, &name),
                Ok(Target::File(content)) => {
                    *linked += usize::from(at.linked);
                    listing.entries.push(Entry {
                        name,
                        content: content.clone(),
                    });
                }
                Ok(Target::Folder(path, _)) if at.above.contains(&path) => {
                    listing.skipped.add(Why::Circle, &name);
                }
                Ok(Target::Folder(..)) if at.above.len() > MAX_DEPTH => {
                    listing.skipped.add(Why::Deep, &name);
                }
                Ok(Target::Folder(path, inner)) => {
                    let is_linked = at.linked || through_link;
                    *linked += usize::from(is_linked);
                    let mut above = at.above.clone();
                    above.push(path.clone());
                    let at = At {
                        name,
                        path,
                        above,
                        linked: is_linked,
                    };
                    self.collect(inner, &at, linked, listing)?;
                }
            }
            if *linked > MAX_LINKED {
                return None;
            }
        }
        Some(())
    }

    /// Where a link in the folder `from` leads.
    fn resolve<'a>(
        &'a self,
        from: &[&'a str],
        link: &'a Link,
        links_left: &mut usize,
    ) -> Result<Target<'a>, Why> {
        *links_left = links_left.checked_sub(1).ok_or(Why::Circle)?;
        let (mut path, target) = match link {
            Link::Hard(target) => (Vec::new(), target),
            Link::Symbolic(target) if target.starts_with('/') => return Err(Why::Outside),
            Link::Symbolic(target) => (from.to_vec(), target),
        };
        // One part at a time, because each may be a link itself.
        let mut found = Target::Folder(path.clone(), self.folder(&path).ok_or(Why::Dangling)?);
        for part in target
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
        {
            let Target::Folder(here, folder) = found else {
                return Err(Why::Dangling);
            };
            path = here;
            found = if part == ".." {
                path.pop().ok_or(Why::Outside)?;
                let folder = self.folder(&path).ok_or(Why::Dangling)?;
                Target::Folder(path, folder)
            } else {
                match folder.get_key_value(part).ok_or(Why::Dangling)? {
                    (_, Node::File(content)) => Target::File(content),
                    (_, Node::Link(link)) => self.resolve(&path, link, links_left)?,
                    (name, Node::Folder(inner)) => {
                        path.push(name);
                        Target::Folder(path, inner)
                    }
                }
            };
        }
        Ok(found)
    }

    /// The folder at a path without links.
    fn folder(&self, path: &[&str]) -> Option<&BTreeMap<String, Node>> {
        let mut folder = &self.root;
        for part in path {
            match folder.get(*part) {
                Some(Node::Folder(inner)) => folder = inner,
                _ => return None,
            }
        }
        Some(folder)
    }
}

/// A folder during a walk through the tree.
struct At<'a> {
    /// Its name in the names of its files, through links.
    name: String,
    /// Its own path.
    path: Vec<&'a str>,
    /// The paths of the folders above, as the walk reached them.
    above: Vec<Vec<&'a str>>,
    /// Whether the walk reached it, or a folder above, through a link.
    linked: bool,
}

/// Follows `name` from `parts`, and returns whether that stays inside the archive.
fn follow<'a>(parts: &mut Vec<&'a str>, name: &'a str) -> bool {
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return false,
            ".." => {}
            _ => parts.push(part),
        }
    }
    true
}

/// Why [`Tree::into_listing`] gives none, for the archive at `path`.
pub(super) fn too_many_links(path: &Path) -> DataError {
    DataError::Unusable {
        path: path.to_owned(),
        problem: "has links that multiply its files to more than a million: remove them".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(tree: &mut Tree, name: &str) {
        tree.add_file(name, Content::holding(name.as_bytes()));
    }

    fn symlink(tree: &mut Tree, name: &str, target: &str) {
        tree.add_link(name, Link::Symbolic(target.to_owned()));
    }

    /// Each file's name with its content, which is its original name, and the skipped entries.
    fn shown(tree: Tree) -> (Vec<(String, String)>, String) {
        let listing = tree.into_listing().unwrap();
        let shown = |entry: Entry| {
            let content = entry.content.read().unwrap();
            (entry.name.clone(), String::from_utf8(content).unwrap())
        };
        let files = listing.entries.into_iter().map(shown).collect();
        (files, listing.skipped.to_string())
    }

    fn names(shown: &[(String, String)]) -> Vec<&str> {
        shown.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn paths_are_those_of_folders() {
        let mut tree = Tree::default();
        for name in ["./a/1", "b//2", "c/../a/./3", "../4", "/5", "a/../../6"] {
            file(&mut tree, name);
        }
        let (files, skipped) = shown(tree);
        assert_eq!(names(&files), ["a/1", "a/3", "b/2"]);
        assert_eq!(
            skipped,
            "skipped 3 entries: 3 whose paths leave the archive (as ../4)"
        );
    }

    #[test]
    fn links_lead_to_files_and_folders() {
        let mut tree = Tree::default();
        file(&mut tree, "all/1");
        file(&mut tree, "all/2");
        tree.add_link("cat/1", Link::Hard("./all/1".to_owned()));
        symlink(&mut tree, "cat/2", "../all/2");
        symlink(&mut tree, "dog", "all");
        symlink(&mut tree, "cat/3", "../dog/2");
        symlink(&mut tree, "cat/4", "3");
        let (files, skipped) = shown(tree);
        let expected = [
            ("all/1", "all/1"),
            ("all/2", "all/2"),
            ("cat/1", "all/1"),
            ("cat/2", "all/2"),
            ("cat/3", "all/2"),
            ("cat/4", "all/2"),
            ("dog/1", "all/1"),
            ("dog/2", "all/2"),
        ];
        let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
        assert_eq!(files, expected);
        assert!(skipped.starts_with("skipped 0"), "{skipped}");
    }

    #[test]
    fn links_that_lead_nowhere_are_counted() {
        let mut tree = Tree::default();
        file(&mut tree, "a/1");
        symlink(&mut tree, "a/up", "..");
        symlink(&mut tree, "a/self", "self");
        symlink(&mut tree, "a/gone", "../b/1");
        symlink(&mut tree, "a/out", "../../etc/passwd");
        symlink(&mut tree, "a/root", "/etc/passwd");
        symlink(&mut tree, "a/through", "1/2");
        let (files, skipped) = shown(tree);
        assert_eq!(names(&files), ["a/1"]);
        assert!(skipped.contains("2 links to nothing"), "{skipped}");
        assert!(skipped.contains("2 links in circles"), "{skipped}");
        assert!(skipped.contains("2 whose paths leave"), "{skipped}");
    }

    #[test]
    fn of_two_files_of_a_name_the_later_counts() {
        let mut tree = Tree::default();
        tree.add_file("a", Content::holding(b"old"));
        tree.add_file("./a", Content::holding(b"new"));
        let (files, skipped) = shown(tree);
        assert_eq!(files, [("a".to_owned(), "new".to_owned())]);
        assert!(skipped.contains("1 replaced by a later"), "{skipped}");
    }

    #[test]
    fn links_cannot_make_files_without_end() {
        let mut tree = Tree::default();
        file(&mut tree, "0/x");
        // Each folder contains the previous one twice.
        for level in 1..40 {
            for name in ["a", "b"] {
                let target = format!("../{}", level - 1);
                symlink(&mut tree, &format!("{level}/{name}"), &target);
            }
        }
        assert!(tree.into_listing().is_none());
        let mut tree = Tree::default();
        file(&mut tree, &"d/".repeat(100_000));
        file(&mut tree, &format!("{}x", "d/".repeat(100_000)));
        assert!(shown(tree).1.contains("too deep"));
    }

    proptest! {
        #[test]
        fn any_links_end(links in prop::collection::vec(("[ab](/[ab]){0,2}", "(\\.\\./|[ab]/|\\./){0,3}[ab.]{0,2}", any::<bool>()), 0..12)) {
            let mut tree = Tree::default();
            file(&mut tree, "a/b");
            for (name, target, hard) in links {
                let link = if hard { Link::Hard(target) } else { Link::Symbolic(target) };
                tree.add_link(&name, link);
            }
            let _ = tree.into_listing();
        }
    }
}
