//! `checkpoint.json`: the origin of a checkpoint, and the digests of its files and of itself.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_data::{read_regular, sha256, sha256_of_file};
use kiln_pipeline::plots::Rows;
use serde::{Deserialize, Serialize};

use crate::run_folder::identity::Identity;

pub(crate) const MANIFEST: &str = "checkpoint.json";
/// Many times the size of any manifest, in bytes.
const LARGEST: u64 = 64 << 20;

/// The contents of `checkpoint.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Steps done when it was written.
    pub(crate) step: usize,
    /// The criterion that is smallest at the best checkpoint, usually the validation loss; absent if it was not
    /// measured.
    pub(crate) criterion: Option<f64>,
    /// Whether a stop came before the end of the validation that belongs to it, pictures and measurements included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) owes_validation: bool,
    /// The version of kiln that wrote it.
    pub(crate) kiln: String,
    /// The training that it belongs to; older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Identity>,
    /// Where the training computed, as in `cpu:2`; older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) devices: Option<String>,
    /// The time of a step since the checkpoint before or the start of the process, with its share of the validation and the
    /// pictures; older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seconds_a_step: Option<f64>,
    /// Rows that could not be written to `metrics.csv`.
    #[serde(default, skip_serializing_if = "Rows::is_empty")]
    pub(crate) rows: Rows,
    /// sha256 of each file, in hexadecimal.
    pub(crate) files: BTreeMap<String, String>,
}

impl Manifest {
    /// The text of the file. Its last line is the sha256 of the text without that line.
    pub(crate) fn to_text(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string_pretty(self)?;
        let digest = sha256(text.as_bytes());
        let fields = text.strip_suffix(END).unwrap_or(&text);
        Ok(format!("{fields}{DIGEST}{digest}\"{END}"))
    }

    /// Reads the manifest of the checkpoint in `folder`. A manifest without a digest is accepted, because older
    /// versions wrote none.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        let problem = |problem: &dyn std::fmt::Display| format!("{MANIFEST}: {problem}");
        let bytes =
            read_regular(&folder.join(MANIFEST), LARGEST).map_err(|error| problem(&error))?;
        let text = std::str::from_utf8(&bytes).map_err(|error| problem(&error))?;
        if let Some((fields, rest)) = text.rsplit_once(DIGEST) {
            let digest = rest.strip_suffix(END).and_then(|it| it.strip_suffix('"'));
            if digest != Some(&sha256(format!("{fields}{END}").as_bytes())) {
                return Err(format!("{MANIFEST} is not what was written"));
            }
        }
        serde_json::from_str(text).map_err(|error| problem(&error))
    }

    /// Checks the files in `folder`.
    pub(crate) fn verify(&self, folder: &Path) -> Result<(), String> {
        for (name, digest) in &self.files {
            let found =
                sha256_of_file(&folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
            if &found != digest {
                return Err(format!("{name} is not what was written"));
            }
        }
        Ok(())
    }
}

/// The text before the digest, and the end of the file.
const DIGEST: &str = ",\n  \"digest\": \"";
const END: &str = "\n}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_can_change() {
        let manifest = Manifest {
            step: 1_234,
            criterion: Some(0.1 + 0.2),
            owes_validation: true,
            kiln: "test".to_owned(),
            identity: None,
            devices: Some("cpu:2".to_owned()),
            seconds_a_step: Some(0.25),
            rows: Rows::from([(7, BTreeMap::from([("loss/train".to_owned(), 1e-7)]))]),
            files: BTreeMap::from([("model.bpk".to_owned(), sha256(b"one"))]),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MANIFEST);
        let text = manifest.to_text().unwrap();
        std::fs::write(&path, &text).unwrap();
        let read = Manifest::read(folder.path()).unwrap();
        assert_eq!(read.to_text().unwrap(), text);

        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            if let Ok(read) = Manifest::read(folder.path()) {
                assert_eq!(read.to_text().unwrap(), text, "byte {at}");
            }
        }
    }

    #[test]
    fn an_older_one_has_no_digest() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"step":3,"criterion":null,"kiln":"0.1.0","files":{}}"#;
        std::fs::write(folder.path().join(MANIFEST), text).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap().step, 3);
    }
}
