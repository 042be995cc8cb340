//! What a folder in diffusers' layout holds, by the names of its files.

use crate::ModelSource;
use crate::index::INDEX;
use crate::weights::WEIGHTS;

/// A network's options in its folder.
pub(crate) const CONFIG: &str = "config.json";

impl ModelSource {
    /// Whether it is a whole model: its index is there or, if that was lost, one of its parts.
    pub fn is_model(&self) -> bool {
        let files = [INDEX, "unet/config.json", "scheduler/scheduler_config.json"];
        files.iter().any(|file| self.has(file))
    }

    /// Whether it is a network alone, such as the autoencoder of stage 1, or what is left of one.
    pub fn is_network(&self) -> bool {
        !self.is_model() && (self.has(CONFIG) || self.has(WEIGHTS))
    }
}
