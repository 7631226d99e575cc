//! Full NAT: both ends translated on the way to a backend, and back in its answers, in both families.

mod errors;
mod established;
mod places;
mod ports;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fairlead_dataplane_common::maps::{NAT_PORT_MAX, NAT_PORT_MIN};
use fairlead_dataplane_common::{
    BackendEntry, Counter, DropReason, FlowKey, NatEntry, SERVICE_NAT, mac, protocol,
};
use packet_tests::frame::{ACK, OWN_MAC, ROUTER_MAC, RST, SYN};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_1_V6, NODE_2, POD_1, POD_1_V6, POD_2, POD_2_V6, VIP, VIP_V6,
    Verdict, World, dual, fragments, frame,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
const SLOT: u32 = 21;
const PORT: u16 = 7000;
/// Of a service of a pod on another node.
const REMOTE: u16 = 7001;
/// Of a service of a pod here.
const LOCAL: u16 = 7002;
/// The interface that tests come in by.
const UPLINK: u32 = 1;

/// Who talks to whom, in one family.
#[derive(Clone, Copy, Debug)]
struct Site {
    client: IpAddr,
    vip: IpAddr,
    node: IpAddr,
    server: IpAddr,
    /// Somebody on the way, whose errors they are.
    hop: IpAddr,
    pod: IpAddr,
    remote_pod: IpAddr,
    /// Slot of the server.
    slot: u32,
    /// Slots of the backends that the pods are.
    pods: [u32; 2],
}

const V4: Site = Site {
    client: IpAddr::V4(CLIENT),
    vip: IpAddr::V4(VIP),
    node: IpAddr::V4(NODE_1),
    server: IpAddr::V4(Ipv4Addr::new(198, 18, 0, 200)),
    hop: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    pod: IpAddr::V4(POD_1),
    remote_pod: IpAddr::V4(POD_2),
    slot: SLOT,
    pods: [1, 2],
};
const V6: Site = Site {
    client: IpAddr::V6(CLIENT_V6),
    vip: IpAddr::V6(VIP_V6),
    node: IpAddr::V6(NODE_1_V6),
    server: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xc8)),
    hop: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1)),
    pod: IpAddr::V6(POD_1_V6),
    remote_pod: IpAddr::V6(POD_2_V6),
    slot: SLOT + 1,
    pods: [11, 12],
};
const SITES: [Site; 2] = [V4, V6];

impl Site {
    fn client(&self, port: u16) -> SocketAddr {
        (self.client, port).into()
    }

    fn vip(&self) -> SocketAddr {
        (self.vip, PORT).into()
    }

    fn server(&self) -> SocketAddr {
        (self.server, 9000).into()
    }

    fn node(&self, port: u16) -> SocketAddr {
        (self.node, port).into()
    }

    fn hop(&self) -> SocketAddr {
        (self.hop, 0).into()
    }

    /// A segment from the client's port 40000 to the VIP.
    fn question(&self) -> Vec<u8> {
        dual::tcp(self.client(40_000), self.vip(), ACK, b"data")
    }

    /// As the server sends it to a port of the node.
    fn answer(&self, port: u16) -> Vec<u8> {
        from_server(dual::tcp(self.server(), self.node(port), ACK, b"answer"))
    }

    /// The key of `nat` that holds one of the node's ports towards the server.
    fn key(&self, port: u16) -> FlowKey {
        FlowKey {
            source: self.server.into(),
            destination: self.node.into(),
            source_port_be: 9000_u16.to_be(),
            destination_port_be: port.to_be(),
            protocol: protocol::TCP,
            ..FlowKey::default()
        }
    }

    /// The client's flow from this port.
    fn flow(&self, client_port: u16) -> FlowKey {
        FlowKey {
            source: self.client.into(),
            destination: self.vip.into(),
            source_port_be: client_port.to_be(),
            destination_port_be: PORT.to_be(),
            protocol: protocol::TCP,
            ..FlowKey::default()
        }
    }

    /// The port that a packet from this port of the client leaves by.
    fn leaves_by(&self, world: &mut World, client_port: u16) -> u16 {
        let question = dual::tcp(self.client(client_port), self.vip(), ACK, b"data");
        let outcome = world.run(XDP, &question);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let (from, to) = dual::ends(&outcome.frame);
        assert_eq!((from.ip(), to), (self.node, self.server()));
        from.port()
    }
}

/// A node with services of a server, of a pod elsewhere and of a pod here, in both families.
fn world(mac: Option<[u8; 6]>) -> Option<World> {
    let mut world = World::open()?;
    world.set_uplink(1500);
    world.add_node_v6();
    for site in SITES {
        world.add_server(site.slot, site.server(), mac);
        let [here, elsewhere] = site.pods;
        for (protocol, port, backend) in [
            (protocol::TCP, PORT, site.slot),
            (protocol::UDP, PORT, site.slot),
            (protocol::TCP, REMOTE, elsewhere),
            (protocol::UDP, REMOTE, elsewhere),
            (protocol::TCP, LOCAL, here),
        ] {
            let slot = world.add_service_at(site.vip, protocol, port, &[backend]);
            world.set_flags(slot, SERVICE_NAT);
        }
    }
    Some(world)
}

/// As the server sends it.
fn from_server(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&SERVER_MAC);
    frame
}

fn entries(world: &World) -> usize {
    world.tables.nat.keys().count()
}

#[test]
fn both_directions_are_translated_in_xdp() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    type Make = fn(SocketAddr, SocketAddr) -> Vec<u8>;
    let makers: [(&str, Make); 3] = [
        ("TCP", |from, to| dual::tcp(from, to, ACK, b"data")),
        ("UDP", |from, to| dual::udp(from, to, b"odd")),
        ("UDP without a checksum", |from, to| {
            let mut frame = dual::udp(from, to, b"data");
            if from.is_ipv4() {
                frame[40..42].fill(0);
            }
            frame
        }),
    ];
    for site in SITES {
        for (description, make) in makers {
            let question = make(site.client(40_000), site.vip());
            let outcome = world.run(XDP, &question);
            assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
            let out = &outcome.frame;
            assert_eq!(out[..6], SERVER_MAC, "{description}");
            assert_eq!(out[6..12], OWN_MAC, "{description}");
            let (from, to) = dual::ends(out);
            assert_eq!((from.ip(), to), (site.node, site.server()), "{description}");
            assert!((NAT_PORT_MIN..=NAT_PORT_MAX).contains(&from.port()));
            assert_eq!(dual::hops(out), dual::hops(&question) - 1);
            dual::assert_checksums(out);
            assert_eq!(out.len(), question.len(), "{description}");
            assert_eq!(world.run(XDP, &question).frame, *out, "the same port again");

            let answer = from_server(make(site.server(), from));
            let outcome = world.run(XDP, &answer);
            assert_eq!(outcome.verdict, Verdict::Transmit, "{description}");
            let out = &outcome.frame;
            assert_eq!(out[..6], ROUTER_MAC, "to where the client's came from");
            assert_eq!(out[6..12], OWN_MAC);
            assert_eq!(dual::ends(out), (site.vip(), site.client(40_000)));
            assert_eq!(dual::hops(out), dual::hops(&answer) - 1);
            dual::assert_checksums(out);
        }
    }
}

#[test]
fn answers_are_counted_for_the_backend_that_gave_them() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let answer = site.answer(site.leaves_by(&mut world, 40_000));
        for hook in [XDP, IN, XDP] {
            world.run(hook, &answer);
        }
        let counted = world.backend_stats(site.slot);
        let bytes = 3 * answer.len() as u64;
        assert_eq!((counted.answers, counted.answer_bytes), (3, bytes));
        assert_eq!(counted.packets, 1, "what the client sent");

        // Another may have the slot by now.
        let backend = world.backend(site.slot);
        let other = BackendEntry { id: 999, ..backend };
        world.set_backend(site.slot, other);
        world.run(XDP, &answer);
        assert_eq!(world.backend_stats(site.slot), counted);
    }
}

#[test]
fn server_may_be_a_client_of_its_own_service() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let own = (site.server, 40_000).into();
        let question = from_server(dual::tcp(own, site.vip(), SYN, b""));
        let out = world.run(XDP, &question);
        assert_eq!(out.verdict, Verdict::Transmit);
        assert_eq!(out.frame[..6], SERVER_MAC);
        let (from, to) = dual::ends(&out.frame);
        assert_eq!((from.ip(), to), (site.node, site.server()));
        let out = world.run(XDP, &site.answer(from.port()));
        assert_eq!(out.frame[..6], SERVER_MAC);
        assert_eq!(dual::ends(&out.frame), (site.vip(), own));
        dual::assert_checksums(&out.frame);
    }
}

#[test]
fn what_xdp_cannot_send_is_translated_by_tc() {
    let Some(mut world) = world(None) else { return };
    for site in SITES {
        let question = site.question();
        assert_eq!(world.run(XDP, &question).verdict, Verdict::Pass);
        let outcome = world.run(IN, &question);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let (from, to) = dual::ends(&outcome.frame);
        assert_eq!((from.ip(), to), (site.node, site.server()));
        assert_eq!(dual::hops(&outcome.frame), dual::hops(&question) - 1);
        dual::assert_checksums(&outcome.frame);

        let answer = site.answer(from.port());
        let translated = world.run(XDP, &answer);
        assert_eq!(translated.verdict, Verdict::Transmit);
        let outcome = world.run(IN, &answer);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(outcome.frame, translated.frame);
        assert_eq!(
            dual::ends(&outcome.frame),
            (site.vip(), site.client(40_000))
        );
        assert_eq!(outcome.frame[..6], ROUTER_MAC);
        dual::assert_checksums(&outcome.frame);
    }
}

#[test]
fn pod_on_another_node_gets_the_translated_packet_encapsulated() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let vip = (site.vip, REMOTE).into();
        let client = site.client(40_000);
        let outcome = world.run(XDP, &dual::tcp(client, vip, ACK, b"data"));
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(outcome.frame[50..56], mac::of_node(2));
        let inner = &outcome.frame[50..];
        let (node, pod) = dual::ends(inner);
        assert_eq!(
            (node.ip(), pod),
            (site.node, (site.remote_pod, 8080).into())
        );
        dual::assert_checksums(inner);

        let encapsulated = |frame: &[u8]| frame::vxlan(NODE_2, NODE_1, 0, mac::of_node(1), frame);
        let answer = dual::tcp(pod, node, ACK, b"answer");
        let outcome = world.run(IN, &encapsulated(&answer));
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(dual::ends(&outcome.frame), (vip, client));
        dual::assert_checksums(&outcome.frame);

        // The pod itself about a question.
        let error = dual::error(dual::Kind::Unreachable, pod, node, inner);
        let outcome = world.run(IN, &encapsulated(&error));
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let (from, to) = dual::ends(&outcome.frame);
        assert_eq!((from.ip(), to.ip()), (site.vip, site.client));
        assert_eq!(dual::quoted_ends(&outcome.frame), (client, vip));
        dual::assert_checksums(&outcome.frame);

        // What answers nothing is the node's own.
        let own = dual::tcp(pod, site.node(50_000), ACK, b"answer");
        let outcome = world.run(IN, &encapsulated(&own));
        assert_eq!(outcome.verdict, Verdict::Pass);
        assert_eq!(outcome.frame[12..], own[12..]);
    }
}

#[test]
fn pod_here_is_delivered_to_without_nat() {
    let Some(mut world) = world(None) else { return };
    for site in SITES {
        let vip = (site.vip, LOCAL).into();
        let question = dual::tcp(site.client(40_000), vip, ACK, b"data");
        assert_eq!(world.run(XDP, &question).verdict, Verdict::Pass);
        let outcome = world.run(IN, &question);
        assert_eq!(outcome.verdict, Verdict::Redirect);
        let ends = (site.client(40_000), (site.pod, 8080).into());
        assert_eq!(dual::ends(&outcome.frame), ends);
    }
}

#[test]
fn fragments_are_translated_in_both_directions() {
    let data: Vec<u8> = (0..4_000_u32).map(|byte| (byte % 251) as u8).collect();
    for (mac, program, verdict) in [
        (Some(SERVER_MAC), XDP, Verdict::Transmit),
        (None, IN, Verdict::Redirect),
    ] {
        let Some(mut world) = world(mac) else { return };
        for site in SITES {
            let mut pass = |whole: &[u8], identification: u16| {
                let parts = match site.client {
                    IpAddr::V4(_) => fragments::split(whole, identification),
                    IpAddr::V6(_) => fragments::split_v6(whole, identification.into()),
                };
                let parts = parts.iter().map(|part| {
                    let outcome = world.run(program, part);
                    assert_eq!(outcome.verdict, verdict, "{program}, {site:?}");
                    outcome.frame
                });
                let parts: Vec<Vec<u8>> = parts.collect();
                match site.client {
                    IpAddr::V4(_) => fragments::join(&parts),
                    IpAddr::V6(_) => fragments::join_v6(&parts),
                }
            };
            let question = dual::udp(site.client(40_000), site.vip(), &data);
            let out = pass(&question, 7);
            let (node, server) = dual::ends(&out);
            assert_eq!((node.ip(), server), (site.node, site.server()));
            dual::assert_checksums(&out);
            let out = pass(&dual::udp(server, node, &data), 8);
            assert_eq!(dual::ends(&out), (site.vip(), site.client(40_000)));
            dual::assert_checksums(&out);
        }
    }
}

#[test]
fn segment_size_is_lowered_in_both_directions() {
    let option = |value: u16| [&[2, 4][..], &value.to_be_bytes()].concat();
    for (mac, program) in [(Some(SERVER_MAC), XDP), (None, IN)] {
        let Some(mut world) = world(mac) else { return };
        for (site, fits) in [(V4, 1460), (V6, 1440)] {
            let client = site.client(40_000);
            let announced = |frame: &[u8]| frame[frame.len() - 4..].to_vec();
            let syn = dual::tcp_with_options(client, site.vip(), SYN, &option(8960));
            let out = world.run(program, &syn).frame;
            assert_eq!(announced(&out), option(fits), "{program}");
            dual::assert_checksums(&out);
            let (node, server) = dual::ends(&out);
            let answer = dual::tcp_with_options(server, node, SYN | ACK, &option(8960));
            let out = world.run(program, &answer).frame;
            assert_eq!(announced(&out), option(fits), "{program}");
            dual::assert_checksums(&out);
        }
        assert_eq!(world.counter(Counter::MssClamped), 4);
    }
}

#[test]
fn packet_at_the_end_of_its_hops_is_dropped() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    for site in SITES {
        let mut last = site.question();
        dual::set_hops(&mut last, 1);
        for program in [XDP, IN] {
            let outcome = world.run(program, &last);
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::HopLimit));
        }
    }
}

#[test]
fn node_without_an_address_of_the_family_translates_nothing_of_it() {
    let Some(mut world) = world(Some(SERVER_MAC)) else {
        return;
    };
    let mut config = world.tables.config.get(&0, 0).expect("read config");
    config.other_address = NODE_1.into();
    let written = world.tables.config.set(0, config, 0);
    written.expect("write config");
    for program in [XDP, IN] {
        let outcome = world.run(program, &V6.question());
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::FamilyMismatch));
    }
}
