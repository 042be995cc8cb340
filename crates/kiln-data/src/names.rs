//! Names from file systems, archives and tables, as text that is safe to show and to store.
//!
//! A name is bytes or text from an untrusted source: it may not be UTF-8, and it may contain characters that control a
//! terminal or reverse the reading order. Here it becomes printable, one to one, so that two names stay different.

use std::fmt::Write;
use std::path::Path;

/// A name of bytes: bytes that are not UTF-8 become `\xNN`, and the rest is as in [`printable`].
pub(crate) fn from_bytes(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        escape(chunk.valid(), &mut text);
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Text without control characters: they become `\u{..}`, and a backslash is doubled, so that escapes are unambiguous.
pub(crate) fn printable(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    escape(name, &mut text);
    text
}

/// The parts of a relative path with `/` between them.
pub(crate) fn of_path(path: &Path) -> String {
    let parts: Vec<_> = path
        .iter()
        .map(|part| from_bytes(part.as_encoded_bytes()))
        .collect();
    parts.join("/")
}

fn escape(name: &str, text: &mut String) {
    for character in name.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            _ if is_unprintable(character) => text.extend(character.escape_unicode()),
            _ => text.push(character),
        }
    }
}

/// Whether a character controls a terminal or changes how text reads, but is itself invisible: names that differ only
/// in it look alike, or one looks like another.
///
/// These are controls, line and paragraph separators, marks of the reading order, and the characters that Unicode calls
/// default ignorable. Some of the latter are printable, because languages and emoji need them: zero-width joiner and
/// non-joiner, variation selectors, and the fillers of old Korean syllables.
pub fn is_unprintable(character: char) -> bool {
    let is_ignorable = matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e00ff}' | '\u{e01f0}'..='\u{e0fff}'
    );
    let is_separator = matches!(character, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}');
    character.is_control() || is_separator || is_ignorable
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn usual_names_stay_as_they_are() {
        for name in ["cat", "a b'c\"d", "köln", "猫", "👩‍🚀.png", "100% {x}"] {
            assert_eq!(from_bytes(name.as_bytes()), name);
            assert_eq!(printable(name), name);
        }
    }

    #[test]
    fn what_is_not_seen_is_unprintable_unless_a_language_needs_it() {
        for unprintable in [
            '\0',
            '\t',
            '\n',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{3164}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e0041}',
        ] {
            assert!(is_unprintable(unprintable), "{unprintable:?}");
        }
        // Persian, Hindi and Tamil words, emoji, a variant of a Chinese character, combining accents.
        for printable in [
            "می\u{200c}خواهم",
            "क्\u{200d}ष",
            "தமிழ்",
            "👩\u{200d}🚀",
            "❤\u{fe0f}",
            "葛\u{e0100}",
            "e\u{301}",
            "\u{1160}",
            " a~é",
        ] {
            assert!(!printable.contains(is_unprintable), "{printable:?}");
        }
    }

    #[test]
    fn what_steers_a_terminal_is_spelled_out() {
        assert_eq!(printable("\x1b]0;owned\x07"), "\\u{1b}]0;owned\\u{7}");
        assert_eq!(printable("a\nb\u{202e}gpj"), "a\\u{a}b\\u{202e}gpj");
        assert_eq!(from_bytes(b"\xca\xd0\xc6"), "\\xca\\xd0\\xc6");
    }

    #[test]
    fn no_two_names_become_one() {
        let names: [&[u8]; 6] = [
            b"\x1b",
            b"\\u{1b}",
            b"\\\\u{1b}",
            b"\xff",
            b"\\xff",
            b"\\\xff",
        ];
        let shown: BTreeSet<String> = names.iter().map(|name| from_bytes(name)).collect();
        assert_eq!(shown.len(), names.len(), "{shown:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_become_printable_and_stay_apart(a in prop::collection::vec(any::<u8>(), 0..6), b in prop::collection::vec(any::<u8>(), 0..6)) {
            let (shown_a, shown_b) = (from_bytes(&a), from_bytes(&b));
            prop_assert!(!shown_a.chars().any(is_unprintable));
            prop_assert_eq!(a == b, shown_a == shown_b);
        }
    }
}
