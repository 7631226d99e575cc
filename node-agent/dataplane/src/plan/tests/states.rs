//! States as a whole: the first, the same again, one after a restart, the last of something.

use super::*;

#[test]
fn first_state_is_written_aside_and_flipped_in_once() {
    let mut maps = Maps::default();
    let actions = apply(&mut maps, &state(), 5);
    let flips = actions
        .iter()
        .filter(|a| matches!(a, Action::WriteConfig { .. }))
        .count();
    assert_eq!(flips, 1);
    let generation = Generation(5);
    assert!(actions.contains(&Action::SetGeneration { generation }));
    assert_eq!(maps.observed.active(), 1, "bank 0 was in force, if empty");
    let reachable = maps.reachable(HELLO_VIP).unwrap();
    let wanted: BTreeSet<(IpAddr, u32)> = (1..=3)
        .map(|node| ([10, 244, node, 1].into(), u32::from(node)))
        .collect();
    assert_eq!(reachable, wanted);
    assert_eq!(maps.reachable(HELLO_CLUSTER).unwrap(), wanted);
    let vip = FrontendKey::of_address(0, Address::from(IpAddr::from(HELLO_VIP)));
    assert!(
        maps.observed.frontends(1).get(&vip).is_some(),
        "the VIP itself has an entry"
    );
}

#[test]
fn same_state_again_needs_no_action() {
    let mut maps = Maps::default();
    apply(&mut maps, &state(), 5);
    assert_eq!(planned(&state(), &maps, 5), []);
    assert_eq!(kinds(&planned(&state(), &maps, 6)), ["set generation"]);
}

#[test]
fn restarted_agent_keeps_the_tables_it_finds() {
    let mut maps = Maps::default();
    apply(&mut maps, &state(), 5);
    for (range, table) in &mut maps.observed.tables {
        let slots = (range.offset..range.offset + range.len).map(|slot| maps.lut[&slot]);
        table.content = Content::Found(slots.collect());
    }
    let actions = apply(&mut maps, &state(), 5);
    assert_eq!(kinds(&actions), ["keep table"]);
    assert_eq!(planned(&state(), &maps, 5), []);
}

#[test]
fn damaged_table_found_after_a_restart_is_written_anew() {
    let mut maps = Maps::default();
    apply(&mut maps, &state(), 5);
    for table in maps.observed.tables.values_mut() {
        table.content = Content::Found(vec![1]);
    }
    let kinds = kinds(&apply(&mut maps, &state(), 5));
    assert_eq!(
        kinds,
        [
            "write table",
            "write service",
            "write config",
            "free table",
            "write service",
        ]
    );
}

#[test]
fn removed_service_node_and_route_leave_nothing() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 5);
    state.services.truncate(1);
    state.services[0].backends.truncate(2);
    state.nodes.truncate(2);
    state.routes.truncate(2);
    let actions = apply(&mut maps, &state, 6);
    assert_eq!(planned(&state, &maps, 6), []);
    let observed = &maps.observed;
    assert_eq!(observed.nodes.count(), 1);
    assert_eq!(observed.node_addresses.len(), 1);
    assert_eq!(observed.backends.count(), 2);
    assert_eq!(observed.backend_ids.len(), 2);
    // The cluster's range, the own range, and for the one node its address and its pods' range.
    assert_eq!(observed.routes.len(), 4);
    let flip = actions
        .iter()
        .position(|a| matches!(a, Action::WriteConfig { .. }))
        .unwrap();
    let cleared = actions
        .iter()
        .position(|action| matches!(action, Action::WriteNode { entry, .. } if entry.id == 0));
    assert!(cleared.unwrap() > flip);
}

#[test]
fn service_keeps_its_slot_while_others_come_and_go() {
    let mut maps = Maps::default();
    let mut state = state();
    apply(&mut maps, &state, 1);
    let slot_of = |maps: &Maps, id: u32| maps.observed.service(ServiceId(id)).map(|(slot, _)| slot);
    let dns = slot_of(&maps, 2).unwrap();
    for generation in 2..20 {
        let number = generation as u32;
        state.services.remove(0);
        state.services.insert(
            0,
            service(100 + number, "hello", HELLO_CLUSTER, Some(HELLO_VIP)),
        );
        let actions = apply(&mut maps, &state, generation);
        assert_eq!(slot_of(&maps, 2), Some(dns));
        let reused = slot_of(&maps, 100 + number).unwrap();
        assert!(actions.contains(&Action::ResetStats { slot: reused }));
    }
}

#[test]
fn state_beyond_a_capacity_is_refused_by_name() {
    let mut state = state();
    state.nodes.extend((4..maps::NODES_MAX + 2).map(|id| {
        let [_, _, c, d] = id.to_be_bytes();
        fairlead_proto::node::NodeAddress {
            name: format!("node-{id}"),
            id,
            address: vec![198, 19, c, d].into(),
            ..Default::default()
        }
    }));
    let refused = plan(
        &desired(&state),
        &Scope::Everything,
        &local(),
        &Observed::default(),
        Generation(1),
        Moment::default(),
    );
    assert_eq!(refused.unwrap_err().what, "nodes and real servers");
}

#[test]
fn change_of_one_service_looks_at_nothing_else() {
    let mut maps = Maps::default();
    apply(&mut maps, &state(), 5);
    let mut hello = state().services.remove(0);
    hello.backends.pop();
    let changes = Changes {
        services: BTreeMap::from([(1, Some(hello))]),
        ..Changes::default()
    };
    let (wanted, scope) = desired(&state()).advance(&changes, &own()).unwrap();
    // What somebody else broke is not this plan's to see.
    maps.observed
        .record(&Action::RemoveBackendId { id: BackendId(21) });
    let actions = actions(&maps, &wanted, &scope, &local(), 6);
    assert_eq!(kinds(&actions), BACKEND_LEAVES);
}
