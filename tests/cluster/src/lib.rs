//! Tests of whole clusters with unmodified clients.
//!
//! A cluster takes longer to start than most of what is tested on it, so each file in `tests/` is
//! one cluster and a list of named steps. Every step leaves the cluster as it found it, and one
//! that fails does not keep the next ones from running.

mod holder;
mod kept;
mod netctl;
mod running;
mod scenario;
mod upstream;

pub use holder::Holding;
pub use kept::{KeptTraffic, check_lives};
pub use netctl::{check_netctl, netctl, netctl_json};
pub use running::Running;
pub use scenario::{Scenario, Step};
pub use upstream::{LARGE, NameServer};

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use testbed::cluster::{CLIENT, Cluster};
use testbed::traffic::{DatagramsReport, Report};

/// The virtual address of the example.
///
/// # Errors
/// The example is not deployed, or has no address yet.
pub fn hello_vip(cluster: &Cluster) -> Result<String> {
    let service = cluster
        .kubectl()?
        .json("get service hello -n hello -o json")?;
    service["status"]["loadBalancer"]["ingress"][0]["ip"]
        .as_str()
        .map(str::to_owned)
        .context("the service has no virtual address")
}

/// Checks that all requests were answered, by exactly `pods` pods.
///
/// # Errors
/// They were not.
pub fn check_answers(report: &Report, requests: u64, pods: usize) -> Result<()> {
    ensure!(
        report.ok == requests && report.failed == 0,
        "{} of {requests} requests were answered: {:?}",
        report.ok,
        report.errors
    );
    ensure!(
        report.pods().len() == pods,
        "{} pods answered, not {pods}: {:?}",
        report.pods().len(),
        report.answers
    );
    Ok(())
}

/// Checks that every datagram was answered, by exactly `pods` pods that all saw the address `client`.
///
/// # Errors
/// It is not so.
pub fn check_datagrams(report: &DatagramsReport, pods: usize, client: IpAddr) -> Result<()> {
    ensure!(
        report.lost() == 0,
        "{} of {} datagrams were not answered: {report:?}",
        report.lost(),
        report.sent()
    );
    let answered = report.pods();
    ensure!(
        answered.len() == pods,
        "{} pods answered, not {pods}: {answered:?}",
        answered.len()
    );
    for answer in report.answers() {
        ensure!(
            answer.client == client.to_string(),
            "{} on {} saw {}, not {client}",
            answer.pod,
            answer.node,
            answer.client
        );
    }
    Ok(())
}

/// Checks that every pod saw the address `client`.
///
/// # Errors
/// One saw another.
pub fn check_client_seen(report: &Report, client: &str) -> Result<()> {
    for answer in &report.answers {
        ensure!(
            answer.client == client,
            "{} on {} saw {}, not {client}",
            answer.pod,
            answer.node,
            answer.client
        );
    }
    Ok(())
}

/// Checks that every pod saw the address of the client host.
///
/// # Errors
/// One saw another.
pub fn check_clients_own_address(report: &Report) -> Result<()> {
    check_client_seen(report, &CLIENT.to_string())
}

/// Checks that `text` holds every one of `parts`.
///
/// # Errors
/// One is missing; the error holds the text.
pub fn check_contains(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    Ok(())
}
