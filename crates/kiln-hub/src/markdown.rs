//! Escapes text from elsewhere for a Markdown page, so that it stays plain text: no link, image or HTML, and it cannot
//! end the construct around it.

use kiln_data::is_unprintable;

/// Text within a paragraph: as code, unless it is plain words.
pub(crate) fn inline(text: &str) -> String {
    let text = one_line(text);
    match is_plain(&text) {
        true => text,
        false => code(&text),
    }
}

/// Text that stays inside its table cell.
pub(crate) fn cell(text: &str) -> String {
    // Markdown splits tables before it looks for code, and unescapes the bars.
    inline(text).replace('|', "\\|")
}

/// A block of code in a language, between lines of more backticks than it contains.
pub(crate) fn fence(language: &str, code: &str) -> String {
    let fence = "`".repeat(longest_run(code).max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}", code.trim_end())
}

fn one_line(text: &str) -> String {
    let text = text.replace(is_unprintable, " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a text has no Markdown in it, and no address that Markdown would turn into a link.
fn is_plain(text: &str) -> bool {
    let is_plain = |letter: char| letter.is_alphanumeric() || " -,./+%±".contains(letter);
    let lowercase = text.to_lowercase();
    let begins_a_list = text.starts_with(['-', '+'])
        || text.split(' ').next().is_some_and(|word| {
            word.strip_suffix('.')
                .is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
        });
    // Underscores are emphasis, but not within words.
    let words = text.split('_');
    let within_words = words.clone().count() == 1
        || words.clone().all(|word| {
            word.starts_with(char::is_alphanumeric) && word.ends_with(char::is_alphanumeric)
        });
    words.flat_map(str::chars).all(is_plain)
        && within_words
        && !lowercase.contains("www.")
        && !begins_a_list
}

/// As code, which may contain backticks.
fn code(text: &str) -> String {
    let ticks = "`".repeat(longest_run(text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{ticks}{pad}{text}{pad}{ticks}")
}

/// The longest run of backticks.
fn longest_run(text: &str) -> usize {
    let runs = text.split(|letter| letter != '`');
    runs.map(str::len).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_stay_and_all_else_is_code() {
        for plain in [
            "mnist-10k",
            "0.0002",
            "rose, pink",
            "chèvre",
            "1e-5",
            "",
            "photos/64",
            "scaling_factor",
        ] {
            assert_eq!(inline(plain), plain);
        }
        for (text, expected) in [
            ("![x](y)", "`![x](y)`"),
            ("<b>", "`<b>`"),
            ("_a_b", "`_a_b`"),
            ("a _b_ c", "`a _b_ c`"),
            ("http://e.org", "`http://e.org`"),
            ("WWW.e.org", "`WWW.e.org`"),
            ("a@b.org", "`a@b.org`"),
            ("- a", "`- a`"),
            ("1. a", "`1. a`"),
            ("a\n\n# b\u{1b}", "`a # b`"),
            ("`a`", "`` `a` ``"),
            ("a``b", "```a``b```"),
        ] {
            assert_eq!(inline(text), expected);
        }
        assert_eq!(cell("a | b"), "`a \\| b`");
    }

    #[test]
    fn a_fence_is_longer_than_any_in_the_code() {
        assert_eq!(fence("toml", "a = 1\n"), "```toml\na = 1\n```");
        assert_eq!(fence("", "````\n```"), "`````\n````\n```\n`````");
    }
}
