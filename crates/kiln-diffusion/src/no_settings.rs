//! Names without settings, such as `{ kind = "pndm" }`.

use serde::{Deserialize, Deserializer};

/// Reads a variant that has no settings, and refuses those that it is given: serde skips what stands beside the tag of such
/// a variant, even with `deny_unknown_fields`.
///
/// # Errors
/// If there is any key.
pub(crate) fn no_settings<'de, D: Deserializer<'de>>(settings: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoSettings {}
    NoSettings::deserialize(settings).map(|NoSettings {}| ())
}
