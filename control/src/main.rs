//! A member of the control plane: reads its configuration, wires the rooms together, waits for the
//! end. What the rooms do is theirs.

#![forbid(unsafe_code)]

mod certificates;
mod config;
mod enrollment;
mod init;
mod join;
mod nodes;
mod run;
mod token;

use std::{io::IsTerminal, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use fairlead_api::FamilyRanges;
use ipnetwork::IpNetwork;
use tracing_subscriber::EnvFilter;

/// The control plane of a Fairlead cluster.
#[derive(Parser)]
#[command(name = "fairlead-control", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new cluster, with this host as its first member.
    Init(Init),
    /// Make this host a member of an existing cluster.
    Join(Join),
    /// Run this member until it is told to stop.
    Run(DataDir),
    /// Join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Args)]
struct DataDir {
    /// Where this member keeps its configuration, certificates and data.
    #[arg(long, default_value = "/var/lib/fairlead/control")]
    data_dir: PathBuf,
}

#[derive(Args)]
struct Member {
    #[command(flatten)]
    data_dir: DataDir,
    /// This member's name, unique among members.
    #[arg(long)]
    name: String,
    /// The address at which agents, users and other members reach this host.
    #[arg(long, value_name = "IP")]
    advertise: IpAddr,
}

#[derive(Args)]
struct Init {
    #[command(flatten)]
    member: Member,
    /// The range of all pods' addresses; for both families one of each, the family of Services
    /// that name none first.
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR[,CIDR]")]
    cluster_cidr: FamilyRanges,
    /// The range of ClusterIPs, of the same families.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR[,CIDR]")]
    service_cidr: FamilyRanges,
    /// A range of addresses for Services of type LoadBalancer; may be given several times.
    #[arg(long = "vip-pool", value_name = "CIDR", value_delimiter = ',')]
    vip_pools: Vec<IpNetwork>,
}

#[derive(Args)]
struct Join {
    #[command(flatten)]
    member: Member,
    /// A token of the control role, from `fairlead-control token create --role control`.
    #[arg(long)]
    token: String,
    /// A member to join through, as IP:6444; several are tried in order.
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', required = true)]
    server: Vec<std::net::SocketAddr>,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token and print it.
    Create(TokenCreate),
}

#[derive(Args)]
struct TokenCreate {
    #[command(flatten)]
    data_dir: DataDir,
    /// How long the token may be used, as 30m, 24h or 7d.
    #[arg(long, default_value = "24h", value_parser = parse_lifetime)]
    ttl: Duration,
    /// What its holder may become: node or control.
    #[arg(long, default_value = "node", value_parser = parse_role)]
    role: fairlead_pki::Role,
}

fn parse_role(text: &str) -> Result<fairlead_pki::Role, fairlead_pki::TokenError> {
    text.parse()
}

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err("must end in s, m, h or d".into()),
    };
    match number.parse::<u64>() {
        Ok(count) if count > 0 && count <= 3650 * 86400 / seconds => {
            Ok(Duration::from_secs(count * seconds))
        }
        _ => Err("must be a positive number of s, m, h or d, at most ten years".into()),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("info,openraft=warn")),
        )
        .init();
    fairlead_pki::install_crypto_provider();
    match Cli::parse().command {
        Command::Init(init) => init::init(init),
        Command::Join(join) => join::join(join).await,
        Command::Run(DataDir { data_dir }) => run::run(&data_dir).await,
        Command::Token(TokenCommand::Create(create)) => token::create(create).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_with_their_unit() {
        for (text, seconds) in [
            ("30m", Some(1800)),
            ("24h", Some(86400)),
            ("7d", Some(604_800)),
        ] {
            assert_eq!(
                parse_lifetime(text).ok().map(|ttl| ttl.as_secs()),
                seconds,
                "{text}"
            );
        }
        for text in ["", "h", "0h", "-1h", "5", "1w", "99999999999999999999d"] {
            assert!(parse_lifetime(text).is_err(), "{text}");
        }
    }
}
