//! Objects, and the columns that people read them in.

use serde_json::Value;

use crate::output::{self, Output};

/// One column: its heading, and the field it shows.
pub(crate) struct Column {
    heading: &'static str,
    field: &'static str,
    wide: bool,
}

/// A column that is always shown.
pub(crate) const fn column(heading: &'static str, field: &'static str) -> Column {
    Column {
        heading,
        field,
        wide: false,
    }
}

/// A column that only `-o wide` shows.
pub(crate) const fn wide(heading: &'static str, field: &'static str) -> Column {
    Column {
        heading,
        field,
        wide: true,
    }
}

/// Objects, and how people read them.
pub(crate) struct Rows {
    columns: &'static [Column],
    objects: Vec<Value>,
    /// What stands in place of a table without rows.
    empty: String,
}

impl Rows {
    pub(crate) fn new(
        columns: &'static [Column],
        objects: Vec<Value>,
        empty: impl Into<String>,
    ) -> Self {
        Self {
            columns,
            objects,
            empty: empty.into(),
        }
    }

    pub(crate) fn print(self, output: Output) -> anyhow::Result<()> {
        if !output.is_for_people() {
            return output::document(output, &Value::Array(self.objects));
        }
        if self.objects.is_empty() {
            eprintln!("{}", self.empty);
            return Ok(());
        }
        let is_wide = output == Output::Wide;
        output::write(&table(self.columns, &self.objects, is_wide))
    }
}

/// The objects as lines, aligned; `all` shows the wide columns too.
pub(crate) fn table(columns: &[Column], objects: &[Value], all: bool) -> String {
    let columns: Vec<&Column> = columns
        .iter()
        .filter(|column| all || !column.wide)
        .collect();
    let mut lines = vec![
        columns
            .iter()
            .map(|column| column.heading.to_owned())
            .collect(),
    ];
    lines.extend(objects.iter().map(|object| {
        columns
            .iter()
            .map(|column| cell(&object[column.field]))
            .collect::<Vec<_>>()
    }));
    let widths: Vec<usize> = (0..columns.len())
        .map(|index| {
            lines
                .iter()
                .map(|line| line[index].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            row.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_absent_values_are_dashes() {
        const COLUMNS: &[Column] = &[
            column("NAME", "name"),
            wide("ID", "id"),
            column("NODES", "nodes"),
        ];
        let objects = vec![
            json!({"name": "a-long-name", "id": 1, "nodes": ["x", "y"]}),
            json!({"name": "b", "id": 20}),
        ];
        assert_eq!(
            table(COLUMNS, &objects, false),
            "NAME          NODES\na-long-name   x,y\nb             -\n"
        );
        assert_eq!(
            table(COLUMNS, &objects, true),
            "NAME          ID   NODES\na-long-name   1    x,y\nb             20   -\n"
        );
    }
}
