//! Answers on stdout: text for people, documents for programs.

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

impl Output {
    /// Whether people read it.
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Writes a document for programs.
pub(crate) fn document(output: Output, document: &Value) -> anyhow::Result<()> {
    let text = if output == Output::Yaml {
        serde_yaml_ng::to_string(document).context("cannot write YAML")?
    } else {
        format!("{}\n", serde_json::to_string_pretty(document)?)
    };
    write(&text)
}

/// Writes text.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader, as `head`, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write the answer"),
    }
}
