//! The values that the instructions of a pickle build.

use super::globals::Global;
use super::problem::Problem;
use super::storage::{Storage, Tensor};

/// A value. Larger content is in [`Values`], so that a copy of a value costs only a few bytes, as in Python.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(Place),
    Tuple(Place),
    /// A list or a set.
    List(Place),
    Dictionary(Place),
    Global(Global),
    Storage(Place),
    Tensor(Place),
    /// A value that weights do not need: floats, bytes, objects.
    Other,
}

/// The index of a value among its kind.
pub(super) type Place = u32;

/// Everything that a pickle has built. Values may contain each other in circles, because only
/// [`find_tensors`](super::tensors::find_tensors) follows them, and it counts its steps.
#[derive(Debug, Default)]
pub(super) struct Values<'pickle> {
    pub(super) texts: Vec<&'pickle [u8]>,
    /// The begin and end of each tuple in `members`.
    tuples: Vec<[u32; 2]>,
    members: Vec<Value>,
    pub(super) lists: Vec<Vec<Value>>,
    pub(super) dictionaries: Vec<Vec<[Value; 2]>>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<Tensor>,
    spent: usize,
}

/// The largest number of values, ten times as many as in an honest checkpoint with averages and an optimizer's state.
const MOST_VALUES: usize = 2_000_000;

impl<'pickle> Values<'pickle> {
    /// Counts a value that is stored on the stack, in the memo or in another value.
    ///
    /// # Errors
    /// If there are more than any checkpoint has.
    pub(super) fn count(&mut self) -> Result<(), Problem> {
        self.count_all(1)
    }

    /// Counts so many values that are stored or searched.
    pub(super) fn count_all(&mut self, values: usize) -> Result<(), Problem> {
        self.spent = self.spent.saturating_add(values);
        match self.spent <= MOST_VALUES {
            true => Ok(()),
            false => Err(Problem::damaged("its pickle builds millions of values")),
        }
    }

    pub(super) fn text(&mut self, text: &'pickle [u8]) -> Value {
        self.texts.push(text);
        Value::Text(last(&self.texts))
    }

    pub(super) fn tuple(&mut self, members: &[Value]) -> Value {
        let begin = self.members.len() as u32;
        self.members.extend_from_slice(members);
        self.tuples.push([begin, self.members.len() as u32]);
        Value::Tuple(last(&self.tuples))
    }

    pub(super) fn list(&mut self, members: Vec<Value>) -> Value {
        self.lists.push(members);
        Value::List(last(&self.lists))
    }

    pub(super) fn dictionary(&mut self, pairs: Vec<[Value; 2]>) -> Value {
        self.dictionaries.push(pairs);
        Value::Dictionary(last(&self.dictionaries))
    }

    pub(super) fn storage(&mut self, storage: Storage) -> Value {
        self.storages.push(storage);
        Value::Storage(last(&self.storages))
    }

    pub(super) fn tensor(&mut self, tensor: Tensor) -> Value {
        self.tensors.push(tensor);
        Value::Tensor(last(&self.tensors))
    }

    /// The members of a tuple or a list; empty for anything else.
    pub(super) fn members(&self, value: Value) -> &[Value] {
        match value {
            Value::Tuple(place) => {
                let [begin, end] = self.tuples.get(place as usize).copied().unwrap_or_default();
                self.members
                    .get(begin as usize..end as usize)
                    .unwrap_or_default()
            }
            Value::List(place) => self.lists.get(place as usize).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    /// The bytes of a text.
    pub(super) fn words(&self, value: Value) -> Option<&'pickle [u8]> {
        match value {
            Value::Text(place) => self.texts.get(place as usize).copied(),
            _ => None,
        }
    }

    /// A text or a whole number, as a key.
    pub(super) fn key(&self, value: Value) -> Option<String> {
        match value {
            Value::Int(number) => Some(number.to_string()),
            value => {
                let words = self.words(value)?;
                (words.len() <= LONGEST_KEY).then(|| String::from_utf8_lossy(words).into_owned())
            }
        }
    }

    /// A whole number of at least 0.
    pub(super) fn size(&self, value: Value) -> Option<usize> {
        match value {
            Value::Int(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    /// The whole numbers of at least 0 in a short tuple or list.
    pub(super) fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let members = match value {
            Value::Tuple(_) | Value::List(_) => self.members(value),
            _ => return None,
        };
        let members = (members.len() <= MOST_DIMENSIONS).then_some(members)?;
        members.iter().map(|&member| self.size(member)).collect()
    }
}

/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;
/// Longer than the name of any parameter, in bytes.
const LONGEST_KEY: usize = 1000;

/// The index of the newest value of a kind. There are fewer than [`MOST_VALUES`] of each.
fn last<T>(all: &[T]) -> Place {
    all.len().saturating_sub(1) as Place
}
