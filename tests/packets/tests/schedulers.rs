//! The schedulers, as IPVS defines them.

use std::collections::BTreeMap;

use fairlead_dataplane_common::{
    LoadEntry, SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SCHEDULER_WEIGHTED_LEAST_CONNECTIONS,
    SERVICE_DESTINATION_HASH, SERVICE_IN_TURN, SERVICE_LEAST_LOAD, SERVICE_SCHEDULER_SHIFT,
    SERVICE_SOURCE_HASH, protocol,
};
use packet_tests::frame::{ACK, SYN};
use packet_tests::{Client, Service, World};

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

#[test]
fn source_and_destination_hashes_look_at_one_address_only() {
    let Some(mut world) = world() else {
        return;
    };
    let table: Vec<u32> = [A, B, C].into_iter().cycle().take(101).collect();
    for (port, flags) in [(90, SERVICE_SOURCE_HASH), (91, SERVICE_DESTINATION_HASH)] {
        world.add(&Service {
            protocol: protocol::TCP,
            port,
            table: &table,
            flags,
            ..Service::default()
        });
        for client in Client::ALL {
            let first = picked(&mut world, &client.tcp(1000, port, SYN));
            for other in 1001..1033 {
                let got = picked(&mut world, &client.tcp(other, port, ACK));
                assert_eq!(got, first, "{client:?} from port {other}");
            }
        }
    }
    assert_eq!(world.flows(), 0, "neither needs to note anything");
}
