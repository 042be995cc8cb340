//! Successive halving: all points train for a while, the best ones for longer. Source: Jamieson and Talwalkar, 2016
//! (<https://arxiv.org/abs/1502.07943>).
//!
//! A run only pauses between rungs. One that reaches the end has the weights of a run that never paused.

/// The share of the steps that each rung ends at, for `points` points of which one in `keep` goes on each time. The last
/// one is 1; without halving there is no other.
pub(crate) fn rungs(points: usize, keep: Option<usize>) -> Vec<f64> {
    let Some(keep) = keep else {
        return vec![1.0];
    };
    let (mut left, mut shares) = (points, vec![1.0]);
    while left > 1 {
        left = survivors(left, keep);
        shares.push(shares[shares.len() - 1] / keep as f64);
    }
    shares.reverse();
    shares
}

/// How many of `points` go on.
pub(crate) fn survivors(points: usize, keep: usize) -> usize {
    points.div_ceil(keep)
}

/// The points that go on from `judged`, the best first. A point without a number is the worst.
pub(crate) fn best(judged: &[(usize, Option<f64>)], maximize: bool, keep: usize) -> Vec<usize> {
    let mut order = judged.to_vec();
    order.sort_by(|one, other| worse(one.1, maximize).total_cmp(&worse(other.1, maximize)));
    let points = order.into_iter().map(|(point, _)| point);
    points.take(survivors(judged.len(), keep)).collect()
}

/// A number that is larger for a worse value.
pub(crate) fn worse(value: Option<f64>, maximize: bool) -> f64 {
    match value.filter(|value| !value.is_nan()) {
        Some(value) if maximize => -value,
        Some(value) => value,
        None => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_point_is_left_at_the_end() {
        assert_eq!(rungs(8, None), [1.0]);
        assert_eq!(rungs(8, Some(2)), [0.125, 0.25, 0.5, 1.0]);
        assert_eq!(rungs(9, Some(3)), [1.0 / 9.0, 1.0 / 3.0, 1.0]);
        for (points, keep) in [(2, 2), (5, 2), (7, 3), (100, 4)] {
            let mut left = points;
            for _ in 1..rungs(points, Some(keep)).len() {
                left = survivors(left, keep);
            }
            assert_eq!(left, 1, "{points} points, one in {keep}");
        }
    }

    #[test]
    fn the_best_go_on_and_what_diverged_does_not() {
        let judged = [(0, Some(0.5)), (1, None), (2, Some(0.1)), (3, Some(0.3))];
        assert_eq!(best(&judged, false, 2), [2, 3]);
        assert_eq!(best(&judged, true, 2), [0, 3]);
        assert_eq!(best(&[(7, Some(f64::NAN)), (8, Some(9.0))], true, 2), [8]);
    }
}
