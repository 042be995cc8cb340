//! Python's `json` writes words for the numbers that JSON does not have.

/// These are not in JSON. The longer word comes first, because it ends with the other one.
const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
/// diffusers' solvers have this key, and the value means that nothing is clipped.
const USUAL: (&str, &str) = ("lambda_min_clipped", "-Infinity");

/// The first key in the text of a config whose value is or contains such a word, and the word. The usual value of
/// `lambda_min_clipped` does not count, because diffusers writes it.
pub(crate) fn not_a_number(text: &str) -> Option<(String, &'static str)> {
    let (mut key, mut last) = ("", "");
    let mut rest = text;
    loop {
        let start = rest.find(|character: char| "\":-IN".contains(character))?;
        rest = &rest[start..];
        if let Some(word) = WORDS.into_iter().find(|word| rest.starts_with(word)) {
            if (key, word) != USUAL {
                return Some((key.to_owned(), word));
            }
            rest = &rest[word.len()..];
        } else if let Some(string) = rest.strip_prefix('"') {
            let end = end_of_string(string)?;
            last = &string[..end];
            rest = &string[end + 1..];
        } else {
            if rest.starts_with(':') {
                key = last;
            }
            rest = &rest[1..];
        }
    }
}

/// The index of the quotation mark that ends a string.
fn end_of_string(string: &str) -> Option<usize> {
    let mut is_escaped = false;
    let ends = |&(_, character): &(usize, char)| {
        let ends = character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        ends
    };
    string.char_indices().find(ends).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_without_a_number_is_named() {
        for (text, key, word) in [
            (r#"{"sigma_max": Infinity}"#, "sigma_max", "Infinity"),
            (
                r#"{"a": 1, "sigma_min":-Infinity}"#,
                "sigma_min",
                "-Infinity",
            ),
            (r#"{"a": {"b": [0, -1, NaN]}}"#, "b", "NaN"),
            (
                r#"{"lambda_min_clipped": NaN}"#,
                "lambda_min_clipped",
                "NaN",
            ),
            ("{\"a\\\"b\": \n NaN}", "a\\\"b", "NaN"),
        ] {
            assert_eq!(not_a_number(text), Some((key.to_owned(), word)), "{text}");
        }
    }

    #[test]
    fn words_in_strings_and_the_usual_infinity_are_right() {
        for text in [
            r#"{"lambda_min_clipped": -Infinity, "x": -1e5}"#,
            r#"{"a": "NaN", "Infinity": "\\", "b": null}"#,
            r#"{"a": "un"#,
            "",
            "N",
            "ä\"",
        ] {
            assert_eq!(not_a_number(text), None, "{text}");
        }
    }
}
