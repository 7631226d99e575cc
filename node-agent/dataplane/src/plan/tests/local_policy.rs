//! This node's own backends, where packets or sockets have to be answered here.

use fairlead_dataplane_common::LUT_MOVING;

use super::*;

#[test]
fn service_that_may_be_passed_on_lists_the_nodes_own_backends_behind_its_table() {
    let mut maps = Maps::default();
    let mut wanted = state();
    let cases = [
        ("auto", true),
        ("dr", true),
        ("tun", false),
        ("nat", false),
        ("auto", true),
    ];
    for (generation, (forwarding, lists)) in (1..).zip(cases) {
        wanted.services[0].forwarding = forwarding.to_owned();
        apply(&mut maps, &wanted, generation);
        let bank = maps.observed.active();
        let services = maps.observed.services(bank);
        let hello = services.values().find(|service| service.id == 1).unwrap();
        assert_eq!(hello.flags & SERVICE_DR != 0, lists, "{forwarding}");
        assert_eq!(hello.local_length, u32::from(lists), "{forwarding}");
        if lists {
            let slot = maps.lut[&hello.local_index(7).unwrap()];
            assert_eq!(maps.observed.backends.get(slot).unwrap().node, NODE_LOCAL);
        }
        let dns = services.values().find(|service| service.id == 2).unwrap();
        assert_eq!(dns.local_length, 0, "nothing from outside asks for it");
    }
}

#[test]
fn local_policy_moves_slots_of_the_local_list() {
    let mut maps = Maps::default();
    let mut state = state();
    let service = &mut state.services[0];
    service.external_local = true;
    service.backends.push(proto::Backend {
        id: 14,
        ..backend(1, 1)
    });
    service.backends[3].address = vec![10, 244, 1, 99].into();
    apply(&mut maps, &state, 1);
    let entry = maps.hello();
    let local: BTreeSet<u32> = maps.local_list(&entry).into_iter().collect();
    assert_eq!(local, [11, 14].map(|id| maps.slot(id)).into());
    assert_eq!(entry.local_length, 251);
    let before = maps.local_list(&entry);

    state.services[0].backends[0].state = BackendState::Draining.into();
    apply(&mut maps, &state, 2);
    let entry = maps.hello();
    assert_eq!(maps.base(&entry), before);
    let moved = count(&maps.local_list(&entry), LUT_MOVING);
    let held = before.iter().filter(|slot| **slot == maps.slot(11)).count();
    assert_eq!(moved, held, "its slots, and no others");
    assert_eq!(count(&maps.table(&entry), LUT_MOVING), 0);
}

/// A service for a policy, whose pod on this node ends, and how the programs see it.
fn ending_here(change: impl FnOnce(&mut proto::Service)) -> (Maps, ServiceEntry) {
    let mut maps = Maps::default();
    let mut state = state();
    change(&mut state.services[0]);
    apply(&mut maps, &state, 1);
    state.services[0].backends[0].state = BackendState::Draining.into();
    apply(&mut maps, &state, 2);
    assert_eq!(planned(&state, &maps, 2), []);
    let entry = maps.hello();
    (maps, entry)
}

type Change = fn(&mut proto::Service);
/// What asks that packets or sockets be answered here.
const POLICIES: [Change; 3] = [
    |service| service.external_local = true,
    |service| service.internal_local = true,
    |service| {
        service.external_local = true;
        service.internal_local = true;
        service.scheduler = "lc".to_owned();
    },
];

fn state_of(maps: &Maps, backend: u32) -> u8 {
    let entry = maps.observed.backends.get(maps.slot(backend));
    entry.expect("it keeps its slot").state
}

#[test]
fn pod_that_ends_stands_in_where_nobody_else_of_the_service_is_here() {
    for policy in POLICIES {
        let (maps, entry) = ending_here(policy);
        let local: BTreeSet<u32> = maps.local_list(&entry).into_iter().collect();
        assert_eq!(local, [maps.slot(11)].into());
        assert_eq!(state_of(&maps, 11), BACKEND_ACTIVE, "it takes connections");
        let all = maps.table(&entry);
        assert!(
            !all.contains(&maps.slot(11)),
            "but none from where others answer too"
        );
    }
}

#[test]
fn pod_that_ends_gets_nothing_new_without_a_local_policy() {
    let (maps, entry) = ending_here(|_| {});
    assert_eq!(entry.local_length, 0);
    assert_eq!(state_of(&maps, 11), BACKEND_DRAINING);
}

#[test]
fn pod_that_ends_gets_nothing_new_beside_one_that_is_ready() {
    for policy in POLICIES {
        let (maps, entry) = ending_here(|service| {
            policy(service);
            let address = vec![10, 244, 1, 99].into();
            service.backends.push(proto::Backend {
                id: 14,
                address,
                ..backend(1, 1)
            });
        });
        let local = maps.local_list(&entry);
        let owners: BTreeSet<u32> = local.into_iter().map(moving::slot_of).collect();
        assert_eq!(owners, [maps.slot(14)].into());
        assert_eq!(state_of(&maps, 11), BACKEND_DRAINING);
    }
}

#[test]
fn pod_told_to_drain_by_its_weight_or_whose_time_is_over_does_not_stand_in() {
    for policy in POLICIES {
        let (maps, entry) = ending_here(|service| {
            policy(service);
            service.backends[0].weight = 0;
        });
        let listed = maps.local_list(&entry);
        assert!(
            listed
                .iter()
                .all(|slot| moving::slot_of(*slot) == LUT_EMPTY)
        );
        assert_eq!(state_of(&maps, 11), BACKEND_DRAINING);

        let (mut maps, _) = ending_here(policy);
        let mut ending = state();
        policy(&mut ending.services[0]);
        ending.services[0].backends[0].state = BackendState::Draining.into();
        let desired = desired(&ending);
        let mut local = local();
        local.drained.insert(BackendId(11));
        let scope = Scope::Services(desired.touching([ServiceId(1)]));
        let actions = actions(&maps, &desired, &scope, &local, 2);
        execute(&mut maps, &actions);
        assert_eq!(maps.observed.backend_ids.get(&11), None);
        let entry = maps.hello();
        let listed = maps.local_list(&entry);
        assert!(
            listed
                .iter()
                .all(|slot| moving::slot_of(*slot) == LUT_EMPTY)
        );
    }
}

#[test]
fn pod_stands_in_until_another_is_ready_again() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].external_local = true;
    state.services[0].backends[0].state = BackendState::Draining.into();
    apply(&mut maps, &state, 1);
    assert_eq!(state_of(&maps, 11), BACKEND_ACTIVE);
    let address = vec![10, 244, 1, 99].into();
    state.services[0].backends.push(proto::Backend {
        id: 14,
        address,
        ..backend(1, 1)
    });
    apply(&mut maps, &state, 2);
    assert_eq!(state_of(&maps, 11), BACKEND_DRAINING);
    let entry = maps.hello();
    // Its connections stay: the list's slots move.
    assert_eq!(
        count(&maps.local_list(&entry), LUT_MOVING),
        entry.local_length as usize
    );
    state.services[0].backends.pop();
    apply(&mut maps, &state, 3);
    assert_eq!(state_of(&maps, 11), BACKEND_ACTIVE);
}
