//! `tc_from_pod`: what a pod may send, and where it goes.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::{DropReason, mac};
use packet_tests::frame::{ACK, NETWORK, OVERHEAD, SYN, assert_checksums, echo, ends, tcp, udp};
use packet_tests::{CLIENT, NODE_1, NODE_2, POD_1, POD_2, Verdict, World};

const PROGRAM: &str = "tc_from_pod";

#[test]
fn packets_that_stay_as_they_are_get_their_verdict() {
    use DropReason::{NoEndpoint, NoRoute, Spoofed, UnsupportedFamily};
    use Verdict::{Drop, Pass};

    let Some(mut world) = World::open() else {
        return;
    };
    let with_type = |ethertype: u16| {
        let mut frame = tcp((POD_1, 1), (CLIENT, 2), SYN, b"");
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    };
    let absent = Ipv4Addr::new(10, 244, 1, 99);
    let unused = Ipv4Addr::new(10, 244, 99, 1);
    let cases = [
        (
            "to the outside: masqueraded where it leaves",
            tcp((POD_1, 1), (CLIENT, 2), SYN, b""),
            Pass,
        ),
        (
            "to its own node",
            tcp((POD_1, 1), (NODE_1, 2), SYN, b""),
            Pass,
        ),
        ("ARP", with_type(0x0806), Pass),
        ("IPX", with_type(0x8137), Drop(UnsupportedFamily)),
        (
            "in another pod's name",
            tcp((POD_2, 1), (CLIENT, 2), SYN, b""),
            Drop(Spoofed),
        ),
        (
            "in the node's name",
            udp((NODE_1, 1), (CLIENT, 2), b""),
            Drop(Spoofed),
        ),
        (
            "to a pod that is not here",
            tcp((POD_1, 1), (absent, 2), SYN, b""),
            Drop(NoEndpoint),
        ),
        (
            "to a range nobody holds",
            tcp((POD_1, 1), (unused, 2), SYN, b""),
            Drop(NoRoute),
        ),
    ];
    for (description, frame, verdict) in cases {
        let outcome = world.run(PROGRAM, &frame);
        assert_eq!(outcome.verdict, verdict, "{description}");
        assert_eq!(outcome.frame, frame, "{description}: bytes changed");
    }
}

#[test]
fn pod_whose_veth_is_unknown_may_send_nothing() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.tables.pods.remove(&1).unwrap();
    let outcome = world.run(PROGRAM, &tcp((POD_1, 1), (CLIENT, 2), SYN, b""));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Spoofed));
}

#[test]
fn pod_reaches_a_pod_of_another_node_encapsulated() {
    let Some(mut world) = World::open() else {
        return;
    };
    for inner in [
        tcp((POD_1, 5000), (POD_2, 8080), SYN, b""),
        udp((POD_1, 5000), (POD_2, 53), b"query"),
        echo(8, POD_1, POD_2, 7),
    ] {
        let outcome = world.run(PROGRAM, &inner);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let ((source, _), destination) = ends(&outcome.frame);
        assert_eq!((source, destination), (NODE_1, (NODE_2, 4789)));
        assert_eq!(outcome.frame[50..56], mac::of_node(2));
        assert_eq!(outcome.frame[OVERHEAD + NETWORK..], inner[NETWORK..]);
        assert_checksums(&outcome.frame);
    }
}

#[test]
fn pod_reaches_another_node_in_its_own_name() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = tcp((POD_1, 8080), (NODE_2, 5000), ACK, b"probed");
    let outcome = world.run(PROGRAM, &inner);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame[OVERHEAD + NETWORK..], inner[NETWORK..]);
}

#[test]
fn pod_reaches_a_pod_of_its_node_directly() {
    let Some(mut world) = World::open() else {
        return;
    };
    let frame = tcp((POD_1, 5000), (POD_1, 8080), SYN, b"");
    let outcome = world.run(PROGRAM, &frame);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame[NETWORK..], frame[NETWORK..]);
}
