//! A part of a training.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number of steps: `500`, or a share of the training's steps: `"25%"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
#[non_exhaustive]
pub enum Extent {
    /// So many steps.
    Steps(usize),
    /// A share of the training's steps, in percent.
    Percent(f64),
}

/// An [`Extent`] in TOML.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of steps such as 500, or a share of the training such as \"25%\""
)]
enum Written {
    Steps(usize),
    Text(String),
}

impl TryFrom<Written> for Extent {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Steps(steps) => return Ok(Self::Steps(steps)),
            Written::Text(text) => text,
        };
        let number = text.trim().strip_suffix('%');
        let percent = number.and_then(|number| number.trim().parse().ok());
        percent
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(Self::Percent)
            .ok_or_else(|| {
                format!("`{text}` is neither a number of steps such as 500 nor a share of the training from \"0%\" to \"100%\"")
            })
    }
}

impl From<Extent> for Written {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Steps(steps) => Self::Steps(steps),
            Extent::Percent(_) => Self::Text(extent.to_string()),
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => steps.fmt(formatter),
            Self::Percent(percent) => write!(formatter, "{percent}%"),
        }
    }
}

impl Extent {
    /// Its steps in a training of this many, rounded to the nearest number.
    pub(crate) fn of(self, steps: usize) -> usize {
        match self {
            Self::Steps(count) => count,
            Self::Percent(percent) => (percent / 100.0 * steps as f64).round() as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Extent, toml::de::Error> {
        #[derive(Deserialize)]
        struct Table {
            start: Extent,
        }
        toml::from_str(&format!("start = {value}")).map(|table: Table| table.start)
    }

    #[test]
    fn steps_and_shares_are_read_and_written_alike() {
        for (value, extent, of_200) in [
            ("50", Extent::Steps(50), 50),
            ("0", Extent::Steps(0), 0),
            ("\"25%\"", Extent::Percent(25.0), 50),
            ("\"12.5%\"", Extent::Percent(12.5), 25),
        ] {
            assert_eq!(read(value).unwrap(), extent);
            assert_eq!(extent.of(200), of_200);
            let again = toml::Value::try_from(extent).unwrap().to_string();
            assert_eq!(again, value);
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for value in [
            "-1", "0.5", "\"half\"", "\"101%\"", "\"-1%\"", "\"nan%\"", "\"%\"",
        ] {
            let sentence = read(value).unwrap_err().to_string();
            assert!(sentence.contains('%'), "{value}: {sentence}");
        }
    }
}
