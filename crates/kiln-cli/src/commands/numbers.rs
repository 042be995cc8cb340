//! Numbers on the command line: the error for anything invalid or out of range states the range and a valid number.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// The end of a range that only memory limits.
pub const MANY: u64 = u32::MAX as u64;

/// Reads whole numbers in `range`, such as `example`.
pub fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
    example: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| sentence("whole number", &range, example))
    }
}

/// Reads numbers in `range`, such as `example`. A range up to infinity has no upper limit, but does not contain
/// infinity.
pub fn number(
    range: RangeInclusive<f64>,
    example: f64,
) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| {
        let number = text.parse::<f64>().ok();
        let number = number.filter(|number| number.is_finite() && range.contains(number));
        number.ok_or_else(|| match range.end().is_finite() {
            true => sentence("number", &range, example),
            false => format!(
                "give a number of at least {}, such as {example}",
                range.start()
            ),
        })
    }
}

fn sentence<T: Display>(kind: &str, range: &RangeInclusive<T>, example: T) -> String {
    let (first, last) = (range.start(), range.end());
    format!("give a {kind} from {first} to {last}, such as {example}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that are not a valid number for any option.
    const WRONG: [&str; 8] = ["", " ", "abc", "nan", "inf", "-inf", "1,5", "0x10"];

    #[test]
    fn whole_numbers_in_their_range_are_read() {
        let read = whole::<u32>(1..=64, 8);
        assert_eq!((read("1"), read("64")), (Ok(1), Ok(64)));
        for wrong in WRONG.into_iter().chain(["0", "65", "-1", "1.5", "1e1"]) {
            assert_eq!(
                read(wrong).unwrap_err(),
                "give a whole number from 1 to 64, such as 8",
                "{wrong}"
            );
        }
        let read = whole::<u64>(0..=u64::MAX, 0);
        assert_eq!(read(&u64::MAX.to_string()), Ok(u64::MAX));
        for wrong in ["-1", "99999999999999999999"] {
            assert!(
                read(wrong)
                    .unwrap_err()
                    .contains("from 0 to 18446744073709551615")
            );
        }
    }

    #[test]
    fn numbers_in_their_range_are_read() {
        let read = number(0.0..=1.0, 0.6);
        assert_eq!(
            (read("0"), read("1"), read("6e-1")),
            (Ok(0.0), Ok(1.0), Ok(0.6))
        );
        for wrong in WRONG.into_iter().chain(["1.1", "-0.1", "1e999"]) {
            let sentence = "give a number from 0 to 1, such as 0.6";
            assert_eq!(read(wrong).unwrap_err(), sentence, "{wrong}");
        }
        let read = number(0.0..=f64::INFINITY, 2.0);
        assert_eq!(read("1e300"), Ok(1e300));
        for wrong in WRONG.into_iter().chain(["-1", "1e999"]) {
            let sentence = "give a number of at least 0, such as 2";
            assert_eq!(read(wrong).unwrap_err(), sentence, "{wrong}");
        }
    }
}
