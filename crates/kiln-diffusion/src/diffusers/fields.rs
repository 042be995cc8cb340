//! The keys of a file, taken one by one.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::DiffusionError;

/// The file's keys. Readers take them one by one, so that the rest can be refused by name.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// The keys of a file's JSON text.
    ///
    /// # Errors
    /// Text that is not a JSON object.
    pub(super) fn parse(text: &str) -> Result<Self, DiffusionError> {
        // `lambda_min_clipped` is -Infinity if nothing is clipped. Python writes it as is, which is not valid JSON.
        serde_json::from_str(&text.replace("-Infinity", "null"))
            .map(Self)
            .map_err(|error| DiffusionError::SchedulerJson(error.to_string()))
    }

    /// Takes `key`; absent or null is `default`.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        key: &str,
        default: T,
    ) -> Result<T, DiffusionError> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match serde_json::from_value(value.clone()) {
                Ok(parsed) => Ok(parsed),
                Err(_) => refuse(key, value, "diffusers writes another type there"),
            },
        }
    }

    /// Takes `key` and refuses any value but diffusers' default.
    pub(super) fn require(&mut self, key: &str, default: Value) -> Result<(), DiffusionError> {
        let value = self.take(key, default.clone())?;
        if value == default {
            Ok(())
        } else {
            refuse(key, value, "only diffusers' default is available")
        }
    }

    /// Whether `key` has this value.
    pub(super) fn says(&self, key: &str, value: Value) -> bool {
        self.0.get(key) == Some(&value)
    }

    /// Sets a default that differs from the other classes' default.
    pub(super) fn default(&mut self, key: &str, value: Value) {
        self.0.entry(key).or_insert(value);
    }

    /// Reads other classes' values of `key`, `from`, as `to`.
    pub(super) fn replace(&mut self, key: &str, from: &[&str], to: &str) {
        if let Some(value) = self.0.get_mut(key)
            && value.as_str().is_some_and(|word| from.contains(&word))
        {
            *value = to.into();
        }
    }

    /// Removes keys whose values make no difference.
    pub(super) fn pass_over(&mut self, makes_no_difference: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| !makes_no_difference(key));
    }

    /// Refuses the keys that are left. Keys with an underscore are diffusers' internal notes, and null asks for
    /// nothing.
    pub(super) fn finish(self) -> Result<(), DiffusionError> {
        match self
            .0
            .into_iter()
            .find(|(key, value)| !key.starts_with('_') && !value.is_null())
        {
            Some((key, value)) => refuse(&key, value, "no scheduler here has this key, remove it"),
            None => Ok(()),
        }
    }
}

pub(super) fn refuse<T>(
    key: &str,
    value: impl Into<Value>,
    supported: &'static str,
) -> Result<T, DiffusionError> {
    Err(DiffusionError::SchedulerOption {
        key: key.to_owned(),
        value: value.into().to_string(),
        supported,
    })
}
