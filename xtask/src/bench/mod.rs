//! `cargo xtask bench`: what it costs, against what a user would pick instead.

mod machine;
mod network;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use testbed::table::Style;
use testbed::{Progress, Workspace};

use crate::{build, cargo, image, setup};

#[derive(Debug, Subcommand)]
pub(crate) enum Subject {
    /// Nanoseconds a packet in the loaded programs; packets a second through a node; how long tables
    /// take to program; requests and datagrams a second through the test network, against nftables
    /// DNAT in the same topology.
    Dataplane(DataplaneOptions),
    /// Packets a second and latencies on real network cards: bench/nic.md.
    Nic {
        /// `--iface NAME --role gen|lb|sink`, what the role needs, and what is to be measured and
        /// printed, as of `dataplane`; `-- --help` lists it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DataplaneOptions {
    /// Print the rows of packets and rates as one JSON array, and nothing else: only these are measured,
    /// unless --part says otherwise.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print tables as bench/results.md has them.
    #[arg(long)]
    markdown: bool,
    /// Measure these parts only.
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// What else the program takes, such as `--case established_dr --services 1 --trials 5`; `--help`
    /// lists it.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// How long tables take to build and to program.
    Tables,
    /// Packets a second through a node.
    Rates,
    /// Nanoseconds a packet.
    Packets,
    /// Requests and datagrams through clusters.
    Network,
}

impl Part {
    /// As bench-dataplane calls it, if it is what measures it.
    const fn argument(self) -> Option<&'static str> {
        match self {
            Self::Tables => Some("tables"),
            Self::Rates => Some("rates"),
            Self::Packets => Some("packets"),
            Self::Network => None,
        }
    }
}

/// Measures, prints tables, and writes JSON to `target/bench`.
///
/// # Errors
/// Something does not build, or a measurement failed.
pub(crate) fn run(subject: &Subject, workspace: &Workspace, progress: &Progress) -> Result<()> {
    match subject {
        Subject::Dataplane(options) => dataplane(workspace, progress, options),
        Subject::Nic { arguments } => nic(workspace, progress, arguments),
    }
}

/// Where figures are written as JSON.
fn results_folder(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn nic(workspace: &Workspace, progress: &Progress, arguments: &[OsString]) -> Result<()> {
    setup::ensure(workspace, progress)?;
    build::ebpf(workspace, progress)?;
    cargo::run(workspace, "build --release --package bench-nic")?;
    let release = workspace.clone().with_profile("release");
    let results = results_folder(workspace)?;
    let mut program = Command::new(release.binary("bench-nic")?);
    program.arg("--output").arg(&results);
    cargo::run_to_end(program.args(arguments), "bench-nic")?;
    progress.step(format!("measured: {}", results.display()));
    Ok(())
}

fn dataplane(workspace: &Workspace, progress: &Progress, options: &DataplaneOptions) -> Result<()> {
    let parts = match (options.part.as_slice(), options.json) {
        ([], true) => &[Part::Rates, Part::Packets],
        ([], false) => Part::value_variants(),
        (chosen, _) => chosen,
    };
    let has_network = parts.contains(&Part::Network);
    setup::ensure(workspace, progress)?;
    build::ebpf(workspace, progress)?;
    progress.step("build: programs, in release mode");
    if has_network {
        cargo::run(workspace, "build --release --workspace --bins")?;
        image::build(workspace, progress)?;
    } else {
        cargo::run(workspace, "build --release --package bench-dataplane")?;
    }
    let release = workspace.clone().with_profile("release");
    let results = results_folder(workspace)?;
    let machine = machine::describe(workspace);
    if options.json {
        progress.step(format!("measure: {machine}"));
    } else {
        println!("{machine}");
    }
    let arguments: Vec<&str> = parts.iter().filter_map(|part| part.argument()).collect();
    if !arguments.is_empty() {
        let mut program = Command::new(release.binary("bench-dataplane")?);
        program.arg("--part").arg(arguments.join(","));
        program.arg("--output").arg(&results);
        for (flag, is_set) in [("--json", options.json), ("--markdown", options.markdown)] {
            program.args(is_set.then_some(flag));
        }
        cargo::run_to_end(program.args(&options.arguments), "bench-dataplane")?;
    }
    if has_network {
        let comparison = network::compare(&release, progress)?;
        if !options.json {
            let style = if options.markdown {
                Style::Markdown
            } else {
                Style::Plain
            };
            print!("{}", comparison.table().text(style));
        }
        let path = results.join("network.json");
        let json = serde_json::to_vec_pretty(&comparison).context("write the results as JSON")?;
        fs::write(&path, json).with_context(|| format!("write {}", path.display()))?;
    }
    progress.step(format!("measured: {}", results.display()));
    Ok(())
}
