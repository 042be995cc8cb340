//! The weights of torchvision's classifiers of ImageNet, whose features LPIPS compares.

use std::path::PathBuf;

use super::{Collection, Downloaded, Form, RemoteFile, cache_folder, download};
use crate::error::DataError;
use crate::progress::Progress;

/// torchvision's files end in the first digits of their SHA-256, by which PyTorch verifies them, too.
const fn file(name: &'static str, digest: &'static str) -> RemoteFile {
    RemoteFile {
        name,
        content_sha256: digest,
        form: Form::Plain,
    }
}

const VGG16: &[RemoteFile] = &[file("vgg16-397923af.pth", "397923af")];
const ALEXNET: &[RemoteFile] = &[file("alexnet-owt-7be5be79.pth", "7be5be79")];
const SQUEEZENET: &[RemoteFile] = &[file("squeezenet1_1-b8a52dc0.pth", "b8a52dc0")];

/// A network of torchvision that was trained on ImageNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchvisionWeights {
    /// `vgg16`, 553 MB.
    Vgg16,
    /// `alexnet`, 244 MB.
    AlexNet,
    /// `squeezenet1_1`, 5 MB.
    SqueezeNet,
}

impl TorchvisionWeights {
    /// The name of its file.
    pub fn file_name(self) -> &'static str {
        self.file().name
    }

    /// A folder with [`Self::file_name`]; in the user's cache after the first time.
    ///
    /// # Errors
    /// [`DataError::Download`] if it cannot be downloaded completely.
    pub fn fetch(self, progress: &dyn Progress) -> Result<Downloaded, DataError> {
        download(cache_folder(), &self.collection(), progress)
    }

    /// The complete file, if it is in the user's cache.
    pub fn cached(self) -> Option<PathBuf> {
        let path = cache_folder()?
            .join(self.collection().folder)
            .join(self.file_name());
        self.file().is_right(&path).then_some(path)
    }

    /// Whether a file with this SHA-256 is torchvision's.
    pub fn is(self, sha256: &str) -> bool {
        self.file().has_digest(sha256)
    }

    fn file(self) -> &'static RemoteFile {
        match self {
            Self::Vgg16 => &VGG16[0],
            Self::AlexNet => &ALEXNET[0],
            Self::SqueezeNet => &SQUEEZENET[0],
        }
    }

    fn collection(self) -> Collection<'static> {
        Collection {
            folder: "torchvision",
            files: match self {
                Self::Vgg16 => VGG16,
                Self::AlexNet => ALEXNET,
                Self::SqueezeNet => SQUEEZENET,
            },
            mirrors: &["https://download.pytorch.org/models/"],
            instead: "download it from https://download.pytorch.org/models/ yourself and name the file: by `weights` of the perceptual network in a config, or by `--perceptual-weights FILE` of kiln evaluate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_recognised_by_the_digits_in_its_name() {
        for weights in [
            TorchvisionWeights::Vgg16,
            TorchvisionWeights::AlexNet,
            TorchvisionWeights::SqueezeNet,
        ] {
            let digits = weights.file().content_sha256;
            assert!(weights.file_name().ends_with(&format!("-{digits}.pth")));
            assert!(weights.is(&format!("{digits:0<64}")));
            assert!(!weights.is(&format!("{digits:0>64}")));
            let file = tempfile::NamedTempFile::new().unwrap();
            assert!(!weights.file().is_right(file.path()));
        }
    }
}
