//! Tensors among the values of a pickle, and their numbers.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::Dtype;

use super::Problem;
use super::globals::Global;
use super::values::{Value, Values};

/// Values that are looked at for tensors, one that is held twice counted twice; and how deep.
const MOST_LOOKS: usize = 1_000_000;
const DEEPEST: usize = 64;
/// Long keys count as looks, since each tensor has its own.
const KEY_BYTES_A_LOOK: usize = 16;

/// The type of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F64,
    F32,
    F16,
    BF16,
    /// Not a float that is read here; its size in bytes.
    Other(u8),
}

impl Kind {
    fn size(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Other(size) => size.into(),
        }
    }

    /// The type in a safetensors file, of a float.
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

/// Numbers in the file, as the pickle announces them.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// Its name in the container.
    pub(super) key: String,
    /// None for plain bytes.
    kind: Option<Kind>,
    numbers: u64,
    /// Where a view of another storage begins, in numbers.
    begin: u64,
}

impl Storage {
    /// Of a persistent id: `("storage", type, key, device, numbers)` and, in the files of before 2017, a view
    /// `(key, begin, numbers)`.
    pub(super) fn of(id: &[Value], values: &Values<'_>) -> Option<Self> {
        let [tag, kind, key, _, numbers, view @ ..] = id else {
            return None;
        };
        let Value::Global(Global::Numbers(kind)) = *kind else {
            return None;
        };
        if values.words(*tag)? != b"storage" {
            return None;
        }
        let begin = match view.first().map(|&view| values.members(view)) {
            Some([_, begin, _]) => values.size(*begin)?,
            _ => 0,
        };
        Some(Self {
            key: values.key(*key)?,
            kind,
            numbers: values.size(*numbers)? as u64,
            begin: begin as u64,
        })
    }

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
    begin: u64,
    pub(super) shape: Vec<usize>,
    strides: Vec<usize>,
    /// How many of the storage's numbers it reaches over.
    reach: u64,
}

impl Tensor {
    /// Of the arguments of `_rebuild_tensor`: storage, begin, shape, strides. The type may be another than the storage's
    /// where that has none.
    pub(super) fn of(
        arguments: &[Value],
        kind_at: Option<usize>,
        values: &Values<'_>,
    ) -> Result<Self, Problem> {
        let invalid = || Problem::damaged("a tensor of its pickle is no view of a storage");
        let [Value::Storage(place), begin, shape, strides, ..] = *arguments else {
            return Err(invalid());
        };
        let storage = values.storages.get(place as usize).ok_or_else(invalid)?;
        let given = kind_at.and_then(|place| arguments.get(place));
        let kind = match given {
            Some(Value::Global(Global::Numbers(kind))) => *kind,
            Some(_) => None,
            None => storage.kind,
        };
        let kind = kind.ok_or_else(|| {
            Problem::Unsupported("has a tensor of a type that is not read here".to_owned())
        })?;
        let shape = values.sizes(shape).ok_or_else(invalid)?;
        let strides = values.sizes(strides).ok_or_else(invalid)?;
        let begin = values.size(begin).ok_or_else(invalid)? as u64;
        if shape.len() != strides.len() {
            return Err(invalid());
        }
        let mut reach = Some(1u64);
        let mut numbers = Some(1u64);
        for (&size, &stride) in shape.iter().zip(&strides) {
            numbers = numbers.and_then(|numbers| numbers.checked_mul(size as u64));
            let far = (size as u64).saturating_sub(1).checked_mul(stride as u64);
            reach = reach.and_then(|reach| reach.checked_add(far?));
        }
        let numbers = numbers.and_then(|numbers| numbers.checked_mul(kind.size()));
        let reach = match numbers {
            Some(0) => Some(0),
            _ => reach,
        };
        let begin = storage.begin.checked_add(begin);
        let (Some(_), Some(reach), Some(begin)) = (numbers, reach, begin) else {
            return Err(invalid());
        };
        let end = begin.checked_add(reach);
        let end = end.and_then(|end| end.checked_mul(kind.size()));
        if end.is_none_or(|end| end > storage.size().1) {
            return Err(invalid());
        }
        Ok(Self {
            storage: place as usize,
            kind,
            begin,
            shape,
            strides,
            reach,
        })
    }

    /// Bytes of its numbers.
    pub(super) fn bytes(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product::<u64>() * self.kind.size()
    }

    /// The bytes of the storage that it reaches over.
    pub(super) fn window(&self) -> Range<u64> {
        let size = self.kind.size();
        self.begin * size..(self.begin + self.reach) * size
    }

    /// Its numbers in order, out of those in its window.
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

/// All tensors that `root` holds, under their keys, joined by dots.
pub(super) fn find_tensors(
    root: Value,
    values: &Values<'_>,
) -> Result<BTreeMap<String, Tensor>, Problem> {
    let mut found = BTreeMap::new();
    let mut looks = 0;
    look(root, &mut Vec::new(), values, &mut looks, &mut found)?;
    Ok(found)
}

fn look(
    value: Value,
    path: &mut Vec<String>,
    values: &Values<'_>,
    looks: &mut usize,
    found: &mut BTreeMap<String, Tensor>,
) -> Result<(), Problem> {
    *looks += 1;
    if *looks > MOST_LOOKS || path.len() > DEEPEST {
        return Err(Problem::damaged("its pickle holds itself, or too much"));
    }
    match value {
        Value::Dictionary(place) => {
            for &[key, value] in &values.dictionaries[place as usize] {
                // What has a class or a tuple as its key is the trainer's.
                let Some(key) = values.key(key) else {
                    continue;
                };
                path.push(key);
                look(value, path, values, looks, found)?;
                path.pop();
            }
        }
        Value::List(_) | Value::Tuple(_) => {
            for (place, &member) in values.members(value).iter().enumerate() {
                path.push(place.to_string());
                look(member, path, values, looks, found)?;
                path.pop();
            }
        }
        Value::Tensor(place) => {
            let key = path.join(".");
            *looks += key.len() / KEY_BYTES_A_LOOK;
            found.insert(key, values.tensors[place as usize].clone());
        }
        _ => {}
    }
    Ok(())
}
