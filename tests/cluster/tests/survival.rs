//! Connections that are kept through everything that happens to agents, backends and nodes: how many
//! were reset, closed or left without an answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster_tests::{KeptTraffic, Scenario, Step, check_lives, hello_vip};
use serde_json::json;
use testbed::cluster::{Cluster, Host, Spec, VIP_POOL, address};
use testbed::traffic::End;
use testbed::{Deadline, Progress};

#[test]
fn connections_survive_what_happens_to_agents_backends_and_nodes() {
    Scenario::new(Spec::named("survival"), STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "agents_killed_and_restarted_one_after_the_other_end_no_connection",
        check: agents_are_restarted,
    },
    Step {
        name: "node_that_dies_ends_its_own_pods_connections_only",
        check: node_dies,
    },
    Step {
        name: "node_that_dies_just_after_backends_changed_ends_its_own_pods_connections_only",
        check: node_dies_after_a_change,
    },
    Step {
        name: "backends_added_end_no_connection_and_backends_removed_end_their_own_only",
        check: backends_come_and_go,
    },
    Step {
        name: "backend_of_weight_0_keeps_its_connections_and_gets_no_new_ones",
        check: backend_is_taken_out,
    },
    Step {
        name: "pod_that_leaves_keeps_its_connections_until_its_time_is_over_and_then_resets_them",
        check: pod_leaves,
    },
];

fn agents_are_restarted(cluster: &mut Cluster) -> Result<()> {
    cluster.apply_hello(&Progress::quiet())?;
    let kept = KeptTraffic::start(cluster)?;
    let nodes: Vec<Host> = cluster.spec().node_hosts().collect();
    for node in nodes {
        cluster.kill(node)?;
        cluster.restart(node)?;
        let what = format!("a session of {node}");
        cluster.wait_for(Deadline::seconds(60), &what, || {
            Ok(cluster.node_view(node, "status").ok())
        })?;
    }
    let report = kept.finish("agents restarted")?;
    check_lives(&report, |_| true)?;
    wait_until_heard(cluster)
}

fn backends_come_and_go(cluster: &mut Cluster) -> Result<()> {
    let kept = KeptTraffic::start(cluster)?;
    scale(cluster, 6)?;
    let report = kept.finish("3 backends became 6")?;
    check_lives(&report, |_| true)?;

    let kept = KeptTraffic::start(cluster)?;
    scale(cluster, 3)?;
    let report = kept.finish("6 backends became 3")?;
    let left = cluster.pods_of("hello", "app=hello")?;
    check_lives(&report, |connection| left.contains(&connection.pod))?;
    // A pod that leaves ends its connections itself, in an orderly way.
    let gone = report
        .connections
        .iter()
        .filter(|one| !left.contains(&one.pod));
    for connection in gone {
        ensure!(
            matches!(connection.end, Some(End::Closed | End::Reset)),
            "a removed pod's connection was left without an answer: {connection:?}"
        );
    }
    Ok(())
}

fn node_dies(cluster: &mut Cluster) -> Result<()> {
    let kept = KeptTraffic::start(cluster)?;
    let revived = take_away(cluster, Host::Node(3))?;
    let settled = settle(cluster);
    let report = kept.finish("a node died")?;
    revived(cluster)?;
    settled?;
    check_lives(&report, |connection| connection.node != "node-3")
}

fn node_dies_after_a_change(cluster: &mut Cluster) -> Result<()> {
    let kept = KeptTraffic::start(cluster)?;
    scale(cluster, 5)?;
    let revived = take_away(cluster, Host::Node(3))?;
    let settled = settle(cluster);
    let report = kept.finish("a node died after 3 backends became 5")?;
    revived(cluster)?;
    settled?;
    let outcome = check_lives(&report, |connection| connection.node != "node-3");
    scale(cluster, 3)?;
    outcome
}

fn backend_is_taken_out(cluster: &mut Cluster) -> Result<()> {
    let pods = cluster.pods_of("hello", "app=hello")?;
    let pod = pods.first().context("the example has pods")?;
    let kubectl = cluster.kubectl()?;
    let ip = kubectl.ok(&format!(
        "get pod {pod} -n hello -o jsonpath={{.status.podIP}}"
    ))?;
    let kept = KeptTraffic::start(cluster)?;
    kubectl.ok(&format!(
        "annotate service hello -n hello net.fairlead.io/weights={ip}=0"
    ))?;
    wait_for_backends(cluster, 2)?;
    check_gets_no_new_connection(cluster, pod)?;
    let report = kept.finish("a backend was given weight 0")?;
    kubectl.ok("annotate service hello -n hello net.fairlead.io/weights-")?;
    wait_for_backends(cluster, 3)?;
    ensure!(
        report.connections.iter().any(|one| one.pod == *pod),
        "{pod} had no connection"
    );
    check_lives(&report, |_| true)
}

/// Stays the last step: the pods it leaves take their time to end.
fn pod_leaves(cluster: &mut Cluster) -> Result<()> {
    const DRAIN: Duration = Duration::from_secs(8);
    let kubectl = cluster.kubectl()?;
    kubectl.ok(&format!(
        "annotate service hello -n hello net.fairlead.io/drain={}s",
        DRAIN.as_secs()
    ))?;
    // A server that goes on answering for longer than the Service allows.
    let spec = "/spec/template/spec";
    let patch = json!([
        {"op": "add", "path": format!("{spec}/terminationGracePeriodSeconds"), "value": 60},
        {
            "op": "add", "path": format!("{spec}/containers/0/lifecycle"),
            "value": {"preStop": {"sleep": {"seconds": 60}}},
        },
    ]);
    kubectl.ok(&format!(
        "patch deployment hello -n hello --type json -p {patch}"
    ))?;
    cluster.wait_published("hello", "hello", &Progress::quiet())?;

    let pods = cluster.pods_of("hello", "app=hello")?;
    let kept = KeptTraffic::start(cluster)?;
    let begun = Instant::now();
    let pod = pods.first().context("the example has pods")?;
    let asked = begun.elapsed();
    kubectl.ok(&format!("delete pod {pod} -n hello --wait=false"))?;
    // The one that takes its place is there, and so nothing new is for it.
    cluster.wait_published("hello", "hello", &Progress::quiet())?;
    check_gets_no_new_connection(cluster, pod)?;
    cluster.wait_for(Deadline::seconds(30), "the end of its time", || {
        let mut nodes = cluster.spec().node_hosts();
        let is_over = nodes.all(|node| is_drained(cluster, node, pod).unwrap_or(false));
        Ok(is_over.then_some(()))
    })?;
    let report = kept.finish("a pod left, and goes on answering")?;
    check_lives(&report, |connection| connection.pod != *pod)?;
    let its_own = || report.connections.iter().filter(|one| one.pod == *pod);
    ensure!(its_own().count() > 0, "{pod} had no connection");
    for connection in its_own() {
        let ended = Duration::from_millis(connection.ended_ms);
        ensure!(
            connection.end == Some(End::Reset) && ended >= asked + DRAIN,
            "not reset when its time was over, {:?} after the start: {connection:?}",
            asked + DRAIN
        );
    }
    Ok(())
}

/// Whether a node has let go of a backend whose time to drain was over.
fn is_drained(cluster: &Cluster, node: Host, pod: &str) -> Result<bool> {
    let services = cluster.node_view(node, "services")?;
    let services = services.as_array().into_iter().flatten();
    let mut backends =
        services.flat_map(|service| service["backends"].as_array().into_iter().flatten());
    Ok(backends.any(|backend| backend["name"] == pod && backend["state"] == "drained"))
}

/// Waits until new connections are answered again, every one of them. Kept ones send and are answered
/// meanwhile. Those that a dead node's pods would have to answer fail, and are not what is tested.
fn settle(cluster: &Cluster) -> Result<()> {
    let vip = hello_vip(cluster)?;
    let load = format!("{vip}:80 --requests 90 --per-second 90 --clients 30 --timeout 1");
    let begun = Instant::now();
    // Much less than it takes until the dead node's Lease has run out.
    let deadline = Deadline::seconds(15);
    cluster.wait_for(deadline, "answers to all new connections", || {
        let report = cluster.traffic(Host::Client, &load)?;
        Ok((report.failed == 0).then_some(()))
    })?;
    println!(
        "new connections are all answered {:?} later",
        begun.elapsed()
    );
    Ok(())
}

/// Checks that requests, each on a connection of its own, are answered by others.
fn check_gets_no_new_connection(cluster: &Cluster, pod: &str) -> Result<()> {
    let vip = hello_vip(cluster)?;
    let report = cluster.traffic(Host::Client, &format!("{vip}:80 --requests 300"))?;
    ensure!(report.failed == 0, "some failed: {:?}", report.errors);
    ensure!(
        !report.pods().contains(&pod),
        "{pod} answered as well: {:?}",
        report.answers
    );
    Ok(())
}

type Revive = Box<dyn FnOnce(&Cluster) -> Result<()>>;

/// Pulls a node's cable, and takes it out of the router's routes, as a router does that hears no more
/// from it. What is returned puts both back.
fn take_away(cluster: &Cluster, node: Host) -> Result<Revive> {
    let nodes: Vec<Host> = cluster.spec().node_hosts().collect();
    let routes = |left: &[Host]| {
        let hops = left.iter().filter_map(|host| address(*host));
        let hops: String = hops.map(|ip| format!(" nexthop via {ip}")).collect();
        format!("route replace {VIP_POOL}{hops}")
    };
    let left: Vec<Host> = nodes.iter().copied().filter(|host| *host != node).collect();
    let (without, with) = (routes(&left), routes(&nodes));
    cluster
        .netns(Host::Switch)?
        .ip(&format!("link set {node} down"))?;
    cluster.netns(Host::Router)?.ip(&without)?;
    Ok(Box::new(move |cluster| {
        cluster
            .netns(Host::Switch)?
            .ip(&format!("link set {node} up"))?;
        wait_until_heard(cluster)?;
        cluster.netns(Host::Router)?.ip(&with)?;
        cluster.wait_for_nodes(&Progress::quiet())
    }))
}

/// Waits until no node is silent any more.
fn wait_until_heard(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    cluster.wait_for(Deadline::seconds(60), "all nodes to be heard of", || {
        let nodes = kubectl.ok("get nodes -o jsonpath={.items[*].metadata.annotations}")?;
        Ok((!nodes.contains("silent-since")).then_some(()))
    })
}

fn scale(cluster: &Cluster, replicas: u64) -> Result<()> {
    cluster.kubectl()?.ok(&format!(
        "scale deployment/hello -n hello --replicas {replicas}"
    ))?;
    wait_for_backends(cluster, replicas)
}

/// Waits until so many backends get new connections by all nodes' maps.
fn wait_for_backends(cluster: &Cluster, count: u64) -> Result<()> {
    let vip = hello_vip(cluster)?;
    cluster.wait_for(Deadline::seconds(60), "all nodes' maps", || {
        let waiting = cluster.nodes_without(&vip, count)?;
        Ok(waiting.is_empty().then_some(()))
    })
}
