//! IPv6 through every hook: VIPs balanced, encapsulated over either family, delivered and answered.

use std::net::Ipv6Addr;

use fairlead_dataplane_common::{Address, Counter, DropReason, NodeEntry, mac, protocol};
use packet_tests::frame::{self, ACK, NETWORK, OVERHEAD, OWN_MAC, ROUTER_MAC, SYN};
use packet_tests::frame_v6::{
    self, ECHO_REPLY, ECHO_REQUEST, assert_checksums, echo, ends, icmp, ipv6, tcp, udp,
};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_2, NODE_2_MAC, NODE_3, POD_1, POD_1_V6, POD_2_V6, VIP, VIP_V6,
    Verdict, World,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const OUT: &str = "tc_uplink_out";
const POD: &str = "tc_from_pod";
/// Bytes that encapsulation over IPv6 adds.
const OVERHEAD_V6: usize = 70;

const NODE_1_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101);
const NODE_2_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x102);

fn to_vip(port: u16) -> Vec<u8> {
    tcp((CLIENT_V6, 40_000), (VIP_V6, port), SYN, b"")
}

fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

/// Lets the node and its neighbour have IPv6 addresses only.
fn use_ipv6_underlay(world: &mut World) {
    let mut config = world.tables.config.get(&0, 0).unwrap();
    config.node_address = NODE_1_V6.into();
    config.other_address = NODE_1_V6.into();
    config.masquerade_word = 0;
    world.tables.config.set(0, config, 0).unwrap();
    let (own, peer) = (NODE_1_V6.into(), NODE_2_V6.into());
    let node = NodeEntry::new(2, peer, own, 1, 1500, Some(NODE_2_MAC));
    world.tables.nodes.set(1, node).unwrap();
    world.tables.node_addresses.insert(peer, 1, 0).unwrap();
}

#[test]
fn packets_that_xdp_does_not_change_get_their_verdict() {
    use DropReason::{FragmentUnknown, IpOptions, Malformed, NoBackend, UnsupportedProtocol};
    use Verdict::{Drop, Pass};

    let Some(mut world) = World::open() else {
        return;
    };
    world.add_service_at(VIP_V6.into(), protocol::UDP, 84, &[]);
    let other: Ipv6Addr = "2001:db8::50".parse().unwrap();
    let cases = [
        (
            "TCP to no VIP",
            tcp((CLIENT_V6, 1), (other, 80), SYN, b""),
            Pass,
        ),
        ("a closed port of the VIP", to_vip(4444), Pass),
        ("TCP for a pod of this node", to_vip(81), Pass),
        (
            "UDP for a pod of this node",
            udp((CLIENT_V6, 1), (VIP_V6, 54), b"x"),
            Pass,
        ),
        ("an unresolved neighbour", to_vip(83), Pass),
        (
            "a datagram for a service without backends",
            udp((CLIENT_V6, 1), (VIP_V6, 84), b"x"),
            Drop(NoBackend),
        ),
        (
            "version 4 under IPv6's type",
            with(to_vip(80), |f| f[14] = 0x40),
            Drop(Malformed),
        ),
        (
            "longer than its frame",
            with(to_vip(80), |f| f[19] += 1),
            Drop(Malformed),
        ),
        (
            "too short for TCP",
            with(to_vip(80), |f| f[19] = 19),
            Drop(Malformed),
        ),
        ("cut in the IP header", cut(to_vip(80), 53), Drop(Malformed)),
        (
            "cut in the TCP header",
            cut(to_vip(80), 73),
            Drop(Malformed),
        ),
        (
            "a neighbour solicitation for the VIP: the stack's",
            icmp(135, 0, CLIENT_V6, VIP_V6, &[0; 20]),
            Pass,
        ),
        (
            "GRE to the VIP",
            ipv6(CLIENT_V6, VIP_V6, 47, &[0; 20]),
            Drop(UnsupportedProtocol),
        ),
        (
            "GRE to somebody else",
            ipv6(CLIENT_V6, other, 47, &[0; 20]),
            Pass,
        ),
        (
            "hop-by-hop options to the VIP",
            ipv6(CLIENT_V6, VIP_V6, 0, &[6; 28]),
            Drop(IpOptions),
        ),
        (
            "a routing header to the VIP",
            ipv6(CLIENT_V6, VIP_V6, 43, &[6; 28]),
            Drop(IpOptions),
        ),
        (
            "destination options to the VIP",
            ipv6(CLIENT_V6, VIP_V6, 60, &[6; 28]),
            Drop(IpOptions),
        ),
        (
            "destination options to somebody else",
            ipv6(CLIENT_V6, other, 60, &[6; 28]),
            Pass,
        ),
        (
            "a later fragment to the VIP",
            ipv6(CLIENT_V6, VIP_V6, 44, &[6, 0, 1, 0, 0, 0, 0, 7]),
            Drop(FragmentUnknown),
        ),
        (
            "a fragment to somebody else",
            ipv6(CLIENT_V6, other, 44, &[6; 28]),
            Pass,
        ),
    ];
    for (description, frame, verdict) in cases {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, verdict, "{description}");
        assert_eq!(outcome.frame, frame, "{description}: bytes changed");
    }
}

#[test]
fn packet_for_a_remote_backend_is_encapsulated_over_ipv4() {
    let Some(mut world) = World::open() else {
        return;
    };
    // Traffic class 0xb8, half of it in the first byte.
    let inner = with(
        tcp((CLIENT_V6, 40_000), (VIP_V6, 82), ACK, b"hello"),
        |frame| {
            frame[14..16].copy_from_slice(&[0x6b, 0x80]);
        },
    );
    let outcome = world.run(XDP, &inner);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    let out = outcome.frame;
    assert_eq!(out.len(), inner.len() + OVERHEAD);
    assert_eq!(out[..6], NODE_2_MAC);
    assert_eq!(out[6..12], OWN_MAC);
    assert_eq!(out[12..16], [0x08, 0, 0x45, 0xb8]);
    let ((source, _), (destination, port)) = frame::ends(&out);
    assert_eq!((source, destination, port), (NODE_1, NODE_2, 4789));
    assert_eq!(out[50..56], mac::of_backend(112));
    assert_eq!(out[62..], inner[12..], "the inner EtherType is IPv6's");
    frame::assert_checksums(&out);
    assert_checksums(&out[OVERHEAD..]);
}

#[test]
fn packets_of_both_families_are_encapsulated_over_ipv6() {
    let Some(mut world) = World::open() else {
        return;
    };
    use_ipv6_underlay(&mut world);
    let cases = [
        (
            "IPv6",
            tcp((CLIENT_V6, 40_000), (VIP_V6, 82), ACK, b"hello"),
            112,
        ),
        (
            "IPv4",
            frame::tcp((CLIENT, 40_000), (VIP, 82), ACK, b"hello"),
            102,
        ),
    ];
    for (description, inner, backend) in cases {
        let outcome = world.run(XDP, &inner);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        let out = outcome.frame;
        let payload = inner.len() - 14 + 30;
        assert_eq!(out.len(), inner.len() + OVERHEAD_V6, "{description}");
        assert_eq!(out[12..18], [0x86, 0xdd, 0x60, 0, 0, 0], "{description}");
        assert_eq!(out[18..20], (payload as u16).to_be_bytes(), "{description}");
        assert_eq!(out[20..22], [protocol::UDP, 64], "{description}");
        let ((source, _), (destination, port)) = ends(&out);
        assert_eq!((source, destination, port), (NODE_1_V6, NODE_2_V6, 4789));
        assert_eq!(out[70..76], mac::of_backend(backend), "{description}");
        assert_eq!(out[82..], inner[12..], "{description}");
    }
}

#[test]
fn echo_request_to_the_vip_is_answered() {
    let Some(mut world) = World::open() else {
        return;
    };
    let outcome = world.run(XDP, &echo(ECHO_REQUEST, CLIENT_V6, VIP_V6, 7));
    assert_eq!(outcome.verdict, Verdict::Transmit);
    let expected = with(echo(ECHO_REPLY, VIP_V6, CLIENT_V6, 7), |frame| {
        frame[..6].copy_from_slice(&ROUTER_MAC);
        frame[6..12].copy_from_slice(&OWN_MAC);
        frame[21] = 64;
    });
    assert_eq!(outcome.frame, expected);
    assert_checksums(&outcome.frame);
    assert_eq!(world.counter(Counter::EchoAnswered), 1);
}

#[test]
fn client_of_a_vip_is_translated_to_the_local_pod_and_the_answer_back() {
    let Some(mut world) = World::open() else {
        return;
    };
    let client = (CLIENT_V6, 40_000);
    let pod = (POD_1_V6, 8080);
    let flows = [
        (
            "TCP",
            tcp(client, (VIP_V6, 81), SYN, b"odd"),
            tcp(pod, client, SYN | ACK, b"ab"),
            81,
        ),
        (
            "UDP",
            udp(client, (VIP_V6, 54), b"query"),
            udp(pod, client, b"answer"),
            54,
        ),
    ];
    for (description, request, answer, port) in flows {
        let outcome = world.run(IN, &request);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{description}");
        assert_eq!(ends(&outcome.frame), (client, pod), "{description}");
        assert_checksums(&outcome.frame);

        let outcome = world.run(POD, &answer);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(
            ends(&outcome.frame),
            ((VIP_V6, port), client),
            "{description}"
        );
        assert_checksums(&outcome.frame);
    }
}

#[test]
fn encapsulated_client_is_translated_to_the_pod_whatever_the_underlay() {
    let Some(mut world) = World::open() else {
        return;
    };
    let v4 = frame::tcp((CLIENT, 40_001), (VIP, 82), SYN, b"");
    let v6 = tcp((CLIENT_V6, 40_001), (VIP_V6, 82), SYN, b"");
    let named = [mac::of_backend(101), mac::of_backend(111)];
    let over_v4 = |named, inner: &[u8]| frame::vxlan(NODE_2, NODE_1, 0, named, inner);
    let over_v6 = |named, inner: &[u8]| frame_v6::vxlan(NODE_2_V6, NODE_1_V6, 0, named, inner);

    let outcome = world.run(IN, &over_v4(named[1], &v6));
    assert_eq!(outcome.verdict, Verdict::Redirect, "IPv6 over IPv4");
    assert_eq!(outcome.frame[12..14], [0x86, 0xdd]);
    assert_eq!(
        ends(&outcome.frame),
        ((CLIENT_V6, 40_001), (POD_1_V6, 8080))
    );
    assert_checksums(&outcome.frame);

    use_ipv6_underlay(&mut world);
    let outcome = world.run(IN, &over_v6(named[1], &v6));
    assert_eq!(outcome.verdict, Verdict::Redirect, "IPv6 over IPv6");
    assert_eq!(
        ends(&outcome.frame),
        ((CLIENT_V6, 40_001), (POD_1_V6, 8080))
    );
    assert_checksums(&outcome.frame);

    let outcome = world.run(IN, &over_v6(named[0], &v4));
    assert_eq!(outcome.verdict, Verdict::Redirect, "IPv4 over IPv6");
    assert_eq!(outcome.frame[12..14], [0x08, 0x00]);
    assert_eq!(
        frame::ends(&outcome.frame),
        ((CLIENT, 40_001), (POD_1, 8080))
    );
    frame::assert_checksums(&outcome.frame);

    // A VIP of one family with a pod of the other would have to be translated between them.
    let outcome = world.run(IN, &over_v6(named[0], &v6));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::FamilyMismatch));
}

#[test]
fn backend_behind_an_unresolved_neighbour_is_encapsulated_by_the_stacks_side() {
    let Some(mut world) = World::open() else {
        return;
    };
    let inner = to_vip(83);
    let outcome = world.run(IN, &inner);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(outcome.frame[12..14], [0x08, 0x00]);
    assert_eq!(frame::ends(&outcome.frame).1, (NODE_3, 4789));
    assert_eq!(outcome.frame[62..], inner[12..]);
    frame::assert_checksums(&outcome.frame);
}

#[test]
fn stacks_side_says_why_the_vip_does_not_take_a_packet() {
    use DropReason::{IpOptions, UnknownPort, UnsupportedProtocol};

    let Some(mut world) = World::open() else {
        return;
    };
    let cases = [
        ("a closed port", to_vip(4444), Verdict::Drop(UnknownPort)),
        (
            "options",
            ipv6(CLIENT_V6, VIP_V6, 60, &[6; 28]),
            Verdict::Drop(IpOptions),
        ),
        (
            "GRE",
            ipv6(CLIENT_V6, VIP_V6, 47, &[0; 8]),
            Verdict::Drop(UnsupportedProtocol),
        ),
        (
            "neighbour discovery",
            icmp(135, 0, CLIENT_V6, VIP_V6, &[0; 20]),
            Verdict::Pass,
        ),
    ];
    for (description, frame, verdict) in cases {
        assert_eq!(world.run(IN, &frame).verdict, verdict, "{description}");
    }
}

#[test]
fn pod_speaks_in_its_own_name_only() {
    use DropReason::{NoEndpoint, Spoofed};
    use Verdict::{Drop, Pass};

    let Some(mut world) = World::open() else {
        return;
    };
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    let absent: Ipv6Addr = "fd00:10:244:1::99".parse().unwrap();
    let cases = [
        (
            "to the outside",
            tcp((POD_1_V6, 1), (CLIENT_V6, 2), SYN, b""),
            Pass,
        ),
        (
            "in another pod's name",
            tcp((POD_2_V6, 1), (CLIENT_V6, 2), SYN, b""),
            Drop(Spoofed),
        ),
        (
            "in nobody's name",
            udp((Ipv6Addr::UNSPECIFIED, 1), (CLIENT_V6, 2), b""),
            Drop(Spoofed),
        ),
        (
            "neighbour discovery",
            icmp(135, 0, link_local, CLIENT_V6, &[0; 20]),
            Pass,
        ),
        (
            "to a pod that is not here",
            tcp((POD_1_V6, 1), (absent, 2), SYN, b""),
            Drop(NoEndpoint),
        ),
    ];
    for (description, frame, verdict) in cases {
        let outcome = world.run(POD, &frame);
        assert_eq!(outcome.verdict, verdict, "{description}");
        assert_eq!(outcome.frame, frame, "{description}: bytes changed");
    }
}

#[test]
fn pods_membership_reports_end_at_their_host() {
    let Some(mut world) = World::open() else {
        return;
    };
    let (mld_routers, all_nodes) = ("ff02::16", "ff02::1");
    let unspecified = Ipv6Addr::UNSPECIFIED;
    for (source, destination, header, verdict) in [
        (
            unspecified,
            mld_routers,
            protocol::HOP_BY_HOP,
            Verdict::Pass,
        ),
        (
            unspecified,
            all_nodes,
            protocol::HOP_BY_HOP,
            Verdict::Drop(DropReason::Spoofed),
        ),
        (
            unspecified,
            mld_routers,
            protocol::UDP,
            Verdict::Drop(DropReason::Spoofed),
        ),
    ] {
        let report = ipv6(source, destination.parse().unwrap(), header, &[0; 28]);
        let outcome = world.run(POD, &report);
        assert_eq!(outcome.verdict, verdict, "{header} to {destination}");
    }
}

#[test]
fn node_is_met_at_both_its_addresses_and_masquerades_as_the_one_of_ipv4() {
    let Some(mut world) = World::open() else {
        return;
    };
    use_ipv6_underlay(&mut world);
    let mut config = world.tables.config.get(&0, 0).unwrap();
    config.other_address = NODE_1.into();
    config.masquerade_word = Address::from(NODE_1).v4_word();
    world.tables.config.set(0, config, 0).unwrap();

    let inner = frame::tcp((POD_1, 5000), (NODE_1, 8080), SYN, b"");
    let arriving = frame_v6::vxlan(NODE_2_V6, NODE_1_V6, 0, mac::of_node(1), &inner);
    let outcome = world.run(IN, &arriving);
    assert_eq!(outcome.verdict, Verdict::Pass, "from a pod, in a tunnel");
    assert_eq!(outcome.frame[NETWORK..], inner[NETWORK..]);

    let leaving = frame::tcp((POD_1, 5000), (CLIENT, 443), SYN, b"");
    let outcome = world.run(OUT, &leaving);
    assert_eq!(outcome.verdict, Verdict::Pass);
    let ((source, port), _) = frame::ends(&outcome.frame);
    assert_eq!(source, NODE_1);
    let answer = frame::tcp((CLIENT, 443), (NODE_1, port), SYN | ACK, b"");
    let outcome = world.run(IN, &answer);
    assert_eq!(outcome.verdict, Verdict::Redirect);
    assert_eq!(frame::ends(&outcome.frame).1, (POD_1, 5000));
}

#[test]
fn node_without_an_ipv4_address_masquerades_nothing() {
    let Some(mut world) = World::open() else {
        return;
    };
    use_ipv6_underlay(&mut world);
    let outcome = world.run(OUT, &frame::tcp((POD_1, 5000), (CLIENT, 443), SYN, b""));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoRoute));
}

#[test]
fn pod_without_an_ipv6_address_speaks_none() {
    let Some(mut world) = World::open() else {
        return;
    };
    let mut pod = world.tables.pods.get(&1, 0).unwrap();
    pod.addresses = [POD_1.into(), Default::default()];
    world.tables.pods.insert(1, pod, 0).unwrap();
    let outcome = world.run(POD, &tcp((POD_1_V6, 1), (CLIENT_V6, 2), SYN, b""));
    assert_eq!(
        outcome.verdict,
        Verdict::Drop(DropReason::UnsupportedFamily)
    );
}

#[test]
fn pods_of_other_nodes_are_reached_encapsulated() {
    let Some(mut world) = World::open() else {
        return;
    };
    let node_address: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let cases = [
        (POD, tcp((POD_1_V6, 5000), (POD_2_V6, 8080), SYN, b"")),
        (OUT, tcp((node_address, 5000), (POD_2_V6, 8080), SYN, b"")),
    ];
    for (program, inner) in cases {
        let outcome = world.run(program, &inner);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{program}");
        assert_eq!(outcome.frame[12..14], [0x08, 0x00], "{program}");
        assert_eq!(frame::ends(&outcome.frame).1, (NODE_2, 4789), "{program}");
        assert_eq!(
            outcome.frame[OVERHEAD + NETWORK..],
            inner[NETWORK..],
            "{program}"
        );
    }
}

#[test]
fn pod_leaves_the_cluster_under_its_own_address() {
    let Some(mut world) = World::open() else {
        return;
    };
    let frame = tcp((POD_1_V6, 5000), (CLIENT_V6, 443), SYN, b"");
    let outcome = world.run(OUT, &frame);
    assert_eq!((outcome.verdict, outcome.frame), (Verdict::Pass, frame));
}
