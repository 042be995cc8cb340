//! Storages and tensors as a pickle describes them, and the position of their numbers in the file.

use std::ops::Range;

use safetensors::Dtype;

/// The type of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F64,
    F32,
    F16,
    BF16,
    /// Not a supported float; its size in bytes.
    Other(u8),
}

impl Kind {
    pub(super) fn size(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Other(size) => size.into(),
        }
    }

    /// The type in a safetensors file, if it is a float.
    pub(super) fn float(self) -> Option<Dtype> {
        match self {
            Self::F64 => Some(Dtype::F64),
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::BF16 => Some(Dtype::BF16),
            Self::Other(_) => None,
        }
    }
}

/// Numbers in the file, as declared in the pickle.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// Its name in the container.
    pub(super) key: String,
    /// `None` for plain bytes.
    pub(super) kind: Option<Kind>,
    pub(super) numbers: u64,
    /// The beginning of a view of another storage, in numbers.
    pub(super) begin: u64,
}

impl Storage {
    /// Its size in the file, in numbers and in bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        let size = self.kind.map_or(1, Kind::size);
        (self.numbers, self.numbers.saturating_mul(size))
    }
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Its place among the storages.
    pub(super) storage: usize,
    pub(super) kind: Kind,
    /// The first number, from the storage's begin.
    pub(super) begin: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    /// How many of the storage's numbers it spans.
    pub(super) reach: u64,
}

impl Tensor {
    /// Bytes of its numbers.
    pub(super) fn bytes(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product::<u64>() * self.kind.size()
    }

    /// The bytes of the storage that it spans.
    pub(super) fn window(&self) -> Range<u64> {
        let size = self.kind.size();
        self.begin * size..(self.begin + self.reach) * size
    }

    /// Its numbers in order, taken from its window.
    pub(super) fn gather(&self, window: Vec<u8>) -> Vec<u8> {
        let mut dense = 1;
        let is_dense = self
            .shape
            .iter()
            .zip(&self.strides)
            .rev()
            .all(|(&size, &stride)| {
                let fits = size <= 1 || stride == dense;
                dense *= size;
                fits
            });
        if is_dense || window.is_empty() {
            return window;
        }
        let size = self.kind.size() as usize;
        let numbers: usize = self.shape.iter().product();
        let mut gathered = Vec::with_capacity(numbers * size);
        for number in 0..numbers {
            let mut rest = number;
            let mut place = 0;
            for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
                place += rest % size * stride;
                rest /= size;
            }
            let bytes = window.get(place * size..(place + 1) * size);
            gathered.extend_from_slice(bytes.unwrap_or_default());
        }
        gathered
    }
}
