//! `ORG/REPO@REVISION`, and the kind of such a repository.

use std::fmt;
use std::str::FromStr;

use crate::TransportError;

/// The default branch of a repository.
const MAIN: &str = "main";

/// The kind of a repository. The Hub has a separate place for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    DataSet,
}

impl Kind {
    /// The cache's name for repositories of this kind.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::DataSet => "datasets",
        }
    }

    /// The part before a repository's name in the addresses of its page and files.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::DataSet => "datasets/",
        }
    }
}

/// A repository on the Hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryName {
    owner: String,
    name: String,
    revision: Option<String>,
}

impl RepositoryName {
    /// The user or organisation.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's name without its owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ORG/REPO`, without the revision.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// A branch, a tag or a commit: `main` unless another one is named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The same repository at another revision.
    ///
    /// # Errors
    /// If `revision` is not a valid revision.
    pub fn at(&self, revision: &str) -> Result<Self, TransportError> {
        format!("{}@{revision}", self.id()).parse()
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.owner, self.name)?;
        match &self.revision {
            Some(revision) => write!(formatter, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl FromStr for RepositoryName {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let name = id.split_once('/').filter(|(owner, name)| {
            is_part(owner) && is_part(name) && revision.is_none_or(is_revision)
        });
        let (owner, name) = name.ok_or_else(|| TransportError::InvalidName(text.to_owned()))?;
        Ok(Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

/// The Hub's rule for names: letters, digits, `-`, `_` and `.`. The last three cannot end a name, and two of `-` or `.`
/// cannot follow each other, because `--` divides names in the cache.
fn is_part(part: &str) -> bool {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    (1..=96).contains(&part.len())
        && part.starts_with(word)
        && part.ends_with(word)
        && !part.contains("--")
        && !part.contains("..")
        && part
            .chars()
            .all(|character| word(character) || "-.".contains(character))
}

/// The part of Git's rule for names of references that keeps them inside a folder.
fn is_revision(revision: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.contains("..")
    };
    revision.len() <= 250
        && revision.split('/').all(is_part)
        && !revision
            .chars()
            .any(|character| character.is_control() || " ~^:?*[\\@".contains(character))
}

/// Whether a revision is a commit's full hash, which always means the same files.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart_and_together() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, revision) in [
            ("google/ddpm-cifar10-32".to_owned(), MAIN),
            ("a/b@v1.0".to_owned(), "v1.0"),
            ("a/b.c_d@refs/pr/3".to_owned(), "refs/pr/3"),
            (format!("CompVis/ldm-celebahq-256@{commit}"), commit),
        ] {
            let name: RepositoryName = text.parse().unwrap();
            assert_eq!((name.to_string(), name.revision()), (text, revision));
            assert_eq!(is_commit(revision), revision == commit);
        }
        let name: RepositoryName = "a/b@v1".parse().unwrap();
        assert_eq!(
            (name.owner(), name.name(), name.id()),
            ("a", "b", "a/b".into())
        );
        assert_eq!(name.at("v2").unwrap().to_string(), "a/b@v2");
        assert!(name.at("../v2").is_err());
    }

    #[test]
    fn what_could_leave_the_cache_or_means_nothing_is_refused() {
        for text in [
            "",
            "digits",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b--c",
            "-a/b",
            "a/b.",
            "a b/c",
            "a/b@",
            "a/b@../x",
            "a/b@x/../../y",
            "a/b@/x",
            "a/b@.hidden",
            "a/b@x\\y",
            "a/b@x y",
            "./model",
            "a/b@@",
        ] {
            let error = text.parse::<RepositoryName>().unwrap_err().to_string();
            assert!(error.contains("ORG/REPO"), "{text}: {error}");
        }
    }
}
