//! Output: columns for people, documents for programs.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns.
    Table,
    /// With more of them.
    Wide,
    /// A JSON array of objects.
    Json,
    /// The same in YAML.
    Yaml,
}

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

    pub(crate) fn print(&self, output: Output) -> anyhow::Result<()> {
        let text = match output {
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&self.objects)?),
            Output::Yaml => serde_yaml_ng::to_string(&self.objects).context("cannot write YAML")?,
            Output::Table | Output::Wide if self.objects.is_empty() => {
                eprintln!("{}", self.empty);
                return Ok(());
            }
            Output::Table | Output::Wide => self.table(output == Output::Wide),
        };
        match io::stdout().write_all(text.as_bytes()) {
            // The reader, as `head`, has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome.context("cannot write the answer"),
        }
    }

    fn table(&self, all: bool) -> String {
        let columns: Vec<&Column> = self
            .columns
            .iter()
            .filter(|column| all || !column.wide)
            .collect();
        let mut lines = vec![
            columns
                .iter()
                .map(|column| column.heading.to_owned())
                .collect(),
        ];
        lines.extend(self.objects.iter().map(|object| {
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
        let rows = Rows::new(COLUMNS, objects, "none");
        assert_eq!(
            rows.table(false),
            "NAME          NODES\na-long-name   x,y\nb             -\n"
        );
        assert_eq!(
            rows.table(true),
            "NAME          ID   NODES\na-long-name   1    x,y\nb             20   -\n"
        );
    }
}
