//! Names from file systems, archives and tables, as text that is safe to show and to keep.
//!
//! A name is bytes, or text, that somebody else chose: it may not be UTF-8, and it may hold characters that steer a
//! terminal or reverse the reading order. Here it becomes printable, one to one, so that two names never become one.

use std::fmt::Write;
use std::path::Path;

/// A name of bytes: what is not UTF-8 becomes `\xNN`, and the rest is as in [`printable`].
pub(crate) fn from_bytes(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        escape(chunk.valid(), &mut text);
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Text without control characters: they become `\u{..}`, and a backslash is doubled so that nothing else looks so.
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
            _ if steers(character) => text.extend(character.escape_unicode()),
            _ => text.push(character),
        }
    }
}

/// Whether a character does something else than to be seen: controls, line separators, marks of the reading order.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
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
            prop_assert!(!shown_a.chars().any(steers));
            prop_assert_eq!(a == b, shown_a == shown_b);
        }
    }
}
