//! Segments that nobody takes, as their connection's backend is gone or the service has none: their
//! senders are told.

use fairlead_dataplane_common::{
    BACKEND_EMPTY, Counter, DropReason, LUT_EMPTY, LUT_SETTLING, SERVICE_EXTERNAL_LOCAL,
    SERVICE_IN_TURN, SERVICE_SOURCE_RANGES, SERVICE_TRACK, mac, protocol,
};
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

/// Panics unless `reset` answers `sent` with a reset in the VIP's name.
fn assert_reset(reset: &[u8], sent: &[u8], client: Client, what: &str) {
    let transport = match client {
        Client::V4 => frame::TRANSPORT,
        Client::V6 => frame_v6::TRANSPORT,
    };
    assert_eq!(reset.len(), transport + 20, "{what}: nothing but headers");
    assert_eq!(reset[..6], ROUTER_MAC, "{what}");
    assert_eq!(reset[6..12], OWN_MAC, "{what}");
    match client {
        Client::V4 => {
            let (from, to) = frame::ends(sent);
            assert_eq!(frame::ends(reset), (to, from), "{what}");
            frame::assert_checksums(reset);
        }
        Client::V6 => {
            let (from, to) = frame_v6::ends(sent);
            assert_eq!(frame_v6::ends(reset), (to, from), "{what}");
            frame_v6::assert_checksums(reset);
        }
    }
    // RFC 9293 §3.10.7.1: the sequence number is the one that was acknowledged, or else zero.
    let flags = sent[transport + 13];
    let (sequence, answer) = if flags & ACK != 0 {
        (word(sent, transport + 8), RST)
    } else {
        (0, RST | ACK)
    };
    assert_eq!(word(reset, transport + 4), sequence, "{what}");
    assert_eq!(
        reset[transport + 12..transport + 14],
        [0x50, answer],
        "{what}"
    );
    // What is acknowledged is all that was sent, and a SYN or a FIN counts as a byte.
    let data = sent.len() as u32 - transport as u32 - 20;
    let begins_or_ends = u32::from(flags & (SYN | FIN) != 0);
    let acknowledged = if flags & ACK != 0 {
        0
    } else {
        word(sent, transport + 4).wrapping_add(data + begins_or_ends)
    };
    assert_eq!(word(reset, transport + 8), acknowledged, "{what}");
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn client_of_a_gone_backend_gets_a_reset_for_each_segment() {
    let Some(mut world) = world(1..3) else {
        return;
    };
    for (port, (hook, verdict)) in (1..).zip(HOOKS) {
        for client in Client::ALL {
            // The answer to the first may be lost.
            for flags in [ACK, ACK, FIN, ACK | FIN] {
                let what = format!("{hook}, {client:?}, flags {flags:#x}");
                let sent = client.tcp(port, 90, flags);
                let outcome = world.run(hook, &sent);
                assert_eq!(outcome.verdict, verdict, "{what}");
                assert_reset(&outcome.frame, &sent, client, &what);
            }
            let flow = client.flow(protocol::TCP, port, 90);
            assert!(world.flow(&flow).is_some(), "a sweep takes it, in time");
        }
    }
    assert_eq!(world.counter(Counter::Reset), 16);
}

#[test]
fn client_of_a_service_without_backends_gets_a_reset() {
    let Some(mut world) = World::open() else {
        return;
    };
    let service = Service {
        protocol: protocol::TCP,
        ..Service::default()
    };
    // One whose backends have drained, one that has every flow noted, and one that may use backends of
    // this node alone where no node has one.
    let cases: [(&str, &[u32], u32); 5] = [
        ("no table", &[], 0),
        ("an empty slot", &[LUT_EMPTY], 0),
        ("an empty slot that settles", &[LUT_EMPTY | LUT_SETTLING], 0),
        ("an empty list", &[], SERVICE_TRACK | SERVICE_IN_TURN),
        ("no backend on any node", &[], SERVICE_EXTERNAL_LOCAL),
    ];
    for (port, (description, table, flags)) in (90..).zip(cases) {
        let slot = world.add(&Service {
            port,
            table,
            flags,
            ..service
        });
        for (hook, verdict) in HOOKS {
            for client in Client::ALL {
                for flags in [SYN, ACK, FIN, SYN | ACK] {
                    let what = format!("{description}, {hook}, {client:?}, flags {flags:#x}");
                    let sent = client.tcp(7, port, flags);
                    let outcome = world.run(hook, &sent);
                    assert_eq!(outcome.verdict, verdict, "{what}");
                    assert_reset(&outcome.frame, &sent, client, &what);
                }
                let reset = world.run(hook, &client.tcp(7, port, RST));
                let dropped = Verdict::Drop(DropReason::NoBackend);
                assert_eq!(reset.verdict, dropped, "{description}, {hook}, {client:?}");
            }
        }
        let stats = world.service_stats(slot);
        assert_eq!((stats.resets, stats.drops), (16, 4), "{description}");
    }
    assert_eq!(world.flows(), 0, "nothing is noted of what nobody takes");
    assert_eq!(world.counter(Counter::Reset), 5 * 16);
}

#[test]
fn what_must_not_be_answered_is_dropped_with_its_reason() {
    let Some(mut world) = World::open() else {
        return;
    };
    let other_nodes = Service {
        protocol: protocol::TCP,
        port: 90,
        table: &[OTHER],
        flags: SERVICE_EXTERNAL_LOCAL,
        ..Service::default()
    };
    world.add_backend(OTHER, 1);
    world.add(&other_nodes);
    // Here its backends have drained.
    world.add(&Service {
        port: 91,
        local: &[LUT_EMPTY],
        ..other_nodes
    });
    world.add(&Service {
        port: 92,
        table: &[],
        flags: SERVICE_SOURCE_RANGES,
        ..other_nodes
    });
    world.add(&Service {
        port: 93,
        table: &[],
        flags: 0,
        ..other_nodes
    });
    world.add(&Service {
        protocol: protocol::UDP,
        port: 93,
        table: &[],
        flags: SERVICE_TRACK,
        ..Service::default()
    });
    for (hook, _) in HOOKS {
        for client in Client::ALL {
            let mut passed_on = client.tcp(1, 93, ACK);
            passed_on[6..12].copy_from_slice(&mac::of_node(2));
            let cases = [
                (
                    "other nodes have backends",
                    client.tcp(1, 90, SYN),
                    DropReason::NoLocalBackend,
                ),
                (
                    "other nodes have some still",
                    client.tcp(1, 91, ACK),
                    DropReason::NoLocalBackend,
                ),
                (
                    "the client may not use it",
                    client.tcp(1, 92, SYN),
                    DropReason::SourceNotAllowed,
                ),
                ("a datagram", client.udp(1, 93), DropReason::NoBackend),
                ("another node's", passed_on, DropReason::NoBackend),
            ];
            for (description, frame, reason) in cases {
                let outcome = world.run(hook, &frame);
                let what = format!("{description}, {hook}, {client:?}");
                assert_eq!(outcome.verdict, Verdict::Drop(reason), "{what}");
            }
        }
        // A fragment shows no sequence number, or may not be all there is.
        let mut fragment = Client::V4.tcp(1, 93, ACK);
        fragment[frame::NETWORK + 6] = 0x20;
        frame::mend_ip(&mut fragment);
        let outcome = world.run(hook, &fragment);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoBackend));
    }
    assert_eq!(world.counter(Counter::Reset), 0);
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
