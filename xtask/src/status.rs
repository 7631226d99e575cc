//! `cargo xtask status`: the clusters of this machine and their hosts.

use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};
use testbed::Workspace;
use testbed::cluster::{Cluster, Host, Remains, address};

use crate::table;

/// Prints every cluster.
///
/// # Errors
/// The folder of clusters cannot be read, or the standard output not be written.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let names = Cluster::names(workspace)?;
    let mut shown = String::new();
    if names.is_empty() {
        shown.push_str("no clusters: start one with `cargo xtask up`\n");
    }
    for name in names {
        match Cluster::open(workspace, &name) {
            Ok(cluster) => shown.push_str(&describe(&cluster)),
            Err(error) => {
                let remains = Remains::of(&Cluster::layout_of(workspace, &name)?);
                shown.push_str(&format!(
                    "cluster {name}: half-way dead ({error:#}); {remains} are left\n\
                     remove it with `cargo xtask down --name {name}`\n\n"
                ));
            }
        }
    }
    match io::stdout().write_all(shown.as_bytes()) {
        // Who reads has seen enough: `cargo xtask status | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write the standard output"),
    }
}

fn describe(cluster: &Cluster) -> String {
    let rows: Vec<_> = cluster
        .spec()
        .hosts()
        .into_iter()
        .map(|host| {
            vec![
                host.to_string(),
                address(host).map_or_else(|| "-".to_owned(), |ip| ip.to_string()),
                program(cluster, host),
            ]
        })
        .collect();
    let answered = cluster.kubectl().and_then(|kubectl| {
        let nodes = kubectl.ok("get nodes -o wide --request-timeout=5s")?;
        let pods = kubectl.ok("get pods,services -A -o wide --request-timeout=5s")?;
        Ok(format!("{nodes}\n{pods}"))
    });
    let objects = answered.unwrap_or_else(|error| format!("the API does not answer: {error:#}\n"));
    format!(
        "cluster {}\n{}\n{objects}\n",
        cluster.spec().name,
        table::render(&["HOST", "ADDRESS", "PROGRAM"], &rows),
    )
}

fn program(cluster: &Cluster, host: Host) -> String {
    let runs_one = matches!(host, Host::Control(_) | Host::Node(_));
    match cluster.process(host) {
        Some(process) if process.is_running() => format!("running, pid {}", process.pid),
        Some(process) => format!(
            "ended (was pid {}): see {}",
            process.pid,
            cluster.layout().log(host).display()
        ),
        None if runs_one => "not started".to_owned(),
        None => "-".to_owned(),
    }
}
