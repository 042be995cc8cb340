//! Text from elsewhere, on its way to a terminal.

/// The text with its control characters as escapes: `\u{1b}`, `\n`. A terminal would obey them, or show letters in another
/// order than they are in.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_hidden(letter) {
            true => printable.extend(letter.escape_debug()),
            false => printable.push(letter),
        }
    }
    printable
}

/// Whether a letter does something else than to be seen: controls, and what joins, turns and separates text.
pub(crate) fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("a \"rose\", ü, 玫瑰"), "a \"rose\", ü, 玫瑰");
        let escaped = printable("\u{1b}[31mred\r\n\u{202e}gnp.exe\u{9b}");
        assert_eq!(escaped, "\\u{1b}[31mred\\r\\n\\u{202e}gnp.exe\\u{9b}");
    }
}
