//! The description of a table's columns that Python's `datasets` writes into its metadata, under the key `huggingface`:
//! `{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, ..}}}`.
//!
//! A Parquet file has no checksum of its metadata. A description that is damaged would silently cost the classes or
//! their names, so it is compared with the columns that are there, and everything that does not fit is a problem.

use std::collections::BTreeSet;

use parquet::file::metadata::KeyValue;
use serde_json::{Map, Value};

use crate::names;

/// The metadata's key.
const KEY: &str = "huggingface";
/// All types of columns that Python's `datasets` has.
const KINDS: [&str; 17] = [
    "Array2D",
    "Array3D",
    "Array4D",
    "Array5D",
    "Audio",
    "ClassLabel",
    "Image",
    "Json",
    "LargeList",
    "List",
    "Nifti",
    "Pdf",
    "Sequence",
    "Translation",
    "TranslationVariableLanguages",
    "Value",
    "Video",
];
/// The beginning of the names of columns that pandas adds for itself.
const OF_PANDAS: &str = "__index_level_";

/// The columns of a table, as described beside it.
#[derive(Default)]
pub(super) struct Declared {
    /// Nothing if there is no description, or none that can be read.
    features: Map<String, Value>,
    /// What is wrong with the description, as phrases that follow "its metadata".
    pub(super) problems: Vec<String>,
}

impl Declared {
    /// Reads the description in a table's metadata, if there is one, and compares it with the table's columns.
    pub(super) fn read(metadata: Option<&Vec<KeyValue>>, columns: &[&str]) -> Self {
        let entry = metadata.and_then(|all| all.iter().find(|entry| entry.key == KEY));
        let Some(entry) = entry else {
            return Self::default();
        };
        match features(entry.value.as_deref().unwrap_or_default()) {
            Ok(features) => Self {
                problems: problems(&features, columns),
                features,
            },
            Err(problem) => Self {
                features: Map::new(),
                problems: vec![problem],
            },
        }
    }

    /// Whether a column is described as this type, such as `Image`.
    pub(super) fn is(&self, column: &str, kind: &str) -> bool {
        self.kind(column) == Some(kind)
    }

    /// The type of a column; `None` if the description does not say it, or says one that does not exist.
    pub(super) fn kind(&self, column: &str) -> Option<&str> {
        let kind = self.features.get(column)?.get("_type")?.as_str()?;
        KINDS.contains(&kind).then_some(kind)
    }

    /// The names of a column's classes, printable; none if they cannot be used. What is wrong with them becomes a problem.
    pub(super) fn class_names(&mut self, column: &str) -> Vec<String> {
        let named = self.features.get(column).and_then(|it| it.get("names"));
        let names: Option<Vec<String>> = named.and_then(Value::as_array).and_then(|names| {
            let text = |name: &Value| name.as_str().map(names::printable);
            names.iter().map(text).collect()
        });
        let Some(names) = names else {
            if named.is_some() || self.is(column, "ClassLabel") {
                let column = shown(column);
                self.problems
                    .push(format!("does not name the classes of {column}"));
            }
            return Vec::new();
        };
        let mut different = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !different.insert(*name)) {
            self.problems.push(format!(
                "calls several classes of {} `{twice}` (that name means the first of them, and a number the others)",
                shown(column)
            ));
        }
        names
    }
}

/// The columns in the text of a description, or what is wrong with it.
fn features(text: &str) -> Result<Map<String, Value>, String> {
    let mut all: Value =
        serde_json::from_str(text).map_err(|error| format!("is no JSON ({error})"))?;
    let features = all
        .pointer_mut("/info/features")
        .and_then(Value::as_object_mut);
    let features = features.ok_or("does not describe the columns (it has no `info.features`)")?;
    Ok(std::mem::take(features))
}

/// How a description differs from the columns that are there.
fn problems(features: &Map<String, Value>, columns: &[&str]) -> Vec<String> {
    let absent = features
        .keys()
        .filter(|name| !columns.contains(&name.as_str()))
        .map(|name| format!("describes a column {}, which is not there", shown(name)));
    let undescribed = columns
        .iter()
        .filter(|name| !features.contains_key(**name) && !name.starts_with(OF_PANDAS))
        .map(|name| format!("does not describe the column {}", shown(name)));
    let of_no_kind = features.iter().filter_map(|(name, feature)| {
        let name = shown(name);
        match feature.get("_type") {
            Some(Value::String(kind)) if KINDS.contains(&kind.as_str()) => None,
            Some(Value::String(kind)) => Some(format!(
                "says that {name} is of type {}, which is unknown",
                shown(kind)
            )),
            None if is_nested(feature) => None,
            _ => Some(format!("does not say of which type {name} is")),
        }
    });
    absent.chain(undescribed).chain(of_no_kind).collect()
}

/// Whether a column consists of others: `{"x": {..}, "y": {..}}` or, in old data sets, `[{..}]`.
fn is_nested(feature: &Value) -> bool {
    match feature {
        Value::Array(_) => true,
        Value::Object(parts) => parts
            .values()
            .all(|part| part.is_object() || part.is_array()),
        _ => false,
    }
}

/// A column's name in messages.
pub(super) fn shown(name: &str) -> String {
    format!("`{}`", names::printable(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [&str; 2] = ["image", "label"];
    const TEXT: &str = r#"{"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["x", "y", "z"]}}}, "fingerprint": "0"}"#;

    fn read(text: Option<&str>) -> Declared {
        let entry = KeyValue::new(KEY.to_owned(), text.map(str::to_owned));
        Declared::read(Some(&vec![entry]), &COLUMNS)
    }

    #[test]
    fn a_description_that_does_not_fit_is_a_problem() {
        for (from, to, words) in [
            ("", "", None),
            (TEXT, "", Some("is no JSON")),
            ("}}}, \"f", "}}, \"f", Some("is no JSON")),
            (TEXT, "[]", Some("no `info.features`")),
            (TEXT, "{\"info\": {}}", Some("no `info.features`")),
            (
                "\"features\": {",
                "\"features\": [], \"f\": {",
                Some("no `info.features`"),
            ),
            (
                "\"label\"",
                "\"labem\"",
                Some("describes a column `labem`, which is not there"),
            ),
            (
                "\"label\"",
                "\"labem\"",
                Some("does not describe the column `label`"),
            ),
            (
                "\"image\"",
                "\"label\"",
                Some("does not describe the column `image`"),
            ),
            (
                "ClassLabel",
                "ClassLabeh",
                Some("type `ClassLabeh`, which is unknown"),
            ),
            (
                "\"_type\": \"I",
                "\"_typd\": \"I",
                Some("does not say of which type `image` is"),
            ),
            (
                "names",
                "nameS",
                Some("does not name the classes of `label`"),
            ),
            ("\"x\"", "7", Some("does not name the classes of `label`")),
            (
                "[\"x\", \"y\", \"z\"]",
                "null",
                Some("does not name the classes of `label`"),
            ),
            (
                "\"y\"",
                "\"x\"",
                Some("calls several classes of `label` `x`"),
            ),
        ] {
            let mut declared = read(Some(&TEXT.replace(from, to)));
            declared.class_names("label");
            let problems = declared.problems.join("; ");
            match words {
                Some(words) => assert!(problems.contains(words), "{to}: {problems}"),
                None => assert_eq!(problems, ""),
            }
        }
        assert!(read(None).problems[0].starts_with("is no JSON"));
    }

    #[test]
    fn every_kind_of_honest_column_is_known() {
        let nested = r#"{"info": {"features": {"image": {"bytes": {"_type": "Value"}, "path": {"_type": "Value"}}, "label": [{"_type": "Value"}]}}}"#;
        assert!(read(Some(nested)).problems.is_empty());
        assert!(Declared::read(None, &COLUMNS).problems.is_empty());
        let entry = KeyValue::new("pandas".to_owned(), "{".to_owned());
        assert!(
            Declared::read(Some(&vec![entry]), &COLUMNS)
                .problems
                .is_empty()
        );
        let entry = KeyValue::new(KEY.to_owned(), TEXT.to_owned());
        let columns = ["image", "__index_level_0__", "label"];
        assert!(
            Declared::read(Some(&vec![entry]), &columns)
                .problems
                .is_empty()
        );
    }

    #[test]
    fn no_flip_of_a_bit_goes_unnoticed_but_in_a_letter_of_a_class() {
        let names = ["x", "y", "z"];
        let of_classes = TEXT.find("[\"x\"").unwrap();
        let of_classes = of_classes..of_classes + "[\"x\", \"y\", \"z\"]".len();
        let mut flips = 0;
        for at in 0..TEXT.len() {
            for bit in 0..8 {
                let mut bytes = TEXT.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                // Others are refused by the reader of the file.
                let Ok(text) = String::from_utf8(bytes) else {
                    continue;
                };
                flips += 1;
                let mut declared = read(Some(&text));
                let found = declared.class_names("label");
                let is_same = declared.is("image", "Image")
                    && declared.is("label", "ClassLabel")
                    && found == names;
                let is_other_letter = of_classes.contains(&at)
                    && TEXT.as_bytes()[at].is_ascii_lowercase()
                    && found.len() == names.len()
                    && found.iter().collect::<BTreeSet<_>>().len() == names.len();
                assert!(
                    is_same || is_other_letter || !declared.problems.is_empty(),
                    "{text}: {found:?}"
                );
            }
        }
        assert!(flips > 800, "{flips}");
    }
}
