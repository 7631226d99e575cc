//! Random histories, and histories that were cut short.

use super::*;

#[test]
fn hundred_random_changes_keep_every_packet_whole() {
    let mut maps = Maps::default();
    let mut random = 0x0dd0_5eed_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut state = state();
    for generation in 1..=100 {
        for service in &mut state.services {
            let keep = next(8);
            service.backends = (1..=3)
                .filter(|node| keep & (1 << (node - 1)) != 0)
                .map(|node| backend(service.id, node))
                .collect();
            for backend in &mut service.backends {
                backend.weight = next(4) as u32;
            }
        }
        apply(&mut maps, &state, generation);
        assert_eq!(
            planned(&state, &maps, generation),
            [],
            "generation {generation}"
        );
    }
}

/// What packets and people can see of the maps: everything but which slots and ranges are used.
#[derive(Debug, PartialEq)]
struct Visible {
    /// Frontends, and the tables behind each as backends' ids.
    frontends: BTreeMap<FrontendAt, (u32, Vec<u32>)>,
    /// Backends by id, with the id of the node instead of its slot.
    backends: BTreeMap<u32, BackendEntry>,
    nodes: BTreeMap<u32, NodeEntry>,
    routes: BTreeMap<Prefix, (u32, u32)>,
    vpcs: BTreeSet<u32>,
    table_slots: u32,
}

impl Maps {
    fn visible(&self) -> Visible {
        let observed = &self.observed;
        let bank = observed.active();
        let node_id = |slot: u32| observed.nodes.get(slot).map_or(0, |node| node.id);
        let table = |service: &ServiceEntry| {
            let lut::Range { offset, len } = range_of(service);
            let backends = (offset..offset + len)
                .map(|slot| observed.backends.get(moving::slot_of(self.lut[&slot])));
            backends.map(|backend| backend.unwrap().id).collect()
        };
        let frontends = observed.frontends(bank).iter().map(|entry| {
            let service = observed.services(bank).get(entry.service);
            let seen = match service {
                Some(service) => (service.id, table(service)),
                None => (0, Vec::new()),
            };
            (place_of(&entry.key), seen)
        });
        let backends = observed.backend_ids.iter().map(|(id, slot)| {
            let mut entry = *observed.backends.get(*slot).unwrap();
            entry.node = node_id(entry.node);
            (*id, entry)
        });
        let routes = observed
            .routes
            .iter()
            .map(|(prefix, route)| (*prefix, (route.kind, node_id(route.node))));
        assert_eq!(observed.backends.count(), observed.backend_ids.len());
        assert_eq!(observed.nodes.count(), observed.node_addresses.len());
        Visible {
            frontends: frontends.collect(),
            backends: backends.collect(),
            nodes: observed
                .nodes
                .values()
                .map(|node| (node.id, *node))
                .collect(),
            routes: routes.collect(),
            vpcs: observed.vpcs.clone(),
            table_slots: observed.lut().capacity() - observed.lut().free_slots(),
        }
    }
}

/// Makes one random change of a cluster: a service, a node or a route comes, changes or goes.
fn random_change(state: &DataplaneState, next: &mut impl FnMut(u32) -> u32) -> Changes {
    let mut changes = Changes::default();
    for _ in 0..=next(2) {
        let id = 1 + next(5);
        let mut changed = service(id, "s", [10, 96, 1, id as u8], None);
        if next(2) == 0 {
            changed = service(
                id,
                "s",
                [10, 96, 1, id as u8],
                Some([198, 18, 100, id as u8]),
            );
        }
        let kept = next(16);
        changed.external_local = next(4) == 0;
        changed.internal_local = next(4) == 0;
        changed.vpc = if next(4) == 0 { 7 + next(2) } else { 0 };
        changed.backends = (1..=4)
            .filter(|node| kept & (1 << (node - 1)) != 0)
            .map(|node| backend(id, node))
            .collect();
        for backend in &mut changed.backends {
            backend.weight = next(3);
            if next(4) == 0 {
                backend.state = BackendState::Draining.into();
            }
            if next(16) == 0 {
                backend.address = vec![10, 244, 9, next(250) as u8 + 1].into();
            }
        }
        let goes = next(4) == 0;
        changes.services.insert(id, (!goes).then_some(changed));
    }
    if next(8) == 0 {
        let node = &state.nodes[1 + next(2) as usize];
        let goes = next(2) == 0;
        let kept = (!goes).then(|| node.clone());
        changes.nodes.insert(node.name.clone(), kept);
    }
    if next(8) == 0 {
        let route = state.routes[next(3) as usize].clone();
        let key = route.key.clone().unwrap();
        let goes = next(2) == 0;
        changes
            .routes
            .insert((key.vpc, key.prefix), (!goes).then_some(route));
    }
    changes
}

#[test]
fn random_changes_leave_the_maps_as_a_plan_from_nothing_makes_them() {
    for seed in 1..=6_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move |below: u32| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 16) as u32 % below
        };
        let start = state();
        let mut maps = Maps::default();
        apply(&mut maps, &start, 1);
        let mut wanted = desired(&start);
        for generation in 2..=40 {
            let changes = random_change(&start, &mut next);
            let (changed, scope) = wanted.advance(&changes, &own()).unwrap();
            wanted = changed;
            let at = format!("seed {seed}, generation {generation}");
            let actions = actions(&maps, &wanted, &scope, &local(), generation);
            execute(&mut maps, &actions);

            let mut fresh = Maps::default();
            let whole = self::actions(&fresh, &wanted, &Scope::Everything, &local(), generation);
            execute(&mut fresh, &whole);
            let rested = at_rest(&maps, &wanted);
            assert_eq!(rested.visible(), fresh.visible(), "{at}");
            let again = self::actions(&maps, &wanted, &Scope::Everything, &local(), generation);
            assert_eq!(again, [], "{at}");
        }
    }
}

#[test]
fn plan_that_was_cut_short_anywhere_is_put_right_by_the_next_whole_one() {
    let mut next_state = state();
    next_state.services[0].backends.remove(1);
    next_state.services[1] = service(3, "other", [10, 96, 0, 3], Some([198, 18, 100, 3]));
    next_state.nodes.truncate(2);
    next_state.routes.truncate(2);
    let mut complete = Maps::default();
    apply(&mut complete, &next_state, 6);
    for cut in 0.. {
        let mut maps = Maps::default();
        apply(&mut maps, &state(), 5);
        let actions = planned(&next_state, &maps, 6);
        if cut > actions.len() {
            break;
        }
        for action in &actions[..cut] {
            maps.execute(action);
        }
        for action in planned(&next_state, &maps, 6) {
            maps.execute(&action);
        }
        let rested = at_rest(&maps, &desired(&next_state));
        assert_eq!(rested.visible(), complete.visible(), "after {cut} actions");
        assert_eq!(planned(&next_state, &maps, 6), [], "after {cut} actions");
        assert_eq!(maps.observed.level(), []);
    }
}
