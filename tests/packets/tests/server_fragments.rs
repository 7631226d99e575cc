//! Fragments for real servers outside: each goes by itself the way of the first, as it is or with outer
//! headers of its own, by both hooks.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::{DropReason, SERVICE_DR, SERVICE_GUE, checksum, protocol};
use packet_tests::fragments::{split, split_v6};
use packet_tests::frame::{self, NETWORK, OWN_MAC};
use packet_tests::{CLIENT, CLIENT_V6, NODE_1, Service, VIP, VIP_V6, Verdict, World, frame_v6};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const SLOT: u32 = 21;
const OTHER: u32 = 22;
const SERVERS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 18, 0, 200),
    Ipv4Addr::new(198, 18, 0, 201),
];
/// The last byte says which of the servers.
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 200];
const PORT: u16 = 7000;

/// How servers get packets: a name, the service's flags, and the bytes before each.
const WAYS: [(&str, u32, usize); 3] = [
    ("dr", SERVICE_DR, 0),
    ("IP in IP", 0, 20),
    ("GUE", SERVICE_GUE, 28),
];

/// A world with a service of both servers for datagrams.
fn world(is_resolved: bool, flags: u32) -> Option<World> {
    let mut world = World::open()?;
    for (slot, server) in [SLOT, OTHER].into_iter().zip(SERVERS) {
        let mut mac = SERVER_MAC;
        mac[5] = server.octets()[3];
        world.add_server(slot, (server, 9000).into(), is_resolved.then_some(mac));
    }
    world.add(&Service {
        protocol: protocol::UDP,
        port: PORT,
        table: &[SLOT, OTHER],
        flags,
        ..Service::default()
    });
    Some(world)
}

/// The fragments of a datagram from `port`, in either family.
fn datagrams(port: u16) -> [(&'static str, Vec<Vec<u8>>); 2] {
    let data = [0x5a; 4_000];
    let whole = frame::udp((CLIENT, port), (VIP, PORT), &data);
    let whole_v6 = frame_v6::udp((CLIENT_V6, port), (VIP_V6, PORT), &data);
    [
        ("IPv4", split(&whole, port)),
        ("IPv6", split_v6(&whole_v6, port.into())),
    ]
}

/// The server that a frame from XDP goes to, by its MAC address. Panics unless it is `fragment` with
/// the outer headers of a way.
fn sent_by_xdp(out: &[u8], fragment: &[u8], flags: u32, overhead: usize) -> u8 {
    assert_eq!(out[..5], SERVER_MAC[..5]);
    assert_eq!(out[6..12], OWN_MAC);
    if overhead == 0 {
        assert_eq!(out[12..], fragment[12..]);
    } else {
        assert_outer(out, fragment, flags, overhead);
        assert_eq!(out[33], out[5], "the same server's address");
    }
    out[5]
}

/// Panics unless `out` is `fragment` behind an outer IPv4 header, and perhaps UDP.
fn assert_outer(out: &[u8], fragment: &[u8], flags: u32, overhead: usize) {
    assert_eq!(out.len(), fragment.len() + overhead);
    assert_eq!(out[12..15], [0x08, 0, 0x45]);
    let length = (out.len() - NETWORK) as u16;
    assert_eq!(out[16..18], length.to_be_bytes());
    assert_eq!(out[20..22], [0x40, 0], "no fragment itself");
    let held = match (flags & SERVICE_GUE, fragment[12]) {
        (0, 0x08) => protocol::IPIP,
        (0, _) => protocol::IPV6,
        _ => protocol::UDP,
    };
    assert_eq!(out[23], held);
    assert_eq!(checksum::sum(&out[NETWORK..34]), 0xffff);
    assert_eq!(out[26..30], NODE_1.octets());
    assert_eq!(out[30..33], SERVERS[0].octets()[..3]);
    if held == protocol::UDP {
        assert_eq!(out[36..38], protocol::GUE_PORT.to_be_bytes());
        assert_eq!(out[38..40], (length - 20).to_be_bytes());
    }
    assert_eq!(out[NETWORK + overhead..], fragment[NETWORK..]);
}

#[test]
fn fragments_go_to_one_server_each_in_headers_of_its_own() {
    for (way, flags, overhead) in WAYS {
        let Some(mut world) = world(true, flags) else {
            return;
        };
        let mut servers = Vec::new();
        for port in 40_000..40_016 {
            for (family, fragments) in datagrams(port) {
                assert_eq!(fragments.len(), 5);
                let outs: Vec<Vec<u8>> = fragments
                    .iter()
                    .map(|fragment| {
                        let outcome = world.run(XDP, fragment);
                        assert_eq!(outcome.verdict, Verdict::Transmit, "{way}, {family}");
                        outcome.frame
                    })
                    .collect();
                let mut of_all: Vec<u8> = outs
                    .iter()
                    .zip(&fragments)
                    .map(|(out, fragment)| sent_by_xdp(out, fragment, flags, overhead))
                    .collect();
                of_all.dedup();
                assert_eq!(of_all.len(), 1, "{way}, {family}: to one server");
                if flags & SERVICE_GUE != 0 {
                    let ports = outs.iter().map(|out| &out[34..36]);
                    assert!(
                        ports.clone().all(|port| *port == outs[0][34..36]),
                        "{family}"
                    );
                }
                servers.extend(of_all);
            }
        }
        for server in SERVERS {
            assert!(servers.contains(&server.octets()[3]), "{way}: {servers:?}");
        }
    }
}

#[test]
fn fragments_for_a_server_whose_neighbour_is_not_known_go_by_the_stack() {
    for (way, flags, overhead) in WAYS {
        let Some(mut world) = world(false, flags) else {
            return;
        };
        for (family, fragments) in datagrams(40_000) {
            for fragment in &fragments {
                let outcome = world.run(XDP, fragment);
                assert_eq!(outcome.verdict, Verdict::Pass, "{way}, {family}");
                assert_eq!(outcome.frame, *fragment);
                let outcome = world.run(IN, fragment);
                assert_eq!(outcome.verdict, Verdict::Redirect, "{way}, {family}");
                if overhead == 0 {
                    assert_eq!(outcome.frame, *fragment, "{way}, {family}");
                } else {
                    assert_outer(&outcome.frame, fragment, flags, overhead);
                }
            }
        }
    }
}

#[test]
fn later_fragment_for_a_server_without_its_first_is_dropped() {
    for (way, flags, _) in WAYS {
        let Some(mut world) = world(true, flags) else {
            return;
        };
        for (family, fragments) in datagrams(40_000) {
            for program in [XDP, IN] {
                let outcome = world.run(program, &fragments[1]);
                let verdict = Verdict::Drop(DropReason::FragmentUnknown);
                assert_eq!(outcome.verdict, verdict, "{way}, {family}");
            }
        }
    }
}
