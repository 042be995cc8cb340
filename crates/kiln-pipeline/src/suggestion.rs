//! "Did you mean": the known word that an unknown one probably stands for.

/// Words that are less alike than this are different: `gpu` is not `cpu`, but `cdua` is `cuda`.
const ALIKE: f64 = 0.67;

/// The word of `known` that is most like `word` but not equal to it, if any is alike.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter().filter(|&known| known != word);
    let word = word.to_lowercase();
    let alike = known.map(|known| (likeness(&word, known), known));
    let (likeness, known) = alike.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (likeness > ALIKE).then_some(known)
}

/// 1 for the same word, 0 for words without a letter in common.
fn likeness(word: &str, known: &str) -> f64 {
    // `learning` for `learning_rate`, `train_steps` for `steps`.
    let is_part = word.len() > 3 && (known.contains(word) || word.contains(known));
    let likeness = strsim::normalized_damerau_levenshtein(word, known);
    if is_part {
        likeness.max(ALIKE + 0.001)
    } else {
        likeness
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_are_known_and_other_words_are_not() {
        let known = [
            "steps",
            "batch_size",
            "learning_rate",
            "num_train_timesteps",
            "cuda",
            "cpu",
        ];
        for (word, meant) in [
            ("stepz", Some("steps")),
            ("Steps", Some("steps")),
            ("batchsize", Some("batch_size")),
            ("lerning_rate", Some("learning_rate")),
            ("learning", Some("learning_rate")),
            ("num_timesteps", Some("num_train_timesteps")),
            ("cdua", Some("cuda")),
            ("gpu", None),
            ("epochs", None),
            ("", None),
        ] {
            assert_eq!(suggestion(word, known), meant, "{word}");
        }
        assert_eq!(suggestion("steps", []), None);
        assert_eq!(suggestion("steps", ["steps"]), None);
        assert_eq!(suggestion("Steps", ["steps"]), Some("steps"));
    }
}
