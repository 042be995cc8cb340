//! Reads the Hub's answers, and says what is wrong with JSON of another kind.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::checksum::Checksum;
use crate::client::{Listed, stays_inside};

/// An entry of the list of files.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Entry {
    File {
        oid: String,
        size: u64,
        path: String,
        /// Where the Hub keeps large files.
        lfs: Option<Value>,
    },
    Directory {},
}

/// An answer lacks something, or has something else in its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A key is missing.
    Missing(String),
    /// A key, or the whole answer, has another kind of value.
    Kind {
        /// The kind that was found.
        found: &'static str,
        /// The expected kind.
        expected: &'static str,
        /// The key; `None` is the whole answer.
        key: Option<String>,
    },
    /// Something else, in words.
    Other(String),
}

/// "its answer has no `sha`": the message continues "does not answer as a Hub".
impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(formatter, "its answer has no `{key}`"),
            Self::Kind {
                found,
                expected,
                key: Some(key),
            } => write!(
                formatter,
                "in its answer `{key}` is {found}, and not {expected}"
            ),
            Self::Kind {
                found,
                expected,
                key: None,
            } => write!(formatter, "its answer is {found}, and not {expected}"),
            Self::Other(problem) => write!(formatter, "in its answer, {problem}"),
        }
    }
}

/// The text under a key.
pub(crate) fn text<'a>(answer: &'a Value, key: &str) -> Result<&'a str, Wrong> {
    let value = member(answer, key, "")?;
    let wrong = || kind(value, "a text", Some(key.to_owned()));
    value.as_str().ok_or_else(wrong)
}

/// The array under a key.
pub(crate) fn array<'a>(answer: &'a Value, key: &str) -> Result<&'a Vec<Value>, Wrong> {
    let value = member(answer, key, "")?;
    let wrong = || kind(value, "an array", Some(key.to_owned()));
    value.as_array().ok_or_else(wrong)
}

/// The files in a page of the list, by their paths, without folders and without paths that would leave the repository.
pub(crate) fn listed_in(page: &Value) -> Result<Vec<(String, Listed)>, Wrong> {
    let entries = page.as_array();
    let entries = entries.ok_or_else(|| kind(page, "an array", None))?;
    let mut files = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let read = Entry::deserialize(entry);
        let read = read.map_err(|problem| wrong_entry(entry, &format!("[{number}]."), &problem))?;
        if let Entry::File {
            oid,
            size,
            path,
            lfs,
        } = read
            && stays_inside(&path)
        {
            let checksum = match &lfs {
                Some(lfs) => lfs["oid"].as_str().and_then(Checksum::parse),
                None => Checksum::parse(&oid),
            };
            let listed = Listed {
                size,
                is_large: lfs.is_some(),
                checksum: checksum.filter(|checksum| checksum.is_sha256() == lfs.is_some()),
                object: oid,
            };
            files.push((path, listed));
        }
    }
    Ok(files)
}

/// Finds the key that makes an entry, at `place` in the list, unreadable. serde names no key.
fn wrong_entry(entry: &Value, place: &str, problem: &serde_json::Error) -> Wrong {
    let check = |key, expected, is_right: fn(&Value) -> bool| {
        let value = member(entry, key, place)?;
        let key = Some(format!("{place}{key}"));
        match is_right(value) {
            true => Ok(()),
            false => Err(kind(value, expected, key)),
        }
    };
    let wrong = check("type", "a text", Value::is_string)
        .and_then(|()| check("path", "a text", Value::is_string))
        .and_then(|()| check("oid", "a text", Value::is_string))
        .and_then(|()| match entry["type"] == "file" {
            true => check("size", "a number of bytes", Value::is_u64),
            false => Ok(()),
        });
    let other = |()| Wrong::Other(format!("{}: {problem}", place.trim_end_matches('.')));
    wrong.map_or_else(|wrong| wrong, other)
}

/// The value under a key of the object at `place`.
fn member<'a>(object: &'a Value, key: &str, place: &str) -> Result<&'a Value, Wrong> {
    let keys = object.as_object();
    let own = place.trim_end_matches('.');
    let own = (!own.is_empty()).then(|| own.to_owned());
    let keys = keys.ok_or_else(|| kind(object, "an object", own))?;
    let missing = || Wrong::Missing(format!("{place}{key}"));
    keys.get(key).ok_or_else(missing)
}

fn kind(found: &Value, expected: &'static str, key: Option<String>) -> Wrong {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Wrong::Kind {
        found,
        expected,
        key,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_read_and_folders_and_strays_are_not() {
        let page = json!([
            {"type": "file", "path": "a.bin", "size": 3, "oid": "x", "lfs": {"size": 3}, "new": [1]},
            {"type": "file", "path": "b.json", "size": 1, "oid": "y"},
            {"type": "directory", "path": "c", "oid": "z"},
            {"type": "file", "path": "../d", "size": 1, "oid": "y"},
        ]);
        let files = listed_in(&page).unwrap();
        let shown: Vec<_> = files
            .iter()
            .map(|(path, file)| (path.as_str(), file.size, file.is_large))
            .collect();
        assert_eq!(shown, [("a.bin", 3, true), ("b.json", 1, false)]);
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        for (page, said) in [
            (
                json!({"error": "x"}),
                "its answer is an object, and not an array",
            ),
            (json!(null), "its answer is null, and not an array"),
            (
                json!([3]),
                "in its answer `[0]` is a number, and not an object",
            ),
            (json!([{"path": "a"}]), "its answer has no `[0].type`"),
            (
                json!([{"type": "directory", "path": "a", "oid": "x"}, {"type": "file", "path": "b", "size": 1}]),
                "its answer has no `[1].oid`",
            ),
            (
                json!([{"type": "wormhole", "path": "a", "oid": "x"}]),
                "in its answer, [0]: unknown variant `wormhole`, expected `file` or `directory`",
            ),
            (
                json!([{"type": "file", "path": "a", "oid": "x", "size": "1"}]),
                "in its answer `[0].size` is a text, and not a number of bytes",
            ),
            (
                json!([{"type": "file", "path": ["a"], "oid": "x", "size": 1}]),
                "in its answer `[0].path` is an array, and not a text",
            ),
        ] {
            let Err(wrong) = listed_in(&page) else {
                panic!("{page}")
            };
            assert_eq!(wrong.to_string(), said);
        }
        let said = |answer: Value| text(&answer, "sha").unwrap_err().to_string();
        assert_eq!(said(json!({})), "its answer has no `sha`");
        assert_eq!(said(json!([])), "its answer is an array, and not an object");
        assert_eq!(
            said(json!({"sha": null})),
            "in its answer `sha` is null, and not a text"
        );
        let said = array(&json!({"files": {}}), "files").unwrap_err();
        assert_eq!(
            said.to_string(),
            "in its answer `files` is an object, and not an array"
        );
    }
}
