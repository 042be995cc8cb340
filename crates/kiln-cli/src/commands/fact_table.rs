//! Facts in words: lines of a name and a value, in sections.

/// Lines of a name and a value, in sections.
#[derive(Default)]
pub struct FactTable {
    lines: Vec<Line>,
}

enum Line {
    Section(String),
    Row(String, String),
}

impl FactTable {
    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.lines.push(Line::Section(one_line(title)));
    }

    /// Adds a line.
    pub fn row(&mut self, name: &str, value: impl AsRef<str>) {
        let line = Line::Row(one_line(name), one_line(value.as_ref()));
        self.lines.push(line);
    }

    /// All values aligned in one column.
    pub fn in_columns(&self) -> String {
        let names = self.lines.iter().filter_map(|line| match line {
            Line::Row(name, _) => Some(name.chars().count()),
            Line::Section(_) => None,
        });
        let width = names.max().unwrap_or_default();
        let lines = self.lines.iter().map(|line| match line {
            Line::Section(title) => format!("\n{title}\n"),
            Line::Row(name, value) => format!("  {name:<width$}  {value}\n"),
        });
        lines.collect()
    }
}

/// A model's metadata and a class's name can contain anything, but a row is one line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\t'], " ")
}

/// `[channels, height, width]` as "4 x 8 x 8".
pub fn shape([channels, height, width]: [usize; 3]) -> String {
    format!("{channels} x {height} x {width}")
}

/// 1234567 as "1,234,567".
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_below_each_other_however_long_a_name_is() {
        let mut table = FactTable::default();
        table.row("model", "here");
        table.section("U-Net");
        table.row("trained: validation images of it", "7\nfake: line");
        let text = table.in_columns();
        let columns: Vec<_> = ["here", "7 fake: line"]
            .iter()
            .map(|value| text.lines().find_map(|line| line.find(value)))
            .collect();
        assert!(columns[0].is_some() && columns[0] == columns[1], "{text}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1234567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
