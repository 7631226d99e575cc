//! `cargo xtask bench`: what it costs, against what a user would pick instead.

mod network;

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};
use clap::Subcommand;
use testbed::{Progress, Workspace};

use crate::{build, cargo, image, setup};

#[derive(Debug, Subcommand)]
pub(crate) enum Subject {
    /// Nanoseconds a packet in the loaded programs; packets a second through a node; how long tables
    /// take to program; requests and datagrams a second through the test network, against nftables
    /// DNAT in the same topology.
    Dataplane,
    /// Packets a second and latencies on real network cards: bench/nic.md.
    Nic {
        /// `--iface NAME --role gen|lb|sink`, and what the role needs; `--help` lists it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<OsString>,
    },
}

/// Measures, prints tables, and writes JSON to `target/bench`.
///
/// # Errors
/// Something does not build, or a measurement failed.
pub(crate) fn run(subject: &Subject, workspace: &Workspace, progress: &Progress) -> Result<()> {
    match subject {
        Subject::Dataplane => dataplane(workspace, progress),
        Subject::Nic { arguments } => nic(workspace, progress, arguments),
    }
}

fn nic(workspace: &Workspace, progress: &Progress, arguments: &[OsString]) -> Result<()> {
    setup::ensure(workspace, progress)?;
    build::ebpf(workspace, progress)?;
    cargo::run(workspace, "build --release --package bench-nic")?;
    let release = workspace.clone().with_profile("release");
    let mut program = std::process::Command::new(release.binary("bench-nic")?);
    cargo::run_to_end(program.args(arguments), "bench-nic")
}

fn dataplane(workspace: &Workspace, progress: &Progress) -> Result<()> {
    setup::ensure(workspace, progress)?;
    build::ebpf(workspace, progress)?;
    progress.step("build: programs, in release mode");
    cargo::run(workspace, "build --release --workspace --bins")?;
    image::build(workspace, progress)?;
    let release = workspace.clone().with_profile("release");
    let results = workspace.target().join("bench");
    fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;

    progress.step("measure: tables, packets a second, and nanoseconds a packet");
    let mut packets = std::process::Command::new(release.binary("bench-dataplane")?);
    packets.arg("--json").arg(results.join("packets.json"));
    packets
        .arg("--tables-json")
        .arg(results.join("tables.json"));
    cargo::run_to_end(&mut packets, "bench-dataplane")?;

    let comparison = network::compare(&release, progress)?;
    println!("\n{}", comparison.table());
    let path = results.join("network.json");
    let json = serde_json::to_vec_pretty(&comparison).context("write the results as JSON")?;
    fs::write(&path, json).with_context(|| format!("write {}", path.display()))?;
    progress.step(format!("measured: {}", results.display()));
    Ok(())
}
