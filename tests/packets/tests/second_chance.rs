//! The second chance: a connection that is unknown at the node of one backend is passed once to the
//! other one that may have it.

use fairlead_dataplane_common::{BACKEND_SILENT, Counter, LUT_MOVING, LUT_SETTLING, mac, protocol};
use packet_tests::frame::{self, ACK, OVERHEAD, SYN, ends};
use packet_tests::{Client, NODE_1, NODE_2, POD_1, POD_1_V6, Service, Verdict, World, frame_v6};

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
                assert_eq!(outcome.frame[56..62], mac::of_second_chance(1), "{what}");
                assert_eq!(outcome.frame[64..], ack[14..], "{what}");

                // Who comes with the mark stays.
                let marked = passed(&ack, here, mac::of_second_chance(2));
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
