//! A Markdown table that is also readable as plain text on a terminal.

/// Rows of cells, all as long as the header.
pub struct Table {
    /// The header comes first. The first column names the rows.
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: impl IntoIterator<Item = String>) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.push(header.into_iter().collect());
        table
    }

    /// Adds a row. A bar within a cell is escaped, as Markdown wants it, and a line break is a space.
    pub fn push(&mut self, row: Vec<String>) {
        let plain = |cell: String| cell.replace('|', "\\|").replace(['\n', '\r'], " ");
        self.rows.push(row.into_iter().map(plain).collect());
    }

    /// Without the columns that have only a header.
    pub fn without_empty_columns(mut self) -> Self {
        // From the last one on, so that the places of the others stay.
        for column in (0..self.rows[0].len()).rev() {
            let mut cells = self.rows[1..].iter().map(|row| &row[column]);
            if self.rows.len() > 1 && cells.all(String::is_empty) {
                self.rows
                    .iter_mut()
                    .for_each(|row| drop(row.remove(column)));
            }
        }
        self
    }

    /// Markdown in columns: names to the left, numbers to the right. If lines would be longer than `width` characters,
    /// the columns are split into several tables, each beginning with the first column.
    pub fn to_markdown(&self, width: usize) -> String {
        let columns = self.rows[0].len();
        let mut tables = Vec::new();
        let mut first = 1;
        while first < columns || tables.is_empty() {
            let mut used = self.width_of(0);
            let fitting = (first..columns).take_while(|&column| {
                used += self.width_of(column);
                used < width
            });
            // At least one column, even if the terminal has to wrap it.
            let end = (first + fitting.count().max(1)).min(columns);
            tables.push(self.part(first..end));
            first = end;
        }
        tables.join("\n")
    }

    /// Characters of a column's widest cell, the bar and the spaces around it.
    fn width_of(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(SHORTEST_RULE) + 3
    }

    fn part(&self, columns: std::ops::Range<usize>) -> String {
        let columns: Vec<usize> = [0].into_iter().chain(columns).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for &column in &columns {
                let (cell, width) = (&row[column], self.width_of(column) - 3);
                text += &match column {
                    0 => format!("| {cell:<width$} "),
                    _ => format!("| {cell:>width$} "),
                };
            }
            text += "|\n";
            if number == 0 {
                for &column in &columns {
                    let rule = "-".repeat(self.width_of(column) - 4);
                    text += &match column {
                        0 => format!("| {rule}- "),
                        _ => format!("| {rule}: "),
                    };
                }
                text += "|\n";
            }
        }
        text
    }
}

/// `--:`, the shortest rule that every reader of Markdown knows.
const SHORTEST_RULE: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_without_cells_are_left_out() {
        let mut table = Table::new(["images", "calls", "FID"].map(str::to_owned));
        assert!(table.to_markdown(80).contains("calls"));
        table.push(["real", "", "1.5"].map(str::to_owned).to_vec());
        let text = table.without_empty_columns().to_markdown(80);
        assert_eq!(
            text,
            "| images | FID |\n| ------ | --: |\n| real   | 1.5 |\n"
        );
    }

    #[test]
    fn a_bar_or_a_line_break_within_a_cell_does_not_end_it() {
        let mut table = Table::new(["run".to_owned()]);
        table.push(vec!["a|b\nc".to_owned()]);
        assert!(table.to_markdown(80).contains("| a\\|b c |"));
    }

    fn table() -> Table {
        let cells = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let mut table = Table::new(cells(["images", "n", "KID", "seconds"]));
        table.push(cells(["ddim, trailing", "100", "0.5000 ± 0.01", "1.5"]));
        table.push(cells(["real", "10", "0.0010", ""]));
        table
    }

    #[test]
    fn columns_line_up_and_are_markdown() {
        let expected = "\
| images         |   n |           KID | seconds |
| -------------- | --: | ------------: | ------: |
| ddim, trailing | 100 | 0.5000 ± 0.01 |     1.5 |
| real           |  10 |        0.0010 |         |
";
        assert_eq!(table().to_markdown(usize::MAX), expected);
        assert_eq!(table().to_markdown(50), expected);
    }

    #[test]
    fn what_is_too_wide_for_a_terminal_goes_on_below() {
        let text = table().to_markdown(40);
        assert!(
            text.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
        assert_eq!(text.matches("| ddim, trailing |").count(), 2, "{text}");
        for width in [0, 1, 20] {
            assert_eq!(table().to_markdown(width).matches("| real").count(), 3);
        }
    }
}
