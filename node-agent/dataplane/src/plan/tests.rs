//! Plans against a model of the maps. The model is what the programs read: banks, table slots,
//! backend slots; after each single action a packet must meet the old state or the new one, whole.

mod backends;
mod frontends;
mod histories;
mod local_policy;
mod nodes;
mod services;
mod states;

use std::net::IpAddr;

use fairlead_dataplane_common::{
    Address, FORMERS_PER_SLOT, FRONTEND_ANNOUNCED, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT,
    FRONTEND_USED, LUT_EMPTY, NODE_RESOLVED, NodeEntry, SERVICE_DR,
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

    fn hello(&self) -> ServiceEntry {
        self.observed.service(ServiceId(1)).unwrap().1
    }

    fn elements(&self, offset: u32, length: u32) -> Vec<u32> {
        (offset..offset + length)
            .map(|index| self.lut[&index])
            .collect()
    }

    fn table(&self, entry: &ServiceEntry) -> Vec<u32> {
        self.elements(entry.lut_offset, entry.lut_length)
    }

    fn local_list(&self, entry: &ServiceEntry) -> Vec<u32> {
        self.elements(entry.lut_offset + entry.lut_length, entry.local_length)
    }

    fn base(&self, entry: &ServiceEntry) -> Vec<u32> {
        self.elements(entry.base_offset(), entry.base_length)
    }

    fn formers(&self, entry: &ServiceEntry) -> Vec<u32> {
        let offset = entry.base_offset() + entry.base_length;
        self.elements(offset, entry.former_length * FORMERS_PER_SLOT)
    }

    fn slot(&self, backend: u32) -> u32 {
        self.observed.backend_ids[&backend]
    }
}

fn count(elements: &[u32], state: u32) -> usize {
    let is_so = |element: &&u32| moving::state_of(**element) == state;
    elements.iter().filter(is_so).count()
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
        let moment = Moment {
            now,
            swept,
            ..Moment::default()
        };
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

/// What is done for one backend of a service that goes on with others.
const BACKEND_LEAVES: [&str; 9] = [
    "write table",
    "write service",
    "write config",
    "set generation",
    "remove backend id",
    "clear backend",
    "fold stats",
    "free table",
    "write service",
];

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
            Action::AddVipPrefix { .. } => "add VIP prefix",
            Action::RemoveVipPrefix { .. } => "remove VIP prefix",
            Action::AddVpc { .. } => "add vpc",
            Action::RemoveVpc { .. } => "remove vpc",
            Action::WriteConfig { .. } => "write config",
            Action::SetGeneration { .. } => "set generation",
        })
        .collect();
    kinds.dedup();
    kinds
}
