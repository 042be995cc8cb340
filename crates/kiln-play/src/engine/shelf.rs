//! The models in reach.

use burn::tensor::Device;
use kiln_data::{ImageDataset, ImageShape};
use kiln_pipeline::Pipeline;

use crate::protocol::{ModelName, RunFacts, RunName};

/// Where models come from: folders on a disk, or files that a page has fetched. Only a disk has runs, too.
pub trait Shelf {
    /// The models, the best one to begin with first.
    fn models(&self) -> Vec<ModelName>;

    /// Loads a model onto a device; `None` if there is no such model, and a sentence if it is damaged.
    fn load(&self, model: &str, device: &Device) -> Option<Result<Pipeline, String>>;

    /// The images, of this shape, that a model was trained on, and a sentence if they are not at hand. Only a disk has any.
    fn training_images(&self, _model: &str, _shape: ImageShape) -> Result<ImageDataset, String> {
        Err("the training images are not beside this page: kiln play has them".to_owned())
    }

    /// The runs, the best one to begin with first.
    fn runs(&self) -> Vec<RunName> {
        Vec::new()
    }

    /// How a run goes; `None` if there is no such run, and a sentence if it cannot be read.
    fn run(&self, _run: &str) -> Option<Result<RunFacts, String>> {
        None
    }

    /// A picture of a run's stage after a training step, as the bytes of a PNG file.
    fn run_picture(&self, _run: &str, _stage: &str, _step: u32) -> Option<Result<Vec<u8>, String>> {
        None
    }

    /// What is wrong with a run, and what to do: pairs of sentences.
    fn examine(&self, _run: &str) -> Option<Result<Vec<[String; 2]>, String>> {
        None
    }
}
