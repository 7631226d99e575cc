//! Looks into the packet path: which services a node's maps hold, where their packets go, what is
//! dropped and why.

#![forbid(unsafe_code)]

mod backends;
mod drops;
mod flows;
mod hex;
mod nodes;
mod output;
mod services;
mod source;
mod table;
mod trace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Dropped packets, by reason.
    Drop,
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
}

#[derive(Subcommand)]
enum NodeCommand {
    /// All nodes.
    Ls,
}

#[derive(Subcommand)]
enum FlowCommand {
    /// Remembered connections.
    Ls {
        /// At most this many a node.
        #[arg(long, default_value_t = 1000)]
        limit: u32,
        /// Only of this kind.
        #[arg(long, value_enum)]
        kind: Option<FlowKind>,
    },
}

/// What a flow is remembered for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FlowKind {
    /// A client's connection to a VIP, at the node of the pod that answers.
    Service,
    /// A pod's connection to the outside, in the node's name.
    Masquerade,
}

impl FlowKind {
    fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Masquerade => "masquerade",
        }
    }
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
        Command::Service(ServiceCommand::Ls) => services::list(&source).await?,
        Command::Service(ServiceCommand::Show { service }) => {
            services::show(&source, &service).await?
        }
        Command::Backend(BackendCommand::Ls { service }) => {
            backends::list(&source, service.as_deref()).await?
        }
        Command::Node(NodeCommand::Ls) => nodes::list(&source).await?,
        Command::Flow(FlowCommand::Ls { limit, kind }) => flows::list(&source, limit, kind).await?,
        Command::Status => nodes::status(&source).await?,
        Command::Drop => drops::list(&source).await?,
    };
    rows.print(output)
}
