//! Who may use a service, and which backends it has for whom; and how refusals are counted.

use aya::maps::lpm_trie::Key;
use fairlead_dataplane_common::{
    Address, DropReason, FRONTEND_NODE_PORT, SERVICE_EXTERNAL_LOCAL, SERVICE_SOURCE_RANGES,
    SourceRangeKey, protocol,
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
fn sample_of_a_drop_shows_the_packet_and_its_service() {
    let Some(mut world) = World::open() else {
        return;
    };
    let slot = world.add(&Service {
        protocol: protocol::TCP,
        port: 90,
        ..Service::default()
    });
    for (hook, port) in HOOKS.into_iter().zip([1000, 1001]) {
        let frame = Client::V4.tcp(port, 90, RST);
        let before = world.sample(DropReason::NoBackend).seen_jiffies;
        // One a jiffy: the next may have to wait for the clock.
        let sample = loop {
            let outcome = world.run(hook, &frame);
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoBackend));
            let sample = world.sample(DropReason::NoBackend);
            if sample.seen_jiffies != before {
                break sample;
            }
        };
        assert_eq!(sample.length as usize, frame.len());
        assert_eq!(sample.captured as usize, frame.len());
        assert_eq!(sample.bytes[..frame.len()], frame, "{hook}");
        assert_eq!(sample.service, slot + 1);
    }
}
