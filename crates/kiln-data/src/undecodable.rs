//! Images that prove impossible to decode while a training reads them.
//!
//! A large set is not decoded before it is used. Where one of its images cannot be decoded, the next one of the same
//! class takes its place, always the same, so that the order of all others stays. Too many of them are an error.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::{fmt, io};

use crate::error::DataError;

/// How many of them the error lists.
const LISTED: usize = 10;
/// How many images may be tried in place of one.
const TRIED: usize = 1000;

/// The images of a set that could not be decoded so far.
#[derive(Debug)]
pub(crate) struct Undecodable {
    /// The images of the set.
    total: usize,
    /// The share of them that may be impossible to decode.
    allowed: f32,
    /// Their names and what is wrong with them, by index.
    found: Mutex<BTreeMap<usize, String>>,
}

/// Why an image could not be loaded.
#[derive(Debug)]
pub(crate) enum Unloaded {
    /// Its file was there before.
    Gone(String),
    /// It cannot be decoded.
    Damaged(String),
}

impl From<io::Error> for Unloaded {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

impl From<String> for Unloaded {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

impl fmt::Display for Unloaded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Gone(reason) | Self::Damaged(reason)) = self;
        formatter.write_str(reason)
    }
}

impl Undecodable {
    pub(crate) fn new(total: usize, allowed: f32) -> Self {
        Self {
            total,
            allowed,
            found: Mutex::default(),
        }
    }

    /// What `load` gives for image `index` or, if that cannot be decoded, for the first of `others` that can. `name` is
    /// that of an image.
    ///
    /// # Errors
    /// [`DataError::Image`] if a file is gone; [`DataError::Undecodable`] if none of them can be decoded, or more images than allowed cannot.
    pub(crate) fn instead<T>(
        &self,
        index: usize,
        others: impl Iterator<Item = usize>,
        name: impl Fn(usize) -> String,
        load: impl Fn(usize) -> Result<T, Unloaded>,
    ) -> Result<T, DataError> {
        for candidate in std::iter::once(index).chain(others).take(TRIED) {
            if self.is_known(candidate) {
                continue;
            }
            match load(candidate) {
                Ok(image) => return Ok(image),
                Err(Unloaded::Gone(reason)) => {
                    return Err(DataError::Image {
                        name: name(candidate),
                        reason,
                    });
                }
                Err(Unloaded::Damaged(reason)) => self.note(candidate, name(candidate), &reason)?,
            }
        }
        Err(self.too_many())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, String>> {
        self.found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_known(&self, image: usize) -> bool {
        self.lock().contains_key(&image)
    }

    fn note(&self, image: usize, name: String, reason: &str) -> Result<(), DataError> {
        let mut found = self.lock();
        let is_new = !found.contains_key(&image);
        if is_new {
            tracing::warn!(
                "{name} cannot be decoded ({reason}): the next image of its class takes its place"
            );
            found.insert(image, format!("{name} ({reason})"));
        }
        let failed = found.len();
        drop(found);
        match failed as f32 / self.total.max(1) as f32 > self.allowed {
            true => Err(self.too_many()),
            false => Ok(()),
        }
    }

    fn too_many(&self) -> DataError {
        let found = self.lock();
        DataError::Undecodable {
            failed: found.len(),
            total: self.total,
            allowed: self.allowed,
            first: found.values().take(LISTED).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(image: usize) -> Result<usize, Unloaded> {
        match image {
            3 | 4 | 7 => Err(Unloaded::Damaged("it is torn".to_owned())),
            9 => Err(io::Error::from(io::ErrorKind::NotFound).into()),
            sound => Ok(sound),
        }
    }

    #[test]
    fn the_next_one_takes_the_place_whatever_was_read_before() {
        let undecodable = Undecodable::new(10, 0.3);
        let get = |index: usize| {
            let others = index + 1..10;
            undecodable.instead(index, others, |image| format!("image {image}"), load)
        };
        for _ in 0..2 {
            assert_eq!(get(4).unwrap(), 5);
            assert_eq!(get(3).unwrap(), 5);
            assert_eq!(get(2).unwrap(), 2);
            assert_eq!(get(7).unwrap(), 8);
        }
        assert!(
            get(9)
                .unwrap_err()
                .to_string()
                .starts_with("can no longer read image 9")
        );
    }

    #[test]
    fn too_many_are_an_error_that_names_them() {
        let undecodable = Undecodable::new(10, 0.2);
        let get = |index: usize| {
            let others = index + 1..10;
            undecodable.instead(index, others, |image| format!("image {image}"), load)
        };
        assert!(get(3).is_ok());
        let sentence = get(7).unwrap_err().to_string();
        assert!(sentence.starts_with("3 of 10 images"), "{sentence}");
        assert!(sentence.contains("image 4 (it is torn)"), "{sentence}");
    }
}
