//! Numbers in equal steps.

/// `count` equally spaced numbers from `start` to `end`, both included; only `start` for one.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = (end - start) / (count.max(2) - 1) as f64;
    (0..count).map(move |i| start + step * i as f64)
}
