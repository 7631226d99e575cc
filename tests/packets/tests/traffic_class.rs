//! The traffic class (RFC 2474) and the marks of congestion (RFC 3168) of a packet are those of what is
//! put around it: what the network did to one holds for the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::{Config, SERVICE_GUE, protocol};
use packet_tests::frame::{ACK, NETWORK, mend_ip};
use packet_tests::{Client, Outcome, Service, Verdict, World};

const HOOKS: [(&str, Verdict); 2] = [
    ("xdp_ingress", Verdict::Transmit),
    ("tc_uplink_in", Verdict::Redirect),
];
const NODE_1_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200);
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
/// Backend slots: of another node, and of servers of both families.
const POD: u32 = 20;
const V4: u32 = 21;
const V6: u32 = 22;
/// Expedited forwarding, capable of being marked.
const CLASS: u8 = 0xba;

/// Where the IP header at `start` has its traffic class.
fn class(frame: &[u8], start: usize) -> u8 {
    match frame[start] >> 4 {
        4 => frame[start + 1],
        _ => (frame[start] << 4) | (frame[start + 1] >> 4),
    }
}

fn set_class(frame: &mut [u8]) {
    if frame[NETWORK] >> 4 == 4 {
        frame[NETWORK + 1] = CLASS;
        mend_ip(frame);
    } else {
        frame[NETWORK] |= CLASS >> 4;
        frame[NETWORK + 1] |= CLASS << 4;
    }
}

/// A world with the services of the test: their port, and what they put around packets.
fn world() -> Option<(World, Vec<(u16, &'static str)>)> {
    let mut world = World::open()?;
    let config = world.tables.config.get(&0, 0).expect("read config");
    let config = Config {
        other_address: NODE_1_V6.into(),
        ..config
    };
    world.tables.config.set(0, config, 0).expect("write config");
    world.add_backend(POD, 1);
    for (slot, server) in [(V4, IpAddr::from(SERVER)), (V6, SERVER_V6.into())] {
        world.add_server(slot, (server, 7000).into(), Some(SERVER_MAC));
    }
    let mut services = Vec::new();
    for (port, (description, table, flags)) in (7000..).zip([
        ("VXLAN", [POD], 0),
        ("IP in IPv4", [V4], 0),
        ("IP in IPv6", [V6], 0),
        ("GUE over IPv4", [V4], SERVICE_GUE),
        ("GUE over IPv6", [V6], SERVICE_GUE),
    ]) {
        for protocol in [protocol::TCP, protocol::UDP] {
            world.add(&Service {
                protocol,
                port,
                table: &table,
                flags,
                ..Service::default()
            });
        }
        services.push((port, description));
    }
    Some((world, services))
}

#[test]
fn outer_header_has_the_traffic_class_of_the_packet() {
    let Some((mut world, services)) = world() else {
        return;
    };
    for (port, description) in services {
        for (hook, verdict) in HOOKS {
            for client in Client::ALL {
                for mut frame in [client.tcp(40_000, port, ACK), client.udp(40_000, port)] {
                    let what = format!("{description}, {client:?}, {hook}");
                    let Outcome { frame: plain, .. } = world.run(hook, &frame);
                    assert_eq!(class(&plain, NETWORK), 0, "{what}");
                    set_class(&mut frame);
                    let outcome = world.run(hook, &frame);
                    assert_eq!(outcome.verdict, verdict, "{what}");
                    let out = outcome.frame;
                    assert!(out.len() > frame.len(), "{what}");
                    assert_eq!(class(&out, NETWORK), CLASS, "{what}");
                    assert!(out.ends_with(&frame[NETWORK..]), "{what}: it is as it was");
                }
            }
        }
    }
}
