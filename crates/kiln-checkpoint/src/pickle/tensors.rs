//! From the values of a pickle to storages and tensors.

use std::collections::BTreeMap;

use super::globals::Global;
use super::problem::Problem;
use super::storage::{Storage, Tensor};
use super::values::{Value, Values};

/// The largest number of values to search for tensors, where shared values count each time, and the largest depth.
const MOST_LOOKS: usize = 1_000_000;
const DEEPEST: usize = 64;
/// Long keys count as searched values, because each tensor has its own.
const KEY_BYTES_A_LOOK: usize = 16;

/// The storage of a persistent id: `("storage", type, key, device, numbers)` and, in the files of before 2017, a view
/// `(key, begin, numbers)`.
pub(super) fn storage(id: &[Value], values: &Values<'_>) -> Option<Storage> {
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
    Some(Storage {
        key: values.key(*key)?,
        kind,
        numbers: values.size(*numbers)? as u64,
        begin: begin as u64,
    })
}

/// The tensor of the arguments of `_rebuild_tensor`: storage, begin, shape, strides. Its type may be given separately
/// if the storage has none.
pub(super) fn tensor(
    arguments: &[Value],
    kind_at: Option<usize>,
    values: &Values<'_>,
) -> Result<Tensor, Problem> {
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
        Problem::Unsupported("has a tensor of a type that kiln does not read".to_owned())
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
    Ok(Tensor {
        storage: place as usize,
        kind,
        begin,
        shape,
        strides,
        reach,
    })
}

/// All tensors in `root`, under their keys, joined by dots.
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
                // Entries with a class or a tuple as their key belong to the trainer.
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
