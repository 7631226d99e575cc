//! Traces: what is said to become of a packet is what becomes of it, and saying so changes nothing.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::Pod;
use aya::maps::{HashMap, LpmTrie, MapData, PerCpuArray};
use fairlead_dataplane::loader::{self, Tables};
use fairlead_dataplane::trace::explain::{self, Names};
use fairlead_dataplane::trace::{self, Packet, Trace, Uplink};
use fairlead_dataplane::{object, trace as traces};
use fairlead_dataplane_common::{
    Counter, DropReason, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, LUT_MOVING,
    SERVICE_AFFINITY, SERVICE_DR, SERVICE_EXTERNAL_LOCAL, SERVICE_GUE, SERVICE_IN_TURN,
    SERVICE_NAT, ServiceEntry, maps, protocol,
};
use packet_tests::frame::OWN_MAC;
use packet_tests::{NODE_1, Service, VIP, VIP_V6, Verdict, World, is_root_missing};
use serde_json::{Value, json};

const UPLINK: Uplink = Uplink {
    ifindex: 1,
    mac: OWN_MAC,
};

/// A directory of the bpffs, removed with what is pinned there.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("trace-test-{}-{count}", std::process::id());
        let path = Path::new("/sys/fs/bpf").join(name);
        loader::mount(&path).expect("a bpffs is mounted");
        Self(path)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // What is left of it is found by its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A world whose maps are pinned, with TCP 91 passed on by dr to node 2; nothing if the test has to
/// be skipped.
fn world() -> Option<(World, Pins)> {
    if is_root_missing() {
        return None;
    }
    let object = object::embedded().expect("the object is built before the packet tests run");
    let pins = Pins::new();
    let mut world = World::load(object, Some(&pins.0));
    world.set_adjacent(1, true);
    for (vip, backend) in [(VIP.into(), 2), (VIP_V6.into(), 12)] {
        let slot = world.add_service_at(vip, protocol::TCP, 91, &[backend]);
        world.allow_dr(slot, &[]);
    }
    Some((world, pins))
}

fn trace(world: &World, pins: &Pins, params: &Value) -> Trace {
    let packet = Packet::parse(params).expect("a packet");
    let object = object::embedded().expect("the object");
    trace::trace(object, &pins.0, &world.tables, &packet, UPLINK).expect("a trace")
}

struct Nameless;

impl Names for Nameless {
    fn service(&self, _: u32) -> Option<String> {
        None
    }

    fn backend(&self, _: u32) -> Option<String> {
        None
    }

    fn node(&self, _: u32) -> Option<String> {
        None
    }
}

/// The sentences of a trace, by subject.
fn sentences(world: &World, trace: &Trace) -> Vec<(String, String)> {
    let explained =
        explain::explain(&world.tables, &Nameless, trace, &[None, None]).expect("an explanation");
    let lines = explained["explanation"].as_array().expect("sentences");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines
        .iter()
        .map(|line| (text(&line["subject"]), text(&line["text"])))
        .collect()
}

/// One of each kind: what is balanced, in both families and all modes, what is dropped, what is
/// answered, and what is none of ours.
fn packets() -> Vec<Value> {
    let v4 = |to: &str, protocol: &str, flags: &str| {
        json!({
            "from": "198.18.1.10:40000", "to": to, "protocol": protocol, "flags": flags,
        })
    };
    let v6 = |to: &str, protocol: &str, flags: &str| {
        json!({
            "from": "[2001:db8:1::10]:40000", "to": to, "protocol": protocol, "flags": flags,
        })
    };
    let mut tagged = v4("198.18.100.1:82", "tcp", "syn");
    tagged["vlan"] = 100.into();
    let mut large = v4("198.18.100.1:82", "tcp", "ack");
    large["size"] = 1500.into();
    vec![
        v4("198.18.100.1:80", "tcp", "syn"),
        v4("198.18.100.1:80", "tcp", "ack"),
        v4("198.18.100.1:81", "tcp", "syn"),
        v4("198.18.100.1:82", "tcp", "fin"),
        v4("198.18.100.1:83", "tcp", "syn"),
        v4("198.18.100.1:84", "tcp", "syn"),
        v4("198.18.100.1:85", "tcp", "rst"),
        v4("198.18.100.1:91", "tcp", "ack"),
        v4("198.18.100.1:53", "udp", ""),
        v4("198.18.100.1:54", "udp", ""),
        v4("198.18.100.1", "icmp", ""),
        v4("192.0.2.1:80", "tcp", "syn"),
        v6("[2001:db8:100::1]:82", "tcp", "syn"),
        v6("[2001:db8:100::1]:81", "tcp", "ack"),
        v6("[2001:db8:100::1]:91", "tcp", "syn"),
        v6("[2001:db8:100::1]", "icmp", ""),
        tagged,
        large,
    ]
}

#[test]
fn trace_predicts_what_the_attached_programs_do() {
    let Some((mut world, pins)) = world() else {
        return;
    };
    for params in packets() {
        let predicted = trace(&world, &pins, &params);
        let mut frame = predicted.frame.clone();
        for step in &predicted.outcome.steps {
            let outcome = world.run(step.program, &frame);
            let verdict = match outcome.verdict {
                Verdict::Pass => traces::Verdict::Pass,
                Verdict::Transmit => traces::Verdict::Transmit,
                Verdict::Redirect => traces::Verdict::Redirect,
                Verdict::TakenIn => traces::Verdict::Drop(None),
                Verdict::Drop(reason) => traces::Verdict::Drop(Some(reason)),
            };
            assert_eq!(verdict, step.verdict, "{} of {params}", step.program);
            assert_eq!(outcome.frame, step.frame, "{} of {params}", step.program);
            frame = outcome.frame;
        }
        let last = predicted.outcome.steps.last().expect("a program has run");
        let is_over = last.verdict != traces::Verdict::Pass || last.program == "tc_uplink_in";
        assert!(is_over, "{params} was not followed to its end");
    }
}

#[test]
fn trace_changes_no_map_and_moves_no_counter() {
    let Some((mut world, pins)) = world() else {
        return;
    };
    // There is something to change: flows, counters and samples.
    for params in packets() {
        let frame = Packet::parse(&params).expect("a packet").frame(OWN_MAC);
        if world.run("xdp_ingress", &frame).verdict == Verdict::Pass {
            world.run("tc_uplink_in", &frame);
        }
    }
    let before = contents(&world.tables);
    for params in packets() {
        trace(&world, &pins, &params);
    }
    for (before, after) in before.iter().zip(contents(&world.tables)) {
        assert_eq!(*before, after);
    }
}

#[test]
fn explanation_tells_each_decision_and_its_reason() {
    let Some((world, pins)) = world() else {
        return;
    };
    let told = |to: &str, flags: &str| {
        let params = json!({"from": "198.18.1.10:40000", "to": to, "flags": flags});
        let trace = trace(&world, &pins, &params);
        (sentences(&world, &trace), trace)
    };
    let has = |sentences: &[(String, String)], subject: &str, text: &str| {
        assert!(
            sentences
                .iter()
                .any(|(about, said)| about == subject && said.contains(text)),
            "{subject}: {text} is not in {sentences:#?}"
        );
    };
    let (sentences, _) = told("198.18.100.1:82", "syn");
    has(&sentences, "frontend", "198.18.100.1:82 is a VIP's");
    has(
        &sentences,
        "slot",
        "of 251, which is stable and names backend 102",
    );
    has(&sentences, "backend", "the slot says so");
    has(
        &sentences,
        "forwarding",
        "tun (VXLAN): the service asks for tun",
    );
    has(&sentences, "verdict", "sent to the backend");

    let (sentences, _) = told("198.18.100.1:91", "ack");
    has(&sentences, "verdict", "by the interface it came in by");

    let (sentences, _) = told("198.18.100.1:81", "syn");
    has(&sentences, "backend", "10.244.1.10:8080, here");
    has(
        &sentences,
        "forwarding",
        "local: the backend is on this node",
    );
    has(&sentences, "reply", "would leave as from 198.18.100.1:81");

    let (sentences, trace) = told("198.18.100.1:84", "syn");
    has(&sentences, "slot", "the service has no backend");
    has(&sentences, "counts", "Reset: segments that nobody takes");
    has(&sentences, "verdict", "answered, by the interface");
    assert_eq!(trace.outcome.verdict(), traces::Verdict::Transmit);
    let (sentences, trace) = told("198.18.100.1:84", "rst");
    has(&sentences, "verdict", "dropped, NoBackend");
    let reason = Some(DropReason::NoBackend);
    assert_eq!(trace.outcome.verdict(), traces::Verdict::Drop(reason));

    let (sentences, _) = told("198.18.100.1:85", "syn");
    has(&sentences, "frontend", "no service answers at this port");

    let (sentences, _) = told("192.0.2.1:80", "syn");
    has(&sentences, "frontend", "no VIP of this node");
    has(&sentences, "verdict", "left to the node's own stack");
}

#[test]
fn what_a_vip_answers_itself_is_told_as_answered() {
    let Some((world, pins)) = world() else {
        return;
    };
    let clients = [
        ("198.18.1.10:40000", "198.18.100.1", "198.18.100.1:82"),
        (
            "[2001:db8:1::10]:40000",
            "[2001:db8:100::1]",
            "[2001:db8:100::1]:82",
        ),
    ];
    for (from, vip, service) in clients {
        let echo = json!({"from": from, "to": vip, "protocol": "icmp"});
        let too_big = json!({"from": from, "to": service, "flags": "ack", "size": 1500});
        for (params, counter) in [
            (echo, Counter::EchoAnswered),
            (too_big, Counter::TooBigAnswered),
        ] {
            let trace = trace(&world, &pins, &params);
            assert_eq!(trace.outcome.counters, [counter], "{params}");
            let told = sentences(&world, &trace);
            let counted = format!("{}: {}", counter.name(), counter.description());
            for (subject, text) in [
                ("counts", counted.as_str()),
                ("verdict", "answered, by the interface it came in by"),
            ] {
                let sentence = (subject.to_owned(), text.to_owned());
                assert!(told.contains(&sentence), "{params}: {told:#?}");
            }
        }
    }
}

/// A fingerprint of what every map holds, by its name.
fn contents(tables: &Tables) -> Vec<(&'static str, u64)> {
    let large = |count: u32| count as usize;
    vec![
        ("config", of(&tables.config.get(&0, 0))),
        ("meta", of(&tables.meta.get(&0, 0))),
        (
            "frontends",
            of(&tables.frontends.read(0, large(2 * maps::FRONTEND_BUCKETS))),
        ),
        (
            "services",
            of(&tables.services.read(0, large(2 * maps::SERVICES_MAX))),
        ),
        ("lut", of(&tables.lut.read_mapped(0, 1 << 16))),
        (
            "backends",
            of(&tables.backends.read(0, large(maps::BACKENDS_MAX))),
        ),
        ("backend_ids", of_entries(&tables.backend_ids)),
        ("nodes", of(&tables.nodes.read(0, large(maps::NODES_MAX)))),
        ("node_addresses", of_entries(&tables.node_addresses)),
        ("endpoints", of_entries(&tables.endpoints)),
        ("pods", of_entries(&tables.pods)),
        ("routes", of_ranges(&tables.routes)),
        ("source_ranges", of_ranges(&tables.source_ranges)),
        ("conflicts", of_entries(&tables.conflicts)),
        ("vpcs", of_entries(&tables.vpcs)),
        ("replies", of_entries(&tables.replies)),
        ("newcomers", of_entries(&tables.newcomers)),
        ("snat_out", of_entries(&tables.snat_out)),
        ("snat_in", of_entries(&tables.snat_in)),
        ("socket_origins", of_entries(&tables.socket_origins)),
        ("flows", of_entries(&tables.flows)),
        ("nat", of_entries(&tables.nat)),
        ("affinity", of_entries(&tables.affinity)),
        ("fragments", of_entries(&tables.fragments)),
        ("uplinks", of_entries(&tables.uplinks)),
        ("noted", of(&tables.noted.read(0, large(maps::NOTED_MAX)))),
        ("turns", of(&tables.turns.iter().collect::<Vec<_>>())),
        (
            "loads",
            of(&tables.loads.read(0, large(maps::BACKENDS_MAX))),
        ),
        ("backend_stats", of_counters(&tables.backend_stats, 64)),
        ("service_stats", of_counters(&tables.service_stats, 64)),
        ("drops", of_counters(&tables.drops, maps::DROP_REASONS_MAX)),
        (
            "counters",
            of_counters(&tables.counters, maps::COUNTERS_MAX),
        ),
        ("drop_samples", of_entries(&tables.drop_samples)),
        ("service_drops", {
            let entries = tables.service_drops.iter();
            of(&entries
                .map(|entry| entry.map(|(key, values)| (key, values.to_vec())))
                .collect::<Vec<_>>())
        }),
    ]
}

fn of(value: &impl Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{value:?}").hash(&mut hasher);
    hasher.finish()
}

fn of_entries<K: Pod + Debug + Eq + Hash, V: Pod + Debug>(map: &HashMap<MapData, K, V>) -> u64 {
    let mut entries: Vec<String> = map.iter().map(|entry| format!("{entry:?}")).collect();
    entries.sort_unstable();
    of(&entries)
}

fn of_ranges<K: Pod + Debug, V: Pod + Debug>(map: &LpmTrie<MapData, K, V>) -> u64 {
    let mut entries: Vec<String> = map
        .iter()
        .map(|entry| {
            let (key, value) = entry.expect("read the entry");
            format!("{:?}/{}: {value:?}", key.data(), key.prefix_len())
        })
        .collect();
    entries.sort_unstable();
    of(&entries)
}

fn of_counters<V: Pod + Debug>(map: &PerCpuArray<MapData, V>, count: u32) -> u64 {
    let values: Vec<_> = (0..count)
        .map(|index| map.get(&index, 0).map(|values| values.to_vec()))
        .collect();
    of(&values)
}

#[test]
fn ways_to_a_backend_are_told_with_what_they_leave_behind() {
    /// A real server of the segment, one behind a router, a pod of node 2, and one of this node.
    const NEAR: u32 = 21;
    const FAR: u32 = 22;
    const OTHER: u32 = 2;
    const HERE: u32 = 1;
    const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
    let Some((mut world, pins)) = world() else {
        return;
    };
    world.set_uplink(1500);
    for (slot, address) in [(NEAR, [198, 18, 0, 200]), (FAR, [192, 0, 2, 200])] {
        world.add_server(slot, (address, 9000).into(), Some(SERVER_MAC));
    }
    world.set_adjacent(FAR, false);
    let service = |table: &'static [u32], local: &'static [u32], port, flags| Service {
        protocol: protocol::TCP,
        port,
        table,
        local,
        flags,
        affinity_seconds: 300,
        ..Service::default()
    };
    let slots = [
        service(&[NEAR], &[], 7000, SERVICE_NAT),
        service(&[FAR], &[], 7001, SERVICE_DR),
        service(&[FAR], &[], 7002, SERVICE_GUE),
        service(&[NEAR], &[], 7003, SERVICE_DR),
        service(&[OTHER], &[HERE], 7004, SERVICE_EXTERNAL_LOCAL),
        service(&[OTHER], &[], 7005, SERVICE_EXTERNAL_LOCAL),
        service(&[OTHER], &[], 7006, SERVICE_AFFINITY),
    ]
    .map(|service| world.add(&service));
    let slot = world.add_service(protocol::TCP, 7007, &[OTHER]);
    let node_port = FrontendKey::new(0, NODE_1.into(), protocol::TCP, 30_007_u16.to_be());
    world.add_frontend(node_port, slot, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT);

    world.add_prefix(
        [203, 0, 113, 16].into(),
        96 + 28,
        (protocol::TCP, 7008),
        slot,
    );

    let cases: &[(&str, &[(&str, &str)])] = &[
        (
            "203.0.113.20:7008",
            &[
                (
                    "frontend",
                    "203.0.113.20:7008 is of the VIP 203.0.113.16/28",
                ),
                ("forwarding", "tun (VXLAN)"),
            ],
        ),
        (
            "203.0.113.20:7009",
            &[(
                "frontend",
                "203.0.113.20:7009 is a VIP's, and no service answers at this port",
            )],
        ),
        (
            "198.18.100.1:7000",
            &[
                ("service", "every flow is noted"),
                ("flow", "not noted; would be, as opening"),
                ("forwarding", "nat: the service asks for nat"),
                ("nat", "answers 198.18.0.200:9000 > 198.18.0.101:"),
                (
                    "nat",
                    "would go to 198.18.1.10:40000 as from 198.18.100.1:7000",
                ),
            ],
        ),
        (
            "198.18.100.1:7001",
            &[
                ("backend", "192.0.2.200:9000, outside"),
                ("forwarding", "tun (IP in IP): the service allows dr, but"),
            ],
        ),
        (
            "198.18.100.1:7002",
            &[("forwarding", "tun (GUE): the service asks for tun")],
        ),
        (
            "198.18.100.1:7003",
            &[
                ("forwarding", "dr: the service allows dr"),
                ("forwarding", "go to 02:00:00:00:00:c8"),
            ],
        ),
        (
            "198.18.100.1:7004",
            &[
                ("backend", "10.244.1.10:8080, here"),
                ("forwarding", "local: the backend is on this node"),
            ],
        ),
        (
            "198.18.100.1:7005",
            &[
                (
                    "slot",
                    "the service has no backend on this node, and may use no other",
                ),
                ("verdict", "dropped, NoLocalBackend"),
            ],
        ),
        (
            "198.18.100.1:7006",
            &[
                ("service", "clients keep their backend for 300 s"),
                ("slot", "of the client's address finds slot"),
                ("backend", "the slot says so"),
            ],
        ),
        (
            "198.18.0.101:30007",
            &[
                ("frontend", "198.18.0.101:30007 is a node port"),
                ("forwarding", "tun (VXLAN)"),
            ],
        ),
    ];
    let told = |world: &World, port: u16, to: &str| {
        let params = json!({"from": format!("198.18.1.10:{port}"), "to": to, "flags": "syn"});
        let trace = trace(world, &pins, &params);
        (sentences(world, &trace), trace.frame)
    };
    let has = |sentences: &[(String, String)], to: &str, subject: &str, text: &str| {
        assert!(
            sentences
                .iter()
                .any(|(about, said)| about == subject && said.contains(text)),
            "{to}: {subject}: {text} is not in {sentences:#?}"
        );
    };
    for (to, expected) in cases {
        let (sentences, _) = told(&world, 40_000, to);
        for (subject, text) in *expected {
            has(&sentences, to, subject, text);
        }
    }

    // Who has been here goes where he was, though the table names another now.
    let to = "198.18.100.1:7006";
    let (_, frame) = told(&world, 40_000, to);
    world.run("xdp_ingress", &frame);
    let changed = service(&[NEAR], &[], 7006, SERVICE_AFFINITY);
    world.change(slots[6], &changed);
    let (sentences, _) = told(&world, 40_001, to);
    has(&sentences, to, "backend", "the client had it last");
    let (sentences, _) = told(&world, 40_000, to);
    has(&sentences, to, "backend", "the flow's entry says so");
}

#[test]
fn trace_of_a_noted_flow_takes_no_turn_and_then_follows_the_note() {
    let Some((mut world, pins)) = world() else {
        return;
    };
    let slot = world.add_service(protocol::TCP, 92, &[2, 3]);
    let index = ServiceEntry::index(0, slot);
    let mut entry = world.tables.services.get(index).expect("the service");
    entry.flags |= SERVICE_IN_TURN;
    world.tables.services.set(index, entry).expect("in turn");
    let params = json!({"from": "198.18.1.10:41000", "to": "198.18.100.1:92", "flags": "syn"});

    let first = trace(&world, &pins, &params);
    let again = trace(&world, &pins, &params);
    assert_eq!(first.facts.turn, again.facts.turn, "a trace took a turn");
    let given = first.outcome.flow.expect("a note").backend;
    assert_eq!(again.outcome.flow.expect("a note").backend, given);
    let told = sentences(&world, &first);
    let says = |told: &[(String, String)], text: &str| {
        assert!(
            told.iter().any(|(_, said)| said.contains(text)),
            "{text}: {told:#?}"
        );
    };
    says(&told, "not noted; would be, as opening");
    says(&told, "it was its turn");

    world.run("xdp_ingress", &first.frame);
    let noted = trace(&world, &pins, &params);
    assert_eq!(noted.facts.flow.expect("a note").backend, given);
    let told = sentences(&world, &noted);
    says(&told, &format!("noted as opening for backend {given} with"));
    says(&told, "the flow's entry says so");
}

#[test]
fn trace_at_a_moving_slot_tells_new_connections_from_old_ones() {
    let Some((mut world, pins)) = world() else {
        return;
    };
    world.add(&Service {
        protocol: protocol::TCP,
        port: 93,
        table: &[2 | LUT_MOVING],
        base: &[3],
        ..Service::default()
    });
    for (flags, backend, reason) in [
        ("syn", 102, "this is who has it now"),
        ("ack", 103, "belongs to who had it before"),
    ] {
        let params = json!({"from": "198.18.1.10:42000", "to": "198.18.100.1:93", "flags": flags});
        let trace = trace(&world, &pins, &params);
        assert_eq!(
            trace.outcome.flow.expect("a note").backend,
            backend,
            "{flags}"
        );
        let told = sentences(&world, &trace);
        let is_told = told.iter().any(|(_, said)| said.contains(reason));
        assert!(is_told, "{flags}: {told:#?}");
    }
}
