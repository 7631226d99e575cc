//! The agent of a node: reads its configuration, opens the dataplane, adopts the pods, keeps one
//! session with the control plane. What each of these does is its room's.

#![forbid(unsafe_code)]

mod cleanup;
mod config;
mod desired;
mod health;
mod health_port;
mod join;
mod loads;
mod network;
mod node;
mod outbox;
mod renewal;
mod run;
mod session;
mod socket;
mod standalone;
mod tunnel;
mod view;
mod work;

use std::{
    io::IsTerminal,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// The agent of a Fairlead node.
#[derive(Parser)]
#[command(
    name = "fairlead-agent",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    /// Balance what this file says, with no control plane: short for the command `standalone`.
    #[arg(long, value_name = "FILE")]
    standalone: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// What to do; nothing was asked for if `None`.
    fn command(self) -> Option<Command> {
        let balance = |file| Command::Standalone(Standalone { file, check: false });
        self.command.or(self.standalone.map(balance))
    }
}

#[derive(Subcommand)]
enum Command {
    /// Make this host a node of a cluster.
    Join(Box<Join>),
    /// Run the agent until it is told to stop. Pods and traffic outlive it.
    Run(DataDir),
    /// Balance what a file says, with no control plane, until told to stop. Changes of the file take
    /// effect at once; traffic outlives the agent.
    Standalone(Standalone),
    /// Remove everything the agent made: pods, programs, maps, namespaces, mounts, cgroups. The
    /// agent must not be running.
    Cleanup(Cleanup),
}

#[derive(Args)]
struct Standalone {
    /// Services and their real servers, as YAML.
    file: PathBuf,
    /// Only say whether the file would be taken.
    #[arg(long)]
    check: bool,
}

#[derive(Args)]
struct Cleanup {
    #[command(flatten)]
    data_dir: DataDir,
    /// What the agent made that balanced this file.
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    standalone: Option<PathBuf>,
}

#[derive(Args)]
struct DataDir {
    /// Where this node keeps its configuration, certificates, images and state.
    #[arg(long, default_value = "/var/lib/fairlead/agent")]
    data_dir: PathBuf,
}

#[derive(Args)]
struct Join {
    #[command(flatten)]
    data_dir: DataDir,
    /// This node's name, unique in the cluster.
    #[arg(long)]
    node_name: String,
    /// This node's address, on an uplink; the other nodes reach it there. One of the other family
    /// may follow.
    #[arg(
        long = "address",
        value_name = "IP[,IP]",
        value_delimiter = ',',
        required = true
    )]
    addresses: Vec<IpAddr>,
    /// An interface that packets for VIPs arrive on; may be given several times.
    #[arg(long = "uplink", value_name = "INTERFACE", required = true)]
    uplinks: Vec<String>,
    /// A token from `fairlead-control token create`.
    #[arg(long)]
    token: String,
    /// Members of the control plane, as IP:6444.
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', required = true)]
    server: Vec<SocketAddr>,
    /// Where programs, maps and links are pinned; of the type bpf, mounted if need be.
    #[arg(long, default_value = "/sys/fs/bpf/fairlead")]
    bpffs: PathBuf,
    /// The cgroup (version 2) whose sockets see Services: the node's root of cgroups.
    #[arg(long, default_value_os_t = config::default_cgroup())]
    cgroup: PathBuf,
    /// The name below which pods' cgroups are made.
    #[arg(long, default_value = "fairlead")]
    cgroup_prefix: String,
    /// What does not outlive a reboot: sockets of pods, network namespaces.
    #[arg(long, default_value = "/run/fairlead")]
    run_dir: PathBuf,
    /// Containers' logs, in Kubernetes' layout.
    #[arg(long, default_value = "/var/log/pods")]
    log_dir: PathBuf,
    /// Whom this node asks for names that are not the cluster's, and pods that want the node's way.
    #[arg(long, default_value = config::RESOLV_CONF)]
    resolv_conf: PathBuf,
}

fn main() -> ExitCode {
    // The shim of a pod is this binary run again: it must stay single-threaded, so it comes before
    // anything that could start a thread.
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments
        .get(1)
        .is_some_and(|argument| argument == fairlead_pods::SHIM_ARGUMENT)
    {
        return ExitCode::from(
            u8::try_from(fairlead_pods::shim_main(&arguments[2..])).unwrap_or(1),
        );
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // The DNS outlives whoever reads its log.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .init();
    if arguments
        .get(1)
        .is_some_and(|argument| argument == fairlead_dns::PROCESS_ARGUMENT)
    {
        return ExitCode::from(fairlead_dns::process::main(&arguments[2..]));
    }
    fairlead_pki::install_crypto_provider();
    let Some(command) = Cli::parse().command() else {
        // As clap does where a command is missing.
        eprintln!("{}", <Cli as CommandFactory>::command().render_help());
        return ExitCode::from(2);
    };
    match serve(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Join(join) => join::join(*join).await,
        Command::Run(DataDir { data_dir }) => run::run(&data_dir).await,
        Command::Standalone(Standalone { file, check: true }) => standalone::try_out(&file),
        Command::Standalone(Standalone { file, check: false }) => standalone::run(&file).await,
        Command::Cleanup(Cleanup {
            standalone: Some(file),
            ..
        }) => standalone::cleanup(&file).await,
        Command::Cleanup(Cleanup { data_dir, .. }) => cleanup::cleanup(&data_dir.data_dir).await,
    }
}
