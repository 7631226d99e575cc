//! `xdp_ingress`: what a node does with the packets its uplink receives.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use fairlead_dataplane_common::{Counter, DropReason, mac, protocol};
use packet_tests::frame::{
    ACK, NETWORK, OVERHEAD, OWN_MAC, ROUTER_MAC, RST, SYN, TRANSPORT, assert_checksums, echo, ends,
    ipv4, mend_ip, tcp, udp,
};
use packet_tests::{CLIENT, NODE_1, NODE_2, POD_2, VIP, Verdict, World};

const PROGRAM: &str = "xdp_ingress";

struct Case {
    description: &'static str,
    frame: Vec<u8>,
    verdict: Verdict,
}

fn case(description: &'static str, frame: Vec<u8>, verdict: Verdict) -> Case {
    Case {
        description,
        frame,
        verdict,
    }
}

/// Changes a frame's IP header and mends its checksum.
fn with_ip(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame[NETWORK..TRANSPORT]);
    mend_ip(&mut frame);
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

fn to_vip(port: u16) -> Vec<u8> {
    tcp((CLIENT, 40_000), (VIP, port), SYN, b"")
}

#[test]
fn packets_that_are_not_encapsulated_keep_their_bytes_and_get_their_verdict() {
    use DropReason::{FragmentUnknown, Malformed, NoBackend, UnsupportedProtocol};
    use Verdict::{Drop, Pass};

    let Some(mut world) = World::open() else {
        return;
    };
    world.add_service(protocol::UDP, 84, &[]);
    let other: Ipv4Addr = [198, 18, 0, 50].into();
    let with_type = |ethertype: u16| {
        let mut frame = to_vip(80);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    };
    let cases = [
        case(
            "TCP to an address that is no VIP",
            tcp((CLIENT, 1), (other, 80), SYN, b""),
            Pass,
        ),
        case(
            "UDP to an address that is no VIP",
            udp((CLIENT, 1), (other, 53), b"x"),
            Pass,
        ),
        case(
            "TCP to a closed port of the VIP: the stack's side says why",
            to_vip(4444),
            Pass,
        ),
        case("TCP to a port that is open for UDP only", to_vip(53), Pass),
        case(
            "UDP to a port that is open for TCP only",
            udp((CLIENT, 1), (VIP, 80), b""),
            Pass,
        ),
        case("TCP for a pod of this node", to_vip(81), Pass),
        case(
            "UDP for a pod of this node",
            udp((CLIENT, 1), (VIP, 54), b"x"),
            Pass,
        ),
        case("a backend behind an unresolved neighbour", to_vip(83), Pass),
        case("ARP", with_type(0x0806), Pass),
        case("IPv4 under IPv6's type", with_type(0x86dd), Drop(Malformed)),
        case("a VLAN tag", with_type(0x8100), Pass),
        case("echo to the node", echo(8, CLIENT, NODE_1, 7), Pass),
        case(
            "a datagram for a service without backends",
            udp((CLIENT, 1), (VIP, 84), b"x"),
            Drop(NoBackend),
        ),
        case(
            "IP version 6 under IPv4's type",
            with_ip(to_vip(80), |ip| ip[0] = 0x65),
            Drop(Malformed),
        ),
        case(
            "an IP header of four words",
            with_ip(to_vip(80), |ip| ip[0] = 0x44),
            Drop(Malformed),
        ),
        case(
            "an IP packet longer than its frame",
            with_ip(to_vip(80), |ip| ip[3] += 1),
            Drop(Malformed),
        ),
        case(
            "an IP packet too short for TCP",
            with_ip(to_vip(80), |ip| ip[3] = 39),
            Drop(Malformed),
        ),
        case(
            "a frame cut in the IP header",
            cut(to_vip(80), 33),
            Drop(Malformed),
        ),
        case(
            "a frame cut in the TCP header",
            cut(to_vip(80), 53),
            Drop(Malformed),
        ),
        case(
            "a first fragment of GRE to the VIP",
            with_ip(to_vip(80), |ip| (ip[6], ip[9]) = (0x20, 47)),
            Drop(UnsupportedProtocol),
        ),
        case(
            "a later fragment to the VIP",
            with_ip(to_vip(80), |ip| ip[7] = 9),
            Drop(FragmentUnknown),
        ),
        case(
            "a fragment to somebody else",
            with_ip(tcp((CLIENT, 1), (other, 80), ACK, b""), |ip| ip[7] = 9),
            Pass,
        ),
        case(
            "IP options to the VIP",
            with_ip(to_vip(80), |ip| ip[0] = 0x46),
            Pass,
        ),
        case(
            "IP options to somebody else",
            with_ip(tcp((CLIENT, 1), (other, 80), ACK, b""), |ip| ip[0] = 0x46),
            Pass,
        ),
        case(
            "GRE to the VIP",
            ipv4(CLIENT, VIP, 47, &[0; 20]),
            Drop(UnsupportedProtocol),
        ),
        case(
            "GRE to somebody else",
            ipv4(CLIENT, other, 47, &[0; 20]),
            Pass,
        ),
        case(
            "destination unreachable to the VIP, about nothing",
            ipv4(CLIENT, VIP, protocol::ICMP, &[3, 3, 0, 0, 0, 0, 0, 0]),
            Drop(Malformed),
        ),
    ];
    for Case {
        description,
        frame,
        verdict,
    } in cases
    {
        let outcome = world.run(PROGRAM, &frame);
        assert_eq!(outcome.verdict, verdict, "{description}");
        assert_eq!(outcome.frame, frame, "{description}: bytes changed");
    }
}

#[test]
fn packet_for_a_remote_backend_is_encapsulated_byte_for_byte() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = with_ip(tcp((CLIENT, 40_000), (VIP, 82), SYN, b"hello"), |ip| {
        ip[1] = 0xb8
    });
    let outcome = world.run(PROGRAM, &inner);
    assert_eq!(outcome.verdict, Verdict::Transmit);

    let out = outcome.frame;
    let source_port = u16::from_be_bytes([out[34], out[35]]);
    let mut expected = Vec::new();
    expected.extend([0x02, 0, 0, 0, 0, 0x66]);
    expected.extend(OWN_MAC);
    expected.extend([0x08, 0x00]);
    // IPv4: same DSCP as inside, DF, TTL 64, UDP.
    let inner_length = inner.len() as u16 - 14;
    expected.extend([0x45, 0xb8]);
    expected.extend((inner_length + 50).to_be_bytes());
    expected.extend([0, 0, 0x40, 0, 64, 17]);
    expected.extend(&out[NETWORK + 10..NETWORK + 12]);
    expected.extend(NODE_1.octets());
    expected.extend(NODE_2.octets());
    // UDP without a checksum, VXLAN with VNI 0.
    expected.extend(source_port.to_be_bytes());
    expected.extend(4789_u16.to_be_bytes());
    expected.extend((inner_length + 30).to_be_bytes());
    expected.extend([0, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]);
    // The backend that was picked, by the node that picked it.
    expected.extend([0x02, 0xfa, 0, 0, 0, 102]);
    expected.extend([0x02, 0xfb, 0, 0, 0, 1]);
    expected.extend(&inner[12..]);
    assert_eq!(out, expected);
    assert!(
        source_port >= 0xc000,
        "source port {source_port} is in the dynamic range"
    );
    assert_checksums(&out);
    assert_checksums(&out[OVERHEAD..]);
    assert_eq!(mac::of_backend(102), out[50..56]);
}

#[test]
fn udp_datagram_for_a_remote_backend_is_encapsulated() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = udp((CLIENT, 40_000), (VIP, 53), b"query");
    let outcome = world.run(PROGRAM, &inner);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.frame[OVERHEAD + NETWORK..], inner[NETWORK..]);
    assert_checksums(&outcome.frame);
}

#[test]
fn ethernet_padding_is_not_counted_into_the_outer_length() {
    let Some(mut world) = World::open() else {
        return;
    };
    let mut inner = to_vip(82);
    inner.resize(60, 0);
    let out = world.run(PROGRAM, &inner).frame;
    assert_eq!(u16::from_be_bytes([out[16], out[17]]), 40 + 50);
    assert_checksums(&out);
}

#[test]
fn echo_request_to_the_vip_is_answered() {
    let Some(mut world) = World::open() else {
        return;
    };
    let outcome = world.run(PROGRAM, &echo(8, CLIENT, VIP, 7));
    assert_eq!(outcome.verdict, Verdict::Transmit);
    let mut expected = with_ip(echo(0, VIP, CLIENT, 7), |ip| ip[8] = 64);
    expected[..6].copy_from_slice(&ROUTER_MAC);
    expected[6..12].copy_from_slice(&OWN_MAC);
    assert_eq!(outcome.frame, expected);
    assert_checksums(&outcome.frame);
    assert_eq!(world.counter(Counter::EchoAnswered), 1);
}

#[test]
fn packets_of_one_flow_meet_the_same_backend_whatever_their_flags() {
    let Some(mut world) = World::open() else {
        return;
    };
    for port in 30_000..30_200 {
        let picks: Vec<_> = [SYN, ACK, SYN | ACK, 0]
            .map(|flags| {
                let outcome = world.run(PROGRAM, &tcp((CLIENT, port), (VIP, 80), flags, b"data"));
                (
                    outcome.verdict,
                    outcome.frame.get(50..56).map(<[u8]>::to_vec),
                )
            })
            .to_vec();
        let first = &picks[0];
        let same_backend = |pick: &&(Verdict, _)| pick.0 == first.0;
        assert!(picks.iter().all(|pick| same_backend(&pick)), "{picks:?}");
        if first.0 == Verdict::Transmit {
            assert!(picks.iter().all(|pick| pick == first), "{picks:?}");
        }
    }
}

#[test]
fn flows_spread_over_the_backends_of_a_service() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_service(protocol::TCP, 90, &[2, 4, 5, 6]);
    for slot in [4, 5, 6] {
        let backend = world.tables.backends.get(2).unwrap();
        let address = Ipv4Addr::new(10, 244, 2, 10 + slot as u8).into();
        let backend = fairlead_dataplane_common::BackendEntry {
            id: 100 + slot,
            address,
            ..backend
        };
        world.tables.backends.set(slot, backend).unwrap();
    }
    let mut picks = BTreeMap::<Vec<u8>, u32>::new();
    for port in 20_000..24_000 {
        let out = world
            .run(PROGRAM, &tcp((CLIENT, port), (VIP, 90), SYN, b""))
            .frame;
        *picks.entry(out[50..56].to_vec()).or_default() += 1;
    }
    assert_eq!(picks.len(), 4);
    for (backend, flows) in picks {
        assert!(
            (880..1120).contains(&flows),
            "{backend:?} got {flows} of 4000 flows"
        );
    }
}

#[test]
fn backend_counts_packets_bytes_and_connections() {
    let Some(mut world) = World::open() else {
        return;
    };
    let slot = world.add_service(protocol::TCP, 91, &[2]);
    let packets = [(SYN, &b""[..]), (ACK, b""), (ACK, b"0123456789")];
    let mut bytes = 0;
    for (flags, payload) in packets {
        let frame = tcp((CLIENT, 40_000), (VIP, 91), flags, payload);
        bytes += frame.len() as u64;
        world.run(PROGRAM, &frame);
    }
    let stats = world.backend_stats(2);
    let seen = (stats.packets, stats.bytes, stats.connections);
    assert_eq!(seen, (3, bytes, 1));
    assert_eq!(world.service_stats(slot).drops, 0);
}

#[test]
fn service_without_backends_counts_what_it_refused() {
    let Some(mut world) = World::open() else {
        return;
    };
    let slot = world.add_service(protocol::TCP, 92, &[]);
    world.run(PROGRAM, &to_vip(92));
    world.run(PROGRAM, &tcp((CLIENT, 40_000), (VIP, 92), RST, b""));
    let stats = world.service_stats(slot);
    assert_eq!((stats.drops, stats.resets), (1, 1));
}

#[test]
fn flip_of_the_bank_shows_the_other_table_at_once() {
    let Some(mut world) = World::open() else {
        return;
    };
    let mut config = world.tables.config.get(&0, 0).unwrap();
    config.bank = 1;
    world.tables.config.set(0, config, 0).unwrap();
    assert_eq!(world.run(PROGRAM, &to_vip(82)).verdict, Verdict::Pass);
    config.bank = 0;
    world.tables.config.set(0, config, 0).unwrap();
    let outcome = world.run(PROGRAM, &to_vip(82));
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(
        ends(&outcome.frame[OVERHEAD..]),
        ((CLIENT, 40_000), (VIP, 82))
    );
    assert_ne!(
        ends(&outcome.frame).1.0,
        POD_2,
        "the outer destination is the node"
    );
}
