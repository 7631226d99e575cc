//! What to do to the maps: a pure function of the desired state, this node's own facts and what
//! the maps hold, to an ordered list of actions. Only what a change concerns is looked at, unless
//! that is everything.
//!
//! The order keeps every packet whole, and an agent may die after any action. To enter a state:
//! 1. what it refers to is written where nobody looks yet: nodes, backends, ranges of the LUT, the
//!    inactive bank of services and frontends, routes, and which prefixes are VIPs;
//! 2. one write of `config` flips the bank (skipped when services and frontends are unchanged);
//! 3. the generation is written.
//!
//! To leave the state before, once no program runs any more that has read the old bank's number:
//! what that state alone referred to is removed, and the bank that was left is brought level
//! ([`Observed::level`]), so that the next change is written to a copy of what is in force.

mod frontends;
mod nodes;
mod routes;
mod services;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use fairlead_api::{BackendId, Generation, ServiceId, VpcId};
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BACKEND_DRAINING, BACKEND_SERVER, BACKEND_SILENT, BackendEntry, Config,
    FRONTEND_ADDRESS, FrontendEntry, FrontendKey, NODE_LOCAL, ServiceEntry, maps,
};

use crate::action::Action;
use crate::cuckoo;
use crate::desired::{self, Backend, Desired, FrontendAt, Place, Scope, Service, Touched};
use crate::local::Local;
use crate::lut;
use crate::moving::Seconds;
use crate::observed::{Load, Observed, Prefix, range_of, range_of_key};
use crate::sweep::Swept;

/// The node slot of a backend that no node of the cluster holds: beyond the array, so that a
/// lookup finds nothing.
pub const NODE_ELSEWHERE: u32 = maps::NODES_MAX;

/// A map is too small for the desired state. Nothing has been written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} {what} do not fit: the dataplane holds {capacity}")]
pub struct Full {
    /// What there is too much of.
    pub what: &'static str,
    /// How many the state has.
    pub wanted: u64,
    /// How many there can be.
    pub capacity: u64,
}

impl Full {
    fn check(what: &'static str, wanted: usize, capacity: u32) -> Result<(), Self> {
        let (wanted, capacity) = (wanted as u64, u64::from(capacity));
        if wanted > capacity {
            Err(Self {
                what,
                wanted,
                capacity,
            })
        } else {
            Ok(())
        }
    }
}

/// What brings the maps from one state to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Puts the new state in force.
    pub enter: Vec<Action>,
    /// Takes away what only the state before needed; to be executed when no program reads it.
    pub leave: Vec<Action>,
}

/// When a plan is made, and what is known of the flows by then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment<'a> {
    /// Of a clock that never goes back.
    pub now: Seconds,
    /// What the last sweep has seen, where tables wait for it.
    pub swept: Option<&'a Swept>,
    /// Services that no packet had met on this node until their tables became what they are: the tables
    /// before leave nothing to look for.
    pub unused: Option<&'a BTreeSet<ServiceId>>,
}

/// The actions that bring the maps from `observed` to `desired`, of which `scope` may differ. None
/// if they are there.
pub fn plan(
    desired: &Desired,
    scope: &Scope,
    local: &Local,
    observed: &Observed,
    generation: Generation,
    moment: Moment<'_>,
) -> Result<Plan, Full> {
    let mut planner = Planner {
        desired,
        local,
        observed,
        moment,
        plan: Plan::default(),
        node_slots: HashMap::new(),
        server_slots: HashMap::new(),
        free_nodes: Box::new(observed.nodes.free()),
        backend_slots: HashMap::new(),
        services: BTreeMap::new(),
        new_source_ranges: 0,
        lut: observed.lut().clone(),
    };
    planner.check_capacities()?;
    let everything;
    let touched = match scope {
        Scope::Everything => {
            planner.plan_nodes()?;
            planner.plan_routes()?;
            everything = planner.everything();
            &everything
        }
        Scope::Services(touched) => touched,
    };
    planner.plan_networks();
    planner.plan_servers(&touched.servers)?;
    planner.plan_backends(&touched.backends)?;
    planner.plan_services(&touched.services)?;
    let frontends = planner.plan_frontends(touched)?;
    planner.plan_vip_prefixes(touched);
    if *scope == Scope::Everything {
        planner.plan_strays();
    }
    let bank = planner.plan_bank(frontends);
    planner.plan_config(bank);

    let mut plan = planner.plan;
    if observed.generation != generation {
        plan.enter.push(Action::SetGeneration { generation });
    }
    Ok(plan)
}

struct Planner<'a> {
    desired: &'a Desired,
    local: &'a Local,
    observed: &'a Observed,
    moment: Moment<'a>,
    plan: Plan,
    /// Node id → slot, of those that were planned.
    node_slots: HashMap<u32, u32>,
    /// Of the machines outside the cluster that were planned and are wanted.
    server_slots: HashMap<IpAddr, u32>,
    /// Slots of `nodes` that nobody has yet.
    free_nodes: Box<dyn Iterator<Item = u32> + 'a>,
    /// Of the backends that were planned and are wanted.
    backend_slots: HashMap<BackendId, u32>,
    /// Elements of the bank that become others.
    services: BTreeMap<u32, ServiceEntry>,
    new_source_ranges: usize,
    lut: lut::Allocator,
}

impl Planner<'_> {
    fn check_capacities(&self) -> Result<(), Full> {
        let desired = self.desired;
        // Slot 0 of each array stands for something else: this node, no backend, a VIP itself.
        let nodes = desired.nodes.len() + desired.servers.len();
        Full::check("nodes and real servers", nodes, maps::NODES_MAX)?;
        Full::check("backends", desired.backends.len(), maps::BACKENDS_MAX - 1)?;
        let services = desired.services.len();
        Full::check("service ports", services, maps::SERVICES_MAX - 1)?;
        let node_ports = desired.node_ports.len();
        let prefixes = desired.vip_prefixes.len();
        let vips = desired.vips.len() + prefixes;
        let frontends = desired.frontends.len() + vips + node_ports;
        Full::check("frontends", frontends, maps::FRONTENDS_MAX)?;
        Full::check("VIPs that are prefixes", prefixes, maps::VIP_PREFIXES_MAX)?;
        let depth = desired::depth(desired.vip_prefixes.keys());
        let what = "VIPs that are prefixes, each in the one before,";
        Full::check(what, depth, maps::VIP_PREFIXES_NESTED_MAX)?;
        Full::check("networks", desired.networks.len(), maps::VPCS_MAX)
    }

    /// All that there should be, and all that there is.
    fn everything(&self) -> Touched {
        let (desired, observed) = (self.desired, self.observed);
        let active = observed.active();
        let services = observed.services(active).values();
        let backends = observed.backend_ids.keys();
        let entries = || observed.frontends(active).iter();
        let is_address = |entry: &&FrontendEntry| entry.flags & FRONTEND_ADDRESS != 0;
        let frontends = entries()
            .filter(|entry| !is_address(entry))
            .map(|entry| place_of(&entry.key));
        let addresses = entries()
            .filter(is_address)
            .map(|entry| (VpcId(entry.key.vpc), range_of_key(&entry.key)));
        let vips = desired.vips.keys();
        let vips = vips.map(|&(vpc, address)| (vpc, address.into()));
        let prefixes = observed.vip_prefixes.iter().map(Prefix::range);
        Touched {
            services: services
                .map(|entry| ServiceId(entry.id))
                .chain(desired.services.keys().copied())
                .collect(),
            backends: backends
                .map(|id| BackendId(*id))
                .chain(desired.backends.keys().copied())
                .collect(),
            frontends: frontends.chain(desired.frontends.keys().copied()).collect(),
            node_ports: desired.node_ports.keys().copied().collect(),
            servers: observed
                .servers
                .keys()
                .map(|&address| address.into())
                .chain(desired.servers.keys().copied())
                .collect(),
            addresses: addresses
                .chain(vips)
                .chain(prefixes)
                .chain(desired.vip_prefixes.keys().copied())
                .collect(),
        }
    }

    fn plan_backends(&mut self, touched: &BTreeSet<BackendId>) -> Result<(), Full> {
        let held = &self.observed.backends;
        let mut free = held.free();
        // Written first, one behind the other: those of neighbouring slots take one call.
        let mut named = Vec::new();
        for &id in touched {
            let before = self.observed.backend_ids.get(&id.0).copied();
            let owner = self.desired.backends.get(&id);
            let wanted = owner.filter(|_| !self.local.is_lapsed(id)).map(|owner| {
                let service = &self.desired.services[owner];
                self.backend_entry(id, service, &service.backends[&id])
            });
            let kept = match wanted {
                Some(entry) => {
                    // An id stands for one address and port. Should it ever not, the new ones get
                    // a slot of their own, and nobody sees the one with the port of the other.
                    let is_same = |slot: &u32| {
                        held.get(*slot).is_some_and(|before| {
                            // Of a version with other entries only slot and id are known.
                            let is_reserved =
                                before.id == entry.id && before.address.is_unspecified();
                            is_reserved
                                || (before.id, before.address, before.port_be, before.vpc)
                                    == (entry.id, entry.address, entry.port_be, entry.vpc)
                        })
                    };
                    let slot = before.filter(is_same).or_else(|| free.next()).ok_or(Full {
                        what: "backends",
                        wanted: held.count() as u64 + 1,
                        capacity: u64::from(maps::BACKENDS_MAX - 1),
                    })?;
                    if held.get(slot) != Some(&entry) {
                        self.plan.enter.push(Action::WriteBackend { slot, entry });
                    }
                    if before != Some(slot) {
                        named.push(Action::SetBackendId { id, slot });
                    }
                    self.plan_load(id, slot);
                    self.backend_slots.insert(id, slot);
                    Some(slot)
                }
                None => {
                    if before.is_some() {
                        self.plan.leave.push(Action::RemoveBackendId { id });
                    }
                    None
                }
            };
            if let Some(slot) = before.filter(|slot| kept != Some(*slot))
                && held.get(slot).is_some_and(|entry| entry.id == id.0)
            {
                let service = self.owner_of(slot);
                self.free_backend(slot, service);
            }
        }
        self.plan.enter.extend(named);
        Ok(())
    }

    /// The service slot that a backend slot's counters belong to, if the service stays.
    fn owner_of(&self, slot: u32) -> Option<u32> {
        let service = *self.observed.backend_owners.get(&slot)?;
        let active = self.observed.services(self.observed.active());
        let id = ServiceId(active.get(service)?.id);
        self.desired.services.contains_key(&id).then_some(service)
    }

    /// Takes a backend's slot away, once nobody can meet it.
    fn free_backend(&mut self, slot: u32, service: Option<u32>) {
        let entry = BackendEntry::default();
        self.plan.leave.push(Action::WriteBackend { slot, entry });
        self.plan.leave.push(Action::FoldStats { slot, service });
        if self.observed.loads.contains_key(&slot) {
            let load = Load::default();
            self.plan.leave.push(Action::WriteLoad { slot, load });
        }
    }

    /// What a scheduler that counts connections compares backends by.
    fn plan_load(&mut self, id: BackendId, slot: u32) {
        let service = &self.desired.services[&self.desired.backends[&id]];
        let load = if service.scheduler.counts_connections() {
            Load {
                weight: service.backends[&id].weight,
                elsewhere: self.local.loads_elsewhere.get(&id).copied().unwrap_or(0),
            }
        } else {
            Load::default()
        };
        if self.observed.loads.get(&slot).copied().unwrap_or_default() != load {
            self.plan.enter.push(Action::WriteLoad { slot, load });
        }
    }

    /// Whether a backend gets new connections from everywhere.
    fn is_picked(&self, id: BackendId, backend: &Backend) -> bool {
        !backend.draining && backend.weight > 0 && !self.local.is_lapsed(id)
    }

    /// Whether others take a backend's new connections because it may be dead; where there are none, it
    /// gets them all the same.
    fn is_covered_for(&self, service: &Service, backend: &Backend) -> bool {
        let is_silent = |backend: &Backend| self.desired.is_silent(backend);
        let mut others = service.backends.iter();
        is_silent(backend)
            && others.any(|(&id, other)| self.is_picked(id, other) && !is_silent(other))
    }

    /// Whether a backend that ends but still serves gets new connections of this node: where they have
    /// to be answered here, and nobody else is here (KEP-1669). One of weight 0 was told to drain, and
    /// gets none.
    fn is_stand_in(&self, id: BackendId, service: &Service, backend: &Backend) -> bool {
        let is_here = |backend: &Backend| matches!(self.desired.place(backend), Place::Here);
        let may_be = (service.external_local || service.internal_local)
            && backend.draining
            && backend.weight > 0
            && is_here(backend)
            && !self.local.is_lapsed(id);
        may_be
            && !service
                .backends
                .iter()
                .any(|(&id, other)| is_here(other) && self.is_picked(id, other))
    }

    fn backend_entry(&self, id: BackendId, service: &Service, backend: &Backend) -> BackendEntry {
        BackendEntry {
            address: backend.address.into(),
            id: id.0,
            node: match self.desired.place(backend) {
                Place::Here => NODE_LOCAL,
                Place::Node(node) => self.node_slot(node),
                Place::Server(address) => self.server_slot(address),
                Place::Elsewhere => NODE_ELSEWHERE,
            },
            vpc: service.vpc.0,
            port_be: backend.port.to_be(),
            state: if backend.draining && !self.is_stand_in(id, service, backend)
                || self.is_covered_for(service, backend)
            {
                BACKEND_DRAINING
            } else {
                BACKEND_ACTIVE
            },
            flags: match self.desired.place(backend) {
                Place::Server(_) => BACKEND_SERVER,
                Place::Node(node) if node.silent => BACKEND_SILENT,
                Place::Here | Place::Node(_) | Place::Elsewhere => 0,
            },
        }
    }

    /// Takes away what no plan of ours can have left, but a plan that was cut short can.
    fn plan_strays(&mut self) {
        let observed = self.observed;
        for (slot, entry) in observed.backends.iter() {
            if observed.backend_ids.get(&entry.id) != Some(&slot) {
                self.free_backend(slot, None);
            }
        }
        let services = observed.services(observed.active());
        for (slot, entry) in services.iter() {
            let known = observed.service(ServiceId(entry.id));
            if known.map(|(slot, _)| slot) != Some(slot) {
                self.services.insert(slot, ServiceEntry::default());
            }
        }
        for (&range, table) in &observed.tables {
            if services.get(table.service).map(range_of) != Some(range) {
                self.plan.leave.push(Action::FreeTable { range });
            }
        }
    }

    /// Writes services and frontends to the other bank if they change: the bank that is to be
    /// active.
    fn plan_bank(&mut self, frontends: Vec<cuckoo::Write>) -> usize {
        let active = self.observed.active();
        if self.services.is_empty() && frontends.is_empty() {
            return active;
        }
        let bank = 1 - active;
        self.plan.enter.extend(self.observed.level());
        let services = std::mem::take(&mut self.services);
        let services = services
            .into_iter()
            .map(|(slot, entry)| Action::WriteService { bank, slot, entry });
        self.plan.enter.extend(services);
        let frontends = frontends
            .into_iter()
            .map(|write| Action::WriteBucket { bank, write });
        self.plan.enter.extend(frontends);
        bank
    }

    fn plan_networks(&mut self) {
        let wanted = || self.desired.networks.keys().map(|vpc| vpc.0);
        let vpcs: BTreeSet<u32> = wanted().filter(|vpc| *vpc != 0).collect();
        for &vpc in vpcs.difference(&self.observed.vpcs) {
            self.plan.enter.push(Action::AddVpc { vpc });
        }
        for &vpc in self.observed.vpcs.difference(&vpcs) {
            self.plan.leave.push(Action::RemoveVpc { vpc });
        }
    }

    fn plan_config(&mut self, bank: usize) {
        let config = Config {
            seed: self.desired.seed,
            node_id: self.desired.node_id,
            bank: bank as u32,
            vxlan_port_be: self.desired.vxlan_port.to_be(),
            has_vip_prefixes: (!self.desired.vip_prefixes.is_empty()).into(),
            ..self.local.in_config(self.observed.config)
        };
        if config != self.observed.config {
            self.plan.enter.push(Action::WriteConfig { config });
        }
    }
}

/// Where a frontend's entry says it is.
fn place_of(key: &FrontendKey) -> FrontendAt {
    (
        VpcId(key.vpc),
        range_of_key(key),
        key.protocol,
        u16::from_be(key.port_be),
    )
}

#[cfg(test)]
mod tests;
