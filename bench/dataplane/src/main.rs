//! What the dataplane costs: nanoseconds a packet, by `BPF_PROG_TEST_RUN` on one pinned CPU; and
//! the time and memory its tables take.
//!
//! The measured program is `xdp_ingress` in a wrapper that restores an encapsulated frame
//! (`dataplane-ebpf/src/bin/measured.rs`), because a repeated run is fed its own output. What the
//! wrapper costs is part of the figures of the encapsulating cases.

#![forbid(unsafe_code)]

mod cases;
mod maglev_quality;
mod measure;
mod rate;
mod services;
mod tables;
mod timing;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use fairlead_dataplane::{loader, object};
use fairlead_dataplane_common::protocol;
use packet_tests::World;
use serde::Serialize;

use crate::measure::{Measured, Row};

/// Measures what the packet path costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure one part only.
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Also write the rows of packets and rates, as one JSON array, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the figures of the tables, as JSON, to this file.
    #[arg(long, value_name = "FILE")]
    tables_json: Option<PathBuf>,
    /// The CPU to run on.
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Timed runs of each case, and of what of the tables is short.
    #[arg(long, default_value_t = 31)]
    trials: usize,
    /// Packets of each timed run.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
    /// Rounds in which the ways through a node carry packets in turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The object with the generator and the sink.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/traffic.o"))]
    traffic: PathBuf,
    /// The object with the measured programs.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/measured.o"))]
    object: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Nanoseconds a packet.
    Packets,
    /// Packets a second through a node.
    Rates,
    /// How long tables take to build and to program.
    Tables,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if packet_tests::is_root_missing() {
        bail!("measuring loads programs: run it as root");
    }
    let is_wanted = |part| arguments.part.is_none_or(|only| only == part);
    // Before this thread, and with it all it starts, is kept on one CPU.
    if is_wanted(Part::Tables) {
        let tables = tables::measure(arguments.trials)?;
        tables::print_table(&tables);
        write_json(arguments.tables_json.as_deref(), &tables)?;
    }
    let mut figures = Vec::new();
    if is_wanted(Part::Rates) {
        let traffic = read_object(&arguments.traffic)?;
        let rates = rate::measure(&traffic, arguments.cpu, arguments.rounds)?;
        rate::print_table(&rates);
        figures.extend(rates.into_iter().map(Figure::Rate));
    }
    if is_wanted(Part::Packets) {
        let rows = measure_packets(&arguments)?;
        print_table(&rows);
        figures.extend(rows.into_iter().map(Figure::Packet));
    }
    write_json(arguments.json.as_deref(), &figures)
}

/// A row of either kind.
#[derive(Serialize)]
#[serde(untagged)]
enum Figure {
    Packet(Row),
    Rate(rate::Rate),
}

fn read_object(path: &Path) -> Result<Vec<u8>> {
    let hint = || {
        format!(
            "read {} (`cargo xtask build-ebpf` makes it)",
            path.display()
        )
    };
    fs::read(path).with_context(hint)
}

fn measure_packets(arguments: &Arguments) -> Result<Vec<Row>> {
    measure::pin_to(arguments.cpu)?;
    let measured = read_object(&arguments.object)?;
    let mut rows = Vec::new();
    for services in [1, 10, 10_000] {
        let pins = Pins::new()?;
        let mut world = World::load(object::embedded()?, Some(&pins.directory));
        services::fill(&mut world, services, protocol::TCP)?;
        let mut programs = Measured::load(&measured, &pins.directory)?;
        for case in cases::all(services) {
            rows.push(programs.run(&case, services, arguments.trials, arguments.packets)?);
        }
    }
    Ok(rows)
}

fn write_json(path: Option<&Path>, figures: &impl Serialize) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let json = serde_json::to_vec_pretty(figures).context("write the figures as JSON")?;
    fs::write(path, json).with_context(|| format!("write {}", path.display()))
}

fn print_table(rows: &[Row]) {
    println!(
        "{:<18} {:>6} {:>9} {:>6} {:>8} {:>10}",
        "case", "family", "services", "flows", "ns min", "ns median"
    );
    for row in rows {
        println!(
            "{:<18} {:>6} {:>9} {:>6} {:>8} {:>10}",
            row.case, row.family, row.services, row.flows, row.ns_min, row.ns_median
        );
    }
}

/// A directory of a bpffs, by which both objects share their maps. Gone with the value.
struct Pins {
    directory: PathBuf,
}

impl Pins {
    fn new() -> Result<Self> {
        let name = format!("fairlead-bench-{}", std::process::id());
        let directory = Path::new("/sys/fs/bpf").join(name);
        loader::mount(&directory)?;
        Ok(Self { directory })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("remove {}: {error}", self.directory.display());
        }
    }
}
