//! Shows a picture in the terminal itself: with the graphics of kitty, iTerm2 or sixel if it supports them, otherwise
//! with half blocks.

use std::env;
use std::io::{self, IsTerminal};

use kiln::pictures::{Images, grid};

/// Images of a preview, and how many are side by side.
const SHOWN: usize = 8;
const COLUMNS: usize = 4;
/// Width of a preview in characters, if the terminal is wide enough.
const WIDTH: u16 = 64;

/// Shows the first few of `images`, if standard output is a terminal.
///
/// It is not an error if the terminal cannot show them: the pictures are in their files.
pub fn show(images: &Images) {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return;
    }
    let columns = match viuer::terminal_size() {
        (0, _) => WIDTH, // a terminal without a size
        (columns, _) => columns.min(WIDTH),
    };
    let picture = grid(&images.first(SHOWN), COLUMNS);
    let config = viuer::Config {
        absolute_offset: false,
        width: Some(u32::from(columns)),
        use_kitty: speaks_kitty(&|name| env::var(name).ok()),
        use_sixel: speaks_sixel(&|name| env::var(name).ok()),
        ..Default::default()
    };
    let _ = viuer::print(&picture, &config);
}

/// An environment variable.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whether the terminal is known to have kitty's graphics. The program then queries it; a terminal that does not know
/// the query would never answer.
fn speaks_kitty(variable: Variable<'_>) -> bool {
    let is = |name: &str, words: &[&str]| {
        variable(name).is_some_and(|value| words.iter().any(|word| value.contains(word)))
    };
    variable("KITTY_WINDOW_ID").is_some()
        || is("TERM", &["kitty", "ghostty"])
        || is("TERM_PROGRAM", &["ghostty", "WezTerm"])
}

/// The same for sixel.
fn speaks_sixel(variable: Variable<'_>) -> bool {
    let terminal = variable("TERM").unwrap_or_default();
    ["foot", "mlterm", "contour", "yaft", "sixel"]
        .iter()
        .any(|name| terminal.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminals_that_answer_are_asked() {
        let cases = [
            (("TERM", "xterm-256color"), (false, false)),
            (("TERM", "dumb"), (false, false)),
            (("TERM", "xterm-kitty"), (true, false)),
            (("KITTY_WINDOW_ID", "1"), (true, false)),
            (("TERM_PROGRAM", "WezTerm"), (true, false)),
            (("TERM", "foot-extra"), (false, true)),
        ];
        for ((name, value), expected) in cases {
            let variable = |asked: &str| (asked == name).then(|| value.to_owned());
            let found = (speaks_kitty(&variable), speaks_sixel(&variable));
            assert_eq!(found, expected, "{name}={value}");
        }
    }
}
