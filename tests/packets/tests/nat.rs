//! Full NAT: both ends translated on the way to a backend, and back in its answers.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::maps::{NAT_PORT_MAX, NAT_PORT_MIN};
use fairlead_dataplane_common::{
    Counter, DropReason, FLOW_OPENING, FlowKey, NatEntry, SERVICE_NAT, TrackEntry, mac, protocol,
};
use packet_tests::frame::{
    self, ACK, NETWORK, OWN_MAC, ROUTER_MAC, SYN, assert_checksums, ends, tcp, udp,
};
use packet_tests::{CLIENT, NODE_1, POD_1, POD_2, VIP, Verdict, World};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
const SLOT: u32 = 21;
const PORT: u16 = 7000;

fn world(mac: Option<[u8; 6]>) -> Option<World> {
    let mut world = World::open()?;
    world.set_uplink(1500);
    world.add_server(SLOT, (SERVER, 9000).into(), mac);
    for protocol in [protocol::TCP, protocol::UDP] {
        let slot = world.add_service(protocol, PORT, &[SLOT]);
        world.set_flags(slot, SERVICE_NAT);
    }
    let slot = world.add_service(protocol::TCP, PORT + 1, &[2]);
    world.set_flags(slot, SERVICE_NAT);
    let slot = world.add_service(protocol::TCP, PORT + 2, &[1]);
    world.set_flags(slot, SERVICE_NAT);
    Some(world)
}

/// As the server sends it.
fn from_server(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&SERVER_MAC);
    frame
}

/// The port that a packet from this port of the client leaves by.
fn leaves_by(world: &mut World, client_port: u16) -> u16 {
    let outcome = world.run(XDP, &tcp((CLIENT, client_port), (VIP, PORT), ACK, b"data"));
    assert_eq!(outcome.verdict, Verdict::Transmit);
    let ((node, port), to) = ends(&outcome.frame);
    assert_eq!((node, to), (NODE_1, (SERVER, 9000)));
    port
}

#[test]
fn both_directions_are_translated_in_xdp() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    type Make = fn(frame::Peer, frame::Peer) -> Vec<u8>;
    let makers: [(&str, Make); 3] = [
        ("TCP", |from, to| tcp(from, to, ACK, b"data")),
        ("UDP", |from, to| udp(from, to, b"odd")),
        ("UDP without a checksum", |from, to| {
            let mut frame = udp(from, to, b"data");
            frame[40..42].fill(0);
            frame
        }),
    ];
    for (description, make) in makers {
        let question = make((CLIENT, 40_000), (VIP, PORT));
        let outcome = world.run(XDP, &question);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        let out = &outcome.frame;
        assert_eq!(out[..6], SERVER_MAC, "{description}");
        assert_eq!(out[6..12], OWN_MAC, "{description}");
        let ((node, port), to) = ends(out);
        assert_eq!((node, to), (NODE_1, (SERVER, 9000)), "{description}");
        assert!((NAT_PORT_MIN..=NAT_PORT_MAX).contains(&port), "{port}");
        assert_eq!(out[NETWORK + 8], question[NETWORK + 8] - 1, "a hop");
        assert_checksums(out);
        assert_eq!(out.len(), question.len(), "{description}");
        assert_eq!(world.run(XDP, &question).frame, *out, "the same port again");

        let answer = from_server(make((SERVER, 9000), (NODE_1, port)));
        let outcome = world.run(XDP, &answer);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        assert_eq!(
            outcome.frame[..6],
            ROUTER_MAC,
            "to where the client's came from"
        );
        assert_eq!(outcome.frame[6..12], OWN_MAC);
        assert_eq!(ends(&outcome.frame), ((VIP, PORT), (CLIENT, 40_000)));
        assert_checksums(&outcome.frame);
    }
}

#[test]
fn flows_get_ports_of_their_own_until_none_is_left() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let mut ports = std::collections::HashSet::new();
    for client_port in 20_000..20_200 {
        assert!(ports.insert(leaves_by(&mut world, client_port)));
    }
    let taken = NatEntry {
        client: NODE_1.into(),
        ..NatEntry::default()
    };
    for port in NAT_PORT_MIN..=NAT_PORT_MAX {
        let key = FlowKey {
            source: SERVER.into(),
            destination: NODE_1.into(),
            source_port_be: 9000_u16.to_be(),
            destination_port_be: port.to_be(),
            protocol: protocol::TCP,
            ..FlowKey::default()
        };
        // Those of the flows above stay theirs.
        let _ = world.tables.nat.insert(key, taken, 1);
    }
    let one_more = tcp((CLIENT, 30_000), (VIP, PORT), SYN, b"");
    let outcome = world.run(XDP, &one_more);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NatExhausted));
    let outcome = world.run(IN, &one_more);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NatExhausted));
    assert!(ports.contains(&leaves_by(&mut world, 20_000)));
}

#[test]
fn flow_that_is_noted_keeps_its_port_when_another_becomes_free() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let first = leaves_by(&mut world, 40_000);
    let key = |port: u16| FlowKey {
        source: SERVER.into(),
        destination: NODE_1.into(),
        source_port_be: 9000_u16.to_be(),
        destination_port_be: port.to_be(),
        protocol: protocol::TCP,
        ..FlowKey::default()
    };
    let mut entry = world.tables.nat.get(&key(first), 0).expect("entered");
    let own = entry;
    entry.client = NODE_1.into();
    world
        .tables
        .nat
        .insert(key(first), entry, 0)
        .expect("taken by another");
    let flow = FlowKey {
        source: CLIENT.into(),
        destination: VIP.into(),
        source_port_be: 40_000_u16.to_be(),
        destination_port_be: PORT.to_be(),
        protocol: protocol::TCP,
        ..FlowKey::default()
    };
    let note = TrackEntry {
        backend: 100 + SLOT,
        backend_slot: SLOT,
        state: FLOW_OPENING,
        ..TrackEntry::default()
    };
    world
        .tables
        .flows
        .insert(flow, note, 0)
        .expect("note the flow");
    let second = leaves_by(&mut world, 40_000);
    assert_ne!(first, second);
    let noted = world.tables.flows.get(&flow, 0).expect("noted");
    assert_eq!(noted.nat_port_be, second.to_be());
    world
        .tables
        .nat
        .remove(&key(first))
        .expect("the other goes");
    assert_eq!(leaves_by(&mut world, 40_000), second);
    assert_eq!(own.vip_port_be, PORT.to_be());
}

#[test]
fn what_xdp_cannot_send_is_translated_by_tc() {
    let Some(mut world) = world(None) else { return };
    let question = tcp((CLIENT, 40_000), (VIP, PORT), ACK, b"data");
    assert_eq!(world.run(XDP, &question).verdict, Verdict::Pass);
    let outcome = world.run(IN, &question);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    let ((node, port), to) = ends(&outcome.frame);
    assert_eq!((node, to), (NODE_1, (SERVER, 9000)));
    assert_eq!(outcome.frame[NETWORK + 8], question[NETWORK + 8] - 1);
    assert_checksums(&outcome.frame);

    let answer = from_server(tcp((SERVER, 9000), (NODE_1, port), ACK, b"answer"));
    let outcome = world.run(XDP, &answer);
    assert_eq!(
        outcome.verdict,
        Verdict::Pass,
        "where the client is, is not known"
    );
    assert_eq!(outcome.frame, answer);
    let outcome = world.run(IN, &answer);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(ends(&outcome.frame), ((VIP, PORT), (CLIENT, 40_000)));
    assert_checksums(&outcome.frame);
}

#[test]
fn pod_on_another_node_gets_the_translated_packet_encapsulated() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let question = tcp((CLIENT, 40_000), (VIP, PORT + 1), ACK, b"data");
    let outcome = world.run(XDP, &question);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.frame[50..56], mac::of_node(2));
    let inner = &outcome.frame[50..];
    let ((node, port), to) = ends(inner);
    assert_eq!((node, to), (NODE_1, (POD_2, 8080)));
    assert_checksums(inner);

    let answer = tcp((POD_2, 8080), (NODE_1, port), ACK, b"answer");
    let node_2 = packet_tests::NODE_2;
    let tunnel = frame::vxlan(node_2, NODE_1, 0, mac::of_node(1), &answer);
    let outcome = world.run(IN, &tunnel);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(ends(&outcome.frame), ((VIP, PORT + 1), (CLIENT, 40_000)));
    assert_checksums(&outcome.frame);
}

#[test]
fn pod_here_is_delivered_to_without_nat() {
    let Some(mut world) = world(None) else { return };
    let question = tcp((CLIENT, 40_000), (VIP, PORT + 2), ACK, b"data");
    assert_eq!(world.run(XDP, &question).verdict, Verdict::Pass);
    let outcome = world.run(IN, &question);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(ends(&outcome.frame), ((CLIENT, 40_000), (POD_1, 8080)));
}

#[test]
fn errors_are_translated_inside_and_out() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let hop = Ipv4Addr::new(203, 0, 113, 1);
    let port = leaves_by(&mut world, 40_000);
    // Somebody before the client about an answer.
    let about = tcp((VIP, PORT), (CLIENT, 40_000), ACK, b"answer");
    let outcome = world.run(XDP, &frame::icmp_error((3, 4), hop, VIP, &about, 28));
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.frame[..6], SERVER_MAC);
    let ((from, _), (to, _)) = ends(&outcome.frame);
    assert_eq!((from, to), (hop, SERVER));
    assert_eq!(ends(&outcome.frame[28..]), ((SERVER, 9000), (NODE_1, port)));
    assert_checksums(&outcome.frame);

    // Somebody before the server, and the server itself, about a question.
    let about = tcp((NODE_1, port), (SERVER, 9000), ACK, b"question");
    for (reporter, seen_as) in [(hop, hop), (SERVER, VIP)] {
        let error = frame::icmp_error((3, 3), reporter, NODE_1, &about, 28);
        let outcome = world.run(XDP, &error);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(outcome.frame[..6], ROUTER_MAC);
        let ((from, _), (to, _)) = ends(&outcome.frame);
        assert_eq!((from, to), (seen_as, CLIENT));
        assert_eq!(ends(&outcome.frame[28..]), ((CLIENT, 40_000), (VIP, PORT)));
        assert_checksums(&outcome.frame);
    }
    // About what the node itself has sent.
    let own = tcp((NODE_1, 50_000), (SERVER, 9000), ACK, b"question");
    let error = frame::icmp_error((3, 3), hop, NODE_1, &own, 28);
    assert_eq!(world.run(XDP, &error).frame, error);
}

#[test]
fn segment_size_is_lowered_in_both_directions() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let size = |value: u16| [&[2, 4][..], &value.to_be_bytes()].concat();
    let syn = frame::tcp_with_options((CLIENT, 40_000), (VIP, PORT), SYN, &size(8960));
    let outcome = world.run(XDP, &syn);
    assert_eq!(outcome.frame[54..], size(1460));
    assert_checksums(&outcome.frame);
    let ((_, port), _) = ends(&outcome.frame);
    let answer = (SERVER, 9000);
    let answer = frame::tcp_with_options(answer, (NODE_1, port), SYN | ACK, &size(8960));
    let outcome = world.run(XDP, &answer);
    assert_eq!(outcome.frame[54..], size(1460));
    assert_checksums(&outcome.frame);
    assert_eq!(world.counter(Counter::MssClamped), 2);
}

#[test]
fn packet_at_the_end_of_its_hops_is_dropped() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let mut last = tcp((CLIENT, 40_000), (VIP, PORT), ACK, b"data");
    last[NETWORK + 8] = 1;
    frame::mend_ip(&mut last);
    let outcome = world.run(XDP, &last);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::HopLimit));
}

#[test]
fn ports_that_answer_nothing_are_the_nodes_own() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let port = leaves_by(&mut world, 40_000);
    let cases = [
        tcp((SERVER, 9001), (NODE_1, port), ACK, b""),
        udp((SERVER, 9000), (NODE_1, port), b""),
        tcp((CLIENT, 9000), (NODE_1, port), ACK, b""),
        tcp((SERVER, 9000), (NODE_1, port ^ 1), ACK, b""),
    ];
    for frame in cases {
        for program in [XDP, IN] {
            let outcome = world.run(program, &frame);
            assert_eq!(outcome.verdict, Verdict::Pass);
            assert_eq!(outcome.frame, frame);
        }
    }
}
