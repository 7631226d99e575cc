//! What Services ask of the load balancer, with unmodified kubectl: node ports, policies, source
//! ranges, affinity, machines outside the cluster, schedulers that count connections, and the nodes
//! that answer for VIPs.

mod counting;
mod outside;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::{
    Holding, Scenario, Step, check_answers, check_clients_own_address, check_contains, hello_vip,
    netctl, netctl_json,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use testbed::cluster::{CLIENT, Cluster, Host, Spec, address};
use testbed::traffic::{Report, get};
use testbed::{Deadline, Progress};

#[test]
fn services_are_balanced_as_they_ask() {
    Scenario::new(Spec::named("services"), STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "local_policy_keeps_traffic_on_the_node_and_the_health_check_tells_which_have_pods",
        check: local_policy_stays_on_the_node,
    },
    Step {
        name: "source_ranges_let_in_who_is_named_and_nobody_else",
        check: source_ranges_are_kept,
    },
    Step {
        name: "client_keeps_its_pod_under_session_affinity",
        check: affinity_keeps_the_pod,
    },
    Step {
        name: "machine_outside_serves_a_service_without_a_selector_by_its_weights_and_checks",
        check: outside::machine_serves,
    },
    Step {
        name: "new_connections_avoid_the_pod_that_is_busy_with_those_of_another_node",
        check: counting::nodes_count_together,
    },
    Step {
        name: "vip_of_a_node_that_dies_is_answered_by_another",
        check: vip_is_taken_over,
    },
    Step {
        name: "node_port_answers_at_every_node_from_all_pods_with_the_clients_own_address",
        check: node_port_answers_everywhere,
    },
];

const SERVICE: &str = "service hello -n hello";

fn node_port_answers_everywhere(cluster: &mut Cluster) -> Result<()> {
    reset(cluster)?;
    let port = number(&service(cluster)?, "/spec/ports/0/nodePort")?;
    let listed = cluster
        .kubectl()?
        .ok(&format!("get {SERVICE} --no-headers"))?;
    ensure!(listed.contains(&format!("80:{port}/TCP")), "{listed}");
    for node in cluster.spec().node_hosts() {
        let target = address(node).context("a node has an address")?;
        let arguments = format!("{target}:{port} --requests 90");
        let report = cluster.traffic(Host::Client, &arguments)?;
        check_answers(&report, 90, 3).with_context(|| format!("through {node}"))?;
        check_clients_own_address(&report).with_context(|| format!("through {node}"))?;
    }
    Ok(())
}

fn local_policy_stays_on_the_node(cluster: &mut Cluster) -> Result<()> {
    reset(cluster)?;
    let kubectl = cluster.kubectl()?;
    kubectl.ok("scale deployment/hello -n hello --replicas 2")?;
    cluster.wait_published("hello", "hello", &Progress::quiet())?;
    patch(cluster, &json!({"externalTrafficPolicy": "Local"}))?;
    let vip = hello_vip(cluster)?;
    let checked_at = number(&service(cluster)?, "/spec/healthCheckNodePort")?;
    let with_pods = cluster.wait_for(Deadline::seconds(60), "two pods", || {
        Ok(Some(nodes_with_pods(cluster)?).filter(|nodes| nodes.len() == 2))
    })?;
    let router = cluster.netns(Host::Router)?;
    for node in cluster.spec().node_hosts() {
        let has_pod = with_pods.contains(&node.to_string());
        let target = address(node).context("a node has an address")?;
        router.ip(&format!("route replace {vip}/32 via {target}"))?;
        cluster.wait_for(
            Deadline::seconds(30),
            &format!("the policy on {node}"),
            || {
                let arguments = format!("{vip}:80 --requests 10 --timeout 1");
                let report = cluster.traffic(Host::Client, &arguments)?;
                let is_own = report
                    .answers
                    .iter()
                    .all(|answer| answer.node == node.to_string());
                let is_done = if has_pod {
                    report.ok == 10 && is_own
                } else {
                    report.ok == 0
                };
                Ok(is_done.then_some(()))
            },
        )?;
        let expected = if has_pod { 200 } else { 503 };
        cluster.wait_for(
            Deadline::seconds(30),
            &format!("the health check of {node}"),
            || {
                let status = http_status(cluster, SocketAddr::new(target.into(), checked_at))?;
                Ok((status == Some(expected)).then_some(()))
            },
        )?;
    }
    router.ip(&format!("route del {vip}/32"))?;
    reset(cluster)?;
    everybody_answers(cluster)
}

fn source_ranges_are_kept(cluster: &mut Cluster) -> Result<()> {
    reset(cluster)?;
    patch(
        cluster,
        &json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]}),
    )?;
    let vip = hello_vip(cluster)?;
    let arguments = format!("{vip}:80 --requests 6 --timeout 1");
    cluster.wait_for(Deadline::seconds(30), "no answer for strangers", || {
        let report = cluster.traffic(Host::Client, &arguments)?;
        Ok((report.ok == 0).then_some(()))
    })?;
    let drops = netctl_json(cluster, "drop ls")?;
    let is_named = |drop: &Value| {
        drop["reason"] == "SourceNotAllowed"
            && drop["service"] == "hello/hello:http"
            && drop["lastPacket"]
                .as_str()
                .is_some_and(|ends| ends.ends_with(&format!(" > {vip}:80")))
    };
    ensure!(
        drops
            .as_array()
            .is_some_and(|drops| drops.iter().any(is_named)),
        "no drop is the service's: {drops:#}"
    );
    check_contains(
        &netctl(cluster, "drop show SourceNotAllowed --service hello/hello")?,
        &[
            ", for hello/hello:http",
            &format!("source {CLIENT}"),
            &format!("destination {vip}"),
        ],
    )?;
    let ranges = json!(["192.0.2.0/24", format!("{CLIENT}/32")]);
    patch(cluster, &json!({"loadBalancerSourceRanges": ranges}))?;
    everybody_answers(cluster)?;
    reset(cluster)
}

fn affinity_keeps_the_pod(cluster: &mut Cluster) -> Result<()> {
    reset(cluster)?;
    let seconds = json!({"clientIP": {"timeoutSeconds": 600}});
    patch(
        cluster,
        &json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": seconds}),
    )?;
    let vip = hello_vip(cluster)?;
    let arguments = format!("{vip}:80 --requests 100");
    let one = cluster.wait_for(Deadline::seconds(30), "one pod for one client", || {
        let report = cluster.traffic(Host::Client, &arguments)?;
        Ok((report.ok == 100 && report.pods().len() == 1).then_some(report))
    })?;
    let again = cluster.traffic(Host::Client, &arguments)?;
    check_answers(&again, 100, 1)?;
    ensure!(
        names(&again) == names(&one),
        "{:?} answered first, then {:?}",
        names(&one),
        names(&again)
    );
    patch(
        cluster,
        &json!({"sessionAffinity": "None", "sessionAffinityConfig": null}),
    )?;
    everybody_answers(cluster)
}

/// Waits until all nodes pick among so many backends.
fn in_all_tables(cluster: &Cluster, vip: &str, backends: u64) -> Result<()> {
    cluster.wait_for(Deadline::seconds(30), "all nodes' tables", || {
        Ok(cluster
            .nodes_without(vip, backends)?
            .is_empty()
            .then_some(()))
    })
}

fn vip_is_taken_over(cluster: &mut Cluster) -> Result<()> {
    reset(cluster)?;
    let vip = hello_vip(cluster)?;
    let router = cluster.netns(Host::Router)?;
    // The router looks for the VIP on its own segment, as for any machine there.
    router.ip(&format!("route add {vip}/32 dev eth0"))?;
    let member = Host::Control(1);
    let first = Holding::of(cluster, member, &vip)?;
    let answers = |cluster: &Cluster| {
        let arguments = format!("{vip}:80 --requests 10 --timeout 1");
        cluster.traffic(Host::Client, &arguments)
    };
    cluster.wait_for(Deadline::seconds(30), "answers through the holder", || {
        Ok((answers(cluster)?.ok == 10).then_some(()))
    })?;

    let switch = cluster.netns(Host::Switch)?;
    switch.ip(&format!("link set {} down", first.node))?;
    let died = Timestamp::now();
    let outcome = (|| {
        first.check_taken_over(cluster, member, &vip, died)?;
        cluster.wait_for(Deadline::seconds(30), "answers through the heir", || {
            Ok((answers(cluster)?.ok > 0).then_some(()))
        })?;
        let answered = Timestamp::now().duration_since(died).unsigned_abs();
        println!(
            "a client was answered after {:.1} s",
            answered.as_secs_f32()
        );
        let events = cluster
            .kubectl()?
            .ok("get events -n hello --field-selector reason=AddressMoved -o name")?;
        ensure!(!events.is_empty(), "no event tells of the move");
        Ok(())
    })();
    switch.ip(&format!("link set {} up", first.node))?;
    router.ip(&format!("route del {vip}/32 dev eth0"))?;
    outcome?;
    cluster.wait_for_nodes(&Progress::quiet())?;
    everybody_answers(cluster)
}

fn service(cluster: &Cluster) -> Result<Value> {
    cluster.kubectl()?.json(&format!("get {SERVICE} -o json"))
}

fn number(service: &Value, pointer: &str) -> Result<u16> {
    let number = service.pointer(pointer).and_then(Value::as_u64);
    number
        .and_then(|number| u16::try_from(number).ok())
        .with_context(|| format!("{pointer} is missing in {service}"))
}

/// The example as it is in its manifest, whatever a step before left of it.
fn reset(cluster: &Cluster) -> Result<()> {
    cluster.apply_hello(&Progress::quiet())?;
    patch(
        cluster,
        &json!({
            "externalTrafficPolicy": "Cluster", "loadBalancerSourceRanges": null,
            "sessionAffinity": "None", "sessionAffinityConfig": null,
        }),
    )
}

/// Changes the example's spec.
fn patch(cluster: &Cluster, spec: &Value) -> Result<()> {
    let patch = json!({ "spec": spec });
    let patch = format!("patch {SERVICE} --type merge -p {patch}");
    cluster.kubectl()?.ok(&patch).map(drop)
}

/// Waits until the example answers as it did at first.
fn everybody_answers(cluster: &Cluster) -> Result<()> {
    let arguments = format!("{}:80 --requests 90 --timeout 1", hello_vip(cluster)?);
    cluster.wait_for(Deadline::seconds(90), "answers from all pods", || {
        let report = cluster.traffic(Host::Client, &arguments)?;
        Ok((report.ok == 90 && report.pods().len() == 3).then_some(()))
    })
}

fn nodes_with_pods(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let pods = cluster
        .kubectl()?
        .json("get pods -n hello -l app=hello -o json")?;
    let items = pods["items"].as_array().context("a list has items")?;
    Ok(items
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .map(str::to_owned)
        .collect())
}

fn names(report: &Report) -> BTreeSet<String> {
    let answers = report.answers.iter();
    answers.map(|answer| answer.pod.clone()).collect()
}

/// The status a client gets for `GET /healthz`, `None` while nobody answers.
fn http_status(cluster: &Cluster, target: SocketAddr) -> Result<Option<u16>> {
    let client = cluster.netns(Host::Client)?;
    let asked = client.run(|| get(target, "/healthz", Duration::from_secs(1)))?;
    Ok(asked.ok().map(|answer| answer.status))
}
