//! `cargo xtask exec`: a command on a host of a cluster.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use testbed::Workspace;
use testbed::cluster::{Cluster, DEFAULT_NAME, Host};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The cluster's name.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// The host: client, router, switch, control-1…, node-1…
    host: Host,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the command in the host's network and cgroup, with this terminal, and ends as it does.
///
/// # Errors
/// There is no such cluster, host or command.
pub(crate) fn run(options: &Options, workspace: &Workspace) -> Result<ExitCode> {
    let cluster = Cluster::open(workspace, &options.name)?;
    let (program, arguments) = options
        .command
        .split_first()
        .context("a command is required")?;
    // The project's own programs first: `traffic`, `netctl`, `kubectl`.
    let mut path = vec![workspace.tools(), workspace.binaries().to_owned()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    // The hosts reach the API at the cluster's own addresses, not at the shell's port.
    let kubeconfig = cluster
        .layout()
        .data(Host::Control(1))
        .join("admin.kubeconfig");
    let path = std::env::join_paths(path).context("put the project's programs on the path")?;
    let status = cluster
        .launch(options.host, program)?
        .arguments(arguments)
        .environment("PATH", path)
        .environment("KUBECONFIG", kubeconfig)
        .command()?
        .status()
        .with_context(|| format!("run {} on {}", program.display(), options.host))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
