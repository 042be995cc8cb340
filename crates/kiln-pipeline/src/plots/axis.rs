//! The positions of numbers along an axis, and the choice of its labels.
//!
//! Positions run from 0 to [`END`], so that the plotting library gets no numbers of a training. Its loop that looks for
//! ticks between two numbers never ends for very large or small ones.

/// A range of numbers along an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
}

/// The position of the high end.
pub(super) const END: i32 = 1_000_000;
/// The largest number of ticks, plus at most one.
const TICKS: f64 = 5.0;
/// The share of the range that stays free at both ends.
const MARGIN: f64 = 0.05;
/// Numbers beyond this are not drawn: their differences would be infinite.
const LARGEST: f64 = 1e300;
/// A fall by a factor in this range is easier to see on a logarithmic axis. Beyond the range there would be no room for
/// ticks.
const DECADES: std::ops::RangeInclusive<f64> = 10.0..=1e12;

/// Whether a number can be drawn at all.
pub(super) fn is_drawn(value: f64) -> bool {
    value.abs() <= LARGEST
}

impl Axis {
    /// An axis from exactly `low` to `high`.
    pub(super) fn between(low: f64, high: f64) -> Self {
        Self {
            low,
            high: if high > low { high } else { low + 1.0 },
            is_logarithmic: false,
        }
    }

    /// An axis with room for all `values` that can be drawn. It is logarithmic if they are positive and fall by decades
    /// from the first to the last one.
    pub(super) fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let drawn = values.filter(|&value| is_drawn(value));
        let low = drawn.clone().fold(f64::INFINITY, f64::min);
        let high = drawn.clone().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return Self::between(0.0, 1.0);
        }
        let falls = drawn.clone().last() <= drawn.clone().next();
        if falls && low > 0.0 && DECADES.contains(&(high / low)) {
            return Self::logarithmic(low, high);
        }
        // A constant gets a little room, too.
        let margin = (MARGIN * (high - low))
            .max(1e-3 * high.abs().max(low.abs()))
            .max(1e-12);
        Self::between(low - margin, high + margin)
    }

    /// A logarithmic axis from `low` to `high`, both above zero, with a little room at both ends.
    pub(super) fn logarithmic(low: f64, high: f64) -> Self {
        let margin = (high / low).powf(MARGIN).max(1.1);
        Self {
            low: low / margin,
            high: high * margin,
            is_logarithmic: true,
        }
    }

    /// The position of a number: 0 at the low end, [`END`] at the high end.
    pub(super) fn place(&self, value: f64) -> i32 {
        let share = if self.is_logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        (share * f64::from(END)).round() as i32
    }

    /// Round numbers within the range.
    fn ticks(&self) -> Vec<f64> {
        if !self.is_logarithmic {
            let step = self.step();
            let first = (self.low / step).ceil();
            let last = (self.high / step).floor();
            let count = (last - first).clamp(0.0, 2.0 * TICKS) as usize;
            return (0..=count)
                .map(|number| (first + number as f64) * step)
                .collect();
        }
        let (first, last) = (
            self.low.log10().floor() as i32,
            self.high.log10().floor() as i32,
        );
        let decades = (self.high / self.low).log10();
        let multiples: &[f64] = match decades {
            ..1.2 => &[1.0, 2.0, 5.0],
            ..2.5 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let every = (decades / TICKS).ceil().max(1.0) as usize;
        let ticks = (first..=last).step_by(every).flat_map(|power| {
            multiples
                .iter()
                .map(move |multiple| multiple * 10f64.powi(power))
        });
        ticks
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }

    /// The step between ticks: 1, 2 or 5 times a power of ten, so that at most [`TICKS`] steps fit into the range.
    fn step(&self) -> f64 {
        let least = (self.high - self.low) / TICKS;
        let power = 10f64.powf(least.log10().floor());
        let multiples = [1.0, 2.0, 5.0, 10.0];
        let enough = multiples
            .into_iter()
            .find(|multiple| multiple * power >= least);
        enough.unwrap_or(10.0) * power
    }

    /// The positions of the ticks, and their numbers as text.
    pub(super) fn labels(&self) -> Vec<(i32, String)> {
        let step = self.step();
        let label = |tick: f64| {
            // Enough digits to distinguish two ticks.
            let step = if self.is_logarithmic { tick } else { step };
            (self.place(tick), in_words(tick, step))
        };
        self.ticks().into_iter().map(label).collect()
    }

    /// The positions of these numbers, rounded, and the numbers, if they have room beside the previous one.
    pub(super) fn labels_at(&self, values: impl Iterator<Item = f64>) -> Vec<(i32, String)> {
        let mut values: Vec<f64> = values.filter(|&value| is_drawn(value)).collect();
        values.sort_by(f64::total_cmp);
        let mut labels: Vec<(i32, String)> = Vec::new();
        for value in values {
            let place = self.place(value);
            let is_free = |(before, _): &(i32, String)| place - before > END / 16;
            if labels.last().is_none_or(is_free) {
                labels.push((place, thousands(value.round())));
            }
        }
        labels
    }

    /// The same for whole numbers: ticks between two of them are left out.
    pub(super) fn whole_labels(&self) -> Vec<(i32, String)> {
        let whole = self.ticks().into_iter().filter(|tick| tick.fract() == 0.0);
        whole
            .map(|tick| (self.place(tick), thousands(tick)))
            .collect()
    }
}

/// The text beside an axis at the position of one of its labels.
pub(super) fn words_at(place: i32, labels: &[(i32, String)]) -> String {
    let here = labels.iter().find(|label| label.0 == place);
    here.map(|label| label.1.clone()).unwrap_or_default()
}

/// A number with the digits that matter at multiples of `step`.
fn in_words(value: f64, step: f64) -> String {
    let digit = step.abs().log10().floor();
    if value.abs() < 1e-6 * step.abs() {
        return "0".to_owned();
    }
    if value.abs() >= 1e6 || digit < -4.0 {
        let digits = (value.abs().log10().floor() - digit).clamp(0.0, 12.0);
        return format!("{value:.*e}", digits as usize);
    }
    format!("{value:.*}", (-digit).max(0.0) as usize)
}

/// 20000 as "20,000".
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(axis: &Axis) -> Vec<String> {
        axis.labels().into_iter().map(|(_, words)| words).collect()
    }

    #[test]
    fn what_falls_by_decades_is_logarithmic_and_nothing_else_is() {
        for (values, is_logarithmic) in [
            (&[1.0, 0.3, 0.05][..], true),
            (&[1.0, 0.3, 0.2], false),
            // Rises, like the perplexity.
            (&[1.0, 60.0, 120.0], false),
            (&[1.0, 0.0], false),
            (&[1.0, -0.01], false),
            (&[1.0, f64::INFINITY, f64::NAN, 0.01], true),
            (&[1e200, 1e-200], false),
        ] {
            let axis = Axis::of(values.iter().copied());
            assert_eq!(axis.is_logarithmic, is_logarithmic, "{values:?}");
        }
    }

    #[test]
    fn ticks_are_round_numbers_with_the_digits_that_tell_them_apart() {
        assert_eq!(
            words(&Axis::between(0.0, 1.0)),
            ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        let close = Axis::of([0.03012, 0.03047].into_iter());
        assert_eq!(
            words(&close),
            ["0.0301", "0.0302", "0.0303", "0.0304", "0.0305"]
        );
        assert_eq!(
            words(&Axis::of([1.3, 0.012].into_iter())),
            ["0.01", "0.03", "0.1", "0.3", "1"]
        );
        assert_eq!(
            words(&Axis::of([3e7, 2e-2].into_iter())),
            ["1", "1000", "1e6"]
        );
        assert_eq!(words(&Axis::of([2.5e7, 2.6e7].into_iter()))[0], "2.50e7");
    }

    #[test]
    fn steps_are_whole() {
        let of = |last| {
            let labels = Axis::between(0.0, last).whole_labels().into_iter();
            labels.map(|(_, words)| words).collect::<Vec<_>>()
        };
        assert_eq!(of(1.0), ["0", "1"]);
        assert_eq!(of(4.0), ["0", "1", "2", "3", "4"]);
        assert_eq!(of(20_000.0), ["0", "5,000", "10,000", "15,000", "20,000"]);
        assert_eq!(of(1e18).len(), 6);
    }

    #[test]
    fn any_numbers_have_an_axis_with_few_ticks_that_they_all_lie_on() {
        let numbers = [
            0.0,
            1.0,
            -1.0,
            1e-300,
            5e-324,
            1e300,
            -1e300,
            1.0 + 1e-15,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        for one in numbers {
            for other in numbers {
                let axis = Axis::of([one, other].into_iter());
                assert!(axis.labels().len() < 12, "{one} {other}");
                for value in [one, other].into_iter().filter(|&value| is_drawn(value)) {
                    let place = axis.place(value);
                    assert!((0..=END).contains(&place), "{one} {other}: {place}");
                }
            }
        }
        assert!(Axis::of(std::iter::empty()).labels().len() > 1);
    }
}
