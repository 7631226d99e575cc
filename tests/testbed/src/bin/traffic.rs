//! Sends and counts requests from wherever it is run: `cargo xtask exec client -- traffic http …`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use testbed::traffic::{Ask, Datagrams, Flood, Kept, Load, Sink};

/// Sends traffic and prints what became of it, as JSON.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// HTTP requests, each answer counted by pod, node and client address.
    Http {
        /// Where to, as ADDRESS:PORT.
        target: SocketAddr,
        /// The path to ask for.
        #[arg(long, default_value = "/")]
        path: String,
        /// How many requests.
        #[arg(long, default_value_t = 100)]
        requests: u64,
        /// How many clients at once.
        #[arg(long, default_value_t = 4)]
        clients: u32,
        /// Keep one connection for each client instead of a new one for each request.
        #[arg(long)]
        keep_alive: bool,
        /// How many requests a second in all; as many as possible if not given.
        #[arg(long)]
        per_second: Option<u32>,
        /// How long a request may take, in seconds.
        #[arg(long, default_value_t = 5)]
        timeout: u64,
        /// Print the number of requests done on standard error, in a hundred steps.
        #[arg(long)]
        progress: bool,
    },
    /// Connections that are opened once and kept until standard input ends, and what became of each.
    Kept {
        /// Where to, as ADDRESS:PORT.
        target: SocketAddr,
        /// How many connections.
        #[arg(long, default_value_t = 64)]
        connections: u32,
        /// Milliseconds between an answer and the next request.
        #[arg(long, default_value_t = 20)]
        interval: u64,
        /// How long an answer may take, in seconds.
        #[arg(long, default_value_t = 10)]
        timeout: u64,
    },
    /// Numbered UDP datagrams, whose answers by hello are looked for by number.
    Datagrams {
        /// Where to, as ADDRESS:PORT.
        target: SocketAddr,
        /// From which addresses, in turn.
        #[arg(long, value_delimiter = ',')]
        from: Vec<IpAddr>,
        /// From how many source ports.
        #[arg(long, default_value_t = 16)]
        flows: u32,
        /// How many from each; without a number, until standard input ends.
        #[arg(long)]
        each: Option<u64>,
        /// Milliseconds between a flow's datagrams.
        #[arg(long, default_value_t = 10)]
        interval: u64,
        /// How many milliseconds answers are waited for after the last datagram.
        #[arg(long, default_value_t = 2000)]
        timeout: u64,
    },
    /// One UDP datagram, given as bytes, and its answer.
    Ask {
        /// Where to, as ADDRESS:PORT.
        target: SocketAddr,
        /// What it says, as numbers.
        #[arg(value_delimiter = ',')]
        bytes: Vec<u8>,
        /// Connect the socket first, instead of naming the target with the datagram.
        #[arg(long)]
        connect: bool,
        /// How many milliseconds the answer may take.
        #[arg(long, default_value_t = 5000)]
        timeout: u64,
    },
    /// UDP datagrams as fast as possible.
    UdpFlood {
        /// Where to, as ADDRESS:PORT.
        target: SocketAddr,
        /// From how many source ports.
        #[arg(long, default_value_t = 64)]
        flows: u16,
        /// For how many seconds.
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// Counts datagrams until none comes for a while.
    UdpSink {
        /// The address to listen on, as ADDRESS:PORT.
        address: SocketAddr,
        /// How many milliseconds of silence end the count.
        #[arg(long, default_value_t = 1000)]
        idle: u64,
    },
}

fn main() -> Result<()> {
    let report = match Arguments::parse().kind {
        Kind::Http {
            target,
            path,
            requests,
            clients,
            keep_alive,
            per_second,
            timeout,
            progress,
        } => {
            let load = Load {
                target,
                path,
                requests,
                clients,
                keep_alive,
                per_second,
                timeout: Duration::from_secs(timeout),
            };
            let report = if progress {
                load.run(&mut std::io::stderr())
            } else {
                load.run(&mut std::io::sink())
            };
            serde_json::to_string(&report)
        }
        Kind::Kept {
            target,
            connections,
            interval,
            timeout,
        } => {
            let kept = Kept {
                target,
                connections,
                interval: Duration::from_millis(interval),
                timeout: Duration::from_secs(timeout),
            };
            serde_json::to_string(&kept.run(std::io::stdin(), std::io::stderr())?)
        }
        Kind::Datagrams {
            target,
            from,
            flows,
            each,
            interval,
            timeout,
        } => {
            let datagrams = Datagrams {
                target,
                from,
                flows,
                each,
                interval: Duration::from_millis(interval),
                timeout: Duration::from_millis(timeout),
            };
            serde_json::to_string(&datagrams.run(std::io::stdin(), std::io::stderr())?)
        }
        Kind::Ask {
            target,
            bytes,
            connect,
            timeout,
        } => {
            let ask = Ask {
                target,
                bytes,
                connect,
                timeout: Duration::from_millis(timeout),
            };
            serde_json::to_string(&ask.run()?)
        }
        Kind::UdpFlood {
            target,
            flows,
            seconds,
        } => serde_json::to_string(
            &Flood {
                target,
                flows,
                duration: Duration::from_secs(seconds),
            }
            .run()?,
        ),
        Kind::UdpSink { address, idle } => serde_json::to_string(
            &Sink {
                address,
                idle: Duration::from_millis(idle),
            }
            .run(|| eprintln!("ready"))?,
        ),
    }?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}
