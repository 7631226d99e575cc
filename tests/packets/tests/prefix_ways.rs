//! VIPs that are prefixes in each other, and by every way to a backend: each of their addresses is asked
//! and answers as itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fairlead_dataplane_common::{DropReason, SERVICE_DR, SERVICE_NAT, protocol};
use packet_tests::dual::{self, Kind};
use packet_tests::fragments::{join, join_v6, split, split_v6};
use packet_tests::frame::{ACK, NETWORK, NODE_MTU, OWN_MAC, SYN};
use packet_tests::{
    CLIENT, CLIENT_V6, NODE_1, NODE_1_V6, POD_1, POD_1_V6, Verdict, World, frame, frame_v6,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
/// A backend on node 2.
const REMOTE: u32 = 30;

/// One family.
#[derive(Clone, Copy)]
struct Site {
    client: IpAddr,
    node: IpAddr,
    server: IpAddr,
    /// Slot of the server.
    slot: u32,
    pod: IpAddr,
    /// Slot of the backend that the pod is.
    pod_slot: u32,
    /// The widest prefix of them, of so many bits of 128.
    network: IpAddr,
    bits: u32,
    /// Addresses in it.
    inside: [IpAddr; 3],
}

const fn v4(third: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, third, host))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, net, 0, 0, 0, host))
}

const SITES: [Site; 2] = [
    Site {
        client: IpAddr::V4(CLIENT),
        node: IpAddr::V4(NODE_1),
        server: IpAddr::V4(Ipv4Addr::new(198, 18, 0, 200)),
        slot: 21,
        pod: IpAddr::V4(POD_1),
        pod_slot: 1,
        network: v4(112, 0),
        bits: 96 + 22,
        inside: [v4(112, 0), v4(113, 77), v4(115, 255)],
    },
    Site {
        client: IpAddr::V6(CLIENT_V6),
        node: IpAddr::V6(NODE_1_V6),
        server: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xc8)),
        slot: 22,
        pod: IpAddr::V6(POD_1_V6),
        pod_slot: 11,
        network: v6(0, 0),
        bits: 60,
        inside: [v6(0, 0), v6(7, 0x77), v6(15, 0xffff)],
    },
];

impl Site {
    fn client(&self, port: u16) -> SocketAddr {
        (self.client, port).into()
    }

    /// Lets a backend answer at a port of the whole prefix, over TCP and UDP.
    fn serve(&self, world: &mut World, port: u16, backend: u32, flags: u32) {
        for protocol in [protocol::TCP, protocol::UDP] {
            let slot = world.add_hidden(&[backend]);
            world.set_flags(slot, flags);
            world.add_prefix(self.network, self.bits, (protocol, port), slot);
        }
    }

    /// Tears a packet.
    fn split(&self, whole: &[u8], identification: u16) -> Vec<Vec<u8>> {
        if self.client.is_ipv4() {
            split(whole, identification)
        } else {
            split_v6(whole, identification.into())
        }
    }

    fn join(&self, fragments: &[Vec<u8>]) -> Vec<u8> {
        if self.client.is_ipv4() {
            join(fragments)
        } else {
            join_v6(fragments)
        }
    }
}

fn world() -> Option<World> {
    let mut world = World::open()?;
    world.set_uplink(1500);
    world.add_node_v6();
    world.add_backend(REMOTE, 1);
    for site in SITES {
        let server = (site.server, 9000).into();
        world.add_server(site.slot, server, Some(SERVER_MAC));
    }
    Some(world)
}

#[test]
fn each_port_is_the_longest_prefixs_that_has_somebody_there() {
    let Some(mut world) = world() else {
        return;
    };
    for site in SITES {
        // Each in the one before, all from the first address on, and the very address in them all.
        let lengths = [0, 1, 2, 4].map(|more| site.bits + more);
        let first = site.inside[0];
        for (backend, &bits) in (40..).zip(&lengths) {
            world.add_backend(backend, 1);
            // Port 100 is everybody's; 101 and on are each one's own, and that of those around it.
            let own = (101..).zip(&lengths).filter(|(_, other)| **other >= bits);
            for port in own.map(|(port, _)| port).chain([100]) {
                let slot = world.add_hidden(&[backend]);
                world.add_prefix(site.network, bits, (protocol::TCP, port), slot);
            }
        }
        world.add_service_at(first, protocol::TCP, 105, &[REMOTE]);
        world.add_service_at(first, protocol::TCP, 100, &[REMOTE]);

        for hook in [XDP, IN] {
            let mut picked = |to, port| {
                let packet = dual::tcp(site.client(1000), (to, port).into(), SYN, b"");
                world.run(hook, &packet).named()
            };
            let [_, wide, widest] = site.inside;
            assert_eq!(picked(first, 100), Some(100 + REMOTE));
            assert_eq!(picked(first, 105), Some(100 + REMOTE));
            for (port, backend) in (101..105).zip(40..) {
                assert_eq!(picked(first, port), Some(100 + backend), "{first} {port}");
            }
            assert_eq!(picked(wide, 100), Some(141), "{wide}");
            assert_eq!(picked(wide, 104), Some(141), "{wide}");
            assert_eq!(
                picked(wide, 101),
                Some(140),
                "what it leaves is the wider one's"
            );
            assert_eq!(picked(widest, 100), Some(140), "{widest}");
            assert_eq!(picked(widest, 105), None);
        }
        let packet = dual::tcp(site.client(1000), (first, 106).into(), SYN, b"");
        let unknown = Verdict::Drop(DropReason::UnknownPort);
        assert_eq!(world.run(IN, &packet).verdict, unknown);
    }
}

#[test]
fn servers_get_what_is_for_any_address_by_dr_and_ip_in_ip() {
    let Some(mut world) = world() else {
        return;
    };
    for site in SITES {
        site.serve(&mut world, 90, site.slot, SERVICE_DR);
        site.serve(&mut world, 91, site.slot, 0);
        let overhead = if site.client.is_ipv4() { 20 } else { 40 };
        for to in site.inside {
            let packet = dual::tcp(site.client(1000), (to, 90).into(), ACK, b"data");
            let outcome = world.run(XDP, &packet);
            assert_eq!(outcome.verdict, Verdict::Transmit, "{to}");
            assert_eq!(outcome.frame[..6], SERVER_MAC, "{to}");
            assert_eq!(outcome.frame[6..12], OWN_MAC, "{to}");
            assert_eq!(outcome.frame[12..], packet[12..], "{to}");

            let packet = dual::udp(site.client(1000), (to, 91).into(), b"data");
            let outcome = world.run(XDP, &packet);
            assert_eq!(outcome.verdict, Verdict::Transmit, "{to}");
            assert_eq!(outcome.frame[NETWORK + overhead..], packet[NETWORK..]);
        }
    }
}

#[test]
fn nat_answers_as_the_address_that_was_asked() {
    let Some(mut world) = world() else {
        return;
    };
    for site in SITES {
        site.serve(&mut world, 90, site.slot, SERVICE_NAT);
        let server: SocketAddr = (site.server, 9000).into();
        let mut ports = Vec::new();
        for to in site.inside {
            let vip = (to, 90).into();
            let question = dual::tcp(site.client(1000), vip, ACK, b"data");
            let outcome = world.run(XDP, &question);
            assert_eq!(outcome.verdict, Verdict::Transmit, "{to}");
            dual::assert_checksums(&outcome.frame);
            let (from, at) = dual::ends(&outcome.frame);
            assert_eq!((from.ip(), at), (site.node, server), "{to}");
            ports.push((from, vip));
        }
        for (node, vip) in ports {
            let mut answer = dual::tcp(server, node, ACK, b"answer");
            answer[6..12].copy_from_slice(&SERVER_MAC);
            let outcome = world.run(XDP, &answer);
            assert_eq!(outcome.verdict, Verdict::Transmit, "{vip}");
            assert_eq!(dual::ends(&outcome.frame), (vip, site.client(1000)));
            dual::assert_checksums(&outcome.frame);
        }
    }
}

#[test]
fn fragments_go_where_the_first_goes() {
    let Some(mut world) = world() else {
        return;
    };
    let data: Vec<u8> = (0..4_000_u32).map(|byte| (byte % 251) as u8).collect();
    for site in SITES {
        site.serve(&mut world, 90, REMOTE, 0);
        site.serve(&mut world, 91, site.pod_slot, 0);
        for (identification, to) in (7..).zip(site.inside) {
            let whole = dual::udp(site.client(1000), (to, 90).into(), &data);
            let fragments = site.split(&whole, identification);
            let early = Verdict::Drop(DropReason::FragmentUnknown);
            assert_eq!(world.run(XDP, &fragments[1]).verdict, early, "{to}");
            for fragment in &fragments {
                let outcome = world.run(XDP, fragment);
                assert_eq!(outcome.named(), Some(100 + REMOTE), "{to}");
            }

            let whole = dual::udp(site.client(1000), (to, 91).into(), &data);
            let fragments = site.split(&whole, identification + 100);
            let mut delivered = Vec::new();
            for fragment in &fragments {
                assert_eq!(world.run(XDP, fragment).verdict, Verdict::Pass, "{to}");
                let outcome = world.run(IN, fragment);
                assert_eq!(outcome.verdict, Verdict::Redirect, "{to}");
                delivered.push(outcome.frame);
            }
            let joined = site.join(&delivered);
            dual::assert_checksums(&joined);
            let ends = (site.client(1000), (site.pod, 8080).into());
            assert_eq!(dual::ends(&joined), ends, "{to}");
        }
    }
}

#[test]
fn errors_about_any_address_reach_its_backend_and_others_are_dropped() {
    let Some(mut world) = world() else {
        return;
    };
    for site in SITES {
        site.serve(&mut world, 90, REMOTE, 0);
        let [first, other, _] = site.inside;
        for to in site.inside {
            let about = dual::tcp((to, 90).into(), site.client(1000), ACK, b"an answer");
            for kind in [Kind::TooBig, Kind::Unreachable, Kind::TimeExceeded] {
                let error = dual::error(kind, site.client(0), (to, 0).into(), &about);
                for hook in [XDP, IN] {
                    let outcome = world.run(hook, &error);
                    assert_eq!(outcome.named(), Some(100 + REMOTE), "{hook}, {to}");
                }
            }
        }
        // About what another address has sent, or a port at which nobody answers.
        for sender in [(other, 90), (first, 92)] {
            let about = dual::tcp(sender.into(), site.client(1000), ACK, b"an answer");
            let error = dual::error(Kind::Unreachable, site.client(0), (first, 0).into(), &about);
            let foreign = Verdict::Drop(DropReason::ForeignError);
            assert_eq!(world.run(XDP, &error).verdict, foreign, "{sender:?}");
        }
    }
}

#[test]
fn packet_too_big_is_answered_by_the_address_it_was_for() {
    let Some(mut world) = world() else {
        return;
    };
    for site in SITES {
        site.serve(&mut world, 90, REMOTE, 0);
        for to in site.inside {
            let payload = vec![0x5a; usize::from(NODE_MTU)];
            let packet = dual::tcp(site.client(1000), (to, 90).into(), ACK, &payload);
            let outcome = world.run(XDP, &packet);
            assert_eq!(outcome.verdict, Verdict::Transmit, "{to}");
            let out = &outcome.frame;
            dual::assert_checksums(out);
            let kind = if to.is_ipv4() {
                (out[frame::TRANSPORT], out[frame::TRANSPORT + 1])
            } else {
                (out[frame_v6::TRANSPORT], 4)
            };
            assert_eq!(kind, if to.is_ipv4() { (3, 4) } else { (2, 4) });
            let (from, at) = dual::ends(out);
            assert_eq!((from.ip(), at.ip()), (to, site.client));
            let quoted = dual::quoted_ends(out);
            assert_eq!(quoted, (site.client(1000), (to, 90).into()));
        }
    }
}

#[test]
fn nobody_is_told_where_a_prefix_is() {
    let Some(mut world) = world() else {
        return;
    };
    let [site, _] = SITES;
    site.serve(&mut world, 90, REMOTE, 0);
    for to in site.inside {
        let IpAddr::V4(target) = to else {
            panic!("{to} is of IPv4");
        };
        let request = frame::arp(1, frame::ROUTER_MAC, CLIENT, target);
        let outcome = world.run(XDP, &request);
        assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Pass, &request));
    }
}
