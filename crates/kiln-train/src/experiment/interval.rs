//! The period of something in a training: a count, or passes over the data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The distance from one time to the next: `500` steps or checkpoints, depending on the key, or `"2 passes"` over the
/// training images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
#[non_exhaustive]
pub enum Interval {
    /// A number of steps or checkpoints, depending on the key.
    Every(usize),
    /// A number of passes over the training images.
    Passes(f64),
}

/// An [`Interval`] in TOML.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a whole number such as 500, or passes over the data such as \"1 pass\""
)]
enum Written {
    Count(usize),
    Text(String),
}

impl TryFrom<Written> for Interval {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Count(count) => return Ok(Self::Every(count)),
            Written::Text(text) => text,
        };
        let number = ["passes", "pass"].iter().find_map(|unit| {
            let number = text.trim().strip_suffix(unit)?;
            number.trim().parse().ok()
        });
        number.map(Self::Passes).ok_or_else(|| {
            format!("`{text}` is neither a whole number such as 500 nor a number of passes over the data such as \"1 pass\"")
        })
    }
}

impl From<Interval> for Written {
    fn from(interval: Interval) -> Self {
        match interval {
            Interval::Every(count) => Self::Count(count),
            Interval::Passes(_) => Self::Text(interval.to_string()),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(count) => count.fmt(formatter),
            Self::Passes(1.0) => formatter.write_str("1 pass"),
            Self::Passes(passes) => write!(formatter, "{passes} passes"),
        }
    }
}

impl Interval {
    /// The period in a unit with `per_pass` units per pass, rounded to the nearest whole number but at least 1; zero
    /// means never.
    pub(crate) fn count(self, per_pass: f64) -> usize {
        match self {
            Self::Every(count) => count,
            Self::Passes(passes) => ((passes * per_pass).round() as usize).max(1),
        }
    }

    /// Whether the period is positive and finite.
    pub(crate) fn is_positive(self) -> bool {
        match self {
            Self::Every(count) => count > 0,
            Self::Passes(passes) => passes > 0.0 && passes.is_finite(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Interval, toml::de::Error> {
        #[derive(Deserialize)]
        struct Table {
            every: Interval,
        }
        toml::from_str(&format!("every = {value}")).map(|table: Table| table.every)
    }

    #[test]
    fn numbers_and_passes_are_read_and_written_alike() {
        for (value, interval) in [
            ("500", Interval::Every(500)),
            ("\"1 pass\"", Interval::Passes(1.0)),
            ("\"2 passes\"", Interval::Passes(2.0)),
            ("\"0.25 passes\"", Interval::Passes(0.25)),
        ] {
            assert_eq!(read(value).unwrap(), interval);
            let again = toml::Value::try_from(interval).unwrap().to_string();
            assert_eq!(again, value);
        }
        assert_eq!(read("\"3pass\"").unwrap(), Interval::Passes(3.0));
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for value in [
            "-1",
            "0.5",
            "true",
            "\"often\"",
            "\"1 epoch\"",
            "\"pass\"",
            "[1]",
        ] {
            let sentence = read(value).unwrap_err().to_string();
            assert!(sentence.contains("\"1 pass\""), "{value}: {sentence}");
        }
    }

    #[test]
    fn passes_are_rounded_to_the_nearest_count_of_at_least_one() {
        for (interval, per_pass, count) in [
            (Interval::Every(7), 100.0, 7),
            (Interval::Every(0), 100.0, 0),
            (Interval::Passes(2.0), 10.3, 21),
            (Interval::Passes(0.01), 10.0, 1),
        ] {
            assert_eq!(interval.count(per_pass), count);
        }
    }
}
