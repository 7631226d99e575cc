//! Sweeps of real maps, whose entries say that they were seen at some time or other.

use std::net::IpAddr;

use fairlead_dataplane_common::{Address, FLOW_ESTABLISHED};
use fairlead_proto::node::{DataplaneState, Timeouts as TimeoutsMessage};

use super::*;
use crate::changes::Changes;
use crate::examples::{own, state};
use crate::loader::{Programs, Tables};
use crate::object;

/// Maps that nobody else uses.
struct Fixture {
    tables: Tables,
    jiffies: Jiffies,
    rules: Rules,
}

impl Fixture {
    /// Nothing, after printing why, where programs cannot be loaded.
    fn new(state: DataplaneState) -> Option<Self> {
        let object = object::embedded();
        if testbed::skip_without_programs(object.is_ok()) {
            return None;
        }
        let object = object.unwrap();
        let (_, tables) = Programs::load(object, None).unwrap();
        let whole = Changes::whole(state);
        let rules = Rules {
            desired: Desired::default().advance(&whole, &own()).unwrap().0,
            began: 10,
            ..Rules::default()
        };
        Some(Self {
            tables,
            jiffies: Jiffies::open().unwrap(),
            rules,
        })
    }

    /// Notes a flow of `service` to `backend`, whose last packet was `seconds` ago.
    fn note(&mut self, client_port: u16, service: u32, backend: u32, state: u8, seconds: u32) {
        let entry = TrackEntry {
            backend,
            service,
            state,
            seen_jiffies: self.jiffies.before(seconds),
            flow: flow(client_port),
            ..TrackEntry::default()
        };
        let key = hash::wide(&self.rules.desired.seed, &entry.flow);
        self.tables.flows.insert(key, entry, 0).unwrap();
    }

    fn sweep(&self) -> Swept {
        sweep(&self.tables.swept, &self.rules, &self.jiffies).unwrap()
    }

    /// The client's ports of the flows that are noted.
    fn noted(&self) -> Vec<u16> {
        let flows = self.tables.tracked_flows(usize::MAX).unwrap();
        let mut ports: Vec<u16> = flows
            .iter()
            .map(|(key, _)| u16::from_be(key.source_port_be))
            .collect();
        ports.sort_unstable();
        ports
    }
}

fn flow(client_port: u16) -> FlowKey {
    let address = |address: [u8; 4]| Address::from(IpAddr::from(address));
    FlowKey {
        source: address([198, 18, 0, 10]),
        destination: address([198, 18, 100, 1]),
        source_port_be: client_port.to_be(),
        destination_port_be: 80_u16.to_be(),
        protocol: 6,
        ..FlowKey::default()
    }
}

#[test]
fn flow_lives_for_as_long_as_its_state_allows() {
    let Some(mut fixture) = Fixture::new(state()) else {
        return;
    };
    let gone = 99;
    let cases = [
        // State, backend, seconds since the last packet, whether it stays.
        (FLOW_OPENING, 11, 50, true),
        (FLOW_OPENING, 11, 70, false),
        (FLOW_ESTABLISHED, 11, 890, true),
        (FLOW_ESTABLISHED, 11, 910, false),
        (FLOW_CLOSING, 11, 110, true),
        (FLOW_CLOSING, 11, 130, false),
        (FLOW_DATAGRAMS, 11, 290, true),
        (FLOW_DATAGRAMS, 11, 310, false),
        // Its client is told when it sends, but not for ever.
        (FLOW_ESTABLISHED, gone, 110, true),
        (FLOW_ESTABLISHED, gone, 130, false),
    ];
    let mut expected = Vec::new();
    for (port, (state, backend, seconds, stays)) in (1..).zip(cases) {
        fixture.note(port, 1, backend, state, seconds);
        expected.extend(stays.then_some(port));
    }
    fixture.note(100, 77, 11, FLOW_ESTABLISHED, 130);
    let swept = fixture.sweep();
    assert_eq!(fixture.noted(), expected);
    assert_eq!((swept.flows, swept.removed), (5, 6));
}

#[test]
fn service_may_ask_for_other_times() {
    let mut state = state();
    state.services[0].timeouts = Some(TimeoutsMessage {
        established_seconds: 60,
        ..TimeoutsMessage::default()
    });
    let Some(mut fixture) = Fixture::new(state) else {
        return;
    };
    fixture.note(1, 1, 11, FLOW_ESTABLISHED, 50);
    fixture.note(2, 1, 11, FLOW_ESTABLISHED, 70);
    fixture.note(3, 2, 21, FLOW_ESTABLISHED, 70);
    fixture.sweep();
    assert_eq!(fixture.noted(), [1, 3]);
}

#[test]
fn open_connections_are_counted_where_a_scheduler_asks() {
    let mut state = state();
    state.services[0].scheduler = "lc".to_owned();
    let Some(mut fixture) = Fixture::new(state) else {
        return;
    };
    fixture.note(1, 1, 11, FLOW_ESTABLISHED, 1);
    fixture.note(2, 1, 11, FLOW_OPENING, 1);
    fixture.note(3, 1, 11, FLOW_CLOSING, 1);
    fixture.note(4, 1, 12, FLOW_ESTABLISHED, 1);
    fixture.note(5, 2, 21, FLOW_ESTABLISHED, 1);
    let connections = fixture.sweep().connections;
    assert_eq!(connections, [(BackendId(11), 2), (BackendId(12), 1)].into());
}

#[test]
fn waiting_service_is_told_which_slots_have_notes() {
    let Some(mut fixture) = Fixture::new(state()) else {
        return;
    };
    fixture.rules.waiting = [(ServiceId(1), 0), (ServiceId(2), 0)].into();
    fixture.note(1, 1, 11, FLOW_ESTABLISHED, 1);
    fixture.note(2, 1, 11, FLOW_ESTABLISHED, 1_000);
    let swept = fixture.sweep();
    let seed = &fixture.rules.desired.seed;
    assert_eq!(
        swept.hashes_since(ServiceId(1), 5),
        Some([hash::flow(seed, &flow(1))].as_slice())
    );
    assert_eq!(swept.hashes_since(ServiceId(2), 5), Some([].as_slice()));
    assert_eq!(swept.hashes_since(ServiceId(3), 5), None, "it did not wait");
    assert_eq!(
        swept.hashes_since(ServiceId(1), 9),
        None,
        "programs may not have noticed yet when the sweep began"
    );
}

#[test]
fn translated_flow_lives_while_either_side_sends() {
    let Some(mut fixture) = Fixture::new(state()) else {
        return;
    };
    let server = Address::from(IpAddr::from([198, 18, 1, 5]));
    let translate = |client_port: u16, seconds: u32, fixture: &mut Fixture| {
        let client_side = flow(client_port);
        let key = FlowKey {
            source: server,
            destination: Address::from(IpAddr::from([198, 18, 0, 101])),
            source_port_be: 8080_u16.to_be(),
            destination_port_be: (10_000 + client_port).to_be(),
            ..client_side
        };
        let entry = NatEntry {
            client: client_side.source,
            vip: client_side.destination,
            client_port_be: client_side.source_port_be,
            vip_port_be: client_side.destination_port_be,
            backend: 11,
            seen_jiffies: fixture.jiffies.before(seconds),
            ..NatEntry::default()
        };
        fixture.tables.nat.insert(key, entry, 0).unwrap();
    };
    // The server sends; nobody does; the flow is not noted, and only just so.
    fixture.note(1, 1, 11, FLOW_ESTABLISHED, 1_000);
    translate(1, 5, &mut fixture);
    fixture.note(2, 1, 11, FLOW_ESTABLISHED, 1_000);
    translate(2, 1_000, &mut fixture);
    translate(3, 1_000, &mut fixture);
    translate(4, 1, &mut fixture);
    fixture.sweep();
    assert_eq!(fixture.noted(), [1]);
    let left = fixture
        .tables
        .nat
        .iter()
        .map(|entry| entry.unwrap().1.client_port_be);
    let mut left: Vec<u16> = left.map(u16::from_be).collect();
    left.sort_unstable();
    assert_eq!(left, [1, 4]);
}

#[test]
fn translation_of_a_flow_that_is_noted_meanwhile_is_put_back() {
    let Some(mut fixture) = Fixture::new(state()) else {
        return;
    };
    fixture.note(1, 1, 11, FLOW_ESTABLISHED, 1);
    let entry = NatEntry {
        seen_jiffies: 7,
        ..NatEntry::default()
    };
    let key = |port: u16| FlowKey {
        destination_port_be: port.to_be(),
        ..FlowKey::default()
    };
    for (client_port, seen, stays) in [(1, 7, true), (2, 6, true), (2, 7, false)] {
        let key = key(10_000 + client_port);
        fixture.tables.nat.insert(key, entry, 0).unwrap();
        let maps = &fixture.tables.swept;
        remove_unless_noted(maps, &fixture.rules, &flow(client_port), &key, seen).unwrap();
        assert_eq!(
            maps.nat.get(&key).unwrap(),
            stays.then_some(entry),
            "{client_port}, {seen}"
        );
    }
}

#[test]
fn client_is_forgotten_when_its_affinity_ends() {
    let mut state = state();
    state.services[0].affinity_seconds = 60;
    let Some(mut fixture) = Fixture::new(state) else {
        return;
    };
    let now = sys::coarse_now().unwrap();
    let seconds = now.as_secs();
    let cases = [
        // Service, backend, seconds ago, whether it stays.
        (1, 11, 50, true),
        (1, 11, 70, false),
        (1, 99, 1, false),
        (2, 21, 1, false),
    ];
    let mut expected = 0;
    for (number, (service, backend, ago, stays)) in (1..).zip(cases) {
        if ago > seconds {
            println!("the machine has not run long enough for {ago} s");
            continue;
        }
        let key = AffinityKey {
            client: Address::from(IpAddr::from([198, 18, 0, number])),
            service,
        };
        let entry = AffinityEntry {
            seen_ns: (now - Duration::from_secs(ago)).as_nanos() as u64,
            backend,
            ..AffinityEntry::default()
        };
        fixture.tables.affinity.insert(key, entry, 0).unwrap();
        expected += usize::from(stays);
    }
    fixture.sweep();
    assert_eq!(fixture.tables.affinity.iter().count(), expected);
}

#[test]
fn sweep_of_many_flows_is_complete() {
    let Some(mut fixture) = Fixture::new(state()) else {
        return;
    };
    // More than one batch.
    for port in 1..=20_000 {
        let seconds = if port % 4 == 0 { 1 } else { 2_000 };
        fixture.note(port, 1, 11, FLOW_ESTABLISHED, seconds);
    }
    fixture.note(20_001, 2, 21, FLOW_ESTABLISHED, 1);
    let swept = fixture.sweep();
    assert_eq!((swept.flows, swept.removed), (5_001, 15_000));
    let noted = [(ServiceId(1), 5_000), (ServiceId(2), 1)].into();
    assert_eq!(swept.noted, noted);
    assert_eq!(fixture.noted().len(), 5_001);
}
