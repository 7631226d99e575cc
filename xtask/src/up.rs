//! `cargo xtask up`: from sources to answers.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::Args;
use testbed::cluster::{Cluster, DEFAULT_NAME, Host, Published, Remains, Spec, client_of};
use testbed::traffic::Report;
use testbed::{Progress, Workspace};

use crate::{build, setup, table};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The cluster's name; several run side by side.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// How many nodes run pods.
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// How many hosts run the control plane: 1, 3 or 5.
    #[arg(long, default_value_t = 1)]
    controls: u8,
    /// How many requests the client sends to the example.
    #[arg(long, default_value_t = 100)]
    requests: u64,
}

/// Builds, starts a cluster, deploys the example with kubectl, sends it requests and says who
/// answered.
///
/// # Errors
/// A step failed. What was started stays, for looking at.
pub(crate) fn run(options: &Options, workspace: &Workspace, progress: &Progress) -> Result<()> {
    let spec = Spec::named(&options.name)
        .nodes(options.nodes)
        .controls(options.controls);
    spec.validate()?;
    let name = &options.name;
    let remains = Remains::of(&Cluster::layout_of(workspace, name)?);
    ensure!(
        remains.is_empty(),
        "there is a cluster {name:?} already ({remains}): look at it with `cargo xtask status`, \
         remove it with `cargo xtask down --name {name}`, or choose another `--name`"
    );
    setup::ensure(workspace, progress)?;
    build::everything(workspace, progress)?;
    bring_up(spec, options.requests, workspace, progress).with_context(|| {
        format!(
            "cluster {name} did not come up; the programs' logs are {folder}/*/log, and `cargo \
             xtask down --name {name}` removes what is there",
            folder = workspace.clusters().join(name).display()
        )
    })
}

fn bring_up(spec: Spec, requests: u64, workspace: &Workspace, progress: &Progress) -> Result<()> {
    let cluster = Cluster::up(spec, workspace, progress)?;
    let published = cluster.apply_hello(progress)?;
    for vip in &published.vips {
        let target = SocketAddr::from((*vip, 80));
        let client = client_of(*vip);
        progress.step(format!(
            "{requests} requests from the client ({client}) to http://{target}/"
        ));
        let report = cluster.traffic(Host::Client, &format!("{target} --requests {requests}"))?;
        println!("\n{}", who_answered(&report));
        ensure!(
            report.failed == 0,
            "{} of {requests} requests failed: {:?}",
            report.failed,
            report.errors
        );
        let is_foreign = |seen: &str| seen != client.to_string();
        ensure!(
            !report
                .answers
                .iter()
                .any(|answer| is_foreign(&answer.client)),
            "a pod saw another address than the client's own, {client}"
        );
        progress.step(format!("up: {} of {requests} answered at {vip}", report.ok));
    }
    println!("\n{}", what_next(&cluster, &published));
    Ok(())
}

fn who_answered(report: &Report) -> String {
    let rows: Vec<_> = report
        .answers
        .iter()
        .map(|answer| {
            vec![
                answer.pod.clone(),
                answer.node.clone(),
                answer.client.clone(),
                answer.count.to_string(),
            ]
        })
        .collect();
    let total = report.ok + report.failed;
    format!(
        "{}{} of {total} answered by {} pods, {:.1} ms median, {:.1} ms at most",
        table::render(&["POD", "NODE", "CLIENT IT SAW", "ANSWERS"], &rows),
        report.ok,
        report.pods().len(),
        report.latency_us_p50 as f64 / 1000.0,
        report.latency_us_max as f64 / 1000.0,
    )
}

fn what_next(cluster: &Cluster, published: &Published) -> String {
    let kubeconfig = cluster.layout().kubeconfig();
    let workspace = cluster.workspace();
    let relative = |path: &std::path::Path| {
        let shown = path.strip_prefix(workspace.root()).unwrap_or(path);
        shown.display().to_string()
    };
    let name = match cluster.spec().name.as_str() {
        DEFAULT_NAME => String::new(),
        name => format!(" --name {name}"),
    };
    format!(
        "The cluster is running. Try:\n  \
         export KUBECONFIG=$PWD/{kubeconfig} PATH=$PWD/{tools}:$PWD/{binaries}:$PATH\n  \
         kubectl get pods,services -n hello -o wide\n  \
         kubectl scale deployment/hello -n hello --replicas 5\n  \
         netctl status\n  \
         netctl service ls\n  \
         cargo xtask exec{name} client -- curl -s http://{vip}/\n  \
         cargo xtask status\n  \
         cargo xtask down{name}",
        kubeconfig = relative(&kubeconfig),
        tools = relative(&workspace.tools()),
        binaries = relative(workspace.binaries()),
        vip = published.vip,
    )
}
