//! Plans against a model of the maps. The model is what the programs read: banks, table slots,
//! backend slots; after each single action a packet must meet the old state or the new one, whole.

mod services;

use std::net::IpAddr;

use fairlead_dataplane_common::{
    Address, FRONTEND_ANNOUNCED, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FRONTEND_USED, LUT_EMPTY,
    NODE_RESOLVED, NodeEntry, SERVICE_DR,
};
use fairlead_proto::node::{self as proto, BackendState, DataplaneState};

use super::*;
use crate::changes::Changes;
use crate::examples::{backend, own, service, state};
use crate::local::Way;
use crate::moving;
use crate::observed::{Content, Prefix};

/// The maps: what the agent observes, and the LUT's elements.
#[derive(Default)]
struct Maps {
    observed: Observed,
    lut: HashMap<u32, u32>,
}

impl Maps {
    fn execute(&mut self, action: &Action) {
        if let Action::WriteTable {
            range, elements, ..
        } = action
        {
            assert_eq!(range.len as usize, elements.len());
            self.lut
                .extend((range.offset..).zip(elements.iter().copied()));
        }
        self.observed.record(action);
    }

    /// Whom packets for a frontend can reach, as the programs find out: addresses and nodes' ids.
    fn reachable(&self, vip: [u8; 4]) -> Result<BTreeSet<(IpAddr, u32)>, String> {
        let bank = self.observed.active();
        let services = self.observed.services(bank);
        let key = FrontendKey::new(0, Address::from(IpAddr::from(vip)), 6, 80_u16.to_be());
        let Some(frontend) = self.observed.frontends(bank).get(&key) else {
            return Ok(BTreeSet::new());
        };
        let service = services
            .get(frontend.service)
            .ok_or(format!("service slot {} is free", frontend.service))?;
        let mut reachable = BTreeSet::new();
        for slot in service.lut_offset..service.lut_offset + service.lut_length {
            let backend = self
                .lut
                .get(&slot)
                .ok_or(format!("table slot {slot} is unwritten"))?;
            let backend = moving::slot_of(*backend);
            if backend == LUT_EMPTY {
                continue;
            }
            let backend = self
                .observed
                .backends
                .get(backend)
                .ok_or(format!("backend slot {backend} is free"))?;
            let node = match backend.node {
                NODE_LOCAL => 1,
                NODE_ELSEWHERE => 0,
                slot => {
                    let node = self.observed.nodes.get(slot);
                    node.ok_or(format!("node slot {slot} is free"))?.id
                }
            };
            reachable.insert((backend.address.into(), node));
        }
        Ok(reachable)
    }
}

const HELLO_VIP: [u8; 4] = [198, 18, 100, 1];
const HELLO_CLUSTER: [u8; 4] = [10, 96, 0, 1];
const DNS_CLUSTER: [u8; 4] = [10, 96, 0, 2];

fn local() -> Local {
    let pod_range = "10.244.1.0/24".parse().unwrap();
    let address = [198, 18, 0, 101].into();
    Local::new((address, None), vec![pod_range], 7, 1500)
}

fn desired(state: &DataplaneState) -> Desired {
    let whole = Changes::whole(state.clone());
    Desired::default().advance(&whole, &own()).unwrap().0
}

/// All actions of a plan, with those that bring the bank that is left level.
fn actions(
    maps: &Maps,
    desired: &Desired,
    scope: &Scope,
    local: &Local,
    generation: u64,
) -> Vec<Action> {
    let generation = Generation(generation);
    let moment = Moment::default();
    let plan = plan(desired, scope, local, &maps.observed, generation, moment).unwrap();
    let mut after = maps.observed.clone();
    let mut actions = plan.enter;
    actions.extend(plan.leave);
    for action in &actions {
        after.record(action);
    }
    actions.extend(after.level());
    actions
}

/// The maps once every window has ended and nothing is noted any more.
fn at_rest(maps: &Maps, desired: &Desired) -> Maps {
    let mut rested = Maps {
        observed: maps.observed.clone(),
        lut: maps.lut.clone(),
    };
    let noted: Vec<(ServiceId, &[u32])> = desired
        .services
        .keys()
        .map(|id| (*id, [].as_slice()))
        .collect();
    for now in [100_000, 200_000] {
        let swept = Swept::of(now, &noted);
        let swept = Some(&swept);
        let moment = Moment { now, swept };
        let (scope, generation) = (&Scope::Everything, rested.observed.generation);
        let plan = plan(
            desired,
            scope,
            &local(),
            &rested.observed,
            generation,
            moment,
        )
        .unwrap();
        for action in plan.enter.iter().chain(&plan.leave) {
            rested.execute(action);
        }
        for action in rested.observed.level() {
            rested.execute(&action);
        }
    }
    assert!(rested.observed.moving.is_empty());
    rested
}

fn planned(state: &DataplaneState, maps: &Maps, generation: u64) -> Vec<Action> {
    let desired = desired(state);
    actions(maps, &desired, &Scope::Everything, &local(), generation)
}

/// Applies `state`; after each action, packets for every frontend see the old or the new backends.
fn apply(maps: &mut Maps, state: &DataplaneState, generation: u64) -> Vec<Action> {
    let actions = planned(state, maps, generation);
    execute(maps, &actions);
    actions
}

fn execute(maps: &mut Maps, actions: &[Action]) {
    // By address: the node that a pod is reached by may change under a state that stays.
    let reachable = |maps: &Maps| {
        [HELLO_VIP, HELLO_CLUSTER, DNS_CLUSTER].map(|vip| {
            let reachable = maps.reachable(vip)?;
            Ok::<BTreeSet<IpAddr>, String>(reachable.into_iter().map(|(at, _)| at).collect())
        })
    };
    let before = reachable(maps);
    let mut after = Maps {
        observed: maps.observed.clone(),
        lut: maps.lut.clone(),
    };
    for action in actions {
        after.execute(action);
    }
    let after = reachable(&after);
    for (step, action) in actions.iter().enumerate() {
        maps.execute(action);
        let now = reachable(maps);
        assert!(
            now.iter().all(Result::is_ok) && (now == before || now == after),
            "after action {step}, {action:?}: {now:?}"
        );
    }
    assert_eq!(maps.observed.level(), [], "both banks are alike");
}

fn kinds(actions: &[Action]) -> Vec<&'static str> {
    let mut kinds: Vec<&'static str> = actions
        .iter()
        .map(|action| match action {
            Action::WriteNode { entry, .. } if entry.id == 0 => "clear node",
            Action::WriteNode { .. } => "write node",
            Action::SetNodeAddress { .. } => "set node address",
            Action::RemoveNodeAddress { .. } => "remove node address",
            Action::WriteBackend { entry, .. } if entry.id == 0 => "clear backend",
            Action::WriteBackend { .. } => "write backend",
            Action::SetBackendId { .. } => "set backend id",
            Action::RemoveBackendId { .. } => "remove backend id",
            Action::WriteTable { .. } => "write table",
            Action::KeepTable { .. } => "keep table",
            Action::FreeTable { .. } => "free table",
            Action::ResetStats { .. } => "reset stats",
            Action::ForgetDrops { .. } => "forget drops",
            Action::FoldStats { .. } => "fold stats",
            Action::WriteLoad { .. } => "write load",
            Action::AddSourceRange { .. } => "add source range",
            Action::RemoveSourceRange { .. } => "remove source range",
            Action::WriteService { entry, .. } if entry.id == 0 => "clear service",
            Action::WriteService { .. } => "write service",
            Action::WriteBucket { .. } => "write bucket",
            Action::SetRoute { .. } => "set route",
            Action::RemoveRoute { .. } => "remove route",
            Action::AddVpc { .. } => "add vpc",
            Action::RemoveVpc { .. } => "remove vpc",
            Action::WriteConfig { .. } => "write config",
            Action::SetGeneration { .. } => "set generation",
        })
        .collect();
    kinds.dedup();
    kinds
}

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
    assert_eq!(
        kinds(&actions),
        [
            "write table",
            "write service",
            "write config",
            "set generation",
            "remove backend id",
            "clear backend",
            "fold stats",
            "free table",
            "write service",
        ]
    );
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
fn known_way_resolves_the_node_and_a_restart_does_not_forget_it() {
    let mut maps = Maps::default();
    let mut here = local();
    let mac = [2, 0, 0, 0, 0, 9];
    here.ways.insert(
        [198, 18, 0, 102].into(),
        Way {
            direct: true,
            interface: 7,
            mtu: 1500,
            mac: Some(mac),
        },
    );
    let wanted = desired(&state());
    for action in actions(&maps, &wanted, &Scope::Everything, &here, 5) {
        maps.execute(&action);
    }
    let resolved = |maps: &Maps, id: u32| {
        maps.observed
            .nodes
            .values()
            .any(|n| n.id == id && n.flags & NODE_RESOLVED != 0)
    };
    assert!(resolved(&maps, 2) && !resolved(&maps, 3));
    let after_restart = local();
    assert_eq!(
        actions(&maps, &wanted, &Scope::Everything, &after_restart, 5),
        []
    );
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
    assert_eq!(
        kinds(&actions),
        [
            "write table",
            "write service",
            "write config",
            "set generation",
            "remove backend id",
            "clear backend",
            "fold stats",
            "free table",
            "write service",
        ]
    );
}

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

fn entry_at(maps: &Maps, address: &str, protocol: u8, port: u16) -> Option<(u32, u32)> {
    let address: IpAddr = address.parse().unwrap();
    let key = FrontendKey::new(0, address.into(), protocol, port.to_be());
    let entry = maps.observed.frontends(maps.observed.active()).get(&key)?;
    Some((entry.service, entry.flags & !FRONTEND_USED))
}

#[test]
fn node_port_answers_at_the_nodes_own_address_alone() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].node_port = 30_080;
    apply(&mut maps, &state, 1);
    let slot = maps.observed.service(ServiceId(1)).unwrap().0;
    let found = entry_at(&maps, "198.18.0.101", 6, 30_080);
    assert_eq!(found, Some((slot, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)));
    assert_eq!(entry_at(&maps, "198.18.0.102", 6, 30_080), None);
    assert_eq!(entry_at(&maps, "198.18.0.101", 0, 0), None, "no VIP");

    state.services[0].node_port = 30_081;
    let before = desired(&state_with_node_port(30_080));
    let (after, scope) = before
        .advance(
            &Changes {
                services: BTreeMap::from([(1, Some(state.services[0].clone()))]),
                ..Changes::default()
            },
            &own(),
        )
        .unwrap();
    let actions = actions(&maps, &after, &scope, &local(), 2);
    execute(&mut maps, &actions);
    assert_eq!(entry_at(&maps, "198.18.0.101", 6, 30_080), None);
    assert!(entry_at(&maps, "198.18.0.101", 6, 30_081).is_some());
    assert_eq!(planned(&state, &maps, 2), []);
}

fn state_with_node_port(port: u32) -> DataplaneState {
    let mut state = state();
    state.services[0].node_port = port;
    state
}

#[test]
fn external_address_of_the_node_itself_leaves_its_other_ports_alone() {
    let mut maps = Maps::default();
    let mut state = state();
    state.services[0].frontends[0].address = vec![198, 18, 0, 101].into();
    apply(&mut maps, &state, 1);
    let (_, flags) = entry_at(&maps, "198.18.0.101", 6, 80).unwrap();
    assert_eq!(flags, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT);
    assert_eq!(entry_at(&maps, "198.18.0.101", 0, 0), None);
}

#[test]
fn only_the_holder_of_an_announcement_answers_for_the_vip() {
    let mut maps = Maps::default();
    let mut state = state();
    for (node, expected) in [
        (None, FRONTEND_ADDRESS),
        (Some("node-1"), FRONTEND_ADDRESS | FRONTEND_ANNOUNCED),
        (Some("node-2"), FRONTEND_ADDRESS),
    ] {
        state.announcements = node
            .map(|node| proto::Announcement {
                address: HELLO_VIP.to_vec().into(),
                node: node.to_owned(),
            })
            .into_iter()
            .collect();
        apply(&mut maps, &state, 1);
        let found = entry_at(&maps, "198.18.100.1", 0, 0);
        assert_eq!(found, Some((0, expected)), "{node:?}");
    }
}

#[test]
fn node_is_routed_to_at_both_its_addresses_and_encapsulated_for_at_one() {
    let mut state = state();
    let other: std::net::Ipv6Addr = "2001:db8::102".parse().unwrap();
    state.nodes[1].other_address = other.octets().to_vec().into();
    let mut maps = Maps::default();
    apply(&mut maps, &state, 1);
    let routed: Vec<IpAddr> = maps
        .observed
        .routes
        .iter()
        .filter(|(_, entry)| entry.kind == fairlead_dataplane_common::ROUTE_NODE_HOST)
        .map(|(prefix, _)| prefix.address.into())
        .collect();
    assert_eq!(routed.len(), 3, "{routed:?}");
    assert!(routed.contains(&other.into()), "{routed:?}");
    assert_eq!(maps.observed.node_addresses.len(), 2);
}
