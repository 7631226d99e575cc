//! `tc_uplink_in` and `tc_uplink_out`: what XDP handed up, and what leaves.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::{DropReason, mac, protocol};
use packet_tests::frame::{
    ACK, NETWORK, OVERHEAD, SYN, assert_checksums, echo, ends, ipv4, mend_ip, tcp, udp, vxlan,
};
use packet_tests::{CLIENT, NODE_1, NODE_2, NODE_3, POD_1, POD_2, VIP, Verdict, World};

const IN: &str = "tc_uplink_in";
const OUT: &str = "tc_uplink_out";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

#[test]
fn received_packets_that_are_not_rewritten_get_their_verdict() {
    use DropReason::{
        FragmentUnknown, Malformed, NoEndpoint, UnknownBackend, UnknownPeer, UnknownPort,
        UnknownVni, UnsupportedProtocol,
    };
    use Verdict::{Drop, Pass};

    let Some(mut world) = World::open() else {
        return;
    };
    let fragment = |mut frame: Vec<u8>| {
        frame[NETWORK + 7] = 9;
        mend_ip(&mut frame);
        frame
    };
    let to_pod = tcp((POD_2, 1), (POD_1, 2), ACK, b"");
    let to_vip = tcp((CLIENT, 1), (VIP, 81), SYN, b"");
    let named = |id| mac::of_backend(id);
    let node = mac::of_node(1);
    let mut no_vni = vxlan(NODE_2, NODE_1, 0, node, &to_pod);
    no_vni[42] = 0;
    let mut inner_mpls = to_pod.clone();
    inner_mpls[12..14].copy_from_slice(&[0x88, 0x47]);
    let cases = [
        (
            "TCP to the node",
            tcp((CLIENT, 1), (NODE_1, 22), SYN, b""),
            Pass,
        ),
        (
            "TCP to a port of ours that nobody has",
            tcp((CLIENT, 1), (NODE_1, 61_007), ACK, b""),
            Pass,
        ),
        (
            "TCP to somebody else",
            tcp((CLIENT, 1), (NODE_2, 22), SYN, b""),
            Pass,
        ),
        (
            "TCP to a closed port of the VIP",
            tcp((CLIENT, 1), (VIP, 4444), SYN, b""),
            Drop(UnknownPort),
        ),
        (
            "a later fragment to the VIP",
            fragment(to_vip.clone()),
            Drop(FragmentUnknown),
        ),
        (
            "GRE to the VIP",
            ipv4(CLIENT, VIP, 47, &[0; 20]),
            Drop(UnsupportedProtocol),
        ),
        (
            "VXLAN from no node",
            vxlan(CLIENT, NODE_1, 0, node, &to_pod),
            Drop(UnknownPeer),
        ),
        (
            "VXLAN of an unknown network",
            vxlan(NODE_2, NODE_1, 77, node, &to_pod),
            Drop(UnknownVni),
        ),
        ("VXLAN without a network", no_vni, Drop(Malformed)),
        (
            "MPLS in VXLAN",
            vxlan(NODE_2, NODE_1, 0, node, &inner_mpls),
            Drop(Malformed),
        ),
        (
            "VXLAN with nothing in it",
            udp((NODE_2, 1), (NODE_1, 4789), b"\x08"),
            Drop(Malformed),
        ),
    ];
    for (description, frame, verdict) in cases {
        let outcome = world.run(IN, &frame);
        assert_eq!(outcome.verdict, verdict, "{description}");
        assert_eq!(outcome.frame, frame, "{description}: bytes changed");
    }
    let decapsulated = [
        (
            "a pod that is not here",
            vxlan(
                NODE_2,
                NODE_1,
                0,
                node,
                &tcp((POD_2, 1), (POD_2, 2), ACK, b""),
            ),
            NoEndpoint,
        ),
        (
            "a backend nobody knows",
            vxlan(NODE_2, NODE_1, 0, named(999), &to_vip),
            UnknownBackend,
        ),
        (
            "a backend of another node",
            vxlan(NODE_2, NODE_1, 0, named(102), &to_vip),
            UnknownBackend,
        ),
    ];
    for (description, frame, reason) in decapsulated {
        assert_eq!(world.run(IN, &frame).verdict, Drop(reason), "{description}");
    }
}

#[test]
fn client_of_a_vip_is_translated_to_the_local_pod_and_the_answer_back() {
    let Some(mut world) = World::open() else {
        return;
    };
    let flows = [
        (
            "TCP",
            tcp((CLIENT, 40_000), (VIP, 81), SYN, b""),
            tcp((POD_1, 8080), (CLIENT, 40_000), SYN | ACK, b""),
            81,
        ),
        (
            "UDP",
            udp((CLIENT, 40_000), (VIP, 54), b"query"),
            udp((POD_1, 8080), (CLIENT, 40_000), b"answer"),
            54,
        ),
    ];
    for (description, request, answer, port) in flows {
        let outcome = world.run(IN, &request);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{description}");
        assert_eq!(
            ends(&outcome.frame),
            ((CLIENT, 40_000), (POD_1, 8080)),
            "{description}"
        );
        assert_eq!(
            outcome.frame[..6],
            [0x02, 0, 0, 0, 1, 0x0a],
            "{description}: the pod's MAC"
        );
        assert_checksums(&outcome.frame);

        let outcome = world.run("tc_from_pod", &answer);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(
            ends(&outcome.frame),
            ((VIP, port), (CLIENT, 40_000)),
            "{description}"
        );
        assert_checksums(&outcome.frame);
    }
}

#[test]
fn udp_datagram_without_a_checksum_keeps_none() {
    let Some(mut world) = World::open() else {
        return;
    };
    let mut request = udp((CLIENT, 40_000), (VIP, 54), b"query");
    request[40..42].fill(0);
    let outcome = world.run(IN, &request);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame[40..42], [0, 0]);
}

#[test]
fn encapsulated_client_is_translated_to_the_pod_its_backend_names() {
    let Some(mut world) = World::open() else {
        return;
    };
    // Another node picked backend 101 at a port whose own pick here would be another.
    let request = tcp((CLIENT, 40_001), (VIP, 82), SYN, b"");
    let frame = vxlan(NODE_2, NODE_1, 0, mac::of_backend(101), &request);
    let outcome = world.run(IN, &frame);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame.len(), request.len());
    assert_eq!(ends(&outcome.frame), ((CLIENT, 40_001), (POD_1, 8080)));
    assert_checksums(&outcome.frame);

    let outcome = world.run(
        "tc_from_pod",
        &tcp((POD_1, 8080), (CLIENT, 40_001), ACK, b"hi"),
    );
    assert_eq!(ends(&outcome.frame).0, (VIP, 82));
    assert_checksums(&outcome.frame);
}

#[test]
fn encapsulated_pod_packet_reaches_the_pod_unchanged() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = tcp((POD_2, 5000), (POD_1, 8080), ACK, b"east-west");
    let outcome = world.run(IN, &vxlan(NODE_2, NODE_1, 0, mac::of_node(1), &inner));
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame[NETWORK..], inner[NETWORK..]);
}

#[test]
fn encapsulated_packet_for_the_node_itself_reaches_its_stack() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = tcp((POD_2, 8080), (NODE_1, 5000), ACK, b"probe");
    let outcome = world.run(IN, &vxlan(NODE_2, NODE_1, 0, mac::of_node(1), &inner));
    assert_eq!(outcome.verdict, Verdict::Pass);
    assert_eq!(outcome.frame[NETWORK..], inner[NETWORK..]);
}

#[test]
fn backend_behind_an_unresolved_neighbour_is_encapsulated_by_the_stacks_side() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = tcp((CLIENT, 40_000), (VIP, 83), SYN, b"");
    let outcome = world.run(IN, &inner);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame.len(), inner.len() + OVERHEAD);
    let ((source, _), (destination, port)) = ends(&outcome.frame);
    assert_eq!((source, destination, port), (NODE_1, NODE_3, 4789));
    assert_eq!(outcome.frame[50..56], mac::of_backend(103));
    assert_eq!(outcome.frame[OVERHEAD + NETWORK..], inner[NETWORK..]);
    assert_checksums(&outcome.frame);
}

#[test]
fn sent_packets_get_their_verdict() {
    use DropReason::{FragmentUnknown, NoEndpoint, NoRoute, UnsupportedProtocol};
    use Verdict::{Drop, Pass};

    let Some(mut world) = World::open() else {
        return;
    };
    let unused = Ipv4Addr::new(10, 244, 99, 1);
    let absent = Ipv4Addr::new(10, 244, 1, 99);
    let mut fragment = udp((POD_1, 1), (OUTSIDE, 53), b"x");
    fragment[NETWORK + 7] = 9;
    mend_ip(&mut fragment);
    let cases = [
        (
            "the node to the outside",
            tcp((NODE_1, 5000), (OUTSIDE, 443), SYN, b""),
            Pass,
        ),
        (
            "the node to another node",
            tcp((NODE_1, 5000), (NODE_2, 22), SYN, b""),
            Pass,
        ),
        (
            "what is encapsulated already",
            vxlan(NODE_1, NODE_2, 0, mac::of_node(2), &[0; 60]),
            Pass,
        ),
        (
            "an answer in the VIP's name",
            tcp((VIP, 81), (CLIENT, 40_000), ACK, b""),
            Pass,
        ),
        (
            "the node to a range nobody holds",
            tcp((NODE_1, 1), (unused, 2), SYN, b""),
            Drop(NoRoute),
        ),
        (
            "the node to a pod it does not have",
            tcp((NODE_1, 1), (absent, 2), SYN, b""),
            Drop(NoEndpoint),
        ),
        (
            "a pod's later fragment to the outside",
            fragment,
            Drop(FragmentUnknown),
        ),
        (
            "a pod's GRE to the outside",
            ipv4(POD_1, OUTSIDE, 47, &[0; 8]),
            Drop(UnsupportedProtocol),
        ),
    ];
    for (description, frame, verdict) in cases {
        let outcome = world.run(OUT, &frame);
        assert_eq!(outcome.verdict, verdict, "{description}");
        assert_eq!(outcome.frame, frame, "{description}: bytes changed");
    }
}

#[test]
fn node_reaches_a_pod_of_another_node_encapsulated() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = tcp((NODE_1, 5000), (POD_2, 8080), SYN, b"");
    let outcome = world.run(OUT, &inner);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(ends(&outcome.frame).1, (NODE_2, 4789));
    assert_eq!(outcome.frame[OVERHEAD + NETWORK..], inner[NETWORK..]);
    assert_checksums(&outcome.frame);
}

#[test]
fn pod_is_masqueraded_to_the_outside_and_the_answer_finds_it() {
    let Some(mut world) = World::open() else {
        return;
    };
    type Make = fn(Ipv4Addr, Ipv4Addr, (u16, u16)) -> Vec<u8>;
    let protocols: [(&str, Make); 2] = [
        ("TCP", |from, to, (source, destination)| {
            tcp((from, source), (to, destination), ACK, b"x")
        }),
        ("UDP", |from, to, (source, destination)| {
            udp((from, source), (to, destination), b"x")
        }),
    ];
    for (description, make) in protocols {
        let outcome = world.run(OUT, &make(POD_1, OUTSIDE, (5000, 443)));
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        let ((source, port), destination) = ends(&outcome.frame);
        assert_eq!(
            (source, destination),
            (NODE_1, (OUTSIDE, 443)),
            "{description}"
        );
        assert!(port >= 61_000, "{description}: port {port}");
        assert_checksums(&outcome.frame);

        let again = world.run(OUT, &make(POD_1, OUTSIDE, (5000, 443)));
        assert_eq!(
            ends(&again.frame).0,
            (NODE_1, port),
            "{description}: the flow keeps its port"
        );

        let outcome = world.run(IN, &make(OUTSIDE, NODE_1, (443, port)));
        assert_eq!(outcome.verdict, Verdict::Redirect, "{description}");
        assert_eq!(
            ends(&outcome.frame),
            ((OUTSIDE, 443), (POD_1, 5000)),
            "{description}"
        );
        assert_checksums(&outcome.frame);
    }
}

#[test]
fn pod_pings_the_outside() {
    let Some(mut world) = World::open() else {
        return;
    };
    let outcome = world.run(OUT, &echo(8, POD_1, OUTSIDE, 77));
    assert_eq!(outcome.verdict, Verdict::Pass);
    assert_checksums(&outcome.frame);
    let identifier = u16::from_be_bytes([outcome.frame[38], outcome.frame[39]]);
    assert!(identifier >= 61_000);

    let outcome = world.run(IN, &echo(0, OUTSIDE, NODE_1, identifier));
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(
        outcome.frame[NETWORK..],
        echo(0, OUTSIDE, POD_1, 77)[NETWORK..]
    );
}

#[test]
fn flows_to_one_destination_never_share_a_port_and_are_refused_when_none_is_left() {
    let Some(mut world) = World::open() else {
        return;
    };
    let mut ports = std::collections::BTreeSet::new();
    let mut refused = 0;
    for port in 1024..6024 {
        let outcome = world.run(OUT, &udp((POD_1, port), (OUTSIDE, 53), b"x"));
        match outcome.verdict {
            Verdict::Pass => assert!(ports.insert(ends(&outcome.frame).0.1), "port given twice"),
            verdict => {
                assert_eq!(verdict, Verdict::Drop(DropReason::SnatExhausted));
                refused += 1;
            }
        }
    }
    assert_eq!(ports.len() + refused, 5000);
    assert!(
        ports.len() > 4200,
        "only {} of 4536 ports were found",
        ports.len()
    );
    assert_eq!(protocol::VXLAN_PORT, 4789);
}

#[test]
fn answer_that_was_forgotten_is_remembered_by_the_next_packet_sent() {
    let Some(mut world) = World::open() else {
        return;
    };
    let request = tcp((POD_1, 5000), (OUTSIDE, 443), ACK, b"x");
    let port = ends(&world.run(OUT, &request).frame).0.1;
    let answer = tcp((OUTSIDE, 443), (NODE_1, port), ACK, b"y");
    let keys: Vec<_> = world
        .tables
        .snat_in
        .keys()
        .collect::<Result<_, _>>()
        .unwrap();
    for key in keys {
        world.tables.snat_in.remove(&key).unwrap();
    }
    assert_eq!(world.run(IN, &answer).verdict, Verdict::Pass);
    world.run(OUT, &request);
    assert_eq!(world.run(IN, &answer).verdict, Verdict::Redirect);
}
