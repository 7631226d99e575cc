//! The schedulers, as IPVS defines them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use fairlead_dataplane_common::{
    LoadEntry, SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SCHEDULER_WEIGHTED_LEAST_CONNECTIONS,
    SERVICE_DESTINATION_HASH, SERVICE_IN_TURN, SERVICE_LEAST_LOAD, SERVICE_SCHEDULER_SHIFT,
    SERVICE_SOURCE_HASH, protocol,
};
use packet_tests::frame::{ACK, SYN};
use packet_tests::{Client, Service, World, frame, frame_v6};

const XDP: &str = "xdp_ingress";
/// Backends of node 2.
const A: u32 = 20;
const B: u32 = 21;
const C: u32 = 22;

fn world() -> Option<World> {
    let mut world = World::open()?;
    for slot in [A, B, C] {
        world.add_backend(slot, 1);
    }
    Some(world)
}

/// The backend that a packet is sent to.
fn picked(world: &mut World, frame: &[u8]) -> u32 {
    let named = world.run(XDP, frame).named();
    named.expect("the packet names a backend") - 100
}

#[test]
fn new_connections_take_turns_by_weight_and_keep_what_they_got() {
    let Some(mut world) = world() else {
        return;
    };
    // Weights 2, 1 and 1: `wrr` is a table in which a backend stands as often as its weight says.
    let table = [A, B, A, C];
    world.add(&Service {
        protocol: protocol::TCP,
        port: 90,
        table: &table,
        flags: SERVICE_IN_TURN,
        ..Service::default()
    });
    for round in 0..3 {
        for (turn, backend) in (0..).zip(table) {
            let port = 1000 + round * 4 + turn;
            let client = Client::ALL[usize::from(turn % 2)];
            for flags in [SYN, SYN, ACK] {
                let got = picked(&mut world, &client.tcp(port, 90, flags));
                assert_eq!(got, backend, "round {round}, turn {turn}, flags {flags}");
            }
        }
    }
}

#[test]
fn least_loaded_backend_gets_the_next_connection() {
    use SCHEDULER_LEAST_CONNECTIONS as LC;
    use SCHEDULER_NEVER_QUEUE as NQ;
    use SCHEDULER_SHORTEST_EXPECTED_DELAY as SED;
    use SCHEDULER_WEIGHTED_LEAST_CONNECTIONS as WLC;

    type Load = (u32, u32, u32);
    // Connections here, elsewhere, and weight, of A, B and C.
    let cases: &[(&str, u32, [Load; 3], u32)] = &[
        ("lc", LC, [(3, 0, 1), (2, 0, 1), (4, 0, 1)], B),
        (
            "lc counts other nodes",
            LC,
            [(3, 0, 1), (2, 9, 1), (4, 0, 1)],
            A,
        ),
        (
            "lc knows no weights",
            LC,
            [(3, 0, 9), (2, 0, 1), (4, 0, 9)],
            B,
        ),
        ("wlc", WLC, [(3, 0, 1), (2, 0, 1), (7, 0, 4)], C),
        (
            "wlc leaves out weight 0",
            WLC,
            [(3, 0, 1), (0, 0, 0), (8, 0, 2)],
            A,
        ),
        (
            "sed: (c + 1) / w",
            SED,
            [(0, 0, 1), (1, 0, 3), (2, 0, 3)],
            B,
        ),
        (
            "nq: an idle one first",
            NQ,
            [(0, 0, 1), (1, 0, 3), (2, 0, 3)],
            A,
        ),
        ("nq: else as sed", NQ, [(1, 0, 1), (1, 0, 3), (2, 0, 3)], B),
        (
            "large numbers",
            WLC,
            [(u32::MAX, 9, 3), (u32::MAX, 0, 3), (1 << 31, 0, 1)],
            B,
        ),
    ];
    let Some(mut world) = world() else {
        return;
    };
    let mut service = Service {
        protocol: protocol::TCP,
        port: 90,
        table: &[A, B, C],
        ..Service::default()
    };
    let slot = world.add(&service);
    for (port, (case, scheduler, loads, backend)) in (1000..).zip(cases) {
        service.flags = SERVICE_LEAST_LOAD | scheduler << SERVICE_SCHEDULER_SHIFT;
        world.change(slot, &service);
        for (slot, (connections, elsewhere, weight)) in [A, B, C].into_iter().zip(*loads) {
            let load = LoadEntry {
                connections,
                elsewhere,
                weight,
                padding: 0,
            };
            world.tables.loads.set(slot, load).expect("write the load");
        }
        let before = world.tables.loads.get(*backend).expect("read the load");
        for client in Client::ALL {
            let got = picked(&mut world, &client.tcp(port, 90, SYN));
            assert_eq!(got, *backend, "{case}, {client:?}");
            let load = world.tables.loads.get(*backend).expect("read the load");
            let counted = before.connections.wrapping_add(1);
            assert_eq!(load.connections, counted, "{case}: counted at once");
            world
                .tables
                .loads
                .set(*backend, before)
                .expect("write the load");
        }
    }
}

#[test]
fn connections_spread_by_load_alone() {
    let Some(mut world) = world() else {
        return;
    };
    world.add(&Service {
        protocol: protocol::UDP,
        port: 90,
        table: &[A, B, C],
        flags: SERVICE_LEAST_LOAD | SCHEDULER_WEIGHTED_LEAST_CONNECTIONS << SERVICE_SCHEDULER_SHIFT,
        ..Service::default()
    });
    for (slot, weight) in [(A, 1), (B, 2), (C, 4)] {
        let load = LoadEntry {
            weight,
            ..LoadEntry::default()
        };
        world.tables.loads.set(slot, load).expect("write the load");
    }
    let mut got = BTreeMap::<u32, u32>::new();
    for port in 1000..1700 {
        *got.entry(picked(&mut world, &Client::V4.udp(port, 90)))
            .or_default() += 1;
    }
    assert_eq!(got, BTreeMap::from([(A, 100), (B, 200), (C, 400)]));
}

/// Where packets of a hash of one address went, by that address.
type Places = BTreeMap<u32, BTreeSet<u32>>;

/// Sends packets of client `number` from some ports to TCP 90 of VIP `vip`, in both families; where
/// they went.
fn places(world: &mut World, vip: u8, number: u8) -> [BTreeSet<u32>; 2] {
    let (client, vip_v4) = (
        Ipv4Addr::new(198, 18, 7, number),
        Ipv4Addr::new(198, 18, 101, vip),
    );
    let v6 = |net, host: u8| Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host.into());
    let (client_v6, vip_v6) = (v6(7, number), v6(0x101, vip));
    let mut places = [BTreeSet::new(), BTreeSet::new()];
    for (port, flags) in [(1000, SYN), (1001, ACK), (1002, ACK)] {
        let frames = [
            frame::tcp((client, port), (vip_v4, 90), flags, b""),
            frame_v6::tcp((client_v6, port), (vip_v6, 90), flags, b""),
        ];
        for (places, frame) in places.iter_mut().zip(frames) {
            places.insert(picked(world, &frame));
        }
    }
    places
}

#[test]
fn source_and_destination_hashes_look_at_one_address_only() {
    const CLIENTS: u8 = 200;
    const VIPS: u8 = 8;
    // What one address is hashed to, which is one place each, and how often each place comes out.
    let spread = |places: &Places| {
        let mut spread = BTreeMap::<u32, usize>::new();
        for (address, places) in places {
            assert_eq!(places.len(), 1, "address {address} went to {places:?}");
            *spread.entry(*places.first().expect("one")).or_default() += 1;
        }
        spread
    };
    for flags in [SERVICE_SOURCE_HASH, SERVICE_DESTINATION_HASH] {
        let Some(mut world) = world() else {
            return;
        };
        for vip in 1..=VIPS {
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x101, 0, 0, 0, 0, vip.into());
            let v4 = Ipv4Addr::new(198, 18, 101, vip);
            for vip in [v4.into(), v6.into()] {
                // Weights 1 and 3.
                let slot = world.add_service_at(vip, protocol::TCP, 90, &[A, B, B, B]);
                world.set_flags(slot, flags);
            }
        }
        let mut by_client = <[Places; 2]>::default();
        let mut by_vip = <[Places; 2]>::default();
        for vip in 1..=VIPS {
            for client in 1..=CLIENTS {
                let places = places(&mut world, vip, client);
                for (family, places) in places.into_iter().enumerate() {
                    let of_client = by_client[family].entry(client.into()).or_default();
                    of_client.extend(&places);
                    by_vip[family].entry(vip.into()).or_default().extend(places);
                }
            }
        }
        for family in 0..2 {
            if flags == SERVICE_SOURCE_HASH {
                let spread = spread(&by_client[family]);
                // A quarter of them, give or take four standard deviations.
                assert!((26..=74).contains(&spread[&A]), "{spread:?}");
                assert_eq!(spread[&A] + spread[&B], usize::from(CLIENTS));
            } else {
                let spread = spread(&by_vip[family]);
                assert_eq!(spread.len(), 2, "VIPs differ: {spread:?}");
            }
        }
        assert_eq!(world.flows(), 0, "neither needs to note anything");
    }
}
