//! `cargo xtask status`: the clusters of this machine and their hosts.

use anyhow::Result;
use testbed::Workspace;
use testbed::cluster::{Cluster, Host, Remains, address};

use crate::table;

/// Prints every cluster.
///
/// # Errors
/// The folder of clusters cannot be read.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let names = Cluster::names(workspace)?;
    if names.is_empty() {
        println!("no clusters: start one with `cargo xtask up`");
    }
    for name in names {
        match Cluster::open(workspace, &name) {
            Ok(cluster) => show(&cluster),
            Err(_) if !workspace.clusters().join(&name).is_dir() => println!(
                "cluster {name}: has no files here: it belongs to another work tree, or its files \
                 were deleted;\nin the latter case, remove it with `cargo xtask down --name \
                 {name}`\n"
            ),
            Err(error) => {
                let remains = Remains::of(&Cluster::layout_of(workspace, &name)?);
                println!("cluster {name}: half-way dead ({error:#}); {remains} are left");
                println!("remove it with `cargo xtask down --name {name}`\n");
            }
        }
    }
    Ok(())
}

fn show(cluster: &Cluster) {
    println!("cluster {}", cluster.spec().name);
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
    println!("{}", table::render(&["HOST", "ADDRESS", "PROGRAM"], &rows));
    let shown = cluster.kubectl().and_then(|kubectl| {
        let nodes = kubectl.ok("get nodes -o wide --request-timeout=5s")?;
        let pods = kubectl.ok("get pods,services -A -o wide --request-timeout=5s")?;
        Ok(format!("{nodes}\n{pods}"))
    });
    match shown {
        Ok(text) => println!("{text}"),
        Err(error) => println!("the API does not answer: {error:#}\n"),
    }
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
