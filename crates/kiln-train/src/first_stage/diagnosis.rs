//! What the metrics of stage 1 say about its discriminator.

use std::collections::BTreeMap;

use kiln_pipeline::plots::Rows;

/// The rounds that must agree before something is a finding.
const ROUNDS: usize = 3;
/// From this accuracy on, in percent, a discriminator wins outright.
const WON: f64 = 95.0;
/// Scores of images and reconstructions that are closer than this are equal.
const EQUAL: f64 = 0.02;
/// An accuracy of at most this, in percent, is chance or worse.
const CHANCE: f64 = 52.0;
/// A reconstruction loss that exceeds the last one before the term counted, or the best one since, by this factor has
/// jumped.
const JUMP: f64 = 1.25;

/// Something that goes wrong with a discriminator, and its remedy: a sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscriminatorFinding {
    /// A name for this kind of finding.
    name: &'static str,
    /// What the metrics show.
    pub what: String,
    /// What to change.
    pub remedy: &'static str,
}

/// What the newest rows of stage 1's `metrics.csv` say; nothing without a discriminator, or before it has learnt for
/// some rounds.
pub fn discriminator_findings(rows: &Rows) -> Vec<DiscriminatorFinding> {
    [won(rows), blind(rows), jumped(rows)]
        .into_iter()
        .flatten()
        .collect()
}

/// The findings as warnings of a training, by name.
pub(super) fn discriminator_warnings(rows: &Rows) -> Vec<(&'static str, String)> {
    let findings = discriminator_findings(rows).into_iter();
    let sentence = |finding: DiscriminatorFinding| {
        let DiscriminatorFinding { name, what, remedy } = finding;
        (name, format!("{what}: {remedy}"))
    };
    findings.map(sentence).collect()
}

/// The values of a column in the newest rows, oldest first; `None` if one of them lacks it.
fn newest(rows: &Rows, column: &str) -> Option<[f64; ROUNDS]> {
    let values: Vec<f64> = (rows.values().rev().take(ROUNDS))
        .filter_map(|row| row.get(column).copied())
        .collect();
    let mut values: [f64; ROUNDS] = values.try_into().ok()?;
    values.reverse();
    Some(values)
}

fn won(rows: &Rows) -> Option<DiscriminatorFinding> {
    let accuracies = newest(rows, "discriminator accuracy/train")?;
    let least = accuracies.into_iter().fold(f64::INFINITY, f64::min);
    (least >= WON).then(|| DiscriminatorFinding {
        name: "won",
        what: format!(
            "the discriminator of stage 1 wins outright: at least {least:.1} % of its judgements were right in each of the last {ROUNDS} rounds"
        ),
        remedy: "set stage_1.adversarial.augmentation and lecam, or give it a lower learning_rate or fewer channels",
    })
}

fn blind(rows: &Rows) -> Option<DiscriminatorFinding> {
    let of_images = newest(rows, "score of images/train")?;
    let of_reconstructions = newest(rows, "score of reconstructions/train")?;
    let accuracies = newest(rows, "discriminator accuracy/train")?;
    let mut pairs = of_images.iter().zip(&of_reconstructions);
    let is_equal = pairs.all(|(image, other)| (image - other).abs() < EQUAL);
    let is_chance = accuracies.iter().all(|&accuracy| accuracy <= CHANCE);
    (is_equal || is_chance).then(|| DiscriminatorFinding {
        name: "blind",
        what: format!(
            "the discriminator of stage 1 tells nothing apart: in each of the last {ROUNDS} rounds at least about half of its judgements were wrong, or its scores of images and reconstructions equal"
        ),
        remedy: "give it a higher stage_1.adversarial.learning_rate, a longer head_start or less lecam",
    })
}

fn jumped(rows: &Rows) -> Option<DiscriminatorFinding> {
    const LOSS: &str = "reconstruction/valid";
    let counts = |row: &BTreeMap<String, f64>| row.contains_key("adversarial/train");
    let (&start, _) = rows.iter().find(|(_, row)| counts(row))?;
    // A stop in mid-round leaves a row without a validation.
    let losses = rows
        .iter()
        .filter_map(|(&step, row)| Some((step, *row.get(LOSS)?)));
    let losses: Vec<(usize, f64)> = losses.collect();
    let (earlier, since) = losses.split_at(losses.partition_point(|&(step, _)| step < start));
    // A term that counts from the beginning has nothing before it.
    let best = since.iter().map(|&(_, loss)| loss).reduce(f64::min);
    let before = earlier.last().map(|&(_, loss)| loss).or(best)?;
    let (_, now) = *losses.last()?;
    (now > JUMP * before).then(|| DiscriminatorFinding {
        name: "jumped",
        what: format!(
            "the reconstruction loss of stage 1 went from {before:.5} to {now:.5} since the adversarial term counts (first logged at step {start})"
        ),
        remedy: "give the term a smaller weight, as in stage_1.adversarial.weight = { balanced = 0.2 }, a longer ramp or a longer head_start",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[(&str, &[f64])]) -> Rows {
        let mut rows = Rows::new();
        for (name, values) in columns {
            for (round, &value) in values.iter().enumerate() {
                let row = rows.entry(100 * round).or_default();
                if value.is_finite() {
                    row.insert((*name).to_owned(), value);
                }
            }
        }
        rows
    }

    fn found(columns: &[(&str, &[f64])]) -> Vec<String> {
        let findings = discriminator_findings(&rows(columns));
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_discriminator_that_wins_for_long_is_named() {
        let accuracy = "discriminator accuracy/train";
        let found = |values: &[f64]| found(&[(accuracy, values)]);
        assert!(found(&[60.0, 99.0, 97.0, 98.0])[0].contains("97.0 %"));
        assert_eq!(found(&[99.0, 99.0, 90.0]), [""; 0]);
        assert_eq!(found(&[99.0, 99.0]), [""; 0]);
        assert_eq!(found(&[]), [""; 0]);
    }

    #[test]
    fn a_discriminator_that_has_collapsed_is_named() {
        let found = |other: f64, accuracy: f64| {
            found(&[
                ("score of images/train", &[0.1, 0.1, 0.1]),
                ("score of reconstructions/train", &[0.1, 0.11, other]),
                ("discriminator accuracy/train", &[50.0, 51.0, accuracy]),
            ])
        };
        assert!(found(0.1, 60.0)[0].contains("nothing apart"));
        assert!(found(-0.3, 50.4)[0].contains("nothing apart"));
        assert!(
            found(-0.3, 31.0)[0].contains("nothing apart"),
            "worse than chance"
        );
        assert_eq!(found(-0.3, 60.0), [""; 0]);
    }

    #[test]
    fn reconstructions_that_get_worse_with_the_term_are_named() {
        let nothing = f64::NAN;
        let found = |last: f64| {
            found(&[
                ("reconstruction/valid", &[0.02, 0.01, nothing, 0.011, last]),
                ("reconstruction/train", &[0.02, 0.01, 0.01, 0.011, last]),
                ("adversarial/train", &[nothing, nothing, nothing, 0.1, 0.1]),
            ])
        };
        assert!(found(0.02)[0].contains("from 0.01000 to 0.02000"));
        assert_eq!(found(0.0124), [""; 0]);
    }

    #[test]
    fn a_term_that_counts_from_the_beginning_is_compared_with_its_best_round() {
        let found = |last: f64| {
            found(&[
                ("reconstruction/valid", &[0.25, 0.2, 0.3, last]),
                ("adversarial/train", &[0.1, 0.1, 0.1, 0.1]),
            ])
        };
        assert!(found(0.49)[0].contains("from 0.20000 to 0.49000"));
        assert_eq!(found(0.24), [""; 0]);
    }
}
