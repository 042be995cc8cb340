//! The model that is compiled into the program.

use kiln_hub::ModelSource;

use crate::Error;

/// The files of `pretrained/mnist-quick`, by their names in the model's folder.
const FILES: Option<&[(&str, &[u8])]> = None;

/// The digits model, which needs no file and no download.
///
/// # Errors
/// [`Error::NoPretrained`] when this build has none.
pub fn default_model() -> Result<ModelSource, Error> {
    FILES.map(ModelSource::Embedded).ok_or(Error::NoPretrained)
}
