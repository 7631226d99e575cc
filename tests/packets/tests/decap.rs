//! Packets for VIPs that others encapsulated: IP in IP and GUE, taken off, delivered, never sent on.

use fairlead_dataplane_common::{Counter, DropReason, mac, protocol};
use packet_tests::frame::{self, ACK, NETWORK, OWN_MAC, ROUTER_MAC, ends, tcp};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_1_V6, NODE_2, POD_1, POD_1_V6, VIP, VIP_V6, Verdict, World,
    frame_v6,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";

/// `inner` in every kind of tunnel over both families, from another balancer.
fn tunnels(inner: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let packet = &inner[NETWORK..];
    let held = if packet[0] >> 4 == 4 {
        protocol::IPIP
    } else {
        protocol::IPV6
    };
    let variant_0 = [&[0, held, 0, 0][..], packet].concat();
    let gue = |payload: &[u8]| frame::udp((CLIENT, 50_000), (NODE_1, 6080), payload);
    let gue_v6 = |payload: &[u8]| frame_v6::udp((CLIENT_V6, 50_000), (NODE_1_V6, 6080), payload);
    vec![
        ("IP in IPv4", frame::ipv4(CLIENT, NODE_1, held, packet)),
        ("GUE of variant 1 over IPv4", gue(packet)),
        ("GUE of variant 0 over IPv4", gue(&variant_0)),
        (
            "IP in IPv6",
            frame_v6::ipv6(CLIENT_V6, NODE_1_V6, held, packet),
        ),
        ("GUE of variant 1 over IPv6", gue_v6(packet)),
        ("GUE of variant 0 over IPv6", gue_v6(&variant_0)),
    ]
}

fn world() -> Option<World> {
    let mut world = World::open()?;
    world.add_node_v6();
    Some(world)
}

#[test]
fn packet_in_a_tunnel_is_delivered_here_whoever_sent_it() {
    let Some(mut world) = world() else {
        return;
    };
    let mut count = 0;
    let inner = tcp((CLIENT, 40_000), (VIP, 81), ACK, b"data");
    for (description, tunnel) in tunnels(&inner) {
        let outcome = world.run(XDP, &tunnel);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(outcome.frame[..6], OWN_MAC);
        assert_eq!(outcome.frame[6..12], mac::of_node(1), "{description}");
        assert_eq!(outcome.frame[12..], inner[12..], "{description}");
        let outcome = world.run(IN, &outcome.frame);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{description}");
        assert_eq!(ends(&outcome.frame), ((CLIENT, 40_000), (POD_1, 8080)));
        frame::assert_checksums(&outcome.frame);
        count += 1;
    }
    let inner = frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, 81), ACK, b"data");
    for (description, tunnel) in tunnels(&inner) {
        let outcome = world.run(XDP, &tunnel);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(outcome.frame[12..], inner[12..], "{description}");
        let outcome = world.run(IN, &outcome.frame);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{description}");
        let to = frame_v6::ends(&outcome.frame).1;
        assert_eq!(to, (POD_1_V6, 8080), "{description}");
        frame_v6::assert_checksums(&outcome.frame);
        count += 1;
    }
    assert_eq!(world.counter(Counter::Decapsulated), count);
}

#[test]
fn packet_for_backends_elsewhere_is_dropped_not_sent_on() {
    let Some(mut world) = world() else {
        return;
    };
    for (description, tunnel) in tunnels(&tcp((CLIENT, 1), (VIP, 82), ACK, b"data")) {
        let outcome = world.run(XDP, &tunnel);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        let outcome = world.run(IN, &outcome.frame);
        let verdict = Verdict::Drop(DropReason::NoLocalBackend);
        assert_eq!(outcome.verdict, verdict, "{description}");
    }
}

#[test]
fn tunnel_to_what_is_no_vip_is_foreign() {
    let Some(mut world) = world() else {
        return;
    };
    let inner = [
        tcp((CLIENT, 1), (NODE_1, 22), ACK, b""),
        tcp((CLIENT, 1), (POD_1, 8080), ACK, b""),
        frame_v6::tcp((CLIENT_V6, 1), (POD_1_V6, 8080), ACK, b""),
    ];
    for inner in inner {
        for (description, tunnel) in tunnels(&inner) {
            let outcome = world.run(XDP, &tunnel);
            let verdict = Verdict::Drop(DropReason::ForeignTunnel);
            assert_eq!(outcome.verdict, verdict, "{description}");
        }
    }
}

#[test]
fn broken_tunnel_is_malformed_and_what_is_no_tunnel_passes() {
    let Some(mut world) = world() else {
        return;
    };
    let inner = tcp((CLIENT, 1), (VIP, 81), ACK, b"data");
    for (description, mut tunnel) in tunnels(&inner) {
        // An inner packet longer than the outer one, with room behind in the frame.
        let length = if tunnel[12..14] == [0x08, 0] { 16 } else { 18 };
        let shorter = u16::from_be_bytes([tunnel[length], tunnel[length + 1]]) - 4;
        tunnel[length..length + 2].copy_from_slice(&shorter.to_be_bytes());
        if length == 16 {
            frame::mend_ip(&mut tunnel);
        }
        let outcome = world.run(XDP, &tunnel);
        let verdict = Verdict::Drop(DropReason::Malformed);
        assert_eq!(outcome.verdict, verdict, "{description}");
    }
    let gue = |payload: &[u8]| frame::udp((CLIENT, 50_000), (NODE_1, 6080), payload);
    let passes = [
        (
            "over IPv6, another protocol",
            frame_v6::ipv6(CLIENT_V6, NODE_1_V6, 47, &inner[NETWORK..]),
        ),
        (
            "over IPv6, for another node",
            frame_v6::ipv6(CLIENT_V6, POD_1_V6, protocol::IPIP, &inner[NETWORK..]),
        ),
        ("a control message", gue(&[0x20, 4, 0, 0, 0, 0])),
        ("options", gue(&[0x01, 4, 0, 0, 0, 0, 0, 0])),
        ("flags", gue(&[0, 4, 0x80, 0, 0, 0])),
        ("no IP", gue(&[0, 47, 0, 0, 0, 0])),
        ("an unknown variant", gue(&[0xc0, 4, 0, 0, 0, 0])),
        (
            "for another node",
            frame::ipv4(CLIENT, NODE_2, protocol::IPIP, &inner[NETWORK..]),
        ),
        (
            "another protocol",
            frame::ipv4(CLIENT, NODE_1, 47, &inner[NETWORK..]),
        ),
    ];
    for (description, frame) in passes {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
        assert_eq!(outcome.frame, frame, "{description}");
        assert_eq!(outcome.frame[6..12], ROUTER_MAC);
    }
    assert_eq!(world.counter(Counter::Decapsulated), 0);
}
