//! Real servers outside the cluster: dr by MAC addresses, tun by IP in IP and GUE.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use fairlead_dataplane_common::{Counter, DropReason, SERVICE_DR, SERVICE_GUE, checksum, protocol};
use packet_tests::frame::{self, ACK, NETWORK, OWN_MAC, tcp, udp};
use packet_tests::{CLIENT, CLIENT_V6, NODE_1, NODE_1_V6, VIP, VIP_V6, Verdict, World, frame_v6};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
const SLOT: u32 = 21;
const IPV4: usize = 20;
const UDP: usize = 8;
const IPV6: usize = 40;
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xc8);

/// A world with a service at both VIPs' port 7000, TCP and UDP, of one server.
fn world(mac: Option<[u8; 6]>, flags: u32) -> Option<World> {
    world_of((SERVER, 7000).into(), mac, flags)
}

/// The same of this server.
fn world_of(server: SocketAddr, mac: Option<[u8; 6]>, flags: u32) -> Option<World> {
    let mut world = World::open()?;
    world.add_server(SLOT, server, mac);
    let slots = [
        world.add_service(protocol::TCP, 7000, &[SLOT]),
        world.add_service(protocol::UDP, 7000, &[SLOT]),
        world.add_service_at(VIP_V6.into(), protocol::TCP, 7000, &[SLOT]),
    ];
    for slot in slots {
        world.set_flags(slot, flags);
    }
    Some(world)
}

fn packets() -> [(&'static str, Vec<u8>); 3] {
    [
        ("TCP", tcp((CLIENT, 40_000), (VIP, 7000), ACK, b"data")),
        ("UDP", udp((CLIENT, 40_000), (VIP, 7000), b"data")),
        (
            "TCP over IPv6",
            frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, 7000), ACK, b"data"),
        ),
    ]
}

#[test]
fn server_of_the_segment_gets_the_frame_with_other_mac_addresses() {
    let Some(mut world) = world(Some(SERVER_MAC), SERVICE_DR) else {
        return;
    };
    for (description, frame) in packets() {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        assert_eq!(outcome.frame[..6], SERVER_MAC, "{description}");
        assert_eq!(outcome.frame[6..12], OWN_MAC, "{description}");
        assert_eq!(outcome.frame[12..], frame[12..], "{description}");
    }
}

#[test]
fn server_behind_a_router_gets_ip_in_ip() {
    let Some(mut world) = world(Some(SERVER_MAC), SERVICE_DR) else {
        return;
    };
    world.set_adjacent(SLOT, false);
    for (description, mut frame) in packets() {
        let is_v4 = frame[12..14] == [0x08, 0];
        if is_v4 {
            frame[NETWORK + 1] = 0xb8;
            frame::mend_ip(&mut frame);
        }
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        let out = &outcome.frame;
        assert_eq!(out.len(), frame.len() + IPV4, "{description}");
        assert_eq!(out[..6], SERVER_MAC);
        assert_eq!(out[6..12], OWN_MAC);
        assert_eq!(out[12..14], [0x08, 0]);
        assert_eq!(out[14..16], [0x45, if is_v4 { 0xb8 } else { 0 }]);
        assert_eq!(out[16..18], ((out.len() - NETWORK) as u16).to_be_bytes());
        let held = if is_v4 { 4 } else { 41 };
        assert_eq!(out[18..24], [0, 0, 0x40, 0, 64, held], "{description}");
        assert_eq!(out[26..30], NODE_1.octets());
        assert_eq!(out[30..34], SERVER.octets());
        assert_eq!(checksum::sum(&out[NETWORK..34]), 0xffff, "{description}");
        assert_eq!(out[34..], frame[NETWORK..], "{description}");
    }
}

#[test]
fn service_that_asks_for_gue_is_encapsulated_in_udp() {
    let Some(mut world) = world(Some(SERVER_MAC), SERVICE_GUE) else {
        return;
    };
    for (description, frame) in packets() {
        let outcome = world.run(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
        let out = &outcome.frame;
        assert_eq!(out.len(), frame.len() + IPV4 + UDP, "{description}");
        assert_eq!(checksum::sum(&out[NETWORK..34]), 0xffff, "{description}");
        assert_eq!(out[23], protocol::UDP);
        let port = u16::from_be_bytes([out[34], out[35]]);
        assert!(port >= 0xc000, "{port}");
        assert_eq!(out[36..38], 6080_u16.to_be_bytes());
        assert_eq!(out[38..40], ((out.len() - 34) as u16).to_be_bytes());
        assert_eq!(out[40..42], [0, 0]);
        assert_eq!(out[42..], frame[NETWORK..], "{description}");
    }
}

#[test]
fn flows_spread_over_the_ports_of_gue() {
    let Some(mut world) = world(Some(SERVER_MAC), SERVICE_GUE) else {
        return;
    };
    let ports: std::collections::HashSet<[u8; 2]> = (40_000..40_032)
        .map(|port| {
            let frame = tcp((CLIENT, port), (VIP, 7000), ACK, b"");
            let out = world.run(XDP, &frame).frame;
            [out[34], out[35]]
        })
        .collect();
    assert!(ports.len() > 24, "{} of 32", ports.len());
}

#[test]
fn server_whose_neighbour_is_not_known_is_left_to_the_stack() {
    let cases = [
        ("dr", SERVICE_DR, 0),
        ("IP in IP", 0, IPV4),
        ("GUE", SERVICE_GUE, IPV4 + UDP),
    ];
    for (mode, flags, overhead) in cases {
        let Some(mut world) = world(None, flags) else {
            return;
        };
        for (description, frame) in packets() {
            let outcome = world.run(XDP, &frame);
            assert_eq!(outcome.verdict, Verdict::Pass, "{mode}, {description}");
            assert_eq!(outcome.frame, frame);
            let outcome = world.run(IN, &frame);
            assert_eq!(outcome.verdict, Verdict::Redirect, "{mode}, {description}");
            let out = &outcome.frame;
            assert_eq!(out.len(), frame.len() + overhead, "{mode}, {description}");
            assert_eq!(out[NETWORK + overhead..], frame[NETWORK..], "{mode}");
            if overhead != 0 {
                assert_eq!(out[12..14], [0x08, 0], "{mode}, {description}");
                assert_eq!(checksum::sum(&out[NETWORK..34]), 0xffff, "{mode}");
                assert_eq!(out[30..34], SERVER.octets(), "{mode}");
            }
        }
    }
}

#[test]
fn packet_that_does_not_fit_the_tunnel_is_answered_with_what_would() {
    for (flags, fits) in [(0, 1480_u32), (SERVICE_GUE, 1472)] {
        let Some(mut world) = world(Some(SERVER_MAC), flags) else {
            return;
        };
        let payload = vec![0x5a; fits as usize - 40];
        let exact = tcp((CLIENT, 1), (VIP, 7000), ACK, &payload);
        let out = world.run(XDP, &exact);
        assert_eq!(out.frame.len(), NETWORK + 1500, "what fits is sent");

        let big = [&payload[..], b"x"].concat();
        let frame = tcp((CLIENT, 1), (VIP, 7000), ACK, &big);
        let out = world.run(XDP, &frame);
        assert_eq!(out.verdict, Verdict::Transmit);
        assert_eq!(out.frame[34..36], [3, 4]);
        assert_eq!(out.frame[38..42], fits.to_be_bytes());
        frame::assert_checksums(&out.frame);
        let out = world.run(IN, &frame);
        assert_eq!(out.verdict, Verdict::Redirect, "the same by the stack");
        assert_eq!(out.frame[34..36], [3, 4]);
        assert_eq!(out.frame[38..42], fits.to_be_bytes());
        frame::assert_checksums(&out.frame);

        let frame = frame_v6::tcp((CLIENT_V6, 1), (VIP_V6, 7000), ACK, &payload);
        let out = world.run(XDP, &frame);
        assert_eq!(out.frame[54..56], [2, 0]);
        assert_eq!(out.frame[58..62], fits.to_be_bytes());
        frame_v6::assert_checksums(&out.frame);
        assert_eq!(world.counter(Counter::TooBigAnswered), 3);
    }
}

#[test]
fn error_about_what_a_server_sent_reaches_it_as_it_is() {
    let Some(mut world) = world(Some(SERVER_MAC), 0) else {
        return;
    };
    let about = tcp((VIP, 7000), (CLIENT, 40_000), ACK, b"a long answer");
    let hop = Ipv4Addr::new(203, 0, 113, 1);
    let error = frame::icmp_error((3, 4), hop, VIP, &about, 28);
    let outcome = world.run(XDP, &error);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.frame[23], protocol::IPIP);
    assert_eq!(outcome.frame[34..], error[NETWORK..]);
}

/// Whether `out` is `frame` in IPv6, and perhaps UDP, from the node to the server.
fn assert_outer_v6(description: &str, out: &[u8], frame: &[u8], flags: u32) {
    let behind = if flags & SERVICE_GUE != 0 { UDP } else { 0 };
    assert_eq!(out.len(), frame.len() + IPV6 + behind, "{description}");
    assert_eq!(out[12..14], [0x86, 0xdd], "{description}");
    let is_v4 = frame[12..14] == [0x08, 0];
    let class: &[u8] = if is_v4 { &[0x6b, 0x80] } else { &[0x60, 0] };
    assert_eq!(out[14..16], *class, "{description}");
    let payload = (out.len() - NETWORK - IPV6) as u16;
    assert_eq!(out[18..20], payload.to_be_bytes(), "{description}");
    let held = match (behind, is_v4) {
        (UDP, _) => protocol::UDP,
        (_, true) => protocol::IPIP,
        (_, false) => protocol::IPV6,
    };
    assert_eq!(out[20..22], [held, 64], "{description}");
    assert_eq!(out[22..38], NODE_1_V6.octets(), "{description}");
    assert_eq!(out[38..54], SERVER_V6.octets(), "{description}");
    if behind != 0 {
        assert!(u16::from_be_bytes([out[54], out[55]]) >= 0xc000);
        assert_eq!(out[56..58], 6080_u16.to_be_bytes());
        assert_eq!(out[58..60], payload.to_be_bytes());
        assert_eq!(out[60..62], [0, 0], "RFC 6935: a tunnel may go without");
    }
    assert_eq!(out[54 + behind..], frame[NETWORK..], "{description}");
}

#[test]
fn server_at_an_ipv6_address_gets_both_families_over_ipv6() {
    for flags in [0, SERVICE_GUE] {
        for mac in [Some(SERVER_MAC), None] {
            let Some(mut world) = world_of((SERVER_V6, 7000).into(), mac, flags) else {
                return;
            };
            world.add_node_v6();
            for (description, mut frame) in packets() {
                if frame[12..14] == [0x08, 0] {
                    frame[NETWORK + 1] = 0xb8;
                    frame::mend_ip(&mut frame);
                }
                let mut outcome = world.run(XDP, &frame);
                if mac.is_some() {
                    assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
                    assert_eq!(outcome.frame[..6], SERVER_MAC);
                    assert_eq!(outcome.frame[6..12], OWN_MAC);
                } else {
                    assert_eq!(outcome.verdict, Verdict::Pass, "{description}");
                    outcome = world.run(IN, &frame);
                    assert_eq!(outcome.verdict, Verdict::Redirect, "{description}");
                }
                assert_outer_v6(description, &outcome.frame, &frame, flags);
            }
        }
    }
}

#[test]
fn server_at_an_ipv6_address_is_out_of_reach_of_a_node_that_has_none() {
    for mac in [Some(SERVER_MAC), None] {
        let Some(mut world) = world_of((SERVER_V6, 7000).into(), mac, 0) else {
            return;
        };
        let program = if mac.is_some() { XDP } else { IN };
        for (description, frame) in packets() {
            let outcome = world.run(program, &frame);
            let verdict = Verdict::Drop(DropReason::FamilyMismatch);
            assert_eq!(outcome.verdict, verdict, "{description}");
        }
    }
}

#[test]
fn packet_that_does_not_fit_a_tunnel_over_ipv6_is_answered_with_what_would() {
    for (flags, fits) in [(0, 1460_u32), (SERVICE_GUE, 1452)] {
        let Some(mut world) = world_of((SERVER_V6, 7000).into(), Some(SERVER_MAC), flags) else {
            return;
        };
        world.add_node_v6();
        let payload = vec![0x5a; fits as usize - 40];
        let exact = tcp((CLIENT, 1), (VIP, 7000), ACK, &payload);
        let out = world.run(XDP, &exact);
        assert_eq!(out.frame.len(), NETWORK + 1500, "what fits is sent");
        let big = [&payload[..], b"x"].concat();
        let out = world.run(XDP, &tcp((CLIENT, 1), (VIP, 7000), ACK, &big));
        assert_eq!(out.frame[34..36], [3, 4]);
        assert_eq!(out.frame[38..42], fits.to_be_bytes());
        frame::assert_checksums(&out.frame);
        let out = world.run(
            XDP,
            &frame_v6::tcp((CLIENT_V6, 1), (VIP_V6, 7000), ACK, &payload),
        );
        assert_eq!(out.frame[54..56], [2, 0]);
        assert_eq!(out.frame[58..62], fits.to_be_bytes());
        frame_v6::assert_checksums(&out.frame);
    }
}
