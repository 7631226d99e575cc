//! Figures of benchmarks for people: in a terminal, and as bench/results.md has them.

use std::fmt::Write;

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Columns that line up.
    Plain,
    /// Markdown.
    Markdown,
}

/// Rows of figures under a title.
pub struct Table {
    title: &'static str,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows yet.
    pub fn new(title: &'static str, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            title,
            columns: columns.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as there are columns.
    ///
    /// # Panics
    /// If there are more or fewer.
    pub fn add(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.columns.len(), "{}", self.title);
        self.rows.push(cells);
    }

    /// The whole table, with its title; nothing if it has no rows.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        match style {
            Style::Plain => self.plain(),
            Style::Markdown => self.markdown(),
        }
    }

    fn plain(&self) -> String {
        let all = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| all().map(|row| row[column].chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = format!("\n{}\n", self.title);
        for row in all() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Names on the left, figures below each other. Writing to a string does not fail.
                let _ = if column == 0 {
                    write!(line, "{cell:<width$}")
                } else {
                    write!(line, "  {cell:>width$}")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("\n### {}\n\n{}", self.title, line(&self.columns));
        text.push_str(&"|---".repeat(self.columns.len()));
        text.push_str("|\n");
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }
}

/// A number in groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
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

    fn table() -> Table {
        let mut table = Table::new("ns per packet", ["case", "ns"]);
        table.add(["pass", "30"]);
        table.add(["established_dr", "147"]);
        table
    }

    #[test]
    fn columns_line_up_and_markdown_is_a_table() {
        assert_eq!(
            table().text(Style::Plain),
            "\nns per packet\ncase             ns\npass             30\nestablished_dr  147\n"
        );
        assert_eq!(
            table().text(Style::Markdown),
            "\n### ns per packet\n\n| case | ns |\n|---|---|\n| pass | 30 |\n| established_dr | 147 |\n"
        );
        assert_eq!(Table::new("nothing", ["case"]).text(Style::Plain), "");
    }

    #[test]
    fn digits_are_in_groups_of_three() {
        let texts = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
