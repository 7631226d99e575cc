//! What services ask for, in flags, tables, loads and source ranges.

use fairlead_dataplane_common::{
    LUT_MOVING, LUT_SETTLING, SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SCHEDULER_WEIGHTED_LEAST_CONNECTIONS, SERVICE_AFFINITY,
    SERVICE_DESTINATION_HASH, SERVICE_EXTERNAL_LOCAL, SERVICE_GUE, SERVICE_IN_TURN,
    SERVICE_INTERNAL_LOCAL, SERVICE_LEAST_LOAD, SERVICE_NAT, SERVICE_SCHEDULER_SHIFT,
    SERVICE_SOURCE_HASH, SERVICE_SOURCE_RANGES, SERVICE_TRACK,
};
use fairlead_proto::node::{Protocol, Service as ServiceMessage};

use super::*;
use crate::observed::SourceRange;

/// The first service, changed, and how it is seen by the programs.
fn planned_as(change: impl FnOnce(&mut ServiceMessage)) -> (Maps, ServiceEntry) {
    let mut maps = Maps::default();
    let mut state = state();
    change(&mut state.services[0]);
    apply(&mut maps, &state, 1);
    let entry = maps.hello();
    (maps, entry)
}

#[test]
fn what_a_service_asks_for_is_in_its_flags() {
    type Change = fn(&mut ServiceMessage);
    let least_load = |kind: u32| {
        SERVICE_DR | SERVICE_LEAST_LOAD | SERVICE_TRACK | kind << SERVICE_SCHEDULER_SHIFT
    };
    let cases: &[(Change, u32)] = &[
        (|_| {}, SERVICE_DR),
        (|s| s.forwarding = "tun".to_owned(), 0),
        (
            |s| s.forwarding = "nat".to_owned(),
            SERVICE_NAT | SERVICE_TRACK,
        ),
        (
            |s| s.protocol = Protocol::Udp.into(),
            SERVICE_DR | SERVICE_TRACK,
        ),
        (
            |s| s.tracking = "always".to_owned(),
            SERVICE_DR | SERVICE_TRACK,
        ),
        (|s| s.tunnel = "gue".to_owned(), SERVICE_DR | SERVICE_GUE),
        (
            |s| s.scheduler = "sh".to_owned(),
            SERVICE_DR | SERVICE_SOURCE_HASH,
        ),
        (
            |s| s.scheduler = "dh".to_owned(),
            SERVICE_DR | SERVICE_DESTINATION_HASH,
        ),
        (
            |s| s.scheduler = "wrr".to_owned(),
            SERVICE_DR | SERVICE_IN_TURN | SERVICE_TRACK,
        ),
        (
            |s| s.scheduler = "lc".to_owned(),
            least_load(SCHEDULER_LEAST_CONNECTIONS),
        ),
        (
            |s| s.scheduler = "wlc".to_owned(),
            least_load(SCHEDULER_WEIGHTED_LEAST_CONNECTIONS),
        ),
        (
            |s| s.scheduler = "sed".to_owned(),
            least_load(SCHEDULER_SHORTEST_EXPECTED_DELAY),
        ),
        (
            |s| s.scheduler = "nq".to_owned(),
            least_load(SCHEDULER_NEVER_QUEUE),
        ),
        (
            |s| s.affinity_seconds = 60,
            SERVICE_DR | SERVICE_AFFINITY | SERVICE_SOURCE_HASH | SERVICE_TRACK,
        ),
        (
            |s| s.external_local = true,
            SERVICE_DR | SERVICE_EXTERNAL_LOCAL,
        ),
        (
            |s| s.internal_local = true,
            SERVICE_DR | SERVICE_INTERNAL_LOCAL,
        ),
        (
            |s| s.source_ranges = vec!["10.0.0.0/8".to_owned()],
            SERVICE_DR | SERVICE_SOURCE_RANGES,
        ),
    ];
    for (change, flags) in cases {
        let (_, entry) = planned_as(*change);
        assert_eq!(entry.flags, *flags, "{:#x}", entry.flags);
        assert_eq!(entry.affinity_seconds > 0, flags & SERVICE_AFFINITY != 0);
    }
}

#[test]
fn schedulers_that_count_see_each_backend_once_with_its_weight() {
    let (mut maps, entry) = planned_as(|s| {
        s.scheduler = "wlc".to_owned();
        s.backends[1].weight = 3;
    });
    let slots = [11, 12, 13].map(|id| maps.slot(id));
    assert_eq!(maps.table(&entry), slots);
    let weights = slots.map(|slot| maps.observed.loads[&slot].weight);
    assert_eq!(weights, [1, 3, 1]);

    let mut state = state();
    state.services[0].backends.pop();
    apply(&mut maps, &state, 2);
    assert!(maps.observed.loads.is_empty(), "maglev asks for none");
}

#[test]
fn turns_are_as_many_as_the_weights_say() {
    let weigh = |s: &mut ServiceMessage, scheduler: &str| {
        s.scheduler = scheduler.to_owned();
        s.backends[0].weight = 2;
        s.backends[1].weight = 4;
        s.backends[2].weight = 2;
    };
    let (maps, entry) = planned_as(|s| weigh(s, "wrr"));
    let [a, b, c] = [11, 12, 13].map(|id| maps.slot(id));
    assert_eq!(maps.table(&entry), [b, a, c, b]);
    let (maps, entry) = planned_as(|s| weigh(s, "rr"));
    assert_eq!(maps.table(&entry).len(), 3);
}

#[test]
fn added_backends_slots_move_and_the_base_stands_behind_the_table() {
    let mut maps = Maps::default();
    let mut state = state();
    let third = state.services[0].backends.pop().unwrap();
    apply(&mut maps, &state, 1);
    let before = maps.table(&maps.hello());
    assert_eq!(maps.hello().base_length, 0, "nothing moves at first");
    state.services[0].backends.push(third);
    apply(&mut maps, &state, 2);
    let entry = maps.hello();
    assert_eq!(maps.base(&entry), before);
    let table = maps.table(&entry);
    // The table has grown, from 251 to 1021 slots: those that may have had another owner move.
    let new = maps.slot(13);
    for element in &table {
        if moving::slot_of(*element) == new {
            assert_eq!(moving::state_of(*element), LUT_MOVING);
        }
    }
    let moving = count(&table, LUT_MOVING) * 100 / table.len();
    assert!((33..75).contains(&moving), "{moving} %");
    assert_eq!(planned(&state, &maps, 2), [], "and goes on moving");
}

#[test]
fn table_that_no_packet_has_met_leaves_no_base() {
    let mut maps = Maps::default();
    let mut state = state();
    let others = state.services[0].backends.split_off(1);
    apply(&mut maps, &state, 1);
    let first = maps.slot(11);
    state.services[0].backends.extend(others);
    apply(&mut maps, &state, 2);
    assert!(maps.hello().base_length > 0);
    // By now it is known.
    let unused = BTreeSet::from([ServiceId(1)]);
    let moment = Moment {
        unused: Some(&unused),
        ..Moment::default()
    };
    let desired = desired(&state);
    let scope = Scope::Services(desired.touching(unused.clone()));
    let (local, observed) = (local(), &maps.observed);
    let plan = plan(&desired, &scope, &local, observed, Generation(2), moment).unwrap();
    for action in plan.enter.iter().chain(&plan.leave) {
        maps.execute(action);
    }
    for action in maps.observed.level() {
        maps.execute(&action);
    }
    let entry = maps.hello();
    assert_eq!(maps.reachable(HELLO_VIP).unwrap().len(), 3);
    assert_eq!(entry.base_length, 0);
    assert_eq!(count(&maps.table(&entry), LUT_MOVING), 0);
    // Other nodes may have balanced: who had all of it is remembered where somebody else has it now.
    let formers = maps.formers(&entry);
    assert_eq!(formers.len(), 2 * 251);
    assert!(
        formers
            .iter()
            .all(|former| [first, LUT_EMPTY].contains(former))
    );
    assert!(formers.contains(&first));
    assert_eq!(planned(&state, &maps, 2), [], "and stays so");
}

#[test]
fn slots_of_a_backend_that_is_gone_do_not_move() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].backends[0].state = BackendState::Draining.into();
    apply(&mut maps, &state, 1);
    state.services[0].backends[0].state = BackendState::Active.into();
    apply(&mut maps, &state, 2);
    let slot = maps.slot(11);
    state.services[0].backends.remove(0);
    apply(&mut maps, &state, 3);
    let entry = maps.hello();
    let names = |elements: Vec<u32>| elements.iter().any(|e| moving::slot_of(*e) == slot);
    assert!(!names(maps.table(&entry)) && !names(maps.base(&entry)));
    assert_eq!(count(&maps.table(&entry), LUT_MOVING), 0);
}

#[test]
fn connections_go_on_while_all_backends_drain() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 1);
    let before = maps.table(&maps.hello());
    for backend in &mut state.services[0].backends {
        backend.state = BackendState::Draining.into();
    }
    apply(&mut maps, &state, 2);
    let entry = maps.hello();
    assert_eq!(maps.base(&entry), before);
    assert!(
        maps.table(&entry)
            .iter()
            .all(|element| *element == LUT_MOVING)
    );
    assert_eq!(maps.reachable(HELLO_VIP).unwrap(), BTreeSet::new());
    assert_eq!(at_rest(&maps, &desired(&state)).hello().lut_length, 0);
    state.services[0].backends.clear();
    apply(&mut maps, &state, 3);
    assert_eq!(maps.hello().lut_length, 0);
}

#[test]
fn lapsed_backend_is_gone_for_the_programs() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 1);
    state.services[0].backends[0].state = BackendState::Draining.into();
    apply(&mut maps, &state, 1);
    let slot = maps.slot(11);
    let desired = desired(&state);
    let scope = Scope::Services(desired.touching([ServiceId(1)]));
    let mut local = local();
    local.drained.insert(BackendId(11));
    local.unhealthy.insert(BackendId(12));
    let actions = actions(&maps, &desired, &scope, &local, 1);
    execute(&mut maps, &actions);
    assert_eq!(maps.observed.backends.get(slot), None);
    assert_eq!(maps.reachable(HELLO_VIP).unwrap().len(), 1);
    let clears = Action::FoldStats {
        slot,
        service: Some(maps.observed.service(ServiceId(1)).unwrap().0),
    };
    assert!(actions.contains(&clears), "{actions:?}");
    // It answers again.
    local.unhealthy.clear();
    let actions = self::actions(&maps, &desired, &scope, &local, 1);
    execute(&mut maps, &actions);
    assert_eq!(maps.reachable(HELLO_VIP).unwrap().len(), 2);
}

#[test]
fn flows_that_were_all_noted_are_looked_for_when_they_are_no_more() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].tracking = "always".to_owned();
    apply(&mut maps, &state, 1);
    assert_eq!(count(&maps.table(&maps.hello()), LUT_SETTLING), 0);
    state.services[0].tracking = "auto".to_owned();
    apply(&mut maps, &state, 2);
    let table = maps.table(&maps.hello());
    assert_eq!(count(&table, LUT_SETTLING), table.len());
    at_rest(&maps, &desired(&state));
}

#[test]
fn restarted_agent_keeps_states_and_base() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 1);
    state.services[0].backends[0].state = BackendState::Draining.into();
    apply(&mut maps, &state, 2);
    let entry = maps.hello();
    let lut = maps.lut.clone();
    for (range, table) in &mut maps.observed.tables {
        let elements = (range.offset..range.offset + range.len).map(|index| lut[&index]);
        table.content = Content::Found(elements.collect());
    }
    let kinds = kinds(&apply(&mut maps, &state, 2));
    assert_eq!(kinds, ["keep table"]);
    assert_eq!(maps.hello(), entry);
    assert_eq!(maps.lut, lut);
    assert_eq!(planned(&state, &maps, 2), []);
    // And knows enough to go on from there.
    at_rest(&maps, &desired(&state));
}

#[test]
fn source_ranges_are_in_before_the_flip_and_out_after_it() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].source_ranges = vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()];
    let position = |actions: &[Action], wanted: fn(&Action) -> bool| {
        actions.iter().position(wanted).expect("it is there")
    };
    let flip = |action: &Action| matches!(action, Action::WriteConfig { .. });
    let actions = apply(&mut maps, &state, 1);
    let added = position(&actions, |action| {
        matches!(action, Action::AddSourceRange { .. })
    });
    assert!(added < position(&actions, flip));
    let range = |text: &str| SourceRange::new(ServiceId(1), text.parse().unwrap());
    assert_eq!(
        maps.observed.source_ranges,
        [range("10.0.0.0/8"), range("2001:db8::/32")].into()
    );
    assert_eq!(range("10.0.0.0/8").bits, 32 + 96 + 8);
    assert_eq!(range("2001:db8::/32").bits, 32 + 32);

    state.services[0].source_ranges.clear();
    let actions = apply(&mut maps, &state, 2);
    let removed = position(&actions, |action| {
        matches!(action, Action::RemoveSourceRange { .. })
    });
    assert!(removed > position(&actions, flip));
    assert!(maps.observed.source_ranges.is_empty());
}

/// The first state, with the nodes of these names silent.
fn silent(names: &[&str]) -> DataplaneState {
    let mut state = state();
    for node in &mut state.nodes {
        node.silent = names.contains(&node.name.as_str());
    }
    state
}

#[test]
fn backends_on_a_silent_node_keep_their_slots_and_connections_and_get_no_new_ones() {
    let mut maps = Maps::default();
    apply(&mut maps, &state(), 1);
    let (gone, slot) = (maps.slot(13), maps.slot(12));
    let before = maps.table(&maps.hello());
    apply(&mut maps, &silent(&["node-3"]), 2);
    let entry = maps.hello();
    let after = maps.table(&entry);
    for (old, new) in before.iter().zip(&after) {
        let (owner, state) = (moving::slot_of(*new), moving::state_of(*new));
        if *old == gone {
            assert!(owner != gone && state == LUT_MOVING);
        } else {
            assert_eq!(new, old, "others' slots stay, and are stable");
        }
    }
    let base = maps.base(&entry);
    assert_eq!(base, before, "old connections are still theirs");
    let held = |maps: &Maps, slot: u32| {
        let backend = maps.observed.backends.get(slot).unwrap();
        (backend.id, backend.state, backend.flags)
    };
    assert_eq!(held(&maps, gone), (13, BACKEND_DRAINING, BACKEND_SILENT));
    assert_eq!(held(&maps, slot), (12, BACKEND_ACTIVE, 0));

    // Heard again: they are as they were, but for what was noted meanwhile.
    apply(&mut maps, &state(), 3);
    assert_eq!(held(&maps, gone), (13, BACKEND_ACTIVE, 0));
    let again = maps.table(&maps.hello());
    assert!(again.iter().map(|one| moving::slot_of(*one)).eq(before));
    assert_eq!(count(&again, LUT_MOVING), 0);
    assert!(count(&again, LUT_SETTLING) > 0);
}

#[test]
fn silence_says_nothing_where_nobody_else_is_left_nor_of_this_node() {
    for (names, elsewhere) in [
        (&["node-2", "node-3"][..], 0),
        // This node hears itself: its pods take new connections.
        (&["node-1"], 2),
        (&["node-1", "node-2", "node-3"], 0),
    ] {
        let mut maps = Maps::default();
        apply(&mut maps, &silent(names), 1);
        let reachable = maps.reachable(HELLO_VIP).unwrap();
        let of_this = reachable.iter().filter(|(_, node)| *node == 1).count();
        assert_eq!(of_this, 1, "{names:?}");
        assert_eq!(reachable.len() - of_this, elsewhere, "{names:?}");
    }
    let mut state = silent(&["node-2", "node-3"]);
    state.services[0].backends.remove(0);
    let mut maps = Maps::default();
    apply(&mut maps, &state, 1);
    assert_eq!(maps.reachable(HELLO_VIP).unwrap().len(), 2);
    let backend = maps.observed.backends.get(maps.slot(12)).unwrap();
    assert_eq!(
        (backend.state, backend.flags),
        (BACKEND_ACTIVE, BACKEND_SILENT)
    );
}
