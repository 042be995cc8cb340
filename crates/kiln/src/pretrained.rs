//! The model that is compiled into the program.

use kiln_hub::ModelSource;

use crate::Error;

/// The digits model of `pretrained/mnist-quick`, which needs no file and no download.
///
/// # Errors
/// [`Error::NoPretrained`] when this build has none.
pub fn default_model() -> Result<ModelSource, Error> {
    Err(Error::NoPretrained)
}
