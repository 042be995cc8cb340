//! The models in reach.

use burn::tensor::Device;
use kiln_pipeline::Pipeline;

use crate::protocol::ModelName;

/// Where models come from: folders on a disk, or files that a page has fetched.
pub trait Shelf {
    /// The models, the best one to begin with first.
    fn models(&self) -> Vec<ModelName>;

    /// Loads a model onto a device; `None` if there is no such model, and a sentence if it is damaged.
    fn load(&self, model: &str, device: &Device) -> Option<Result<Pipeline, String>>;
}
