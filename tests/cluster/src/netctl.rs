//! netctl, as an administrator runs it.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::cluster::{CLIENT, Cluster, Host};

use crate::{check_contains, hello_vip};

/// Runs netctl with these arguments, and returns what it printed.
///
/// # Errors
/// It failed; the error holds what it said.
pub fn netctl(cluster: &Cluster, arguments: &str) -> Result<String> {
    let output = Command::new(cluster.workspace().binary("netctl")?)
        .arg("--kubeconfig")
        .arg(cluster.layout().kubeconfig())
        .args(arguments.split_whitespace())
        .output()
        .context("run netctl")?;
    ensure!(
        output.status.success(),
        "netctl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs netctl with these arguments, and returns what it printed as JSON.
///
/// # Errors
/// It failed, or printed something else.
pub fn netctl_json(cluster: &Cluster, arguments: &str) -> Result<Value> {
    let text = netctl(cluster, &format!("{arguments} -o json"))?;
    serde_json::from_str(&text).with_context(|| format!("netctl {arguments} printed {text:?}"))
}

/// Checks that the example's traffic is seen, that all nodes predict the same way for a packet, and
/// that predicting moves no counter.
///
/// # Errors
/// One of these is not so.
pub fn check_netctl(cluster: &mut Cluster) -> Result<()> {
    let vip = hello_vip(cluster)?;
    let lvs = netctl(cluster, "lvs --service hello/hello")?;
    check_contains(&lvs, &[&format!("TCP  {vip}:80 maglev"), "  -> "])?;
    ensure!(
        lvs.matches("\n  -> ").count() > 3,
        "not three backends:\n{lvs}"
    );
    let stats = netctl(cluster, "lvs --service hello/hello --stats --rate")?;
    check_contains(&stats, &["Conns   InPkts", "CPS    InPPS"])?;
    let shown = netctl(cluster, "service show hello/hello")?;
    check_contains(&shown, &["maglev", " stable, ", "so far", "WEIGHT"])?;

    let seen = packets(cluster)?;
    ensure!(seen > 0, "no packet of the example was counted");
    let packet = format!("--from 192.0.2.7:5555 --to {vip}:80 --syn");
    let text = netctl(cluster, &format!("trace {packet} --node {}", Host::Node(1)))?;
    check_contains(
        &text,
        &[
            &format!("{vip}:80 is a VIP's"),
            "as attached",
            "verdict",
            "destinationPort 80",
        ],
    )?;
    let traces = netctl_json(cluster, &format!("trace {packet}"))?;
    let traces = traces.as_array().context("an array of traces")?;
    ensure!(traces.len() == 3, "{} nodes answered", traces.len());
    let picks: BTreeSet<String> = traces
        .iter()
        .map(|trace| trace["slot"]["current"]["name"].to_string())
        .collect();
    ensure!(
        picks.len() == 1,
        "nodes do not agree on a backend: {picks:?}"
    );
    for trace in traces {
        ensure!(trace["verdict"] != "drop", "dropped: {trace:#}");
    }
    ensure!(packets(cluster)? == seen, "traces were counted as packets");

    // A port of the VIP that nobody answers at.
    let closed = format!("--from 192.0.2.7:5555 --to {vip}:81 --syn");
    let traces = netctl_json(cluster, &format!("trace {closed}"))?;
    ensure!(
        traces[0]["dropReason"] == "UnknownPort",
        "not dropped: {:#}",
        traces[0]
    );
    let closed = cluster.traffic(Host::Client, &format!("{vip}:81 --requests 1"))?;
    ensure!(closed.ok == 0, "somebody answers at port 81");
    check_contains(&netctl(cluster, "drop ls")?, &["UnknownPort"])?;
    let sample = netctl(cluster, "drop show UnknownPort")?;
    check_contains(
        &sample,
        &[
            &format!("source {CLIENT}"),
            &format!("destination {vip}"),
            "destinationPort 81",
            "s ago",
        ],
    )
}

/// Packets of the example that were counted so far, on all nodes.
fn packets(cluster: &Cluster) -> Result<u64> {
    let services = netctl_json(cluster, "service ls")?;
    let services = services.as_array().context("an array of services")?;
    let hello = |service: &&Value| {
        let name = service["name"].as_str();
        name.is_some_and(|name| name.starts_with("hello/hello"))
    };
    let counted = services.iter().filter(hello);
    Ok(counted
        .filter_map(|service| service["packets"].as_u64())
        .sum())
}
