//! Flows that a pod has not taken yet, and what a flood of them costs those that it has: nothing.

use fairlead_dataplane_common::{FlowKey, maps, protocol};
use packet_tests::frame::{self, ACK, FIN, NETWORK, RST, SYN};
use packet_tests::{
    CLIENT, CLIENT_V6, Client, POD_1, POD_1_V6, VIP, VIP_V6, Verdict, World, frame_v6,
};

const IN: &str = "tc_uplink_in";
const POD: &str = "tc_from_pod";
/// Ports of the service whose backend is the pod here, and the pod's own.
const TCP: u16 = 81;
const UDP: u16 = 54;
const POD_PORT: u16 = 8080;

/// What the pod sends to a client at `port`.
fn segment(client: Client, port: u16, flags: u8) -> Vec<u8> {
    match client {
        Client::V4 => frame::tcp((POD_1, POD_PORT), (CLIENT, port), flags, b""),
        Client::V6 => frame_v6::tcp((POD_1_V6, POD_PORT), (CLIENT_V6, port), flags, b""),
    }
}

fn datagram(client: Client, port: u16) -> Vec<u8> {
    match client {
        Client::V4 => frame::udp((POD_1, POD_PORT), (CLIENT, port), b"answer"),
        Client::V6 => frame_v6::udp((POD_1_V6, POD_PORT), (CLIENT_V6, port), b"answer"),
    }
}

/// The direction in which the pod answers.
fn answer(client: Client, protocol: u8, port: u16) -> FlowKey {
    let pod = match client {
        Client::V4 => POD_1.into(),
        Client::V6 => POD_1_V6.into(),
    };
    FlowKey {
        source: pod,
        destination: client.address(),
        source_port_be: POD_PORT.to_be(),
        destination_port_be: port.to_be(),
        protocol,
        ..FlowKey::default()
    }
}

fn deliver(world: &mut World, frame: &[u8]) {
    assert_eq!(world.run(IN, frame).verdict, Verdict::Redirect);
}

/// Panics unless the pod's packet leaves in the VIP's name.
fn assert_answers(world: &mut World, client: Client, frame: &[u8], from: u16, to: u16) {
    let outcome = world.run(POD, frame);
    assert_eq!(outcome.verdict, Verdict::Pass, "{client:?}");
    match client {
        Client::V4 => assert_eq!(frame::ends(&outcome.frame), ((VIP, from), (CLIENT, to))),
        Client::V6 => assert_eq!(
            frame_v6::ends(&outcome.frame),
            ((VIP_V6, from), (CLIENT_V6, to))
        ),
    }
}

fn is_taken(world: &World, flow: &FlowKey) -> bool {
    world.tables.replies.get(flow, 0).is_ok()
}

/// Opens a connection from `port`, up to the pod's first segment that is no SYN.
fn open(world: &mut World, client: Client, port: u16) {
    deliver(world, &client.tcp(port, TCP, SYN));
    assert_answers(world, client, &segment(client, port, SYN | ACK), TCP, port);
    deliver(world, &client.tcp(port, TCP, ACK));
    assert_answers(world, client, &segment(client, port, ACK), TCP, port);
}

/// As many SYNs as `replies` holds twice, each from somebody else.
fn flood(world: &mut World) {
    let mut frame = Client::V4.tcp(1, TCP, SYN);
    for number in 0..2 * maps::REPLIES_MAX {
        frame[NETWORK + 12..NETWORK + 16].copy_from_slice(&(0x0a80_0000 + number).to_be_bytes());
        world.run_blindly(IN, &frame);
    }
}

#[test]
fn pod_takes_a_connection_with_its_first_segment_that_is_neither_syn_nor_reset() {
    let Some(mut world) = World::open() else {
        return;
    };
    for client in Client::ALL {
        let flow = |port| answer(client, protocol::TCP, port);
        for (port, flags) in [(1, SYN | ACK), (2, RST), (3, RST | ACK)] {
            deliver(&mut world, &client.tcp(port, TCP, SYN));
            assert_answers(&mut world, client, &segment(client, port, flags), TCP, port);
            assert!(!is_taken(&world, &flow(port)), "{client:?}, {flags}");
        }
        for (port, flags) in [(1, ACK), (2, FIN | ACK)] {
            assert_answers(&mut world, client, &segment(client, port, flags), TCP, port);
            assert!(is_taken(&world, &flow(port)), "{client:?}, {flags}");
        }
        let taken = world.tables.replies.get(&flow(1), 0).expect("an entry");
        assert_eq!(
            (taken.packets, taken.backend),
            (3, if client == Client::V4 { 101 } else { 111 })
        );
    }
}

#[test]
fn pod_takes_datagrams_that_are_more_than_a_question_and_its_answer() {
    let Some(mut world) = World::open() else {
        return;
    };
    for client in Client::ALL {
        let flow = answer(client, protocol::UDP, 7);
        for is_last in [false, true] {
            deliver(&mut world, &client.udp(7, UDP));
            assert!(!is_taken(&world, &flow), "{client:?}");
            assert_answers(&mut world, client, &datagram(client, 7), UDP, 7);
            assert_eq!(is_taken(&world, &flow), is_last, "{client:?}");
        }
    }
}

#[test]
fn client_that_turns_to_another_service_of_the_pod_is_answered_by_that() {
    let Some(mut world) = World::open() else {
        return;
    };
    for (client, backend) in [(Client::V4, 1), (Client::V6, 11)] {
        open(&mut world, client, 5);
        let (vip, port) = match client {
            Client::V4 => (VIP.into(), 181),
            Client::V6 => (VIP_V6.into(), 181),
        };
        world.add_service_at(vip, protocol::TCP, port, &[backend]);
        deliver(&mut world, &client.tcp(5, port, SYN));
        for flags in [SYN | ACK, ACK] {
            assert_answers(&mut world, client, &segment(client, 5, flags), port, 5);
        }
    }
}

#[test]
fn flood_of_syns_costs_no_open_connection_its_answers() {
    let Some(mut world) = World::open() else {
        return;
    };
    for client in Client::ALL {
        open(&mut world, client, 1);
        for _ in 0..2 {
            deliver(&mut world, &client.udp(2, UDP));
            assert_answers(&mut world, client, &datagram(client, 2), UDP, 2);
        }
        // In the middle of its handshake.
        deliver(&mut world, &client.tcp(3, TCP, SYN));
        assert_answers(&mut world, client, &segment(client, 3, SYN | ACK), TCP, 3);
    }
    flood(&mut world);
    let taken = world.tables.replies.keys().count();
    assert_eq!(taken, 2 * Client::ALL.len(), "the flood is not among them");
    for client in Client::ALL {
        // The pods speak first.
        assert_answers(&mut world, client, &segment(client, 1, ACK), TCP, 1);
        assert_answers(&mut world, client, &datagram(client, 2), UDP, 2);
        deliver(&mut world, &client.tcp(3, TCP, ACK));
        assert_answers(&mut world, client, &segment(client, 3, ACK), TCP, 3);
    }
}
