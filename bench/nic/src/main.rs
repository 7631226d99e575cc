//! The same measurements on real network cards: see bench/nic.md.

#![forbid(unsafe_code)]

mod balancer;
mod case;
mod report;
mod roles;

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use testbed::table::Style;

use case::Case;
use report::Row;

/// Sends, balances or receives packets at an interface, and says at what rates.
#[derive(Debug, Parser)]
struct Arguments {
    /// The interface.
    #[arg(long)]
    iface: String,
    /// What this machine does.
    #[arg(long, value_enum)]
    role: Role,
    /// Seconds after which it ends; gen: that each part of each case takes.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// gen: measure these parts only.
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// gen: measure these cases, frames of so many bytes on the wire: of frame_64, frame_128,
    /// frame_256, frame_512, frame_1024, frame_1280 and frame_1518.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "frame_64",
        value_parser = Case::parse)]
    case: Vec<Case>,
    /// Print one JSON array, and no tables.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print tables as Markdown.
    #[arg(long)]
    markdown: bool,
    /// Also write nic.json to this folder.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    flows: FlowOptions,
    /// lb: where backends are, as MAC addresses of this segment. They get frames as they are.
    #[arg(long = "backend", value_name = "MAC")]
    backends: Vec<String>,
    /// The object with the generator and the sink.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/traffic.o"))]
    traffic: PathBuf,
}

/// What a generator sends, and a balancer is sent.
#[derive(Debug, clap::Args)]
struct FlowOptions {
    /// The service.
    #[arg(long, default_value = "198.18.100.1:9")]
    vip: SocketAddrV4,
    /// gen: the address that packets are from, and the port of the first flow.
    #[arg(long, default_value = "198.18.1.10:10000")]
    source: SocketAddrV4,
    /// gen: the MAC address of the balancer, or of the router towards it.
    #[arg(long, value_name = "MAC")]
    to: Option<String>,
    /// gen: flows that take turns; a card's receive side scaling spreads them over its queues.
    #[arg(long, default_value_t = 4096)]
    flows: u32,
    /// gen: packets a second, on all CPUs together. Without it rates are those of as fast as they can,
    /// latencies those at 100,000.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// gen: the CPUs that send, each with the same flows.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    cpus: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Sends, and counts what comes back.
    Gen,
    /// Balances the service at the interface by the node's own program.
    Lb,
    /// Counts what a generator sent.
    Sink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packets a second.
    Rates,
    /// How long frames are under way. Their sink has to be on this machine, whose clock they carry.
    Latencies,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if packet_tests::is_root_missing() {
        bail!("programs are loaded and attached: run it as root");
    }
    let rows: Vec<Row> = match arguments.role {
        Role::Gen => roles::generate(&arguments)?,
        Role::Lb => vec![roles::balance(&arguments)?],
        Role::Sink => vec![roles::sink(&arguments)?],
    };
    if arguments.json {
        let text = serde_json::to_string_pretty(&rows).context("write the figures as JSON")?;
        println!("{text}");
    } else {
        let style = if arguments.markdown {
            Style::Markdown
        } else {
            Style::Plain
        };
        for table in report::tables(&rows) {
            print!("{}", table.text(style));
        }
    }
    let Some(folder) = &arguments.output else {
        return Ok(());
    };
    let json = serde_json::to_vec_pretty(&rows).context("write the figures as JSON")?;
    let path = folder.join("nic.json");
    fs::write(&path, json).with_context(|| format!("write {}", path.display()))
}

impl Arguments {
    /// What a generator measures.
    fn parts(&self) -> &[Part] {
        if self.part.is_empty() {
            Part::value_variants()
        } else {
            &self.part
        }
    }
}
