//! Paths in TOML: as text or, if a path is not UTF-8, as the array of its bytes.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "it must be text in quotes")]
enum PathText {
    Text(String),
    Bytes(Vec<u8>),
}

pub(crate) fn serialize<S: Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = path.as_ref().map(|path| match path.to_str() {
        Some(text) => PathText::Text(text.to_owned()),
        None => PathText::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
    });
    text.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    Ok(match Option::deserialize(deserializer)? {
        Some(PathText::Text(text)) => Some(text.into()),
        Some(PathText::Bytes(bytes)) => Some(from_bytes(bytes).map_err(de::Error::custom)?),
        None => None,
    })
}

#[cfg(unix)]
fn from_bytes(bytes: Vec<u8>) -> Result<PathBuf, &'static str> {
    use std::os::unix::ffi::OsStringExt;
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn from_bytes(bytes: Vec<u8>) -> Result<PathBuf, &'static str> {
    let text = String::from_utf8(bytes);
    text.map(PathBuf::from)
        .map_err(|_| "only Unix has paths that are not UTF-8: give the path as text")
}
