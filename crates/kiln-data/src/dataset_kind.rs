//! The data sets there are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The data sets that [`crate::open`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DatasetKind {
    /// MNIST: 60,000 handwritten digits to train on, 10,000 for validation, 28x28 gray. Downloaded if no path is given.
    #[serde(rename = "mnist")]
    Mnist,
    /// The 10,000 MNIST test images, compiled in: every tenth is for validation, the others to train on.
    #[serde(rename = "mnist-10k")]
    Mnist10k,
    /// Oxford Flowers 102: 8,189 colour photographs.
    #[serde(rename = "flowers-102")]
    Flowers102,
    /// CIFAR-10: 50,000 colour images of 32x32 to train on, 10,000 for validation.
    #[serde(rename = "cifar-10")]
    Cifar10,
    /// Any folder, zip or tar of image files.
    #[serde(rename = "folder")]
    Folder,
    /// Made by a program and passed to the trainer: see [`crate::ImageDataset::from_pixels`].
    #[serde(rename = "own")]
    Own,
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Mnist => "mnist",
            Self::Mnist10k => "mnist-10k",
            Self::Flowers102 => "flowers-102",
            Self::Cifar10 => "cifar-10",
            Self::Folder => "folder",
            Self::Own => "own",
        })
    }
}
