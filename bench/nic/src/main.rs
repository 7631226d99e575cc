//! The same measurements on real network cards: see bench/nic.md.

#![forbid(unsafe_code)]

mod balancer;
mod report;
mod roles;

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use report::Report;

/// Sends, balances or receives packets at an interface, and says at what rates.
#[derive(Debug, Parser)]
struct Arguments {
    /// The interface.
    #[arg(long)]
    iface: String,
    /// What this machine does.
    #[arg(long, value_enum)]
    role: Role,
    /// Seconds after which it ends.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Also write the report, as JSON, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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
    /// gen: bytes of a frame, without Ethernet's checksum.
    #[arg(long, default_value_t = 60)]
    frame_bytes: usize,
    /// gen: packets a second at most, on all CPUs together; 0 sends as fast as they can.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// gen: the CPUs that send, each with the same flows.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    cpus: Vec<usize>,
    /// gen: let frames carry the time. Their sink has to be on this machine, whose clock it is.
    #[arg(long)]
    timed: bool,
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

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if packet_tests::is_root_missing() {
        bail!("programs are loaded and attached: run it as root");
    }
    let report: Report = match arguments.role {
        Role::Gen => roles::generate(&arguments)?,
        Role::Lb => roles::balance(&arguments)?,
        Role::Sink => roles::sink(&arguments)?,
    };
    print!("{}", report.table());
    if let Some(path) = &arguments.json {
        let json = serde_json::to_vec_pretty(&report).context("write the report as JSON")?;
        fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
