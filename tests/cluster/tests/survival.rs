//! Connections that are kept while every agent is killed and restarted: how many were reset, closed or
//! left without an answer.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::{Scenario, Step, hello_vip};
use testbed::Progress;
use testbed::cluster::{Cluster, Host, Spec};
use testbed::traffic::{End, KeptReport};

/// Enough for each pod to hold some, whatever their ports are.
const CONNECTIONS: u32 = 64;

#[test]
fn connections_survive_what_happens_to_agents() {
    Scenario::new(Spec::named("survival"), STEPS).run();
}

const STEPS: &[Step] = &[Step {
    name: "agents_killed_and_restarted_one_after_the_other_end_no_connection",
    check: agents_are_restarted,
}];

fn agents_are_restarted(cluster: &mut Cluster) -> Result<()> {
    cluster.apply_hello(&Progress::quiet())?;
    let kept = KeptTraffic::start(cluster)?;
    let nodes: Vec<Host> = cluster.spec().node_hosts().collect();
    for node in nodes {
        cluster.kill(node)?;
        cluster.restart(node)?;
        cluster.wait_for_nodes(&Progress::quiet())?;
    }
    let report = kept.finish("agents restarted")?;
    check_all_live(&report)
}

/// Checks that no connection ended.
fn check_all_live(report: &KeptReport) -> Result<()> {
    let connections = report.connections.iter();
    let ended: Vec<_> = connections.filter(|one| one.end.is_some()).collect();
    ensure!(
        ended.is_empty(),
        "{} of {} connections ended: {ended:#?}",
        ended.len(),
        report.connections.len()
    );
    Ok(())
}

/// Connections from the client to the example, kept by a process there.
struct KeptTraffic(Child);

impl KeptTraffic {
    /// Returns when all are open.
    fn start(cluster: &Cluster) -> Result<Self> {
        let vip = hello_vip(cluster)?;
        let arguments = format!("kept {vip}:80 --connections {CONNECTIONS}");
        let mut process = cluster
            .launch(Host::Client, cluster.workspace().binary("traffic")?)?
            .arguments(arguments.split(' '))
            .command()?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the client")?;
        let notices = process.stderr.take().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(notices)
            .read_line(&mut line)
            .context("wait for the connections")?;
        ensure!(line.trim() == "open", "the client said {line:?}");
        Ok(Self(process))
    }

    /// Ends the connections and prints what became of them.
    fn finish(mut self, what: &str) -> Result<KeptReport> {
        drop(self.0.stdin.take());
        let done = self.0.wait_with_output().context("wait for the client")?;
        let report: KeptReport =
            serde_json::from_slice(&done.stdout).context("understand the client's report")?;
        let count = |end: &End| {
            let ends = report.connections.iter().filter_map(|one| one.end.as_ref());
            ends.filter(|found| *found == end).count()
        };
        let longest = report.connections.iter().map(|one| one.longest_ms).max();
        println!(
            "{what}: {} connections, {} answers, {} reset, {} closed, {} without an answer; \
             longest {:?}",
            report.connections.len(),
            report
                .connections
                .iter()
                .map(|one| one.answers)
                .sum::<u64>(),
            count(&End::Reset),
            count(&End::Closed),
            count(&End::Stalled),
            Duration::from_millis(longest.unwrap_or_default())
        );
        Ok(report)
    }
}
