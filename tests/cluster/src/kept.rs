//! Connections from the client to the example that are kept, and what became of them.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::cluster::Cluster;
use testbed::traffic::{End, KeptConnection, KeptReport};

use crate::{Running, hello_vip};

/// Enough for each pod to hold some, whatever their ports are.
const CONNECTIONS: u32 = 64;

/// Connections from the client to the example, kept by a process there.
pub struct KeptTraffic(Running<KeptReport>);

impl KeptTraffic {
    /// Returns when all are open.
    ///
    /// # Errors
    /// The client cannot be started, or says something else.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let vip = hello_vip(cluster)?;
        let arguments = format!("kept {vip}:80 --connections {CONNECTIONS}");
        Running::start(cluster, &arguments).map(Self)
    }

    /// Ends the connections and prints what became of them.
    ///
    /// # Errors
    /// The client has ended, or its report cannot be understood.
    pub fn finish(self, what: &str) -> Result<KeptReport> {
        let report = self.0.finish()?;
        let connections = report.connections.iter();
        let count = |end: &End| {
            let ends = connections.clone().filter_map(|one| one.end.as_ref());
            ends.filter(|found| *found == end).count()
        };
        let longest = connections.clone().map(|one| one.longest_ms).max();
        println!(
            "{what}: {} connections, {} answers, {} reset, {} closed, {} without an answer; \
             longest {:?}",
            connections.len(),
            connections.clone().map(|one| one.answers).sum::<u64>(),
            count(&End::Reset),
            count(&End::Closed),
            count(&End::Stalled),
            Duration::from_millis(longest.unwrap_or_default())
        );
        Ok(report)
    }
}

/// Checks that no connection ended that `should_live`.
///
/// # Errors
/// Some did; the error tells which.
pub fn check_lives(
    report: &KeptReport,
    should_live: impl Fn(&KeptConnection) -> bool,
) -> Result<()> {
    let ended: Vec<&KeptConnection> = report
        .connections
        .iter()
        .filter(|connection| connection.end.is_some() && should_live(connection))
        .collect();
    ensure!(
        ended.is_empty(),
        "{} of {} connections ended: {ended:#?}",
        ended.len(),
        report.connections.len()
    );
    Ok(())
}
