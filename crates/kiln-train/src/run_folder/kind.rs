//! The kind of a folder that a command gets.

use std::path::Path;

use kiln_checkpoint::ModelSource;

use crate::run_folder::RunFolder;
use crate::run_folder::checkpoints::is_checkpoint;

/// The kind of a folder. This is the one place that decides it, by the names of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderKind {
    /// A whole model. A shared model also has the `config.toml` of its run.
    Model,
    /// A network alone, such as the VQ-VAE of stage 1.
    Network,
    /// A checkpoint of a training, damaged or not.
    Checkpoint,
    /// A run.
    Run,
}

impl FolderKind {
    /// The kind of `folder`; `None` if it is something else.
    pub fn of(folder: &Path) -> Option<Self> {
        let source = ModelSource::Folder(folder.to_owned());
        if source.is_model() {
            Some(Self::Model)
        } else if source.is_network() {
            Some(Self::Network)
        } else if is_checkpoint(folder) {
            Some(Self::Checkpoint)
        } else if RunFolder::new(folder).config().is_file() {
            Some(Self::Run)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_with_a_config_of_its_run_is_a_model() {
        for (files, kind) in [
            (&["config.toml"][..], Some(FolderKind::Run)),
            (&["config.toml", "model.safetensors"], Some(FolderKind::Run)),
            (&["model_index.json"], Some(FolderKind::Model)),
            (
                &["config.toml", "model_index.json"],
                Some(FolderKind::Model),
            ),
            // Its index was lost.
            (
                &["config.toml", "unet/config.json"],
                Some(FolderKind::Model),
            ),
            (&["config.toml", "config.json"], Some(FolderKind::Network)),
            (
                &["config.toml", "diffusion_pytorch_model.safetensors"],
                Some(FolderKind::Network),
            ),
            // Like google/ddpm-cifar10-32.
            (
                &["config.json", "model_index.json"],
                Some(FolderKind::Model),
            ),
            (&["checkpoint.json"], Some(FolderKind::Checkpoint)),
            (&["notes.txt"], None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for file in files {
                let path = folder.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            assert_eq!(FolderKind::of(folder.path()), kind, "{files:?}");
        }
    }
}
