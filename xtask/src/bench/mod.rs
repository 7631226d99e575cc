//! `cargo xtask bench`: what it costs, against what a user would pick instead.

mod network;

use std::fs;

use anyhow::{Context, Result};
use clap::Subcommand;
use testbed::{Progress, Workspace};

use crate::{build, cargo, image, setup};

#[derive(Debug, Subcommand)]
pub(crate) enum Subject {
    /// Nanoseconds a packet in the loaded programs; how long tables take to program; requests and datagrams a second through the
    /// test network, against nftables DNAT in the same topology.
    Dataplane,
}

/// Measures, prints tables, and writes JSON to `target/bench`.
///
/// # Errors
/// Something does not build, or a measurement failed.
pub(crate) fn run(subject: &Subject, workspace: &Workspace, progress: &Progress) -> Result<()> {
    let Subject::Dataplane = subject;
    setup::ensure(workspace, progress)?;
    build::ebpf(workspace, progress)?;
    progress.step("build: programs, in release mode");
    cargo::run(workspace, "build --release --workspace --bins")?;
    image::build(workspace, progress)?;
    let release = workspace.clone().with_profile("release");
    let results = workspace.target().join("bench");
    fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;

    progress.step("measure: tables, and nanoseconds a packet");
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
