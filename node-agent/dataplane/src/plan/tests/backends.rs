//! What becomes of tables and slots when backends come, drain and go.

use super::*;

#[test]
fn added_backend_gets_a_new_table_beside_the_old_one() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].backends.pop();
    apply(&mut maps, &state, 5);
    let old = maps
        .observed
        .tables
        .keys()
        .copied()
        .collect::<BTreeSet<_>>();
    state.services[0].backends.push(backend(1, 3));
    let actions = apply(&mut maps, &state, 6);
    let written = actions.iter().find_map(|action| match action {
        Action::WriteTable { range, .. } => Some(*range),
        _ => None,
    });
    assert!(!old.contains(&written.unwrap()));
    assert_eq!(maps.reachable(HELLO_VIP).unwrap().len(), 3);
    assert_eq!(
        maps.observed.tables.len(),
        2,
        "the range that was left is free"
    );
}

#[test]
fn removed_backend_is_freed_only_after_the_flip() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 5);
    state.services[0].backends.remove(1);
    let actions = apply(&mut maps, &state, 6);
    assert_eq!(kinds(&actions), BACKEND_LEAVES);
}

#[test]
fn draining_backend_leaves_the_table_and_keeps_its_slot() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 5);
    state.services[0].backends[0].state = BackendState::Draining.into();
    let slot = maps.observed.backend_ids[&11];
    apply(&mut maps, &state, 6);
    assert_eq!(maps.reachable(HELLO_VIP).unwrap().len(), 2);
    assert_eq!(maps.observed.backend_ids[&11], slot);
    assert_eq!(
        maps.observed.backends.get(slot).unwrap().state,
        BACKEND_DRAINING
    );
}

#[test]
fn service_without_backends_keeps_its_frontends_and_no_table() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 5);
    state.services[0].backends.clear();
    apply(&mut maps, &state, 6);
    let (_, service) = maps.observed.service(ServiceId(1)).unwrap();
    assert_eq!(service.lut_length, 0);
    assert_eq!(maps.reachable(HELLO_VIP).unwrap(), BTreeSet::new());
}

#[test]
fn id_with_another_address_gets_a_slot_of_its_own() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 5);
    let slot = maps.observed.backend_ids[&12];
    state.services[0].backends[1].address = vec![10, 244, 2, 99].into();
    let actions = planned(&state, &maps, 6);
    for action in &actions {
        maps.execute(action);
    }
    assert_ne!(maps.observed.backend_ids[&12], slot);
    assert!(
        maps.reachable(HELLO_VIP)
            .unwrap()
            .contains(&([10, 244, 2, 99].into(), 2))
    );
    assert!(maps.observed.backends.get(slot).is_none());
}
