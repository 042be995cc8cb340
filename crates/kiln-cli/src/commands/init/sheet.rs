//! A TOML file whose lines say why.

use std::fmt::Display;

use toml::Value;

/// The column of the comments.
const COLUMN: usize = 37;

/// The lines of a TOML file so far.
#[derive(Default)]
pub struct Sheet(String);

impl Sheet {
    /// A line of comment. Line breaks and control characters in it are harmless.
    pub fn say(&mut self, text: &str) {
        let text = harmless(text);
        let line = format!("# {text}");
        self.0 += line.trim_end();
        self.0.push('\n');
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.0.push('\n');
    }

    /// The heading of a table, after an empty line.
    pub fn table(&mut self, name: &str, why: &str) {
        self.gap();
        self.line(format!("[{name}]"), why);
    }

    /// A key.
    pub fn key(&mut self, name: &str, value: impl Into<Value>, why: impl Display) {
        self.written(name, &value.into().to_string(), why);
    }

    /// A key whose value is written in TOML already.
    pub fn written(&mut self, name: &str, value: &str, why: impl Display) {
        self.line(format!("{name} = {value}"), &why.to_string());
    }

    fn line(&mut self, line: String, why: &str) {
        match why {
            "" => self.0 += &line,
            why => self.0 += &format!("{line:<width$} # {}", harmless(why), width = COLUMN - 1),
        }
        self.0.push('\n');
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.0
    }
}

/// TOML's numbers are signed. No number here is near the end of their range.
pub fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Comments end with their line, and TOML allows no control characters in them.
fn harmless(text: &str) -> String {
    let space = |letter: char| match letter.is_control() || kiln_data::is_unprintable(letter) {
        true => ' ',
        false => letter,
    };
    text.chars().map(space).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_contains_it_stays_a_comment() {
        let mut sheet = Sheet::default();
        sheet.say("classes \n[data]\r\u{7f}\0 = 1");
        sheet.key("seed", 0, "a\nb = 2");
        sheet.table("data", "");
        sheet.key("path", "a \"b\"\n\u{1b}", "");
        let table: toml::Table = toml::from_str(&sheet.finish()).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(table["data"]["path"].as_str(), Some("a \"b\"\n\u{1b}"));
    }

    #[test]
    fn comments_stand_below_each_other() {
        let mut sheet = Sheet::default();
        sheet.key("seed", 0, "one");
        sheet.key("a_rather_long_name_of_a_key_of_it", 123_456, "two");
        let text = sheet.finish();
        let columns: Vec<_> = text.lines().map(|line| line.find('#').unwrap()).collect();
        assert_eq!(columns[0], COLUMN);
        assert!(columns[1] > COLUMN, "{text}");
    }
}
