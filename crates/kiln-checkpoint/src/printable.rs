//! Makes text from elsewhere safe for a terminal.

use kiln_data::is_unprintable;

/// The text with its control characters as escapes: `\u{1b}`, `\n`. A terminal would obey them, or show letters in
/// another order.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_unprintable(letter) {
            true => printable.extend(letter.escape_default()),
            false => printable.push(letter),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("\u{3164}\u{e0041}"), "\\u{3164}\\u{e0041}");
        assert_eq!(printable("a \"rose\", ü, 玫瑰"), "a \"rose\", ü, 玫瑰");
        let escaped = printable("\u{1b}[31mred\r\n\u{202e}gnp.exe\u{9b}");
        assert_eq!(escaped, "\\u{1b}[31mred\\r\\n\\u{202e}gnp.exe\\u{9b}");
    }
}
