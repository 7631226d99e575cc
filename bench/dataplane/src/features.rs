//! What each feature costs, so that it can be seen that no packet pays for what its service does not
//! use. All but the cases with many flows put their frames back in the same way, whatever was done to
//! them, so that their differences are the features' own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::Key;
use fairlead_dataplane_common::traffic::Whole;
use fairlead_dataplane_common::{
    Address, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, LUT_MOVING, LUT_SETTLING,
    NodeEntry, SERVICE_AFFINITY, SERVICE_DR, SERVICE_GUE, SERVICE_IN_TURN, SERVICE_LEAST_LOAD,
    SERVICE_NAT, SERVICE_SOURCE_HASH, SERVICE_SOURCE_RANGES, SERVICE_TRACK, SourceRangeKey,
    protocol,
};
use packet_tests::frame::{self, ACK, NETWORK, ROUTER_MAC, SYN};
use packet_tests::{CLIENT, CLIENT_V6, Client, NODE_1, NODE_2_MAC, Service, VIP, VIP_V6, World};
use packet_tests::{Outcome, Verdict, dual, frame_v6};

use crate::cases::{Action, Case, DATA, FLOWS, Program, V4, V6};
use crate::services::{self, NODE_1_V6, SERVERS_V4};

/// Backends of most services here, on another node: slots that neither the packet tests nor the other
/// services use.
const BACKENDS: [u32; 10] = [40, 41, 42, 43, 44, 45, 46, 47, 48, 49];
/// Slot of a node that is reached over IPv6, and of the backend there.
const NODE_V6: u32 = 60;
/// The packet tests' pod on this node, and one on another, by family.
const POD_HERE: [u32; 2] = [1, 11];
const POD_THERE: [u32; 2] = [2, 12];
/// Slots of a table, as the agent gives ten backends.
const SLOTS: usize = 1_021;
/// The port of the first service; each has the next.
const FIRST_PORT: u16 = 7_000;
/// The ports of the first two.
const PORT_TUN: u16 = FIRST_PORT;
const PORT_DR: u16 = FIRST_PORT + 1;
/// At the node's own addresses.
const NODE_PORT: u16 = 30_080;

/// The backends of a service, and what is known of its table slots.
#[derive(Clone, Copy)]
enum Backends {
    /// Those of another node; the slots have always been theirs.
    Stable,
    /// The same, and the slots have been others' until a moment ago.
    Moving,
    /// The same, and somebody may still have connections of that time.
    Settling,
    /// The same, each standing there once.
    Each,
    /// Real servers.
    Servers,
    /// On a node that is reached over IPv6.
    OverIpv6,
    /// A pod on this node.
    PodHere,
    /// A pod of the packet's family on another one.
    PodThere,
}

impl Backends {
    /// The elements of the table, and of the one before it.
    fn tables(self, client: Client) -> (Vec<u32>, Vec<u32>) {
        let table = |state: u32, backends: &[u32]| -> Vec<u32> {
            let elements = backends.iter().map(|slot| slot | state);
            elements.cycle().take(SLOTS).collect()
        };
        let mut turned = BACKENDS;
        turned.rotate_left(1);
        let of_family = |pods: [u32; 2]| pods[usize::from(client == Client::V6)];
        match self {
            Self::Stable => (table(0, &BACKENDS), Vec::new()),
            Self::Moving => (table(LUT_MOVING, &BACKENDS), table(0, &turned)),
            Self::Settling => (table(LUT_SETTLING, &BACKENDS), table(0, &turned)),
            Self::Each => (BACKENDS.to_vec(), Vec::new()),
            Self::Servers => (table(0, &SERVERS_V4), Vec::new()),
            Self::OverIpv6 => (vec![NODE_V6], Vec::new()),
            Self::PodHere => (vec![of_family(POD_HERE)], Vec::new()),
            Self::PodThere => (vec![of_family(POD_THERE)], Vec::new()),
        }
    }
}

/// A feature of a service that a packet of an established connection or a SYN shows.
#[derive(Clone, Copy)]
struct Feature {
    name: &'static str,
    over: &'static str,
    backends: Backends,
    /// `SERVICE_*`.
    flags: u32,
    /// Whether each packet begins a connection.
    begins: bool,
    /// Whether connections are noted.
    notes: bool,
    action: Action,
}

/// The features of services. The first two are what others are compared with.
fn of_services() -> Vec<Feature> {
    let of = |name, backends, flags| Feature {
        name,
        over: "plain_tun",
        backends,
        flags,
        begins: false,
        notes: false,
        action: Action::Tx,
    };
    let over = |over, feature| Feature { over, ..feature };
    let noted = |feature| Feature {
        notes: true,
        ..feature
    };
    let begun = |name, backends, flags| Feature {
        over: "plain_syn",
        begins: true,
        notes: true,
        ..of(name, backends, flags)
    };
    use Backends::{Each, Moving, OverIpv6, PodHere, PodThere, Servers, Settling, Stable};
    vec![
        over("floor_put_back", of("plain_tun", Stable, 0)),
        over("floor_put_back", of("plain_dr", Stable, SERVICE_DR)),
        of("source_hash", Stable, SERVICE_SOURCE_HASH),
        of("source_ranges", Stable, SERVICE_SOURCE_RANGES),
        noted(of("tracked", Stable, SERVICE_TRACK)),
        noted(of("moving", Moving, 0)),
        of("settling", Settling, 0),
        of("underlay_v6", OverIpv6, 0),
        over("plain_dr", of("server_dr", Servers, SERVICE_DR)),
        of("ipip", Servers, 0),
        of("gue", Servers, SERVICE_GUE),
        noted(of("nat_pod", PodThere, SERVICE_NAT | SERVICE_TRACK)),
        Feature {
            over: "plain_pass",
            action: Action::Pass,
            ..of("pod_here", PodHere, 0)
        },
        Feature {
            over: "floor",
            notes: false,
            ..begun("plain_syn", Stable, 0)
        },
        begun("syn_tracked", Stable, SERVICE_TRACK),
        begun("syn_moving", Moving, 0),
        begun("syn_rr", Stable, SERVICE_TRACK | SERVICE_IN_TURN),
        begun("syn_lc", Each, SERVICE_TRACK | SERVICE_LEAST_LOAD),
        begun("syn_affinity", Stable, SERVICE_TRACK | SERVICE_AFFINITY),
    ]
}

/// The cases, for whose sake services are added to `world`.
pub(crate) fn all(world: &mut World) -> Result<Vec<Case>> {
    for slot in BACKENDS {
        world.add_backend(slot, 1);
    }
    add_node_over_ipv6(world)?;
    let mut cases = floors();
    cases.extend(at_services(world)?);
    cases.extend(other_ways(world)?);
    Ok(cases)
}

/// A case whose frame is put back.
fn case(
    name: &'static str,
    over: &'static str,
    family: &'static str,
    frame: Vec<u8>,
    action: Action,
) -> Case {
    Case {
        program: Program::PutBack,
        over: Some(over),
        ..Case::new(name, family, frame, action)
    }
}

fn floors() -> Vec<Case> {
    let elsewhere = Ipv4Addr::new(198, 18, 0, 50);
    let elsewhere_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
    let v4 = frame::tcp((CLIENT, 40_000), (elsewhere, 80), ACK, &DATA);
    let v6 = frame_v6::tcp((CLIENT_V6, 40_000), (elsewhere_v6, 80), ACK, &DATA);
    let floor = |family, frame: &Vec<u8>| Case {
        program: Program::FloorPutBack,
        ..case(
            "floor_put_back",
            "floor",
            family,
            frame.clone(),
            Action::Drop,
        )
    };
    vec![
        floor(V4, &v4),
        floor(V6, &v6),
        case("plain_pass", "floor_put_back", V4, v4, Action::Pass),
        case("plain_pass", "floor_put_back", V6, v6, Action::Pass),
    ]
}

/// Features of services, each of one of its own, at both VIPs.
fn at_services(world: &mut World) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (port, feature) in (FIRST_PORT..).zip(of_services()) {
        for client in Client::ALL {
            let (table, base) = feature.backends.tables(client);
            let service = Service {
                protocol: protocol::TCP,
                port,
                table: &table,
                base: &base,
                flags: feature.flags,
                affinity_seconds: 3_600,
                ..Service::default()
            };
            add(world, client, &service)?;
            let flags = if feature.begins { SYN } else { ACK };
            let frame = segment(client, port, flags);
            let Feature { name, over, .. } = feature;
            let mut case = case(name, over, family_of(client), frame, feature.action);
            if feature.begins {
                case.program = Program::RestoredFlows;
                case.flows = FLOWS;
            }
            case.noted = if feature.notes { case.flows } else { 0 };
            cases.push(case);
        }
    }
    Ok(cases)
}

/// Adds a service at the VIP of `client`'s family, with the range that lets it in where ranges do.
fn add(world: &mut World, client: Client, service: &Service<'_>) -> Result<()> {
    let slot = world.add_service_at(vip_of(client), service.protocol, service.port, &[]);
    world.change(slot, service);
    if service.flags & SERVICE_SOURCE_RANGES != 0 {
        let bits = match client {
            Client::V4 => 96 + 24,
            Client::V6 => 64,
        };
        let range = SourceRangeKey {
            service_be: (slot + 1).to_be(),
            client: client.address().masked(&Address::mask(bits)),
        };
        world
            .tables
            .source_ranges
            .insert(&Key::new(32 + bits, range), 0, 0)
            .context("write a source range")?;
    }
    Ok(())
}

fn segment(client: Client, port: u16, flags: u8) -> Vec<u8> {
    match client {
        Client::V4 => frame::tcp((CLIENT, 40_000), (VIP, port), flags, &DATA),
        Client::V6 => frame_v6::tcp((CLIENT_V6, 40_000), (VIP_V6, port), flags, &DATA),
    }
}

fn add_node_over_ipv6(world: &mut World) -> Result<()> {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x102);
    let node = NodeEntry::new(
        NODE_V6,
        address.into(),
        NODE_1_V6.into(),
        1,
        1500,
        Some(NODE_2_MAC),
    );
    let nodes = &mut world.tables.nodes;
    nodes.set(NODE_V6, node).context("write a node")?;
    world.add_backend(NODE_V6, NODE_V6);
    Ok(())
}

/// What is no plain TCP packet at a VIP.
fn other_ways(world: &mut World) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for client in Client::ALL {
        let family = family_of(client);
        let dr = segment(client, PORT_DR, ACK);
        let tagged = [&dr[..12], &[0x81, 0, 0, 100], &dr[12..]].concat();
        cases.push(case("vlan", "plain_dr", family, tagged, Action::Tx));
    }
    for client in Client::ALL {
        let (node, frame): (IpAddr, _) = match client {
            Client::V4 => {
                let frame = frame::tcp((CLIENT, 40_000), (NODE_1, NODE_PORT), ACK, &DATA);
                (NODE_1.into(), frame)
            }
            Client::V6 => {
                let to = (NODE_1_V6, NODE_PORT);
                let frame = frame_v6::tcp((CLIENT_V6, 40_000), to, ACK, &DATA);
                (NODE_1_V6.into(), frame)
            }
        };
        let vip_port = NODE_PORT - 1;
        let slot = world.add_service_at(vip_of(client), protocol::TCP, vip_port, &BACKENDS);
        let key = FrontendKey::new(0, node.into(), protocol::TCP, NODE_PORT.to_be());
        world.add_frontend(key, slot, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT);
        let family = family_of(client);
        cases.push(case("node_port", "plain_tun", family, frame, Action::Tx));
    }
    let inner = &segment(Client::V4, PORT_TUN, ACK)[NETWORK..];
    let ipip = frame::ipv4(CLIENT, NODE_1, protocol::IPIP, inner);
    cases.push(case("decap_ipip", "plain_pass", V4, ipip, Action::Pass));
    let gue = frame::udp((CLIENT, 50_000), (NODE_1, protocol::GUE_PORT), inner);
    cases.push(case("decap_gue", "plain_pass", V4, gue, Action::Pass));

    let [first, later] = fragments();
    sent(world, &first)?;
    cases.push(case("fragment", "plain_tun", V4, later, Action::Tx));

    for (family, client, vip) in [
        (V4, CLIENT.into(), services::vip(0).into()),
        (V6, CLIENT_V6.into(), IpAddr::from(services::vip_v6(0))),
    ] {
        let client = SocketAddr::new(client, 50_000);
        let vip = SocketAddr::new(vip, services::PORT_NAT);
        let question = dual::tcp(client, vip, ACK, &DATA);
        let (node, server) = dual::ends(&sent(world, &question)?);
        let answer = dual::tcp(server, node, ACK, &DATA);
        cases.push(case("nat_answer", "plain_pass", family, answer, Action::Tx));
    }

    world.announce(VIP.into());
    let mut arp = frame::arp(1, ROUTER_MAC, CLIENT, VIP);
    arp.resize(Whole::SHORT, 0);
    cases.push(case("arp", "plain_pass", V4, arp, Action::Tx));
    let mut echo = frame::echo(8, CLIENT, VIP, 7);
    echo.resize(Whole::SHORT, 0);
    cases.push(case("echo", "plain_pass", V4, echo, Action::Tx));
    Ok(cases)
}

/// What the node makes of a packet, which it has to send on.
fn sent(world: &mut World, frame: &[u8]) -> Result<Vec<u8>> {
    let Outcome { verdict, frame } = world.run("xdp_ingress", frame);
    ensure!(
        verdict == Verdict::Transmit,
        "{verdict:?} instead of being sent"
    );
    Ok(frame)
}

fn vip_of(client: Client) -> IpAddr {
    match client {
        Client::V4 => VIP.into(),
        Client::V6 => VIP_V6.into(),
    }
}

fn family_of(client: Client) -> &'static str {
    match client {
        Client::V4 => V4,
        Client::V6 => V6,
    }
}

/// A segment for the plain service in two fragments.
fn fragments() -> [Vec<u8>; 2] {
    /// Bytes of the IP payload in the first, whole words of eight.
    const FIRST: usize = 48;
    const MORE: u16 = 1 << 13;
    let whole = frame::tcp((CLIENT, 40_000), (VIP, PORT_TUN), ACK, &[0x5a; 76]);
    let (headers, payload) = whole.split_at(frame::TRANSPORT);
    let part = |payload: &[u8], offset: u16| {
        let mut frame = [headers, payload].concat();
        let length = (frame.len() - NETWORK) as u16;
        frame[NETWORK + 2..NETWORK + 4].copy_from_slice(&length.to_be_bytes());
        frame[NETWORK + 6..NETWORK + 8].copy_from_slice(&offset.to_be_bytes());
        frame::mend_ip(&mut frame);
        frame
    };
    let (first, later) = payload.split_at(FIRST);
    [part(first, MORE), part(later, (FIRST / 8) as u16)]
}
