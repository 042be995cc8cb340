//! What a sweep varies, and the points that it tries.
//!
//! | setting | meaning |
//! | --- | --- |
//! | `key=value` | the same for all runs |
//! | `key=a,b,c` | each of these values |
//! | `key=1e-4..1e-2` | a number in between, drawn at random |

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The largest number of points.
pub(crate) const MOST: usize = 10_000;

/// Bounds whose ratio is as large are drawn between as powers: as many from 1e-4 to 1e-3 as from 1e-3 to 1e-2.
const DECADE: f64 = 10.0;

/// The overrides of one point, as `table.key=value`.
pub(crate) type Overrides = Vec<String>;

/// A key and its values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    values: Values,
}

#[derive(Debug, Clone, PartialEq)]
enum Values {
    /// One or more.
    Listed(Vec<String>),
    Between {
        low: f64,
        high: f64,
    },
}

impl Setting {
    /// # Errors
    /// What is wrong with `text`, for `--set TEXT`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (key, values) = (text.split_once('='))
            .ok_or_else(|| format!("`--set {text}` has no value: write it as table.key=value"))?;
        if text.contains(['\n', '\r']) {
            return Err(format!("{text:?} of --set has a line break: leave it out"));
        }
        let key = key.trim().to_owned();
        if let Some((low, high)) = values.split_once("..") {
            let number = |word: &str| word.trim().parse::<f64>().ok();
            if let (Some(low), Some(high)) = (number(low), number(high)) {
                let is_range = low < high && (high - low).is_finite();
                let values = Values::Between { low, high };
                return match is_range {
                    true => Ok(Self { key, values }),
                    false => Err(format!(
                        "`--set {text}` is no range: the first number must be below the second"
                    )),
                };
            }
        }
        let listed = split(values);
        match listed.iter().any(|value| value.is_empty()) {
            true => Err(format!("`--set {text}` has an empty value")),
            false => Ok(Self {
                key,
                values: Values::Listed(listed),
            }),
        }
    }

    /// Whether it differs between points.
    pub(crate) fn varies(&self) -> bool {
        !matches!(&self.values, Values::Listed(listed) if listed.len() == 1)
    }

    fn is(&self, value: &str) -> String {
        format!("{}={value}", self.key)
    }

    fn drawn(&self, generator: &mut ChaCha8Rng) -> String {
        match self.values {
            Values::Listed(ref listed) => self.is(&listed[generator.random_range(0..listed.len())]),
            // Bounds that are whole mean whole numbers.
            Values::Between { low, high } if low.fract() == 0.0 && high.fract() == 0.0 => {
                let drawn = between(low - 0.5, high + 0.5, low > 0.0, generator).round();
                self.is(&format!("{:.0}", drawn.clamp(low, high)))
            }
            Values::Between { low, high } => {
                // Four digits: a setting that people read.
                let drawn = between(low, high, low > 0.0, generator);
                let short = format!("{drawn:.3e}");
                let is_within = short
                    .parse()
                    .is_ok_and(|short: f64| (low..=high).contains(&short));
                self.is(&if is_within {
                    short
                } else {
                    format!("{drawn:e}")
                })
            }
        }
    }
}

fn between(low: f64, high: f64, is_positive: bool, generator: &mut ChaCha8Rng) -> f64 {
    let share: f64 = generator.random();
    match is_positive && high / low >= DECADE {
        true => low * (high / low).powf(share),
        false => low + (high - low) * share,
    }
}

/// The values in `a,[1,2],"b,c"`.
fn split(text: &str) -> Vec<String> {
    let (mut values, mut value) = (Vec::new(), String::new());
    let (mut depth, mut quote) = (0_usize, None);
    for letter in text.chars() {
        match (quote, letter) {
            (Some(end), letter) if letter == end => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                values.push(value.trim().to_owned());
                value.clear();
                continue;
            }
            (None, _) => {}
        }
        value.push(letter);
    }
    values.push(value.trim().to_owned());
    values
}

/// All combinations of the settings that vary, the last one the fastest.
///
/// # Errors
/// If there are too many, or a range among them.
pub(crate) fn grid(settings: &[Setting]) -> Result<Vec<Overrides>, String> {
    let mut points = vec![Overrides::new()];
    for setting in settings.iter().filter(|setting| setting.varies()) {
        let Values::Listed(listed) = &setting.values else {
            return Err(format!(
                "`{}` has a range, whose numbers are drawn: say how many with --random",
                setting.key
            ));
        };
        if points.len() * listed.len() > MOST {
            return Err(format!("these are more than {MOST} combinations"));
        }
        let with = |point: &Overrides| {
            let point = point.clone();
            let values = listed.iter();
            values.map(move |value| [point.clone(), vec![setting.is(value)]].concat())
        };
        points = points.iter().flat_map(with).collect::<Vec<_>>();
    }
    Ok(points)
}

/// `count` different points.
///
/// # Errors
/// If there are not as many.
pub(crate) fn random(
    settings: &[Setting],
    count: usize,
    seed: u64,
) -> Result<Vec<Overrides>, String> {
    let generator = &mut ChaCha8Rng::seed_from_u64(seed);
    let varied: Vec<_> = settings.iter().filter(|setting| setting.varies()).collect();
    let too_few =
        |all: usize| format!("--random {count} asks for more than the {all} points that there are");
    if count > MOST {
        return Err(format!("--random {count} is more than {MOST}"));
    }
    if let Ok(mut all) = grid(settings) {
        if count > all.len() {
            return Err(too_few(all.len()));
        }
        all.shuffle(generator);
        all.truncate(count);
        return Ok(all);
    }
    let mut points: Vec<Overrides> = Vec::new();
    // Ranges of whole numbers may have few points.
    for _ in 0..count.saturating_mul(100) {
        if points.len() == count {
            break;
        }
        let point = varied.iter().map(|setting| setting.drawn(generator));
        let point = point.collect();
        if !points.contains(&point) {
            points.push(point);
        }
    }
    match points.len() == count {
        true => Ok(points),
        false => Err(too_few(points.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(texts: &[&str]) -> Vec<Setting> {
        let settings = texts.iter().map(|text| Setting::parse(text).unwrap());
        settings.collect()
    }

    #[test]
    fn a_grid_has_all_combinations_and_brackets_and_quotes_hold_together() {
        let settings = settings(&[
            "a.b=1,2",
            "c=[8,16],[16,32]",
            "d=5",
            "e='x,y'",
            r#"f={g=1,h="]"}"#,
        ]);
        let varies: Vec<bool> = settings.iter().map(Setting::varies).collect();
        assert_eq!(varies, [true, true, false, false, false]);
        assert_eq!(
            grid(&settings).unwrap(),
            [
                ["a.b=1", "c=[8,16]"],
                ["a.b=1", "c=[16,32]"],
                ["a.b=2", "c=[8,16]"],
                ["a.b=2", "c=[16,32]"],
            ]
        );
        assert_eq!(grid(&settings[2..]).unwrap(), [Overrides::new()]);
    }

    #[test]
    fn random_points_are_within_their_ranges_and_differ() {
        let settings = settings(&["rate=1e-4..1e-2", "batch=2..64", "kind=cosine,linear"]);
        let points = random(&settings, 200, 1).unwrap();
        assert_eq!(points, random(&settings, 200, 1).unwrap());
        assert_ne!(points, random(&settings, 200, 2).unwrap());
        let (mut below, mut seen) = (0, std::collections::BTreeSet::new());
        for point in &points {
            let values: Vec<&str> = point
                .iter()
                .map(|text| text.split_once('=').unwrap().1)
                .collect();
            let rate: f64 = values[0].parse().unwrap();
            assert!((1e-4..=1e-2).contains(&rate));
            below += usize::from(rate < 1e-3);
            assert!((2..=64).contains(&values[1].parse::<u32>().unwrap()));
            assert!(seen.insert(point.clone()));
        }
        assert!(
            (60..140).contains(&below),
            "{below} of 200 in the lower decade"
        );
        let few = self::settings(&["n=1..3"]);
        let mut drawn = random(&few, 3, 0).unwrap().concat();
        drawn.sort();
        assert_eq!(drawn, ["n=1", "n=2", "n=3"]);
        assert!(random(&few, 4, 0).unwrap_err().contains("the 3 points"));
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for (text, words) in [
            ("a", "has no value"),
            ("a=1,,2", "empty value"),
            ("a=", "empty value"),
            ("a=2..1", "must be below"),
            ("a=1..inf", "must be below"),
        ] {
            let problem = Setting::parse(text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
        let ranges = settings(&["a=1..2"]);
        assert!(grid(&ranges).unwrap_err().contains("--random"));
        let many = settings(&["a=1,2,3,4,5,6,7,8,9,10"; 5]);
        assert!(grid(&many).unwrap_err().contains("10000"));
        let paths = settings(&["data.path=../here,../there"]);
        assert_eq!(grid(&paths).unwrap().len(), 2);
    }
}
