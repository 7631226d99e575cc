//! Who may use a service, and which backends it has for whom; and how refusals are counted.

use aya::maps::lpm_trie::Key;
use fairlead_dataplane_common::{
    Address, DropReason, FRONTEND_NODE_PORT, SERVICE_EXTERNAL_LOCAL, SERVICE_SOURCE_RANGES,
    SourceRangeKey, maps, protocol,
};
use packet_tests::frame::{ACK, RST, SYN};
use packet_tests::{Client, Service, Verdict, World};

const HOOKS: [&str; 2] = ["xdp_ingress", "tc_uplink_in"];
const REMOTE: u32 = 20;

#[test]
fn only_clients_of_the_source_ranges_may_use_a_vip() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(REMOTE, 1);
    let service = Service {
        protocol: protocol::TCP,
        table: &[REMOTE],
        flags: SERVICE_SOURCE_RANGES,
        ..Service::default()
    };
    let allowed = world.add(&Service {
        port: 90,
        ..service
    });
    let refused = world.add(&Service {
        port: 91,
        ..service
    });
    world.add(&Service {
        port: 92,
        frontend_flags: FRONTEND_NODE_PORT,
        ..service
    });
    // 198.18.1.0/24 and 2001:db8:1::/48, where the clients are, and a range where they are not.
    let ranges = [
        (allowed, Client::V4.address(), 96 + 24),
        (allowed, Client::V6.address(), 48),
        (
            refused,
            Address::from(std::net::Ipv4Addr::new(198, 18, 2, 0)),
            96 + 24,
        ),
    ];
    for (slot, client, bits) in ranges {
        let range = SourceRangeKey {
            service_be: (slot + 1).to_be(),
            client: client.masked(&Address::mask(bits)),
        };
        world
            .tables
            .source_ranges
            .insert(&Key::new(32 + bits, range), 0, 0)
            .expect("write the range");
    }
    for hook in HOOKS {
        for client in Client::ALL {
            for (port, may) in [(90, true), (91, false), (92, true)] {
                let outcome = world.run(hook, &client.tcp(1000, port, SYN));
                let what = format!("{hook}, {client:?}, port {port}");
                if may {
                    assert_eq!(outcome.named(), Some(100 + REMOTE), "{what}");
                } else {
                    let reason = DropReason::SourceNotAllowed;
                    assert_eq!(outcome.verdict, Verdict::Drop(reason), "{what}");
                }
            }
        }
    }
    assert_eq!(
        world.service_drops(refused, DropReason::SourceNotAllowed),
        4
    );
    assert_eq!(
        world.service_drops(allowed, DropReason::SourceNotAllowed),
        0
    );
    assert_eq!(world.service_stats(refused).drops, 4);
}

#[test]
fn external_traffic_stays_on_this_node_where_the_policy_says_so() {
    let Some(mut world) = World::open() else {
        return;
    };
    world.add_backend(REMOTE, 1);
    let service = Service {
        protocol: protocol::TCP,
        table: &[REMOTE],
        flags: SERVICE_EXTERNAL_LOCAL,
        ..Service::default()
    };
    world.add(&Service {
        port: 90,
        local: &[1],
        ..service
    });
    let nowhere = world.add(&Service {
        port: 91,
        ..service
    });
    for port in 1000..1008 {
        let frame = Client::V4.tcp(port, 90, ACK);
        assert_eq!(world.run("xdp_ingress", &frame).verdict, Verdict::Pass);
        assert_eq!(world.run("tc_uplink_in", &frame).verdict, Verdict::Redirect);
    }
    for hook in HOOKS {
        for client in Client::ALL {
            let outcome = world.run(hook, &client.tcp(1000, 91, SYN));
            let reason = DropReason::NoLocalBackend;
            assert_eq!(outcome.verdict, Verdict::Drop(reason), "{hook}, {client:?}");
        }
    }
    assert_eq!(world.service_drops(nowhere, DropReason::NoLocalBackend), 4);
}

#[test]
fn sample_of_a_drop_shows_the_packet_of_each_service() {
    const PORTS: [u16; 2] = [90, 91];
    let Some(mut world) = World::open() else {
        return;
    };
    let services = PORTS.map(|port| {
        world.add(&Service {
            protocol: protocol::TCP,
            port,
            ..Service::default()
        })
    });
    let reason = DropReason::NoBackend;
    let seen = |world: &World, slot| world.sample(Some(slot), reason);
    for (hook, client_port) in HOOKS.into_iter().zip([1000, 1001]) {
        for (slot, port) in services.into_iter().zip(PORTS) {
            let frame = Client::V4.tcp(client_port, port, RST);
            let before = seen(&world, slot).map(|sample| sample.seen_jiffies);
            // One a jiffy: the next may have to wait for the clock.
            let sample = loop {
                let outcome = world.run(hook, &frame);
                assert_eq!(outcome.verdict, Verdict::Drop(reason));
                let sample = seen(&world, slot).expect("a sample of the service");
                if Some(sample.seen_jiffies) != before {
                    break sample;
                }
            };
            assert_eq!(sample.length as usize, frame.len());
            assert_eq!(sample.captured as usize, frame.len());
            assert_eq!(sample.bytes[..frame.len()], frame, "{hook}, {port}");
        }
        for (slot, port) in services.into_iter().zip(PORTS) {
            let sample = seen(&world, slot).expect("a sample of the service");
            assert_eq!(sample.bytes[36..38], port.to_be_bytes(), "its own packet");
        }
    }
    assert_eq!(world.sample(None, reason), None, "all were for a service");
}

#[test]
fn samples_beyond_their_number_take_the_place_of_older_ones() {
    let Some(mut world) = World::open() else {
        return;
    };
    let services = 1000..1000 + (maps::DROP_SAMPLES_MAX as u16);
    let mut last = None;
    for port in services.clone() {
        let service = Service {
            protocol: protocol::TCP,
            port,
            ..Service::default()
        };
        let slot = world.add(&service);
        for hook in HOOKS {
            let outcome = world.run(hook, &Client::V6.tcp(1, port, RST));
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoBackend));
        }
        // Of no service, and never the oldest.
        world.run("tc_uplink_in", &Client::V4.tcp(1, 4444, SYN));
        last = Some(slot);
    }
    assert!(world.sample(last, DropReason::NoBackend).is_some());
    assert!(world.sample(None, DropReason::UnknownPort).is_some());
    let kept = world.tables.drop_samples.keys().count();
    assert!(kept <= maps::DROP_SAMPLES_MAX as usize, "{kept}");
}
