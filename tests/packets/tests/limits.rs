//! What a flood may take: at stable slots nothing, elsewhere no more than leaves room for others.

use fairlead_dataplane_common::{
    Counter, DropReason, FLOW_ESTABLISHED, LUT_MOVING, NotedEntry, SERVICE_NAT, SERVICE_TRACK,
    maps, protocol,
};
use packet_tests::frame::{ACK, SYN};
use packet_tests::{Client, Service, Verdict, World};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
/// Backends of node 2.
const OLD: u32 = 20;
const NEW: u32 = 21;
/// Ports of services.
const FLOODED: u16 = 90;
const OTHER: u16 = 91;
/// Packets of a flood, of each family.
const FLOOD: u16 = 2_000;

/// A world with a service at each of two ports, that both have every flow noted.
fn world(flags: u32) -> Option<(World, [u32; 2])> {
    let mut world = World::open()?;
    world.add_backend(OLD, 1);
    world.add_backend(NEW, 1);
    let slots = [FLOODED, OTHER].map(|port| {
        world.add(&Service {
            protocol: protocol::TCP,
            port,
            table: &[NEW],
            flags,
            ..Service::default()
        })
    });
    Some((world, slots))
}

/// A SYN of each of many flows to `port`, of both families.
fn flood(world: &mut World, port: u16) {
    for number in 0..FLOOD {
        for client in Client::ALL {
            let outcome = world.run(XDP, &client.tcp(1024 + number, port, SYN));
            assert_eq!(outcome.named(), Some(100 + NEW), "noted or not");
        }
    }
}

/// Says that other services' flows leave `room` in the table.
fn leave_room(world: &mut World, room: u32) {
    let flows = maps::FLOWS_MAX - room;
    let entry = NotedEntry {
        flows,
        ..NotedEntry::default()
    };
    let written = world.tables.noted.set(NotedEntry::OF_ALL, entry);
    written.expect("write what is noted");
}

#[test]
fn flood_at_a_stable_slot_writes_nothing_and_touches_no_limit() {
    let Some((mut world, slots)) = world(0) else {
        return;
    };
    world.limit_notes(10, 50);
    flood(&mut world, FLOODED);
    assert_eq!(world.flows(), 0);
    assert_eq!(world.noted(slots[0]), 0);
    assert_eq!(world.counter(Counter::NotesTooFast), 0);
}

#[test]
fn flooded_service_fills_its_share_of_the_table_and_no_more() {
    let Some((mut world, [flooded, other])) = world(SERVICE_TRACK) else {
        return;
    };
    world.limit_notes(0, 75);
    leave_room(&mut world, 1_000);
    let known = Client::V4.tcp(80, FLOODED, SYN);
    world.run(XDP, &known);
    flood(&mut world, FLOODED);
    assert_eq!(world.flows(), 750);
    assert_eq!(world.noted(flooded), 750);
    let refused = 1 + 2 * u64::from(FLOOD) - 750;
    assert_eq!(world.counter(Counter::FlowShareFull), refused);

    // The other service's flows are noted all the same, by either hook.
    for client in Client::ALL {
        for (hook, port) in [(XDP, 1), (IN, 2)] {
            world.run(hook, &client.tcp(port, OTHER, SYN));
            let entry = world.flow(&client.flow(protocol::TCP, port, OTHER));
            assert_eq!(entry.map(|entry| entry.backend), Some(100 + NEW));
        }
    }
    assert_eq!(world.noted(other), 4);
    assert_eq!(world.counter(Counter::FlowShareFull), refused);

    // Nor has the flooded one lost what it had.
    world.run(XDP, &Client::V4.tcp(80, FLOODED, ACK));
    let entry = world.flow(&Client::V4.flow(protocol::TCP, 80, FLOODED));
    assert_eq!(entry.map(|entry| entry.state), Some(FLOW_ESTABLISHED));
}

#[test]
fn established_flows_follow_their_notes_through_a_flood_and_a_change_of_the_table() {
    let Some((mut world, [flooded, _])) = world(SERVICE_TRACK) else {
        return;
    };
    world.limit_notes(0, 50);
    leave_room(&mut world, 100);
    let service = |table| Service {
        protocol: protocol::TCP,
        port: FLOODED,
        table,
        flags: SERVICE_TRACK,
        ..Service::default()
    };
    world.change(flooded, &service(&[OLD]));
    for client in Client::ALL {
        for flags in [SYN, ACK] {
            world.run(XDP, &client.tcp(7, FLOODED, flags));
        }
    }
    world.change(flooded, &service(&[NEW]));
    flood(&mut world, FLOODED);
    assert_eq!(world.flows(), 50);
    for client in Client::ALL {
        let outcome = world.run(XDP, &client.tcp(7, FLOODED, ACK));
        assert_eq!(outcome.named(), Some(100 + OLD), "{client:?}");
    }
}

#[test]
fn notes_of_a_moment_are_limited_and_none_of_another_services() {
    const PER_WINDOW: u32 = 200;
    let Some((mut world, [flooded, other])) = world(SERVICE_TRACK) else {
        return;
    };
    world.limit_notes(PER_WINDOW, 75);
    // A flood takes longer than a window lasts: only what each of them let in can be told, and by
    // whom it was refused.
    flood(&mut world, FLOODED);
    let packets = 2 * u64::from(FLOOD);
    let noted = u64::from(world.noted(flooded));
    assert_eq!(world.flows() as u64, noted);
    assert_eq!(world.counter(Counter::NotesTooFast), packets - noted);
    assert!(noted >= u64::from(PER_WINDOW) * 3 / 4, "{noted}");
    let entry = world.noted_entry(flooded);
    assert!(entry.in_window <= PER_WINDOW * 3 / 4, "{entry:?}");

    for client in Client::ALL {
        world.run(XDP, &client.tcp(1, OTHER, SYN));
        let entry = world.flow(&client.flow(protocol::TCP, 1, OTHER));
        assert!(entry.is_some(), "{client:?}");
    }
    assert_eq!(world.noted(other), 2);
}

#[test]
fn limits_of_zero_are_none() {
    let Some((mut world, [flooded, _])) = world(SERVICE_TRACK) else {
        return;
    };
    leave_room(&mut world, 0);
    flood(&mut world, FLOODED);
    assert_eq!(world.noted(flooded), 2 * u32::from(FLOOD));
    for counter in [Counter::NotesTooFast, Counter::FlowShareFull] {
        assert_eq!(world.counter(counter), 0);
    }
}

#[test]
fn moving_slot_beyond_the_limit_sends_all_to_the_base_as_with_a_full_table() {
    let Some((mut world, [flooded, _])) = world(0) else {
        return;
    };
    let moving = Service {
        protocol: protocol::TCP,
        port: FLOODED,
        table: &[NEW | LUT_MOVING],
        base: &[OLD],
        ..Service::default()
    };
    world.change(flooded, &moving);
    world.limit_notes(0, 50);
    leave_room(&mut world, 4);
    let backends = [1, 2, 3, 4].map(|port| {
        let outcome = world.run(XDP, &Client::V4.tcp(port, FLOODED, SYN));
        outcome.named()
    });
    let (new, base) = (Some(100 + NEW), Some(100 + OLD));
    assert_eq!(backends, [new, new, base, base]);
    for (port, backend) in [(1, new), (2, new), (3, base), (4, base)] {
        let outcome = world.run(XDP, &Client::V4.tcp(port, FLOODED, ACK));
        assert_eq!(outcome.named(), backend, "they stay where they began");
    }
}

#[test]
fn flood_of_a_translated_service_takes_no_entries_of_nat_beyond_its_share() {
    let Some((mut world, [flooded, other])) = world(SERVICE_NAT | SERVICE_TRACK) else {
        return;
    };
    world.limit_notes(0, 50);
    leave_room(&mut world, 40);
    let mut dropped = 0;
    for port in 1024..1124 {
        let outcome = world.run(XDP, &Client::V4.tcp(port, FLOODED, SYN));
        if outcome.verdict == Verdict::Drop(DropReason::NatExhausted) {
            dropped += 1;
        } else {
            assert_eq!(outcome.verdict, Verdict::Transmit);
        }
    }
    assert_eq!((world.noted(flooded), dropped), (20, 80));
    assert_eq!(world.tables.nat.keys().count(), 20);
    let outcome = world.run(XDP, &Client::V4.tcp(1, OTHER, SYN));
    assert_eq!(
        (outcome.verdict, world.noted(other)),
        (Verdict::Transmit, 1)
    );
}
