//! Connections whose backend is gone: their clients are told.

use fairlead_dataplane_common::{BACKEND_EMPTY, Counter, DropReason, SERVICE_TRACK, protocol};
use packet_tests::frame::{self, ACK, FIN, OWN_MAC, ROUTER_MAC, RST, SYN};
use packet_tests::{Client, Service, Verdict, World, frame_v6};

const HOOKS: [(&str, Verdict); 2] = [
    ("xdp_ingress", Verdict::Transmit),
    ("tc_uplink_in", Verdict::Redirect),
];
const GONE: u32 = 20;
const OTHER: u32 = 21;

/// A world with a tracked service at port 90, whose flows went to a backend that is gone now.
fn world(ports: std::ops::Range<u16>) -> Option<World> {
    let mut world = World::open()?;
    world.add_backend(GONE, 1);
    world.add_backend(OTHER, 1);
    let mut service = Service {
        protocol: protocol::TCP,
        port: 90,
        table: &[GONE],
        flags: SERVICE_TRACK,
        ..Service::default()
    };
    let tcp = world.add(&service);
    service.protocol = protocol::UDP;
    let udp = world.add(&service);
    for client in Client::ALL {
        for port in ports.clone() {
            world.run("xdp_ingress", &client.tcp(port, 90, SYN));
            world.run("xdp_ingress", &client.udp(port, 90));
        }
    }
    world.set_state(GONE, BACKEND_EMPTY);
    service.table = &[OTHER];
    world.change(udp, &service);
    service.protocol = protocol::TCP;
    world.change(tcp, &service);
    Some(world)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn client_of_a_gone_backend_gets_a_reset_in_the_vips_name() {
    let Some(mut world) = world(1..3) else {
        return;
    };
    for (port, (hook, verdict)) in (1..).zip(HOOKS) {
        for client in Client::ALL {
            let what = format!("{hook}, {client:?}");
            let transport = match client {
                Client::V4 => frame::TRANSPORT,
                Client::V6 => frame_v6::TRANSPORT,
            };
            let sent = client.tcp(port, 90, ACK);
            let outcome = world.run(hook, &sent);
            assert_eq!(outcome.verdict, verdict, "{what}");
            let reset = &outcome.frame;
            assert_eq!(reset.len(), transport + 20, "{what}: nothing but headers");
            assert_eq!(reset[..6], ROUTER_MAC, "{what}");
            assert_eq!(reset[6..12], OWN_MAC, "{what}");
            // RFC 9293 §3.10.7.1: the sequence number is the one that was acknowledged.
            assert_eq!(
                word(reset, transport + 4),
                word(&sent, transport + 8),
                "{what}"
            );
            assert_eq!(word(reset, transport + 8), 0, "{what}");
            assert_eq!(reset[transport + 12..transport + 14], [0x50, RST], "{what}");
            match client {
                Client::V4 => {
                    let (from, to) = frame::ends(&sent);
                    assert_eq!(frame::ends(reset), (to, from), "{what}");
                    frame::assert_checksums(reset);
                }
                Client::V6 => {
                    let (from, to) = frame_v6::ends(&sent);
                    assert_eq!(frame_v6::ends(reset), (to, from), "{what}");
                    frame_v6::assert_checksums(reset);
                }
            }
            let flow = client.flow(protocol::TCP, port, 90);
            assert!(world.flow(&flow).is_none(), "{what}: the entry is gone too");
        }
    }
    assert_eq!(world.counter(Counter::Reset), 4);
}

#[test]
fn reset_of_a_segment_without_acknowledgement_acknowledges_its_end() {
    let Some(mut world) = world(1..3) else {
        return;
    };
    for (port, (hook, _)) in (1..).zip(HOOKS) {
        let sent = Client::V4.tcp(port, 90, FIN);
        let outcome = world.run(hook, &sent);
        let at = frame::TRANSPORT;
        // Four bytes of data, and the FIN.
        assert_eq!(
            word(&outcome.frame, at + 8),
            word(&sent, at + 4).wrapping_add(5)
        );
        assert_eq!(word(&outcome.frame, at + 4), 0);
        assert_eq!(outcome.frame[at + 13], RST | ACK);
        frame::assert_checksums(&outcome.frame);
    }
}

#[test]
fn new_connections_and_datagrams_get_another_backend_and_resets_get_nothing() {
    let Some(mut world) = world(1..4) else {
        return;
    };
    for client in Client::ALL {
        let outcome = world.run("xdp_ingress", &client.tcp(1, 90, SYN));
        assert_eq!(outcome.named(), Some(100 + OTHER), "{client:?}: a SYN");
        let outcome = world.run("xdp_ingress", &client.udp(2, 90));
        assert_eq!(outcome.named(), Some(100 + OTHER), "{client:?}: a datagram");
        let outcome = world.run("xdp_ingress", &client.tcp(3, 90, RST));
        assert_eq!(
            outcome.verdict,
            Verdict::Drop(DropReason::NoBackend),
            "{client:?}: a reset"
        );
        assert!(world.flow(&client.flow(protocol::TCP, 3, 90)).is_none());
    }
    assert_eq!(world.counter(Counter::Reset), 0);
}
