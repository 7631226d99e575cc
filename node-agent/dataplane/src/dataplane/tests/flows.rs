//! What goes on by itself between one state and the next: windows end, backends have drained, and
//! counters outlive who was counted.

use aya::maps::PerCpuValues;
use fairlead_dataplane_common::{
    BackendStats, FLOW_DATAGRAMS, FlowKey, NotedEntry, TrackEntry, hash,
};
use fairlead_proto::node::{BackendState, Timeouts};

use super::*;
use crate::jiffies::Jiffies;
use crate::moving;

/// A state whose first service waits no longer than it has to.
fn hasty_state() -> DataplaneState {
    let mut state = state();
    state.services[0].timeouts = Some(Timeouts {
        established_seconds: 1,
        ..Timeouts::default()
    });
    state
}

fn hello(dataplane: &Dataplane) -> fairlead_dataplane_common::ServiceEntry {
    let state = dataplane.state();
    state
        .observed
        .service(fairlead_api::ServiceId(1))
        .unwrap()
        .1
}

/// How many elements of the first service's table are in a state other than stable, as the map
/// holds them.
fn restless(dataplane: &Dataplane) -> usize {
    let range = crate::observed::table_of(&hello(dataplane));
    let elements = dataplane.state().loaded.tables.read_table(range).unwrap();
    let is_restless = |element: &&u32| moving::state_of(**element) != 0;
    elements.iter().filter(is_restless).count()
}

/// Counts `times` packets of as many connections on each CPU for a backend, as programs would.
fn count_packets(state: &mut State, backend: u32, times: u64) {
    let slot = state.observed.backend_ids[&backend];
    let counted = BackendStats {
        packets: 10 * times,
        bytes: 1_000 * times,
        connections: times,
        answers: 5 * times,
        answer_bytes: 500 * times,
    };
    let cpus = aya::util::nr_cpus().unwrap();
    let counted = PerCpuValues::try_from(vec![counted; cpus]).unwrap();
    let stats = &mut state.loaded.tables.backend_stats;
    stats.set(slot, counted, 0).unwrap();
}

/// Sweeps until `done`.
async fn sweep_until(dataplane: &Dataplane, what: &str, done: impl Fn(&Dataplane) -> bool) {
    let is_done = async || {
        dataplane.sweep().await.unwrap();
        done(dataplane)
    };
    until(what, is_done).await;
}

#[test]
fn base_stays_if_any_packet_met_the_table_before_programs_left_it() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        let mut state = state();
        let others = state.services[0].backends.split_off(1);
        dataplane.apply(whole(&state), Generation(1)).await.unwrap();
        dataplane.settle().await.unwrap();
        // The second backend comes, and the first packet at the very moment; then the third.
        for (generation, (id, has_met)) in (2..).zip([(12, false), (13, true)]) {
            let new = others.iter().find(|other| other.id == id).unwrap();
            state.services[0].backends.push(new.clone());
            let changes = whole(&state);
            let applied = move |held: &mut State| {
                held.apply(&changes, &own(), Generation(generation))?;
                if has_met {
                    count_packets(held, 11, 1);
                }
                Ok(())
            };
            dataplane.with_state(applied).await.unwrap();
            assert!(hello(&dataplane).base_length > 0, "until it is known");
            dataplane.settle().await.unwrap();
            assert_eq!(hello(&dataplane).base_length > 0, has_met);
            assert_eq!(restless(&dataplane) > 0, has_met);
            assert!(hello(&dataplane).former_length > 0, "others may have");
        }
    });
}

#[test]
fn slots_that_moved_come_to_rest_when_their_flows_have_ended() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        let mut state = hasty_state();
        dataplane.apply(whole(&state), Generation(1)).await.unwrap();
        assert_eq!(restless(&dataplane), 0);
        count_packets(&mut dataplane.state(), 11, 1);
        state.services[0].backends[0].state = BackendState::Draining.into();
        dataplane.apply(whole(&state), Generation(2)).await.unwrap();
        let moving = restless(&dataplane);
        assert!(moving > 200, "a third of 1021: {moving}");
        assert_eq!(hello(&dataplane).base_length, 1_021);
        // A flow that lasts.
        let jiffies = Jiffies::open().unwrap();
        let address = |address: [u8; 4]| IpAddr::from(address).into();
        let flow = FlowKey {
            source: address([198, 18, 0, 10]),
            destination: address([198, 18, 100, 1]),
            protocol: 6,
            ..FlowKey::default()
        };
        let (key, entry) = {
            let mut state = dataplane.state();
            let slot = state.observed.backend_ids[&11];
            let entry = TrackEntry {
                backend: 11,
                backend_slot: slot,
                service: 1,
                // Lives longer than the windows of this test.
                state: FLOW_DATAGRAMS,
                seen_jiffies: jiffies.before(0),
                flow,
                ..TrackEntry::default()
            };
            let desired = state.desired.clone().unwrap();
            let key = hash::wide(&desired.seed, &flow);
            state.loaded.tables.flows.insert(key, entry, 0).unwrap();
            (key, entry)
        };
        sweep_until(&dataplane, "the end of the window", |dataplane| {
            hello(dataplane).base_length == 0
        })
        .await;
        sweep_until(&dataplane, "rest but for the flow's slot", |dataplane| {
            restless(dataplane) <= 1
        })
        .await;
        let entry_of_table = hello(&dataplane);
        let index = entry_of_table.lut_index(hash::narrow(key)).unwrap();
        let range = crate::lut::Range {
            offset: index,
            len: 1,
        };
        let element = dataplane.state().loaded.tables.read_table(range).unwrap()[0];
        // Slots that never moved need not look for it.
        let has_moved = moving::state_of(element) != 0;
        assert_eq!(restless(&dataplane), usize::from(has_moved));
        let ended = TrackEntry {
            seen_jiffies: jiffies.before(400),
            ..entry
        };
        dataplane
            .state()
            .loaded
            .tables
            .flows
            .insert(key, ended, 0)
            .unwrap();
        sweep_until(&dataplane, "rest", |dataplane| restless(dataplane) == 0).await;
        assert_eq!(dataplane.resync().await.unwrap(), 0);
    });
}

#[test]
fn backend_that_has_drained_is_gone_for_the_programs() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        let mut state = state();
        state.services[0].drain_seconds = 1;
        dataplane.apply(whole(&state), Generation(1)).await.unwrap();
        state.services[0].backends[0].state = BackendState::Draining.into();
        dataplane.apply(whole(&state), Generation(2)).await.unwrap();
        let has_slot = |dataplane: &Dataplane| {
            let state = dataplane.state();
            state.observed.backend_ids.contains_key(&11)
        };
        assert!(has_slot(&dataplane), "it keeps its connections at first");
        sweep_until(&dataplane, "the end of its time", |dataplane| {
            !has_slot(dataplane)
        })
        .await;
        state.services[0].backends[0].state = BackendState::Active.into();
        dataplane.apply(whole(&state), Generation(3)).await.unwrap();
        assert!(has_slot(&dataplane));
        assert_eq!(hello(&dataplane).lut_length, 1_021, "three share it again");
    });
}

#[test]
fn sweep_puts_right_how_many_flows_are_noted() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        dataplane
            .apply(whole(&state()), Generation(1))
            .await
            .unwrap();
        let slot = |id| {
            let observed = &dataplane.state().observed;
            observed.service(fairlead_api::ServiceId(id)).unwrap().0
        };
        let indexes = [
            NotedEntry::OF_ALL,
            NotedEntry::of_service(slot(1)),
            NotedEntry::of_service(slot(2)),
        ];
        {
            let tables = &mut dataplane.state().loaded.tables;
            let entry = TrackEntry {
                service: 1,
                state: FLOW_DATAGRAMS,
                seen_jiffies: Jiffies::open().unwrap().before(0),
                ..TrackEntry::default()
            };
            tables.flows.insert(0, entry, 0).unwrap();
            // As after many flows that programs have noted and the agent has cleared away.
            for index in indexes {
                let entry = NotedEntry {
                    flows: 900,
                    window: 7,
                    in_window: 8,
                    padding: 0,
                };
                tables.noted.set(index, entry).unwrap();
            }
        }
        dataplane.sweep().await.unwrap();
        let noted = indexes.map(|index| dataplane.state().loaded.tables.noted.get(index).unwrap());
        assert_eq!(noted.map(|entry| entry.flows), [1, 1, 0]);
        assert!(
            noted
                .iter()
                .all(|entry| (entry.window, entry.in_window) == (7, 8))
        );
    });
}

#[test]
fn programs_are_told_the_limits_and_told_again_when_they_change() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.agent(async |config| {
        let limits = |dataplane: &Dataplane| {
            let config = dataplane.state().observed.config;
            (config.notes_per_window, config.service_share_percent)
        };
        let dataplane = Dataplane::open(config.clone()).await.unwrap();
        assert_eq!(
            limits(&dataplane),
            (13_421, 75),
            "a hundred thousand a second"
        );
        drop(dataplane);
        let other = Config {
            flow_limits: FlowLimits {
                notes_per_second: 0,
                service_share_percent: 40,
            },
            ..config
        };
        let dataplane = Dataplane::open(other).await.unwrap();
        assert_eq!(limits(&dataplane), (0, 40));
        dataplane
            .apply(whole(&state()), Generation(1))
            .await
            .unwrap();
        assert_eq!(limits(&dataplane), (0, 40));
    });
}

#[test]
fn figures_of_a_service_keep_what_its_gone_backends_had_seen() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        let mut state = state();
        dataplane.apply(whole(&state), Generation(1)).await.unwrap();
        {
            let mut state = dataplane.state();
            for (number, id) in (1..).zip([11, 12, 13]) {
                count_packets(&mut state, id, number);
            }
        }
        let figures = || {
            let row = &rows(&dataplane, "services")[0];
            ["packets", "bytes", "connections"].map(|name| row[name].as_u64().unwrap())
        };
        let cpus = aya::util::nr_cpus().unwrap() as u64;
        let expected = [60, 6_000, 6].map(|sum| sum * cpus);
        assert_eq!(figures(), expected);
        state.services[0].backends.remove(1);
        dataplane.apply(whole(&state), Generation(2)).await.unwrap();
        dataplane.settle().await.unwrap();
        assert_eq!(figures(), expected);
        // The slot's next owner begins at nothing.
        state.services[1].backends.push(backend(2, 4));
        dataplane.apply(whole(&state), Generation(3)).await.unwrap();
        assert_eq!(figures(), expected);
        assert_eq!(rows(&dataplane, "services")[1]["packets"], 0);
    });
}
