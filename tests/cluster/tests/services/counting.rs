//! A scheduler that counts connections, which nodes do together.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use cluster_tests::{Running, check_lives};
use serde_json::{Value, json};
use testbed::cluster::{Cluster, Host, address};
use testbed::traffic::KeptReport;
use testbed::{Deadline, Progress};

use crate::{in_all_tables, number, reset};

/// The connections that one pod has through the first node.
const HELD: u32 = 60;
/// As many as go through the second node then: too few for the other two pods to become as busy.
const NEW: u32 = 40;

pub(crate) fn nodes_count_together(cluster: &mut Cluster) -> Result<()> {
    reset(cluster)?;
    let scale = |replicas: u64| {
        let scale = format!("scale deployment/hello -n hello --replicas {replicas}");
        cluster.kubectl()?.ok(&scale)
    };
    scale(1)?;
    let service = publish(cluster)?;
    let cluster_ip = service["spec"]["clusterIP"]
        .as_str()
        .context("a Service has a ClusterIP")?;
    in_all_tables(cluster, cluster_ip, 1)?;
    let port = number(&service, "/spec/ports/0/nodePort")?;
    let keep = |node: Host, connections: u32| {
        let target = address(node).context("a node has an address")?;
        let target = SocketAddr::new(target.into(), port);
        let arguments = format!("kept {target} --connections {connections} --interval 200");
        Running::<KeptReport>::start(cluster, &arguments)
    };
    let held = keep(Host::Node(1), HELD)?;
    scale(3)?;
    in_all_tables(cluster, cluster_ip, 3)?;
    let busy = cluster.wait_for(Deadline::seconds(30), "the word of the first node", || {
        told_as_busy(cluster, Host::Node(2))
    })?;
    let new = keep(Host::Node(2), NEW)?.finish()?;
    let held = held.finish()?;

    check_lives(&held, |_| true)?;
    ensure!(
        held.connections.iter().all(|one| one.pod == busy),
        "not all are at {busy}: {held:#?}"
    );
    check_lives(&new, |_| true)?;
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for connection in &new.connections {
        *counts.entry(&connection.pod).or_default() += 1;
    }
    println!("{busy} has {HELD} connections through one node; through another: {counts:?}");
    ensure!(
        counts.len() == 2 && !counts.contains_key(busy.as_str()),
        "{busy} has {HELD} connections, and the new ones are at {counts:?}"
    );
    let kubectl = cluster.kubectl()?;
    kubectl.ok("delete service/counted -n hello")?;
    cluster.wait_published("hello", "hello", &Progress::quiet())?;
    Ok(())
}

/// Makes a Service of its own for the example's pods, of which nobody has counted anything yet.
fn publish(cluster: &Cluster) -> Result<Value> {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "counted", "namespace": "hello",
            "annotations": {"net.fairlead.io/scheduler": "lc"},
        },
        "spec": {
            "type": "NodePort", "selector": {"app": "hello"},
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    });
    let kubectl = cluster.kubectl()?;
    let applied = kubectl.run_with("apply -f -", &manifest.to_string())?;
    ensure!(applied.success, "{}", applied.stderr);
    kubectl.json("get service counted -n hello -o json")
}

/// The pod that has all held connections on other nodes, as far as a node was told.
fn told_as_busy(cluster: &Cluster, node: Host) -> Result<Option<String>> {
    let backends = cluster.node_view(node, "backends?service=hello/counted")?;
    let backends = backends.as_array().context("an array of backends")?;
    let busy = backends
        .iter()
        .find(|backend| backend["connectionsElsewhere"] == HELD);
    Ok(busy.and_then(|backend| backend["name"].as_str().map(str::to_owned)))
}
