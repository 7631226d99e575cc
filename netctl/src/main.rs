//! Looks into the packet path: which services a node's maps hold, where their packets go, what is
//! dropped and why.

#![forbid(unsafe_code)]

mod backends;
mod dns;
mod drops;
mod flows;
mod hex;
mod lvs;
mod merge;
mod nodes;
mod output;
mod services;
mod source;
mod table;
mod trace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{output::Output, source::Source};

/// Look into Fairlead's packet path.
///
/// Asks the agents through the control plane (--kubeconfig), or one agent at its own socket
/// (--socket), which works without a control plane.
#[derive(Parser)]
#[command(name = "netctl", version)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// The kubeconfig of the cluster; otherwise the files KUBECONFIG lists, or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// An agent's socket, as /var/lib/fairlead/agent/agent.sock.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "node")]
    socket: Option<PathBuf>,
    /// Ask only this node; otherwise every connected one.
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    /// The form of the answer.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// Service ports in the maps.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// The backends they forward to.
    #[command(subcommand)]
    Backend(BackendCommand),
    /// The cluster's nodes and how each is reached.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Connections the maps remember.
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Every node's generation: what it should hold, what it holds, and how far it lags.
    Status,
    /// Dropped packets, by reason and service. Without a verb: `ls`.
    Drop {
        #[command(subcommand)]
        command: Option<DropCommand>,
    },
    /// What is counted and is no drop: answers, resets, second chances.
    Counter {
        /// Also what never happened.
        #[arg(long)]
        all: bool,
    },
    /// How nodes answer for names. Without a verb: `ls`.
    Dns {
        #[command(subcommand)]
        command: Option<DnsCommand>,
    },
    /// Services and backends as `ipvsadm -Ln` prints them.
    Lvs(lvs::Options),
    /// What would become of a packet, and why: runs it through the programs of a node without
    /// changing anything.
    Trace(trace::Packet),
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// All service ports, with what went through them.
    Ls,
    /// One Service: its frontends, its backends and their shares.
    Show {
        /// NAMESPACE/NAME; the namespace is `default` unless given.
        service: String,
    },
}

#[derive(Subcommand)]
enum BackendCommand {
    /// All backends, or those of one Service.
    Ls {
        /// NAMESPACE/NAME; the namespace is `default` unless given.
        service: Option<String>,
    },
    /// One backend as each node sees it: how it is reached and why, what it was sent.
    Show {
        /// Its name, address, address and port, or id.
        backend: String,
    },
}

#[derive(Subcommand)]
enum NodeCommand {
    /// All nodes.
    Ls,
}

#[derive(Subcommand)]
enum FlowCommand {
    /// Remembered flows, those with the most packets first.
    Ls {
        #[command(flatten)]
        filter: flows::Filter,
        /// At most this many a node.
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
    /// The flows with the most traffic now.
    Top(flows::Top),
}

#[derive(Subcommand)]
enum DnsCommand {
    /// What each node knows and was asked.
    Ls,
    /// What each node answers to a question, as its pods would be told.
    Query {
        /// The whole name: nothing completes it.
        name: String,
        /// The type of records.
        #[arg(default_value = "A")]
        kind: String,
    },
    /// What each node counted: where answers came from, what failed.
    Counters {
        /// Also what never happened.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Subcommand)]
enum DropCommand {
    /// All reasons for which something was dropped, by service.
    Ls {
        /// Also those for which nothing was.
        #[arg(long)]
        all: bool,
    },
    /// The last packet that was dropped for a reason, of each service.
    Show {
        /// The reason, as `netctl drop ls` calls it.
        reason: String,
        /// Only of this Service, NAMESPACE/NAME; the namespace is `default` unless given.
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(Cli { global, command }: Cli) -> anyhow::Result<()> {
    let source = Source::new(global.kubeconfig, global.socket, global.node)?;
    let output = global.output;
    let rows = match command {
        Command::Trace(packet) => return trace::run(&source, &packet, output).await,
        Command::Lvs(options) => return lvs::run(&source, &options, output).await,
        Command::Service(ServiceCommand::Ls) => services::list(&source).await?,
        Command::Service(ServiceCommand::Show { service }) => {
            return services::show(&source, &service, output).await;
        }
        Command::Backend(BackendCommand::Ls { service }) => {
            backends::list(&source, service.as_deref()).await?
        }
        Command::Backend(BackendCommand::Show { backend }) => {
            return backends::show(&source, &backend, output).await;
        }
        Command::Node(NodeCommand::Ls) => nodes::list(&source).await?,
        Command::Flow(FlowCommand::Ls { filter, limit }) => {
            flows::list(&source, &filter, limit).await?
        }
        Command::Flow(FlowCommand::Top(top)) => return flows::top(&source, &top, output).await,
        Command::Status => nodes::status(&source).await?,
        Command::Drop { command } => match command.unwrap_or(DropCommand::Ls { all: false }) {
            DropCommand::Ls { all } => drops::list(&source, all).await?,
            DropCommand::Show { reason, service } => {
                return drops::show(&source, &reason, service.as_deref(), output).await;
            }
        },
        Command::Dns { command } => match command.unwrap_or(DnsCommand::Ls) {
            DnsCommand::Ls => dns::list(&source).await?,
            DnsCommand::Query { name, kind } => dns::query(&source, &name, &kind).await?,
            DnsCommand::Counters { all } => dns::counters(&source, all).await?,
        },
        Command::Counter { all } => drops::counters(&source, all).await?,
    };
    rows.print(output)
}
