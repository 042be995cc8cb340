//! The discriminator beside a trained first stage. No model needs it, but a training that begins with that first stage
//! does.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use kiln_data::read_regular;
use kiln_models::{Discriminator, load_weights_from_bytes};

use crate::error::TrainError;
use crate::run_folder::RunFolder;
use crate::run_folder::record::RunRecord;

pub(super) const FILE: &str = "discriminator.safetensors";

/// The discriminator of the run in whose folder the first stage `model` is, alone or in a whole model, if it is there.
pub(crate) fn discriminator_beside(model: &Path) -> Option<PathBuf> {
    let folder = model.parent()?;
    let of_run = RunFolder::new(folder).stage_1().discriminator();
    let files = [folder.join(FILE), of_run];
    files.into_iter().find(|file| file.is_file())
}

/// `discriminator` with the weights in the file at `path`.
///
/// # Errors
/// Says why they cannot be read, or that they do not fit.
pub(crate) fn with_weights_in(
    path: &Path,
    discriminator: Discriminator,
) -> Result<Discriminator, String> {
    // Four bytes for a number, and plenty for the file's header.
    let largest = 4 * discriminator.num_params() as u64 + (1 << 20);
    let bytes = read_regular(path, largest).map_err(|problem| problem.to_string())?;
    load_weights_from_bytes(discriminator, &bytes).map_err(|problem| problem.to_string())
}

impl RunRecord {
    /// Checks that the trained first stage still has its discriminator, if it had one.
    ///
    /// # Errors
    /// If the file is missing, cannot be read, or is not of the run's discriminator.
    pub fn check_discriminator(&self, device: &Device) -> Result<(), TrainError> {
        let first_stage = self.experiment.first_stage.as_ref();
        let table = first_stage.and_then(|first_stage| first_stage.stage_1.adversarial());
        let (Some(table), Some(_)) = (table, self.vqvae()) else {
            return Ok(());
        };
        let path = self.folder.stage_1().discriminator();
        let discriminator = (table.discriminator).init(self.experiment.data.channels, device, 0);
        with_weights_in(&path, discriminator)
            .map(drop)
            .map_err(|problem| {
                TrainError::Run(format!(
                    "the discriminator in {} cannot be used: {problem}",
                    path.display()
                ))
            })
    }
}
