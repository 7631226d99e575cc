//! What the dataplane costs: nanoseconds a packet, by `BPF_PROG_TEST_RUN` on one pinned CPU; packets a
//! second through a node; the time and memory its tables take.
//!
//! The measured program is `xdp_ingress` in a wrapper that puts the frame back as it was
//! (`dataplane-ebpf/src/bin/measured.rs`), because a repeated run is fed its own output. What the
//! wrapper costs is part of the figures; the floors say how much that is.

#![forbid(unsafe_code)]

mod cases;
mod features;
mod flatness;
mod maglev_quality;
mod measure;
mod packets;
mod rate;
mod services;
mod tables;
mod timing;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use testbed::Progress;

use crate::measure::{Effort, Row};
use crate::packets::Selection;
use crate::rate::Rate;
use testbed::table::{Style, Table};

/// Measures what the packet path costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure these parts only.
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// packets: measure these cases only.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    case: Vec<String>,
    /// packets: with so many services in the maps; features are measured with the first number.
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,10,10000",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    services: Vec<u32>,
    /// Print the rows of packets and rates as one JSON array, and no tables.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print tables as bench/results.md has them.
    #[arg(long)]
    markdown: bool,
    /// Also write packets.json (the rows of packets and rates) and tables.json to this folder.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// The CPU to run on.
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Timed runs of each case, and of what of the tables is short.
    #[arg(long, default_value_t = 31, value_parser = positive)]
    trials: usize,
    /// Packets of each timed run.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Rounds in which the ways through a node carry packets in turn.
    #[arg(long, default_value_t = 7, value_parser = positive)]
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

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("has to be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if packet_tests::is_root_missing() {
        bail!("measuring loads programs: run it as root");
    }
    let progress = Progress::start();
    let is_wanted = |part| arguments.part.is_empty() || arguments.part.contains(&part);
    let print = |table: &Table| {
        let style = if arguments.markdown {
            Style::Markdown
        } else {
            Style::Plain
        };
        if !arguments.json {
            print!("{}", table.text(style));
        }
    };
    // Before this thread, and with it all it starts, is kept on one CPU.
    if is_wanted(Part::Tables) {
        let measured = tables::measure(arguments.trials, &progress)?;
        tables::tables(&measured).iter().for_each(print);
        arguments.write("tables.json", &measured)?;
    }
    let mut rates = Vec::new();
    if is_wanted(Part::Rates) {
        let traffic = read_object(&arguments.traffic)?;
        rates = rate::measure(&traffic, arguments.cpu, arguments.rounds, &progress)?;
        print(&rate::table(&rates));
    }
    let mut rows = Vec::new();
    if is_wanted(Part::Packets) {
        let object = read_object(&arguments.object)?;
        let (selection, effort) = (arguments.selection(), arguments.effort());
        rows = packets::measure(&object, arguments.cpu, &selection, effort, &progress)?;
        print(&packets::table(&rows));
        print(&packets::feature_table(&rows));
    }
    print(&flatness::table(&rows, &rates));
    let packets = rows.iter().map(Figure::Packet);
    let figures: Vec<Figure<'_>> = packets.chain(rates.iter().map(Figure::Rate)).collect();
    if arguments.json {
        let text = serde_json::to_string_pretty(&figures).context("write the figures as JSON")?;
        println!("{text}");
    }
    if figures.is_empty() {
        return Ok(());
    }
    arguments.write("packets.json", &figures)
}

impl Arguments {
    fn selection(&self) -> Selection {
        Selection {
            services: self.services.clone(),
            cases: self.case.clone(),
        }
    }

    fn effort(&self) -> Effort {
        Effort {
            trials: self.trials,
            packets: self.packets,
        }
    }

    /// Writes figures to a file of the output folder, if there is one.
    fn write(&self, name: &str, figures: &impl Serialize) -> Result<()> {
        let Some(folder) = &self.output else {
            return Ok(());
        };
        let json = serde_json::to_vec_pretty(figures).context("write the figures as JSON")?;
        let path = folder.join(name);
        fs::write(&path, json).with_context(|| format!("write {}", path.display()))
    }
}

/// A row of either kind.
#[derive(Serialize)]
#[serde(untagged)]
enum Figure<'a> {
    Packet(&'a Row),
    Rate(&'a Rate),
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
