//! Makes text that may come from a file harmless for a terminal.

use std::borrow::Cow;

use kiln_data::is_unprintable;

/// The text with control characters escaped: a name in an archive or a model may contain an escape sequence that moves
/// the cursor, changes the title or clears the screen. Line breaks and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    written_out(text, |character| character.escape_unicode().to_string())
}

/// The same for JSON, whose meaning stays the same: such characters can only be within its strings.
pub fn printable_json(text: &str) -> Cow<'_, str> {
    written_out(text, |character| {
        let mut units = [0; 2];
        let units = character.encode_utf16(&mut units).iter();
        units.map(|unit| format!("\\u{unit:04x}")).collect()
    })
}

fn written_out(text: &str, write: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) {
            clean += &write(character);
        } else {
            clean.push(character);
        }
    }
    clean.into()
}

fn is_obeyed(character: char) -> bool {
    is_unprintable(character) && !matches!(character, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out_and_all_else_stays() {
        for (text, expected) in [
            ("\u{1b}[2Jcat", r"\u{1b}[2Jcat"),
            ("\u{9b}31mred", r"\u{9b}31mred"),
            ("title\u{7}\u{7f}\0\r", r"title\u{7}\u{7f}\u{0}\u{d}"),
            ("gpj.\u{202e}exe", r"gpj.\u{202e}exe"),
            ("ca\u{200b}t\u{2028}", r"ca\u{200b}t\u{2028}"),
            (
                "می\u{200c}خواهم 👩\u{200d}🚀",
                "می\u{200c}خواهم 👩\u{200d}🚀",
            ),
            ("Blümchen 花 ±\t1\n", "Blümchen 花 ±\t1\n"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        let name = "a \u{1b}[31m \u{9b} \u{202e} \u{e0041} \n \\ b";
        let text = serde_json::to_string_pretty(&[name]).unwrap();
        let clean = printable_json(&text);
        assert!(!clean.contains(is_obeyed), "{clean}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&clean).unwrap(), [name]);
    }
}
