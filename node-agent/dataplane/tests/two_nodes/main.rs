//! Two nodes with real dataplanes on one segment, a client beside them, and TCP through it all, over
//! IPv4 and IPv6.

mod family;
mod node;
mod segment;
mod state;
mod traffic;

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairlead_dataplane::{Dataplane, object};
use fairlead_proto::node::BackendState;
use serde_json::json;
use testbed::{NetNs, NetNsHandle, skip_without_programs};

use crate::family::{Family, V4, V6};
use crate::node::Node;
use crate::segment::Segment;
use crate::state::state;
use crate::traffic::{Kept, ask, echo, echo_datagrams, exchange, serve};

/// The number of the client's host.
const CLIENT: u8 = 10;

/// True, after printing why, when programs cannot be loaded. In CI that is a failure.
fn skip() -> bool {
    skip_without_programs(object::embedded().is_ok())
}

#[test]
fn connections_stay_with_their_pods_while_backends_drain_and_come_back() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let nodes = [1, 2].map(|number| Node::new(&segment, number, V4));
    let client = segment.host(CLIENT);
    for (number, node) in (1..).zip(&nodes) {
        node.bring_up(number);
        echo(&NetNsHandle::open(&node.pod).unwrap());
    }
    let router = V4.host(101);
    client
        .ip(&format!("route add 198.18.100.0/24 via {router}"))
        .unwrap();
    let pods = [1, 2].map(|node| V4.pod(node));
    let mut kept: Vec<Kept> = (0..20).map(|_| Kept::open(&client, V4.vip())).collect();
    // What the two backends become, and who gets new connections then.
    let (active, draining) = (BackendState::Active, BackendState::Draining);
    let steps: [([BackendState; 2], &[IpAddr]); 4] = [
        ([draining, active], &pods[1..]),
        ([active, active], &pods),
        ([draining, draining], &[]),
        ([active, active], &pods),
    ];
    for (generation, (backends, takers)) in (2..).zip(steps) {
        let mut state = state(V4);
        for (backend, wanted) in state.services[0].backends.iter_mut().zip(backends) {
            backend.state = wanted.into();
        }
        for node in &nodes {
            node.apply(&state, generation);
            // Also while one node knows of the change and the other does not.
            for (number, one) in kept.iter_mut().enumerate() {
                let answered = one.ask();
                assert_eq!(
                    answered.as_ref().ok(),
                    Some(&one.pod),
                    "connection {number} in {generation}: {answered:?}; drops {:?}",
                    nodes.each_ref().map(Node::drops)
                );
            }
        }
        let count = if takers.is_empty() { 0 } else { 20 };
        for _ in 0..count {
            let new = Kept::open(&client, V4.vip());
            assert!(takers.contains(&new.pod), "{} in {generation}", new.pod);
            kept.push(new);
        }
    }
    for pod in pods {
        assert!(
            kept.iter().any(|one| one.pod == pod),
            "nobody was with {pod}"
        );
    }
}

/// Two nodes that reach each other over `underlay`, and a client.
fn cluster(segment: &Segment, underlay: Family) -> ([Node; 2], NetNs) {
    let nodes = [1, 2].map(|number| Node::new(segment, number, underlay));
    let client = segment.host(CLIENT);
    // Agents come and go one after the other; what they leave in the kernel does the rest.
    for (number, node) in (1..).zip(&nodes) {
        node.bring_up(number);
        node.serve();
    }
    nodes[0].until_passed_on(true);
    for (family, vips) in [(V4, "198.18.100.0/24"), (V6, "2001:db8:100::/64")] {
        let router = family.host(101);
        client
            .ip(&format!("route add {vips} via {router}"))
            .unwrap();
    }
    (nodes, client)
}

/// Whether the client reaches both pods by each VIP, and is seen as itself.
fn check_vips(nodes: &[Node; 2], client: &NetNs) {
    for family in Family::BOTH {
        let mut answered = BTreeSet::new();
        for attempt in 0..40 {
            let (pod, seen) = ask(client, family.vip(), 80).unwrap_or_else(|error| {
                let drops = nodes.each_ref().map(Node::drops);
                panic!(
                    "{family:?} connection {attempt}, after {answered:?}: {error}; drops {drops:?}"
                )
            });
            assert_eq!(seen, family.host(CLIENT));
            answered.insert(pod);
        }
        assert_eq!(
            answered,
            [1, 2].map(|node| family.pod(node)).into(),
            "{family:?}"
        );
    }
}

/// Whether pods and nodes reach each other by their own addresses.
fn check_pods(nodes: &[Node; 2]) {
    let pod = NetNsHandle::open(&nodes[0].pod).unwrap();
    for family in Family::BOTH {
        let own = family.pod(1);
        for (from, source, to) in [
            (&pod, own, family.pod(2)),
            (&pod, own, family.host(101)),
            (&pod, own, family.host(102)),
            (&nodes[0].host, family.host(101), family.pod(1)),
            (&nodes[0].host, family.host(101), family.pod(2)),
        ] {
            let (_, seen) = ask(from, to, 8080).unwrap_or_else(|error| {
                let drops = nodes.each_ref().map(Node::drops);
                panic!("from {source} to {to}: {error}; drops {drops:?}")
            });
            assert_eq!(seen, source, "to {to}");
        }
    }
    let drops = nodes.each_ref().map(Node::drops);
    assert_eq!(drops, [vec![], vec![]]);
}

#[test]
fn client_of_a_vip_reaches_pods_on_both_nodes_by_its_own_address() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    check_vips(&nodes, &client);
}

#[test]
fn nodes_pass_frames_on_while_nothing_between_them_drops_foreign_sources() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    let reason = nodes[0].until_passed_on(true);
    assert!(reason.starts_with("a probe was answered"), "{reason}");
    check_vips(&nodes, &client);

    segment.guard_ports(true);
    let reason = nodes[0].until_passed_on(false);
    assert!(
        reason.starts_with("no probe has been answered:"),
        "{reason}"
    );
    check_vips(&nodes, &client);
    assert!(segment.guarded() >= 3, "the questions were dropped");

    segment.guard_ports(false);
    nodes[0].until_passed_on(true);
    check_vips(&nodes, &client);
    // An agent that is restarted goes on with what was proved.
    let adopted = nodes[0].agent(async |config| {
        let dataplane = Dataplane::open(config).await.unwrap();
        dataplane.view("nodes", &json!({})).unwrap()
    });
    assert_eq!(adopted[0]["adjacent"], true, "{adopted}");
    let known = adopted[0]["passedOn"].as_str().unwrap();
    assert!(known.starts_with("a probe was answered"), "{known}");
}

#[test]
fn nodes_that_reach_each_other_over_ipv6_carry_both_families() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V6);
    nodes.iter().for_each(|node| serve(&node.host));
    check_pods(&nodes);
    check_vips(&nodes, &client);
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_the_outside() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    nodes.iter().for_each(|node| serve(&node.host));
    check_pods(&nodes);

    serve(&client);
    let pod = NetNsHandle::open(&nodes[0].pod).unwrap();
    let (_, seen) = ask(&pod, V4.host(CLIENT), 8080).unwrap();
    assert_eq!(seen, V4.host(101), "the outside sees the node's address");
    // What leads to the pods of a node is the network's to know, as their addresses are its.
    let (range, node) = (V6.pod_range(1), V6.host(101));
    client.ip(&format!("route add {range} via {node}")).unwrap();
    let (_, seen) = ask(&pod, V6.host(CLIENT), 8080).unwrap();
    assert_eq!(seen, V6.pod(1), "in IPv6 it sees the pod's own");
    let (_, seen) = ask(&client, V6.pod(1), 8080).unwrap();
    assert_eq!(seen, V6.host(CLIENT), "and may ask the pod itself");
}

#[test]
fn datagrams_of_several_fragments_reach_pods_on_both_nodes_and_come_back_whole() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    for (number, node) in (1..).zip(&nodes) {
        let pod = NetNsHandle::open(&node.pod).unwrap();
        for family in Family::BOTH {
            echo_datagrams(&pod, family.pod(number));
        }
    }
    let data: Vec<u8> = (0..4_000_u32).map(|byte| (byte % 251) as u8).collect();
    for family in Family::BOTH {
        let mut answered = BTreeSet::new();
        for _ in 0..20 {
            let (pod, seen) = exchange(&client, (family.vip(), 80).into(), &data);
            assert_eq!(seen, family.host(CLIENT));
            answered.insert(pod);
        }
        let pods = [1, 2].map(|node| family.pod(node));
        assert_eq!(answered, pods.into(), "{family:?}");
    }
}
