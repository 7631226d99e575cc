//! The second chance: a packet of a connection that is unknown at the node of one backend is passed to
//! the others that may have it, one after the other.

use fairlead_dataplane_common::{
    BACKEND_SILENT, BackendEntry, Counter, DropReason, LUT_MOVING, LUT_SETTLING, LUT_SLOT_MASK,
    LUT_STATE_MASK, mac, protocol,
};
use packet_tests::frame::{self, ACK, OVERHEAD, RST, SYN, ends};
use packet_tests::{
    CLIENT, CLIENT_V6, Client, NODE_1, NODE_2, POD_1, POD_1_V6, Service, VIP, VIP_V6, Verdict,
    World, frame_v6,
};

const IN: &str = "tc_uplink_in";
/// The pod of this node, and its other address.
const HERE: [u32; 2] = [1, 11];
/// A backend of node 2.
const ELSEWHERE: u32 = 20;

/// A packet as the node that balances passes it on, for the backend in slot `named`.
fn passed(packet: &[u8], named: u32, source: [u8; 6]) -> Vec<u8> {
    let mut frame = frame::vxlan(NODE_2, NODE_1, 0, mac::of_backend(100 + named), packet);
    frame[56..62].copy_from_slice(&source);
    frame[62..64].copy_from_slice(&packet[12..14]);
    frame
}

fn is_delivered(outcome: &packet_tests::Outcome, client: Client) -> bool {
    match client {
        Client::V4 => ends(&outcome.frame).1 == (POD_1, 8080),
        Client::V6 => frame_v6::ends(&outcome.frame).1 == (POD_1_V6, 8080),
    }
}

#[test]
fn unknown_connection_goes_to_the_other_backend_of_its_slot_once() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(ELSEWHERE, 1);
    let node = mac::of_node(2);
    let mut passes = 0;
    for (port, client, here) in [(90, Client::V4, HERE[0]), (91, Client::V6, HERE[1])] {
        let service = Service {
            protocol: protocol::TCP,
            port,
            ..Service::default()
        };
        let slot = world.add(&service);
        let tables = [
            ("current is here", [here], [ELSEWHERE]),
            ("base is here", [ELSEWHERE], [here]),
        ];
        for (first, (case, table, base)) in (1000..).step_by(100).zip(tables) {
            for (state, is_unsettled) in [(LUT_MOVING, true), (LUT_SETTLING, true), (0, false)] {
                let table = [table[0] | state];
                world.change(
                    slot,
                    &Service {
                        table: &table,
                        base: &base,
                        ..service
                    },
                );
                let what = format!("{client:?}, {case}, state {state:#x}");
                let from = first + (state >> 24) as u16;

                let ack = client.tcp(from, port, ACK);
                let outcome = world.run(IN, &passed(&ack, here, node));
                assert_eq!(outcome.verdict, Verdict::Redirect, "{what}");
                if !is_unsettled {
                    assert!(is_delivered(&outcome, client), "{what}");
                    continue;
                }
                passes += 1;
                assert_eq!(outcome.frame.len(), ack.len() + OVERHEAD, "{what}");
                assert_eq!(outcome.named(), Some(100 + ELSEWHERE), "{what}");
                assert_eq!(outcome.frame[56..62], mac::of_second_chance(1, 0), "{what}");
                assert_eq!(outcome.frame[64..], ack[14..], "{what}");

                // Who comes with the mark stays.
                let marked = passed(&ack, here, mac::of_second_chance(2, 0));
                assert!(
                    is_delivered(&world.run(IN, &marked), client),
                    "{what}: marked"
                );
                // And is known from then on.
                let again = world.run(IN, &passed(&ack, here, node));
                assert!(is_delivered(&again, client), "{what}: known");
                // A SYN begins here.
                let syn = passed(&client.tcp(from + 50, port, SYN), here, node);
                assert!(is_delivered(&world.run(IN, &syn), client), "{what}: SYN");
            }
        }
    }
    assert_eq!(world.counter(Counter::SecondChance), passes);
}

#[test]
fn backend_on_a_silent_node_is_asked_last_and_asked_all_the_same() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(ELSEWHERE, 1);
    world.set_backend_flags(ELSEWHERE, BACKEND_SILENT);
    world.add(&Service {
        protocol: protocol::TCP,
        port: 90,
        table: &[HERE[0] | LUT_MOVING],
        base: &[ELSEWHERE],
        ..Service::default()
    });
    // Its agent may be gone, and its pods as they were.
    let ack = Client::V4.tcp(1000, 90, ACK);
    let outcome = world.run(IN, &passed(&ack, HERE[0], mac::of_node(2)));
    assert_eq!(outcome.named(), Some(100 + ELSEWHERE));
    assert_eq!(world.counter(Counter::SecondChance), 1);
}

/// Where a node passes the packets of an unknown connection that reach it for one of its own backends.
#[derive(Clone, Copy)]
struct Passed {
    case: &'static str,
    /// The only element of the table.
    table: u32,
    base: &'static [u32],
    formers: [u32; 2],
    silent: &'static [u32],
    /// How often the packet may be passed on, if another node has passed it on already.
    marked: Option<u32>,
    /// Whom it goes to, and how often it may be passed on from there; nowhere if it stays.
    goes_to: Option<(u32, u32)>,
}

#[test]
fn slots_that_moved_more_than_once_have_their_owners_asked_one_after_the_other() {
    let Some(mut world) = World::open() else {
        return;
    };
    const HERE: u32 = 1;
    const HERE_V6: u32 = 11;
    const FIRST: u32 = ELSEWHERE;
    const SECOND: u32 = ELSEWHERE + 1;
    const THIRD: u32 = ELSEWHERE + 2;
    let others = [FIRST, SECOND, THIRD];
    for other in others {
        world.add_backend(other, 1 + other % 2);
    }
    let plain = Passed {
        case: "the base's backend is asked first",
        table: FIRST | LUT_MOVING,
        base: &[HERE],
        formers: [SECOND, THIRD],
        silent: &[],
        marked: None,
        goes_to: Some((FIRST, 2)),
    };
    let cases = [
        Passed {
            case: "the table's is second",
            table: HERE | LUT_MOVING,
            base: &[FIRST],
            goes_to: Some((SECOND, 2)),
            ..plain
        },
        Passed {
            case: "those in between follow, the newest first",
            formers: [SECOND, HERE],
            table: FIRST | LUT_MOVING,
            base: &[THIRD],
            marked: Some(1),
            goes_to: Some((THIRD, 0)),
            ..plain
        },
        Passed {
            case: "after the last comes the first",
            formers: [SECOND, HERE],
            table: FIRST | LUT_SETTLING,
            base: &[THIRD],
            goes_to: Some((FIRST, 2)),
            ..plain
        },
        Passed {
            case: "of a former that is no more nothing is left",
            formers: [99, THIRD],
            table: HERE | LUT_MOVING,
            base: &[FIRST],
            goes_to: Some((THIRD, 1)),
            ..plain
        },
        Passed {
            case: "slots that are stable have formers as well",
            table: HERE,
            base: &[],
            formers: [SECOND, 0],
            goes_to: Some((SECOND, 0)),
            ..plain
        },
        Passed {
            case: "nobody is counted twice",
            table: HERE | LUT_SETTLING,
            base: &[HERE],
            formers: [SECOND, HERE],
            goes_to: Some((SECOND, 0)),
            ..plain
        },
        Passed {
            case: "who is silent is asked last",
            silent: &[FIRST],
            goes_to: Some((SECOND, 2)),
            ..plain
        },
        Passed {
            case: "but before it comes round again",
            silent: &[SECOND],
            table: FIRST | LUT_MOVING,
            base: &[THIRD],
            formers: [SECOND, HERE],
            goes_to: Some((SECOND, 2)),
            ..plain
        },
        Passed {
            case: "a mark counts down",
            marked: Some(2),
            goes_to: Some((FIRST, 1)),
            ..plain
        },
        Passed {
            case: "to the end",
            marked: Some(0),
            goes_to: None,
            ..plain
        },
        Passed {
            case: "no mark is believed that promises more than there are",
            formers: [0, 0],
            marked: Some(2),
            goes_to: Some((FIRST, 0)),
            ..plain
        },
        Passed {
            case: "for a backend that never had the slot it is not passed on",
            base: &[THIRD],
            formers: [SECOND, 0],
            goes_to: None,
            ..plain
        },
        plain,
    ];
    for (port, client, here) in [(90, Client::V4, HERE), (91, Client::V6, HERE_V6)] {
        // The pod of this node has another backend slot in each family.
        let seen_as = |slot: u32| {
            if slot & LUT_SLOT_MASK == HERE {
                slot & LUT_STATE_MASK | here
            } else {
                slot
            }
        };
        let service = Service {
            protocol: protocol::TCP,
            port,
            ..Service::default()
        };
        let slot = world.add(&service);
        for (from, one) in (1000..).zip(&cases) {
            let what = format!("{client:?}, {}", one.case);
            let base: Vec<u32> = one.base.iter().copied().map(seen_as).collect();
            world.change(
                slot,
                &Service {
                    table: &[seen_as(one.table)],
                    base: &base,
                    formers: &one.formers.map(seen_as),
                    ..service
                },
            );
            for other in others {
                let is_silent = one.silent.contains(&other);
                world.set_backend_flags(other, if is_silent { BACKEND_SILENT } else { 0 });
            }
            let source = match one.marked {
                Some(left) => mac::of_second_chance(2, left),
                None => mac::of_node(2),
            };
            let ack = client.tcp(from, port, ACK);
            let outcome = world.run(IN, &passed(&ack, here, source));
            let Some((to, left)) = one.goes_to else {
                assert!(is_delivered(&outcome, client), "{what}");
                continue;
            };
            assert_eq!(outcome.named(), Some(100 + to), "{what}");
            let mark = mac::of_second_chance(1, left);
            assert_eq!(outcome.frame[56..62], mark, "{what}");
        }
    }
}

#[test]
fn connection_that_another_pod_of_the_node_knows_is_delivered_to_that() {
    let Some(mut world) = World::open() else {
        return;
    };
    // Two ports of one pod: what is known of the one is not of the other.
    const OTHER: u32 = ELSEWHERE;
    let backend = BackendEntry {
        id: 100 + OTHER,
        port_be: 9090_u16.to_be(),
        ..world.backend(HERE[0])
    };
    world.add_backend(OTHER, 0);
    world.set_backend(OTHER, backend);
    let slot = world.add(&Service {
        protocol: protocol::TCP,
        port: 90,
        table: &[OTHER],
        ..Service::default()
    });
    let syn = passed(&Client::V4.tcp(1000, 90, SYN), OTHER, mac::of_node(2));
    assert_eq!(world.run(IN, &syn).verdict, Verdict::Redirect);
    world.change(
        slot,
        &Service {
            protocol: protocol::TCP,
            port: 90,
            table: &[HERE[0]],
            formers: &[OTHER, 0],
            ..Service::default()
        },
    );
    for (from, port) in [(1000, 9090), (1001, 8080)] {
        let ack = Client::V4.tcp(from, 90, ACK);
        let outcome = world.run(IN, &passed(&ack, HERE[0], mac::of_node(2)));
        assert_eq!(ends(&outcome.frame).1, (POD_1, port), "from {from}");
    }
    assert_eq!(world.counter(Counter::SecondChance), 0);
}

#[test]
fn segment_for_a_backend_that_has_left_goes_to_who_may_have_its_connection_or_is_reset() {
    let Some(mut world) = World::open() else {
        return;
    };
    /// A backend that no map names any more.
    const LEFT: u32 = 50;
    world.add_backend(ELSEWHERE, 1);
    let node = mac::of_node(2);
    for (port, client) in [(90, Client::V4), (91, Client::V6)] {
        let service = Service {
            protocol: protocol::TCP,
            port,
            table: &[ELSEWHERE | LUT_MOVING],
            base: &[LEFT],
            ..Service::default()
        };
        let slot = world.add(&service);
        let ack = client.tcp(1000, port, ACK);
        let outcome = world.run(IN, &passed(&ack, LEFT, node));
        assert_eq!(outcome.named(), Some(100 + ELSEWHERE), "{client:?}");
        assert_eq!(outcome.frame[56..62], mac::of_second_chance(1, 0));

        // Nobody else takes it: the table, the mark, or that nothing is remembered says so.
        let settled = Service {
            table: &[ELSEWHERE],
            base: &[],
            ..service
        };
        let empty = Service {
            table: &[LUT_MOVING],
            ..service
        };
        let marked = mac::of_second_chance(2, 0);
        for (case, service, source) in [
            ("settled", settled, node),
            ("empty", empty, node),
            ("marked", service, marked),
        ] {
            let what = format!("{client:?}, {case}");
            world.change(slot, &service);
            let outcome = world.run(IN, &passed(&ack, LEFT, source));
            assert_eq!(outcome.verdict, Verdict::Redirect, "{what}");
            let (ends, transport) = match client {
                Client::V4 => (ends(&outcome.frame), frame::TRANSPORT),
                Client::V6 => {
                    let (from, to) = frame_v6::ends(&outcome.frame);
                    assert_eq!((from.0, to.0), (VIP_V6, CLIENT_V6), "{what}");
                    frame_v6::assert_checksums(&outcome.frame);
                    (((VIP, from.1), (CLIENT, to.1)), frame_v6::TRANSPORT)
                }
            };
            assert_eq!(ends, ((VIP, port), (CLIENT, 1000)), "{what}");
            if client == Client::V4 {
                frame::assert_checksums(&outcome.frame);
            }
            assert_eq!(outcome.frame.len(), transport + 20, "{what}");
            assert_eq!(outcome.frame[transport + 13], RST, "{what}");
        }

        // What begins a connection may be for one that this node is about to hear of.
        for flags in [SYN, RST] {
            let frame = passed(&client.tcp(1000, port, flags), LEFT, node);
            let dropped = Verdict::Drop(DropReason::UnknownBackend);
            assert_eq!(world.run(IN, &frame).verdict, dropped, "{client:?}");
        }
        assert_eq!(world.service_stats(slot).resets, 3, "{client:?}");
    }
}

#[test]
fn datagrams_get_no_second_chance() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(ELSEWHERE, 1);
    world.add(&Service {
        protocol: protocol::UDP,
        port: 90,
        table: &[HERE[0] | LUT_MOVING],
        base: &[ELSEWHERE],
        ..Service::default()
    });
    let frame = passed(&Client::V4.udp(1000, 90), HERE[0], mac::of_node(2));
    assert!(is_delivered(&world.run(IN, &frame), Client::V4));
    assert_eq!(world.counter(Counter::SecondChance), 0);
}
