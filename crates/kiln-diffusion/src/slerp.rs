//! From one noise to another, through noises.

/// Spherical linear interpolation (Shoemake 1985), as in Song et al. 2021 (appendix D.5) between initial noises:
///
/// ```text
/// sin((1 - share) angle) / sin(angle) from + sin(share angle) / sin(angle) to
/// ```
///
/// where the angle is the one between the two vectors. On a straight line the points between two noises are shorter
/// than noise; on this arc they are as long, so a network accepts them as noise. `share` is 0 at `from` and 1 at `to`,
/// and there the result is `from` or `to` bit for bit. Vectors that point the same way, or in exactly opposite ways,
/// have no arc between them and are joined by the straight line.
pub fn slerp(from: &[f32], to: &[f32], share: f64) -> Vec<f32> {
    if share == 0.0 {
        return from.to_vec();
    }
    if share == 1.0 {
        return to.to_vec();
    }
    let dot = |left: &[f32], right: &[f32]| -> f64 {
        left.iter()
            .zip(right)
            .map(|(&left, &right)| f64::from(left) * f64::from(right))
            .sum()
    };
    let cosine = dot(from, to) / (dot(from, from) * dot(to, to)).sqrt();
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let (of_from, of_to) = if angle.sin() > 1e-6 {
        let weight = |share: f64| (share * angle).sin() / angle.sin();
        (weight(1.0 - share), weight(share))
    } else {
        (1.0 - share, share)
    };
    from.iter()
        .zip(to)
        .map(|(&from, &to)| (of_from * f64::from(from) + of_to * f64::from(to)) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::noise::normal;

    fn length(vector: &[f32]) -> f64 {
        let squares = vector.iter().map(|&value| f64::from(value).powi(2));
        squares.sum::<f64>().sqrt()
    }

    proptest! {
        #[test]
        fn the_ends_are_the_noises_bit_for_bit(seed in 0..1000u64) {
            let (from, to) = (normal(seed, 0, 0, 64), normal(seed, 1, 0, 64));
            prop_assert_eq!(slerp(&from, &to, 0.0), from.clone());
            prop_assert_eq!(slerp(&from, &to, 1.0), to);
            // Negative zero as well.
            prop_assert!(slerp(&[-0.0], &[1.0], 0.0)[0].is_sign_negative());
        }

        #[test]
        fn between_two_noises_all_is_as_long_as_noise(seed in 0..100u64, share in 0.0..1.0f64) {
            let (from, to) = (normal(seed, 0, 0, 1024), normal(seed, 1, 0, 1024));
            let expected = length(&from) * (1.0 - share) + length(&to) * share;
            let between = length(&slerp(&from, &to, share));
            prop_assert!((between / expected - 1.0).abs() < 0.01, "{} {}", between, expected);
        }

        #[test]
        fn both_ways_are_the_same_way(seed in 0..100u64, share in 0.0..1.0f64) {
            let (from, to) = (normal(seed, 0, 0, 16), normal(seed, 1, 0, 16));
            let (there, back) = (slerp(&from, &to, share), slerp(&to, &from, 1.0 - share));
            for (there, back) in there.iter().zip(back) {
                prop_assert!((there - back).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_quarter_turn_goes_over_the_diagonal() {
        let half = slerp(&[1.0, 0.0], &[0.0, 1.0], 0.5);
        let expected = 0.5f32.sqrt();
        assert!(
            half.iter().all(|value| (value - expected).abs() < 1e-6),
            "{half:?}"
        );
    }

    #[test]
    fn without_an_arc_the_way_is_straight() {
        assert_eq!(slerp(&[1.0, 2.0], &[3.0, 6.0], 0.5), [2.0, 4.0]);
        assert_eq!(slerp(&[1.0, 2.0], &[1.0, 2.0], 0.3), [1.0, 2.0]);
        assert_eq!(slerp(&[1.0], &[-1.0], 0.25), [0.5]);
        assert_eq!(slerp(&[0.0], &[2.0], 0.5), [1.0]);
    }
}
