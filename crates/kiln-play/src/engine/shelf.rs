//! The models in reach.

use kiln_checkpoint::ModelSource;

use crate::protocol::ModelName;

/// Where models come from: folders on a disk, or files that a page has fetched.
pub trait Shelf {
    /// The models, the best one to begin with first.
    fn models(&self) -> Vec<ModelName>;

    /// The files of a model; `None` if there is no such model.
    fn source(&self, model: &str) -> Option<ModelSource>;
}
