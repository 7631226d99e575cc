//! What the kernel refuses to do with a packet: it is dropped for that reason, counted for its service,
//! and its sample shows it as it came.

use fairlead_dataplane_common::{
    DropReason::{self, EncapsulationFailed, RewriteFailed},
    SERVICE_DR, SERVICE_GUE, mac, protocol,
};
use packet_tests::frame::{self, ACK, NETWORK, mend_ip};
use packet_tests::{
    CLIENT, CLIENT_V6, Client, NODE_1, NODE_2, Service, VIP, VIP_V6, Verdict, World, frame_v6,
};

const XDP: &str = "xdp_ingress";
const IN: &str = "tc_uplink_in";
/// A server whose MAC address is known, and one whose is not.
const SERVER: u32 = 21;
const UNRESOLVED: u32 = 22;
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];

/// A world with a service of `backend` at port 7000, and that service's slot.
fn world(backend: u32, flags: u32) -> Option<(World, u32)> {
    let mut world = World::open()?;
    let servers = [(SERVER, 200, Some(SERVER_MAC)), (UNRESOLVED, 201, None)];
    for (slot, host, mac) in servers {
        world.add_server(slot, ([198, 18, 0, host], 9000).into(), mac);
    }
    let service = world.add(&Service {
        protocol: protocol::TCP,
        port: 7000,
        table: &[backend],
        flags,
        ..Service::default()
    });
    Some((world, service))
}

/// The one drop of `frame` is counted for the service, and shown.
fn assert_told(world: &World, service: u32, reason: DropReason, frame: &[u8], what: &str) {
    assert_eq!(world.service_drops(service, reason), 1, "{what}");
    let sample = world.sample(Some(service), reason).expect(what);
    assert_eq!(sample.length as usize, frame.len(), "{what}");
    let captured = frame.len().min(sample.bytes.len());
    assert_eq!(sample.captured as usize, captured, "{what}");
    assert_eq!(sample.bytes[..captured], frame[..captured], "{what}");
}

#[test]
fn frame_without_room_for_outer_headers_is_dropped_and_told() {
    let ways = [
        ("VXLAN", 2, 0),
        ("IP in IP", SERVER, 0),
        ("GUE", SERVER, SERVICE_GUE),
    ];
    for (way, backend, flags) in ways {
        for client in Client::ALL {
            let Some((mut world, service)) = world(backend, flags) else {
                return;
            };
            let what = format!("{way}, {client:?}");
            let frame = client.tcp(40_000, 7000, ACK);
            let outcome = world.run_without_headroom(XDP, &frame);
            let verdict = Verdict::Drop(EncapsulationFailed);
            assert_eq!(outcome.verdict, verdict, "{what}");
            assert_eq!(outcome.frame, frame, "{what}");
            assert_told(&world, service, EncapsulationFailed, &frame, &what);
        }
    }
}

#[test]
fn frame_that_leaves_as_it_is_needs_no_room() {
    let Some((mut world, _)) = world(SERVER, SERVICE_DR) else {
        return;
    };
    for client in Client::ALL {
        let frame = client.tcp(40_000, 7000, ACK);
        let outcome = world.run_without_headroom(XDP, &frame);
        assert_eq!(outcome.verdict, Verdict::Transmit, "{client:?}");
        assert_eq!(outcome.frame[12..], frame[12..], "{client:?}");
    }
}

#[test]
fn frame_without_room_for_the_answer_that_it_is_too_big_is_dropped_and_told() {
    let payload = [0x5a; 1_460];
    let packets = [
        frame::tcp((CLIENT, 1), (VIP, 7000), ACK, &payload),
        frame_v6::tcp((CLIENT_V6, 1), (VIP_V6, 7000), ACK, &payload),
    ];
    for (backend, frame) in [(2, &packets[0]), (2, &packets[1]), (SERVER, &packets[0])] {
        let Some((mut world, service)) = world(backend, 0) else {
            return;
        };
        let what = format!("backend {backend}");
        let outcome = world.run_without_headroom(XDP, frame);
        assert_eq!(outcome.verdict, Verdict::Drop(RewriteFailed), "{what}");
        assert_told(&world, service, RewriteFailed, frame, &what);
    }
}

#[test]
fn packet_that_takes_no_outer_headers_is_dropped_and_told() {
    let ways = [
        ("VXLAN", 3, 0),
        ("IP in IP", UNRESOLVED, 0),
        ("GUE", UNRESOLVED, SERVICE_GUE),
    ];
    for (way, backend, flags) in ways {
        for client in Client::ALL {
            let Some((mut world, service)) = world(backend, flags) else {
                return;
            };
            let what = format!("{way}, {client:?}");
            let frame = client.tcp(40_000, 7000, ACK);
            let outcome = world.run_segmented(IN, &frame);
            let verdict = Verdict::Drop(EncapsulationFailed);
            assert_eq!(outcome.verdict, verdict, "{what}");
            assert_told(&world, service, EncapsulationFailed, &frame, &what);
        }
    }
}

#[test]
fn packet_that_keeps_its_headers_is_dropped_and_told() {
    let Some((mut world, _)) = world(1, 0) else {
        return;
    };
    let inner = frame::tcp((CLIENT, 1), (VIP, 7000), ACK, b"data");
    let tunnelled = frame::vxlan(NODE_2, NODE_1, 0, mac::of_backend(101), &inner);
    let mut with_options = frame::ipv4(CLIENT, VIP, protocol::TCP, &[1; 24]);
    with_options[NETWORK] = 0x46;
    mend_ip(&mut with_options);
    let cases = [
        ("outer ones", tunnelled, EncapsulationFailed),
        ("options", with_options, RewriteFailed),
    ];
    for (what, frame, reason) in cases {
        let outcome = world.run_segmented(IN, &frame);
        assert_eq!(outcome.verdict, Verdict::Drop(reason), "{what}");
        let sample = world.sample(None, reason);
        let sample = sample.expect("of no service, as it was not known yet");
        assert_eq!(sample.length as usize, frame.len(), "{what}");
    }
}
