//! VIPs that are whole prefixes: which of their addresses, ports and services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::{
    BACKEND_EMPTY, Counter, DropReason, FRONTEND_ADDRESS, FrontendKey, SERVICE_TRACK, mac, protocol,
};
use packet_tests::frame::{self, ACK, RST, SYN};
use packet_tests::{CLIENT, CLIENT_V6, NODE_1, POD_1, POD_1_V6, Service, Verdict, World, frame_v6};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
/// A backend of node 2 that answers for the prefixes, and one for an address inside.
const ALL: u32 = 20;
const ONE: u32 = 21;
const PORT: u16 = 90;
/// Where the backend is a pod of this node.
const LOCAL_PORT: u16 = 91;

/// One family's prefix and what is in it and around it.
struct Case {
    network: IpAddr,
    bits: u32,
    /// The first, the last and one between.
    inside: [IpAddr; 3],
    /// Right before, right behind, and far away.
    outside: [IpAddr; 3],
    /// Inside, with services of its own.
    single: IpAddr,
    /// Of node 1.
    pod: u32,
}

/// 203.0.113.16/28 and 2001:db8:113::/62.
fn cases() -> [Case; 2] {
    let v4 = |host| IpAddr::from(Ipv4Addr::new(203, 0, 113, host));
    let v6 = |net, host| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0x113, net, 0, 0, 0, host));
    [
        Case {
            network: v4(16),
            bits: 96 + 28,
            inside: [v4(16), v4(31), v4(23)],
            outside: [v4(15), v4(32), v4(144)],
            single: v4(20),
            pod: 1,
        },
        Case {
            network: v6(4, 0),
            bits: 62,
            inside: [
                v6(4, 0),
                Ipv6Addr::new(0x2001, 0xdb8, 0x113, 7, !0, !0, !0, !0).into(),
                v6(6, 0x17),
            ],
            outside: [
                Ipv6Addr::new(0x2001, 0xdb8, 0x113, 3, !0, !0, !0, !0).into(),
                v6(8, 0),
                v6(0x100, 4),
            ],
            single: v6(5, 0x20),
            pod: 11,
        },
    ]
}

/// A world with both prefixes, TCP and UDP, and the single addresses' TCP 92.
fn world() -> Option<World> {
    let mut world = World::open()?;
    world.add_backend(ALL, 1);
    world.add_backend(ONE, 1);
    for case in cases() {
        for protocol in [protocol::TCP, protocol::UDP] {
            for (port, table) in [(PORT, ALL), (LOCAL_PORT, case.pod)] {
                let slot = world.add_hidden(&[table]);
                world.add_prefix(case.network, case.bits, (protocol, port), slot);
            }
        }
        let single = FrontendKey::of_address(0, case.single.into());
        world.add_frontend(single, 0, FRONTEND_ADDRESS);
        world.add_service_at(case.single, protocol::TCP, PORT, &[ONE]);
        world.add_service_at(case.single, protocol::TCP, 92, &[ONE]);
        // At the prefix's first address alone.
        world.add_service_at(case.network, protocol::TCP, 93, &[ONE]);
    }
    Some(world)
}

/// A segment of TCP from a client to an address of either family.
fn tcp(from: u16, to: IpAddr, port: u16, flags: u8) -> Vec<u8> {
    match to {
        IpAddr::V4(to) => frame::tcp((CLIENT, from), (to, port), flags, b""),
        IpAddr::V6(to) => frame_v6::tcp((CLIENT_V6, from), (to, port), flags, b""),
    }
}

fn udp(from: u16, to: IpAddr, port: u16) -> Vec<u8> {
    match to {
        IpAddr::V4(to) => frame::udp((CLIENT, from), (to, port), b"data"),
        IpAddr::V6(to) => frame_v6::udp((CLIENT_V6, from), (to, port), b"data"),
    }
}

fn ends(frame: &[u8], is_v4: bool) -> [(IpAddr, u16); 2] {
    if is_v4 {
        let (from, to) = frame::ends(frame);
        [(from.0.into(), from.1), (to.0.into(), to.1)]
    } else {
        let (from, to) = frame_v6::ends(frame);
        [(from.0.into(), from.1), (to.0.into(), to.1)]
    }
}

#[test]
fn every_address_of_a_prefix_is_balanced_and_no_other() {
    let Some(mut world) = world() else {
        return;
    };
    for hook in [XDP, IN] {
        for case in cases() {
            for to in case.inside {
                for packet in [tcp(1000, to, PORT, SYN), udp(1000, to, PORT)] {
                    let outcome = world.run(hook, &packet);
                    assert_eq!(outcome.named(), Some(100 + ALL), "{hook}, {to}");
                }
            }
            for to in case.outside {
                for packet in [tcp(1000, to, PORT, SYN), udp(1000, to, PORT)] {
                    let outcome = world.run(hook, &packet);
                    assert_eq!(outcome.verdict, Verdict::Pass, "{hook}, {to}");
                    assert_eq!(outcome.frame, packet);
                }
            }
        }
    }
}

#[test]
fn address_inside_that_answers_by_itself_wins_and_the_rest_is_the_prefixs() {
    let Some(mut world) = world() else {
        return;
    };
    for hook in [XDP, IN] {
        for case in cases() {
            let [first, ..] = case.inside;
            for (packet, backend) in [
                (tcp(1000, case.single, PORT, SYN), ONE),
                (tcp(1000, case.single, 92, SYN), ONE),
                (udp(1000, case.single, PORT), ALL),
                (tcp(1000, first, 93, SYN), ONE),
                (tcp(1000, first, PORT, SYN), ALL),
            ] {
                let outcome = world.run(hook, &packet);
                assert_eq!(outcome.named(), Some(100 + backend), "{hook}, {first}");
            }
        }
    }
}

#[test]
fn ports_of_a_prefix_at_which_nobody_answers_are_dropped() {
    let Some(mut world) = world() else {
        return;
    };
    let unknown = Verdict::Drop(DropReason::UnknownPort);
    for case in cases() {
        for to in case.inside {
            // What is a single address's own is not the prefix's.
            let others = if to == case.network {
                [94, 95]
            } else {
                [93, 94]
            };
            for port in others {
                let packet = tcp(1000, to, port, SYN);
                assert_eq!(world.run(XDP, &packet).verdict, Verdict::Pass, "{to}");
                assert_eq!(world.run(IN, &packet).verdict, unknown, "{to} {port}");
            }
        }
        for to in case.outside {
            let packet = tcp(1000, to, 94, SYN);
            assert_eq!(world.run(IN, &packet).verdict, Verdict::Pass, "{to}");
        }
    }
}

#[test]
fn pods_and_their_clients_know_the_address_that_was_asked_for() {
    let Some(mut world) = world() else {
        return;
    };
    for case in cases() {
        let is_v4 = case.network.is_ipv4();
        let pod = if is_v4 { POD_1.into() } else { POD_1_V6.into() };
        let client: IpAddr = if is_v4 {
            CLIENT.into()
        } else {
            CLIENT_V6.into()
        };
        for (from, to) in (2000..).zip(case.inside) {
            let packet = tcp(from, to, LOCAL_PORT, SYN);
            let outcome = world.run(IN, &packet);
            assert_eq!(outcome.verdict, Verdict::Redirect, "{to}");
            assert_eq!(ends(&outcome.frame, is_v4), [(client, from), (pod, 8080)]);
            let answer = match (pod, client) {
                (IpAddr::V4(pod), IpAddr::V4(client)) => {
                    frame::tcp((pod, 8080), (client, from), SYN | ACK, b"")
                }
                (IpAddr::V6(pod), IpAddr::V6(client)) => {
                    frame_v6::tcp((pod, 8080), (client, from), SYN | ACK, b"")
                }
                _ => unreachable!("both are of one family"),
            };
            let outcome = world.run("tc_from_pod", &answer);
            let expected = [(to, LOCAL_PORT), (client, from)];
            assert_eq!(ends(&outcome.frame, is_v4), expected);
            if is_v4 {
                frame::assert_checksums(&outcome.frame);
            } else {
                frame_v6::assert_checksums(&outcome.frame);
            }
        }
    }
}

#[test]
fn frame_passed_on_by_another_node_is_picked_for_again() {
    let Some(mut world) = world() else {
        return;
    };
    for case in cases() {
        let is_v4 = case.network.is_ipv4();
        let pod: IpAddr = if is_v4 { POD_1.into() } else { POD_1_V6.into() };
        let to = case.inside[2];
        let mut packet = tcp(3000, to, LOCAL_PORT, ACK);
        packet[6..12].copy_from_slice(&mac::of_node(2));
        let outcome = world.run(XDP, &packet);
        assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Pass, &packet));
        let outcome = world.run(IN, &packet);
        assert_eq!(outcome.verdict, Verdict::Redirect, "{to}");
        assert_eq!(ends(&outcome.frame, is_v4)[1], (pod, 8080));
    }
}

#[test]
fn resets_and_echoes_are_answered_by_the_address_that_was_asked() {
    let Some(mut world) = world() else {
        return;
    };
    let slot = world.add(&Service {
        protocol: protocol::TCP,
        port: 95,
        table: &[ALL],
        flags: SERVICE_TRACK,
        ..Service::default()
    });
    for case in cases() {
        world.add_prefix(case.network, case.bits, (protocol::TCP, 95), slot);
    }
    for case in cases() {
        for to in case.inside {
            world.run(XDP, &tcp(4000, to, 95, SYN));
        }
    }
    world.set_state(ALL, BACKEND_EMPTY);
    for case in cases() {
        let is_v4 = case.network.is_ipv4();
        for to in case.inside {
            let outcome = world.run(XDP, &tcp(4000, to, 95, ACK));
            assert_eq!(outcome.verdict, Verdict::Transmit, "{to}");
            assert_eq!(ends(&outcome.frame, is_v4)[0], (to, 95));
            let transport = if is_v4 {
                frame::TRANSPORT
            } else {
                frame_v6::TRANSPORT
            };
            assert_ne!(outcome.frame[transport + 13] & RST, 0, "{to}");
            let echo = match to {
                IpAddr::V4(to) => frame::echo(8, CLIENT, to, 7),
                IpAddr::V6(to) => frame_v6::echo(frame_v6::ECHO_REQUEST, CLIENT_V6, to, 7),
            };
            assert_eq!(world.run(XDP, &echo).verdict, Verdict::Transmit, "{to}");
        }
    }
    assert_eq!(world.counter(Counter::Reset), 6);
}

#[test]
fn nodes_own_address_stays_its_own_inside_a_prefix_that_is_a_vip() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(ALL, 1);
    let slot = world.add_hidden(&[ALL]);
    let network = Ipv4Addr::new(198, 18, 0, 0);
    world.add_prefix(network.into(), 96 + 24, (protocol::TCP, PORT), slot);
    for port in [22, PORT] {
        for hook in [XDP, IN] {
            let packet = tcp(1000, NODE_1.into(), port, SYN);
            let outcome = world.run(hook, &packet);
            assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Pass, &packet));
        }
    }
    let other = Ipv4Addr::new(198, 18, 0, 7);
    let outcome = world.run(XDP, &tcp(1000, other.into(), PORT, SYN));
    assert_eq!(outcome.named(), Some(100 + ALL));
}
