//! Just-enough tracking: what is noted of flows, and where they go while tables change.

use fairlead_dataplane_common::{
    BACKEND_DRAINING, BACKEND_EMPTY, BACKEND_SILENT, Counter, FLOW_CLOSING, FLOW_DATAGRAMS,
    FLOW_ESTABLISHED, FLOW_GUESSED, FLOW_OPENING, LUT_MOVING, LUT_SETTLING, SERVICE_AFFINITY,
    SERVICE_DR, SERVICE_IN_TURN, SERVICE_TRACK, TrackEntry, maps, protocol,
};
use packet_tests::frame::{ACK, FIN, RST, SYN};
use packet_tests::{Client, NODE_2_MAC, Service, Verdict, World};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
/// Backends of node 2.
const OLD: u32 = 20;
const NEW: u32 = 21;

/// A service at TCP port 90 with this table, whose slots were all [`OLD`]'s.
fn service(table: &[u32]) -> Service<'_> {
    Service {
        protocol: protocol::TCP,
        port: 90,
        table,
        base: &[OLD],
        ..Service::default()
    }
}

/// A world with such a service, whose table is one slot in this state.
fn world(state: u32) -> Option<(World, u32)> {
    let mut world = World::open()?;
    world.add_backend(OLD, 1);
    world.add_backend(NEW, 1);
    let slot = world.add(&service(&[NEW | state]));
    Some((world, slot))
}

#[test]
fn flood_of_syns_at_a_stable_slot_leaves_nothing() {
    let Some((mut world, _)) = world(0) else {
        return;
    };
    for port in 1024..2048 {
        for client in Client::ALL {
            let outcome = world.run(XDP, &client.tcp(port, 90, SYN));
            assert_eq!(outcome.named(), Some(100 + NEW));
        }
    }
    assert_eq!(world.flows(), 0);
}

#[test]
fn packets_at_a_moving_slot_go_where_their_connection_is() {
    // In this order, for each family and hook.
    let steps: &[(&str, u16, u8, u32, Option<u8>)] = &[
        ("a SYN", 1, SYN, NEW, Some(FLOW_OPENING)),
        ("the same again", 1, SYN, NEW, Some(FLOW_OPENING)),
        ("what follows it", 1, ACK, NEW, Some(FLOW_ESTABLISHED)),
        ("its end", 1, ACK | FIN, NEW, Some(FLOW_CLOSING)),
        ("what follows the end", 1, ACK, NEW, Some(FLOW_CLOSING)),
        ("the middle of another", 2, ACK, OLD, Some(FLOW_ESTABLISHED)),
        ("its reset", 2, RST, OLD, Some(FLOW_CLOSING)),
        ("a reset of nothing known", 3, RST, OLD, None),
        (
            "a FIN of nothing known",
            4,
            FIN | ACK,
            OLD,
            Some(FLOW_CLOSING),
        ),
    ];
    let Some((mut world, _)) = world(LUT_MOVING) else {
        return;
    };
    for (hook, first) in [(XDP, 1000), (IN, 2000)] {
        for client in Client::ALL {
            for (step, port, flags, backend, state) in steps {
                let what = format!("{hook}, {client:?}: {step}");
                let port = first + port;
                let outcome = world.run(hook, &client.tcp(port, 90, *flags));
                assert_eq!(outcome.named(), Some(100 + backend), "{what}");
                let entry = world.flow(&client.flow(protocol::TCP, port, 90));
                assert_eq!(entry.map(|entry| entry.state), *state, "{what}");
                if let Some(entry) = entry {
                    assert_eq!(entry.backend, 100 + backend, "{what}");
                }
            }
        }
    }
    let counted = world.backend_stats(NEW);
    assert_eq!(counted.connections, 8, "two SYNs, two families, two hooks");
}

#[test]
fn connection_of_a_base_that_is_gone_goes_to_who_has_the_slot() {
    let Some((mut world, _)) = world(LUT_MOVING) else {
        return;
    };
    world.set_state(OLD, BACKEND_DRAINING);
    let outcome = world.run(XDP, &Client::V4.tcp(1, 90, ACK));
    assert_eq!(
        outcome.named(),
        Some(100 + OLD),
        "a leaving one keeps its own"
    );
    world.set_state(OLD, BACKEND_EMPTY);
    for client in Client::ALL {
        let outcome = world.run(XDP, &client.tcp(2, 90, ACK));
        assert_eq!(outcome.named(), Some(100 + NEW));
    }
}

#[test]
fn unknown_connection_of_a_base_on_a_silent_node_goes_to_who_has_the_slot() {
    // Silent backends, and who is taken for the one that has the connection.
    let cases: [(&[u32], u32); 4] = [
        (&[], OLD),
        (&[OLD], NEW),
        (&[NEW], OLD),
        // Where nobody can be asked, the likelier one is waited for.
        (&[OLD, NEW], OLD),
    ];
    let Some((mut world, _)) = world(LUT_MOVING) else {
        return;
    };
    for (first, (silent, expected)) in (1000..).step_by(100).zip(cases) {
        for slot in [OLD, NEW] {
            let flags = if silent.contains(&slot) {
                BACKEND_SILENT
            } else {
                0
            };
            world.set_backend_flags(slot, flags);
        }
        for client in Client::ALL {
            for (port, flags) in [(1, ACK), (2, RST)] {
                let outcome = world.run(XDP, &client.tcp(first + port, 90, flags));
                let what = format!("{client:?}, {silent:?} silent, flags {flags}");
                assert_eq!(outcome.named(), Some(100 + expected), "{what}");
            }
        }
    }
}

#[test]
fn guess_is_made_anew_when_its_node_falls_silent_and_what_was_seen_to_begin_stays() {
    let Some((mut world, slot)) = world(0) else {
        return;
    };
    let service = Service {
        protocol: protocol::TCP,
        port: 90,
        ..Service::default()
    };
    let old = [OLD | LUT_MOVING];
    let table = [NEW | LUT_MOVING];
    let base = [OLD];
    let (seen, guessed) = (1, 2);
    for client in Client::ALL {
        // The slot has been the old one's for a while when it moves.
        let (table, base) = (&old, &[NEW]);
        world.change(
            slot,
            &Service {
                table,
                base,
                ..service
            },
        );
        world.run(XDP, &client.tcp(seen, 90, SYN));
    }
    let (table, base) = (&table, &base);
    world.change(
        slot,
        &Service {
            table,
            base,
            ..service
        },
    );
    for client in Client::ALL {
        let flow = |port| client.flow(protocol::TCP, port, 90);
        for (step, flags, after) in [
            ("all are heard", 0, OLD),
            ("silent", BACKEND_SILENT, NEW),
            ("heard again", 0, NEW),
        ] {
            world.set_backend_flags(OLD, flags);
            let outcome = world.run(XDP, &client.tcp(guessed, 90, ACK));
            assert_eq!(outcome.named(), Some(100 + after), "{client:?}: {step}");
            let entry = world.flow(&flow(guessed)).unwrap();
            let expected = (100 + after, FLOW_GUESSED);
            assert_eq!((entry.backend, entry.flags), expected, "{client:?}: {step}");

            let outcome = world.run(XDP, &client.tcp(seen, 90, ACK));
            assert_eq!(outcome.named(), Some(100 + OLD), "{client:?}: {step}");
            assert_eq!(world.flow(&flow(seen)).unwrap().flags, 0);
        }
    }
}

#[test]
fn settling_slot_honours_entries_and_notes_nothing() {
    let Some((mut world, slot)) = world(LUT_MOVING) else {
        return;
    };
    for client in Client::ALL {
        world.run(XDP, &client.tcp(1, 90, ACK));
    }
    world.change(slot, &service(&[NEW | LUT_SETTLING]));
    for client in Client::ALL {
        let cases = [(1, ACK, OLD), (2, SYN, NEW), (3, ACK, NEW)];
        for (port, flags, backend) in cases {
            let outcome = world.run(XDP, &client.tcp(port, 90, flags));
            assert_eq!(outcome.named(), Some(100 + backend), "{client:?} {port}");
        }
    }
    assert_eq!(world.flows(), 2);
}

#[test]
fn connection_begun_at_a_settling_slot_knows_nothing_of_the_one_that_had_its_ports() {
    let Some((mut world, slot)) = world(LUT_MOVING) else {
        return;
    };
    for client in Client::ALL {
        // One that has ended, and one whose backend will be gone.
        world.run(XDP, &client.tcp(1, 90, ACK));
        world.run(XDP, &client.tcp(1, 90, FIN | ACK));
        world.run(XDP, &client.tcp(2, 90, ACK));
    }
    world.change(slot, &service(&[NEW | LUT_SETTLING]));
    for client in Client::ALL {
        for flags in [SYN, ACK] {
            let outcome = world.run(XDP, &client.tcp(1, 90, flags));
            assert_eq!(outcome.named(), Some(100 + NEW), "{client:?}");
        }
    }
    world.set_state(OLD, BACKEND_EMPTY);
    for client in Client::ALL {
        for flags in [SYN, ACK] {
            let outcome = world.run(XDP, &client.tcp(2, 90, flags));
            assert_eq!(outcome.named(), Some(100 + NEW), "{client:?}");
        }
    }
    assert_eq!(world.flows(), 0);
}

#[test]
fn flow_whose_hash_is_anothers_goes_without_a_note() {
    let Some((mut world, _)) = world(LUT_MOVING) else {
        return;
    };
    for client in Client::ALL {
        let flow = client.flow(protocol::TCP, 1, 90);
        world.note_another(&flow, OLD);
        for hook in [XDP, IN] {
            // All of them to the base, as where there is no room.
            for flags in [SYN, ACK, ACK | FIN, RST] {
                let outcome = world.run(hook, &client.tcp(1, 90, flags));
                assert_eq!(outcome.named(), Some(100 + OLD), "{hook}, {flags:#x}");
            }
        }
        assert_eq!(world.flow(&flow), None);
        world.forget(&flow);
        world.run(XDP, &client.tcp(1, 90, SYN));
        let noted = world.flow(&flow).expect("noted");
        assert_eq!(noted.backend_slot, NEW);
    }
}

#[test]
fn tracked_flow_survives_a_change_of_the_table() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(OLD, 1);
    world.add_backend(NEW, 1);
    let service = |protocol, table| Service {
        protocol,
        port: 90,
        table,
        flags: SERVICE_TRACK,
        ..Service::default()
    };
    let slots = [protocol::TCP, protocol::UDP]
        .map(|protocol| (protocol, world.add(&service(protocol, &[OLD]))));
    let packet = |client: Client, protocol, port, flags| match protocol {
        protocol::TCP => client.tcp(port, 90, flags),
        _ => client.udp(port, 90),
    };
    for (protocol, slot) in slots {
        world.change(slot, &service(protocol, &[OLD]));
        for client in Client::ALL {
            world.run(XDP, &packet(client, protocol, 1, SYN));
        }
        world.change(slot, &service(protocol, &[NEW]));
        for client in Client::ALL {
            for (port, flags, backend) in [(1, ACK, OLD), (2, SYN, NEW)] {
                let outcome = world.run(XDP, &packet(client, protocol, port, flags));
                assert_eq!(outcome.named(), Some(100 + backend), "{client:?} {port}");
            }
        }
    }
    let entry = world.flow(&Client::V4.flow(protocol::UDP, 1, 90));
    let entry = entry.expect("datagrams are noted");
    assert_eq!((entry.state, entry.packets), (FLOW_DATAGRAMS, 2));
    // TCP and UDP, both families: one flow each to the old one, one to the new one.
    assert_eq!(world.backend_stats(OLD).connections, 4);
    assert_eq!(world.backend_stats(NEW).connections, 4);
}

#[test]
fn leaving_backend_keeps_its_flows_and_gets_no_new_ones() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(OLD, 1);
    world.add_backend(NEW, 1);
    let mut service = Service {
        protocol: protocol::TCP,
        port: 90,
        table: &[OLD],
        flags: SERVICE_TRACK,
        ..Service::default()
    };
    let slot = world.add(&service);
    world.run(XDP, &Client::V4.tcp(1, 90, SYN));
    world.run(XDP, &Client::V4.tcp(1, 90, ACK));
    world.set_state(OLD, BACKEND_DRAINING);
    service.table = &[NEW];
    world.change(slot, &service);
    for (flags, backend) in [(ACK, OLD), (SYN, NEW), (ACK, NEW)] {
        let outcome = world.run(XDP, &Client::V4.tcp(1, 90, flags));
        assert_eq!(outcome.named(), Some(100 + backend));
    }
}

/// Leaves no room for another note.
fn fill_up(world: &mut World) {
    let entry = TrackEntry::default();
    let held = u32::try_from(world.flows()).expect("it is bounded");
    for number in held..maps::FLOWS_MAX {
        world
            .tables
            .flows
            .insert(u64::from(number), entry, 0)
            .expect("there is room for so many");
    }
}

#[test]
fn full_table_degrades_to_a_pick_that_stays_the_same() {
    let Some((mut world, _)) = world(LUT_MOVING) else {
        return;
    };
    fill_up(&mut world);
    for client in Client::ALL {
        for flags in [SYN, ACK, ACK | FIN] {
            let outcome = world.run(XDP, &client.tcp(7, 90, flags));
            assert_eq!(outcome.verdict, Verdict::Transmit);
            assert_eq!(outcome.named(), Some(100 + OLD), "where unnoted ones go");
        }
        assert!(world.flow(&client.flow(protocol::TCP, 7, 90)).is_none());
    }
    assert_eq!(world.counter(Counter::FlowTableFull), 6);
}

#[test]
fn what_was_noted_before_the_table_was_full_keeps_its_backend() {
    let Some((mut world, moving)) = world(LUT_MOVING) else {
        return;
    };
    let old = [OLD];
    let tracked = |protocol, port, flags| Service {
        protocol,
        port,
        table: &old,
        flags,
        affinity_seconds: 3600,
        ..Service::default()
    };
    let cases = [
        ("TCP", tracked(protocol::TCP, 91, SERVICE_TRACK)),
        ("rr", tracked(protocol::TCP, 92, SERVICE_IN_TURN)),
        ("UDP", tracked(protocol::UDP, 93, SERVICE_TRACK)),
        ("affinity", tracked(protocol::TCP, 94, SERVICE_AFFINITY)),
    ];
    let packet = |client: Client, service: &Service<'_>, flags| match service.protocol {
        protocol::UDP => client.udp(7, service.port),
        _ => client.tcp(7, service.port, flags),
    };
    let slots = cases.map(|(_, service)| world.add(&service));
    for client in Client::ALL {
        // At the moving slot a SYN is for who has it now, which a full table does not say.
        let outcome = world.run(XDP, &client.tcp(7, 90, SYN));
        assert_eq!(outcome.named(), Some(100 + NEW));
        for (case, service) in &cases {
            let outcome = world.run(XDP, &packet(client, service, SYN));
            assert_eq!(outcome.named(), Some(100 + OLD), "{case}, {client:?}");
        }
    }
    fill_up(&mut world);
    for (slot, (_, service)) in slots.into_iter().zip(&cases) {
        let table = &[NEW];
        world.change(slot, &Service { table, ..*service });
    }
    for client in Client::ALL {
        for flags in [ACK, ACK | FIN] {
            let outcome = world.run(XDP, &client.tcp(7, 90, flags));
            assert_eq!(outcome.named(), Some(100 + NEW), "moving, {client:?}");
            for (case, service) in &cases {
                let outcome = world.run(XDP, &packet(client, service, flags));
                assert_eq!(outcome.named(), Some(100 + OLD), "{case}, {client:?}");
                let flow = world.flow(&client.flow(service.protocol, 7, service.port));
                assert_eq!(flow.map(|entry| entry.backend), Some(100 + OLD), "{case}");
            }
        }
        assert!(world.flow(&client.flow(protocol::TCP, 7, 90)).is_some());
    }
    assert_eq!(world.counter(Counter::FlowTableFull), 0, "nothing is new");
    assert_eq!(world.noted(moving), 2);
}

#[test]
fn only_what_the_table_alone_says_is_passed_on_as_it_is() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.set_adjacent(1, true);
    world.add_backend(OLD, 1);
    world.add_backend(NEW, 1);
    let service = Service {
        protocol: protocol::TCP,
        port: 90,
        flags: SERVICE_DR,
        table: &[NEW],
        ..Service::default()
    };
    let slot = world.add(&service);
    let outcome = world.run(XDP, &Client::V4.tcp(1, 90, SYN));
    assert_eq!(outcome.frame[..6], NODE_2_MAC);
    assert_eq!(outcome.named(), None);
    // The node of who has a moving slot may hear first that it moves once more, and would not find its
    // connections by the table any longer.
    for state in [LUT_MOVING, LUT_SETTLING] {
        let table = [NEW | state];
        world.change(
            slot,
            &Service {
                table: &table,
                base: &[OLD],
                ..service
            },
        );
        let outcome = world.run(XDP, &Client::V4.tcp(2, 90, SYN));
        assert_eq!(outcome.named(), Some(100 + NEW), "state {state:#x}");
        let outcome = world.run(XDP, &Client::V4.tcp(2, 90, ACK));
        assert_eq!(outcome.named(), Some(100 + NEW), "state {state:#x}");
    }
    let outcome = world.run(XDP, &Client::V4.tcp(3, 90, SYN));
    assert_eq!(outcome.named(), Some(100 + NEW));
}
