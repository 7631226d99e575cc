//! Session affinity: a client's connections go to one backend.

use fairlead_dataplane_common::{
    AffinityEntry, AffinityKey, BACKEND_ACTIVE, BACKEND_DRAINING, SERVICE_AFFINITY, protocol,
};
use packet_tests::frame::SYN;
use packet_tests::{Client, Service, World};

const XDP: &str = "xdp_ingress";

fn named(world: &mut World, client: Client, port: u16) -> u32 {
    let outcome = world.run(XDP, &client.tcp(port, 90, SYN));
    outcome.named().expect("the packet names a backend") - 100
}

#[test]
fn client_keeps_its_backend_while_that_is_fresh_and_takes_connections() {
    let Some(mut world) = World::open() else {
        return;
    };
    let backends: Vec<u32> = (20..30).collect();
    for slot in &backends {
        world.add_backend(*slot, 1);
    }
    let table: Vec<u32> = backends.iter().copied().cycle().take(101).collect();
    let service = Service {
        protocol: protocol::TCP,
        port: 90,
        table: &table,
        flags: SERVICE_AFFINITY,
        affinity_seconds: 3600,
        ..Service::default()
    };
    let slot = world.add(&service);
    for client in Client::ALL {
        let key = AffinityKey {
            client: client.address(),
            service: slot + 1,
        };
        world.change(slot, &service);
        let first = named(&mut world, client, 1000);
        for port in 1001..1009 {
            assert_eq!(named(&mut world, client, port), first, "{client:?}");
        }
        let entry = world.tables.affinity.get(&key, 0).expect("it is noted");
        assert_eq!((entry.backend, entry.backend_slot), (100 + first, first));

        // The table names another for all now: what was noted goes before it.
        let other = if first == 20 { 21 } else { 20 };
        let changed = Service {
            table: &[other],
            ..service
        };
        world.change(slot, &changed);
        let got = named(&mut world, client, 2000);
        assert_eq!(got, first, "{client:?}: still noted");

        world.set_state(first, BACKEND_DRAINING);
        let got = named(&mut world, client, 2001);
        assert_eq!(got, other, "{client:?}: the noted one is leaving");
        world.set_state(first, BACKEND_ACTIVE);

        let noted = AffinityEntry {
            backend: 100 + first,
            backend_slot: first,
            ..entry
        };
        world
            .tables
            .affinity
            .insert(key, noted, 0)
            .expect("write the entry");
        assert_eq!(named(&mut world, client, 2002), first);
        let short = Service {
            affinity_seconds: 0,
            ..changed
        };
        world.change(slot, &short);
        let got = named(&mut world, client, 2003);
        assert_eq!(got, other, "{client:?}: too long ago");
    }
}

#[test]
fn note_lasts_as_many_seconds_as_the_service_says() {
    /// Backends of node 2: who was noted, and who the table names.
    const NOTED: u32 = 20;
    const NAMED: u32 = 21;
    const SECOND_NS: u64 = 1_000_000_000;
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(NOTED, 1);
    world.add_backend(NAMED, 1);
    let service = |affinity_seconds| Service {
        protocol: protocol::TCP,
        port: 90,
        table: &[NAMED],
        flags: SERVICE_AFFINITY,
        affinity_seconds,
        ..Service::default()
    };
    let slot = world.add(&service(60));
    for client in Client::ALL {
        let key = AffinityKey {
            client: client.address(),
            service: slot + 1,
        };
        for (port, seconds, expected) in [(1000, 60, NAMED), (1002, 62, NOTED)] {
            // What this one notes tells the time.
            named(&mut world, client, port);
            let now = world.tables.affinity.get(&key, 0).expect("it is noted");
            let entry = AffinityEntry {
                seen_ns: now.seen_ns.checked_sub(61 * SECOND_NS).expect("it is past"),
                backend: 100 + NOTED,
                backend_slot: NOTED,
            };
            world
                .tables
                .affinity
                .insert(key, entry, 0)
                .expect("write the entry");
            world.change(slot, &service(seconds));
            let got = named(&mut world, client, port + 1);
            assert_eq!(got, expected, "{client:?}: 61 s ago, of {seconds}");
        }
    }
}
