//! What the images decide: their size, and whether they may be mirrored.

/// The largest side that is chosen without being asked for.
const LARGEST_SIDE: usize = 64;
/// Images may be enlarged by this factor: 28 pixels to 32.
const ENLARGED: f64 = 1.2;

/// The side for images of `side` pixels, and why.
pub fn size(side: usize, wish: Option<usize>) -> (usize, String) {
    if let Some(size) = wish {
        return (
            size,
            format!(
                "as --size says; the images have {side} pixels, by the median of their shorter sides"
            ),
        );
    }
    let most = (side as f64 * ENLARGED) as usize;
    let power = 1 << most.max(1).ilog2();
    match power {
        ..8 => (
            8,
            format!("the smallest size that halves once; the images have {side} pixels"),
        ),
        8..=LARGEST_SIDE => (
            power,
            format!(
                "halves well, and is near the images' own {side} pixels (the median of their shorter sides)"
            ),
        ),
        _ => (
            LARGEST_SIDE,
            format!(
                "of the images' {side} pixels (the median of their shorter sides): twice the side takes four times as long; --size 128 asks for more"
            ),
        ),
    }
}

/// Whether mirrored images are images of the same kind, and why.
pub fn flips(channels: usize, size: usize, classes: &[String]) -> (bool, &'static str) {
    let is_letter = |name: &String| {
        let mut letters = name.chars();
        letters.next().is_some_and(char::is_alphanumeric) && letters.next().is_none()
    };
    let has_sides = |name: &String| {
        let name = name.to_lowercase();
        name.split(|letter: char| !letter.is_alphanumeric())
            .any(|word| ["left", "right"].contains(&word))
    };
    if classes.iter().any(has_sides) {
        (
            false,
            "classes are named left or right: a mirrored image would be of another one",
        )
    } else if !classes.is_empty() && classes.iter().all(is_letter) {
        (
            false,
            "classes are named like digits or letters, which are others when mirrored; if they are numbers of other things, true",
        )
    } else if channels == 1 && size <= 32 {
        (
            false,
            "small gray images may be digits or letters, which are others when mirrored",
        )
    } else {
        (
            true,
            "half of the images are mirrored, chosen afresh in each pass: as good as more images",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_halve_and_are_near_the_images_own() {
        for (side, size) in [
            (2, 8),
            (7, 8),
            (13, 8),
            (14, 16),
            (27, 32),
            (28, 32),
            (32, 32),
            (50, 32),
            (54, 64),
            (500, 64),
            (9000, 64),
        ] {
            assert_eq!(super::size(side, None).0, size, "{side}");
        }
        assert_eq!(super::size(28, Some(96)).0, 96);
    }

    #[test]
    fn writing_and_sides_are_not_mirrored() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        for (channels, size, classes, expected) in [
            (3, 64, names(&[]), true),
            (3, 32, names(&["cat", "dog"]), true),
            (1, 64, names(&[]), true),
            (1, 32, names(&[]), false),
            (1, 32, names(&["shirt", "coat"]), false),
            (3, 32, names(&["0", "1", "2"]), false),
            (3, 64, names(&["turn-left", "ahead"]), false),
            (3, 64, names(&["bright", "dark"]), true),
        ] {
            assert_eq!(flips(channels, size, &classes).0, expected, "{classes:?}");
        }
    }
}
