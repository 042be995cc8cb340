//! Names without settings, such as `{ kind = "pndm" }`.

use serde::{Deserialize, Deserializer};

/// Reads a variant without settings, and refuses any setting: serde ignores keys beside the tag of such a variant, even
/// with `deny_unknown_fields`.
///
/// # Errors
/// If there is any key.
pub(crate) fn no_settings<'de, D: Deserializer<'de>>(settings: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoSettings {}
    NoSettings::deserialize(settings).map(|NoSettings {}| ())
}
