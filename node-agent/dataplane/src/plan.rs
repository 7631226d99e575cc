//! What to do to the maps: a pure function of the desired state, this node's own facts and what
//! the maps hold, to an ordered list of actions. Only what a change concerns is looked at, unless
//! that is everything.
//!
//! The order keeps every packet whole, and an agent may die after any action. To enter a state:
//! 1. what it refers to is written where nobody looks yet: nodes, backends, ranges of the LUT, the
//!    inactive bank of services and frontends, and routes;
//! 2. one write of `config` flips the bank (skipped when services and frontends are unchanged);
//! 3. the generation is written.
//!
//! To leave the state before, once no program runs any more that has read the old bank's number:
//! what that state alone referred to is removed, and the bank that was left is brought level
//! ([`Observed::level`]), so that the next change is written to a copy of what is in force.

mod nodes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use fairlead_api::{BackendId, Generation, ServiceId, VpcId};
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BACKEND_DRAINING, BACKEND_SERVER, BackendEntry, Config, FRONTEND_ADDRESS,
    FRONTEND_ANNOUNCED, FRONTEND_CLUSTER, FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FRONTEND_USED,
    FrontendEntry, FrontendKey, NODE_LOCAL, ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS,
    ROUTE_UNREACHABLE, RouteEntry, RouteKey, SERVICE_DR, ServiceEntry, maps,
};
use ipnetwork::IpNetwork;

use crate::action::Action;
use crate::cuckoo;
use crate::desired::{
    Backend, DEFAULT_NETWORK, Desired, FrontendAt, Place, Scope, Service, Touched,
};
use crate::local::Local;
use crate::lut;
use crate::maglev::{self, Candidate};
use crate::observed::{Content, Observed, Prefix, Share, range_of};

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

/// The actions that bring the maps from `observed` to `desired`, of which `scope` may differ. None
/// if they are there.
pub fn plan(
    desired: &Desired,
    scope: &Scope,
    local: &Local,
    observed: &Observed,
    generation: Generation,
) -> Result<Plan, Full> {
    let mut planner = Planner {
        desired,
        local,
        observed,
        plan: Plan::default(),
        node_slots: HashMap::new(),
        server_slots: HashMap::new(),
        free_nodes: Box::new(observed.nodes.free()),
        backend_slots: HashMap::new(),
        services: BTreeMap::new(),
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
        let frontends = desired.frontends.len() + desired.vips.len() + node_ports;
        Full::check("frontends", frontends, maps::FRONTENDS_MAX)?;
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
        let addresses = entries().filter(is_address).map(|entry| {
            let (vpc, address, ..) = place_of(&entry.key);
            (vpc, address)
        });
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
            addresses: addresses.chain(desired.vips.keys().copied()).collect(),
        }
    }

    fn plan_backends(&mut self, touched: &BTreeSet<BackendId>) -> Result<(), Full> {
        let held = &self.observed.backends;
        let mut free = held.free();
        for &id in touched {
            let before = self.observed.backend_ids.get(&id.0).copied();
            let owner = self.desired.backends.get(&id);
            let wanted = owner.map(|owner| {
                let service = &self.desired.services[owner];
                self.backend_entry(id, service, &service.backends[&id])
            });
            let kept = match wanted {
                Some(entry) => {
                    // An id stands for one address and port. Should it ever not, the new ones get
                    // a slot of their own, and nobody sees the one with the port of the other.
                    let is_same = |slot: &u32| {
                        held.get(*slot).is_some_and(|before| {
                            (before.id, before.address, before.port_be, before.vpc)
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
                        self.plan.enter.push(Action::SetBackendId { id, slot });
                    }
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
                let entry = BackendEntry::default();
                self.plan.leave.push(Action::WriteBackend { slot, entry });
            }
        }
        Ok(())
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
            state: if backend.draining {
                BACKEND_DRAINING
            } else {
                BACKEND_ACTIVE
            },
            flags: match self.desired.place(backend) {
                Place::Server(_) => BACKEND_SERVER,
                Place::Here | Place::Node(_) | Place::Elsewhere => 0,
            },
        }
    }

    /// Gives every service a slot and a table.
    fn plan_services(&mut self, touched: &BTreeSet<ServiceId>) -> Result<(), Full> {
        let bank = self.observed.services(self.observed.active());
        let mut free = bank.free();
        for &id in touched {
            let before = self.observed.service(id);
            let Some(service) = self.desired.services.get(&id) else {
                if let Some((slot, before)) = before {
                    self.services.insert(slot, ServiceEntry::default());
                    self.free_table(slot, range_of(&before));
                }
                continue;
            };
            let slot = match before {
                Some((slot, _)) => slot,
                None => {
                    let slot = free.next().ok_or(Full {
                        what: "service ports",
                        wanted: bank.count() as u64 + 1,
                        capacity: u64::from(maps::SERVICES_MAX - 1),
                    })?;
                    self.plan.enter.push(Action::ResetStats { slot });
                    slot
                }
            };
            let owned = before.map(|(_, entry)| range_of(&entry));
            let (range, local_length) = self.plan_table(slot, service, owned)?;
            let entry = ServiceEntry {
                lut_offset: range.offset,
                lut_length: range.len - local_length,
                local_length,
                id: id.0,
                flags: if service.forwarding.may_pass_on() {
                    SERVICE_DR
                } else {
                    0
                },
                base_offset: 0,
                base_length: 0,
                affinity_seconds: 0,
            };
            self.services.insert(slot, entry);
        }
        self.services
            .retain(|slot, entry| bank.get(*slot).copied().unwrap_or_default() != *entry);
        Ok(())
    }

    /// The range that holds the service's tables: its own, if they are in it, else a new one. How much
    /// of it, at its end, is the table of this node's own backends.
    fn plan_table(
        &mut self,
        slot: u32,
        service: &Service,
        owned: Option<lut::Range>,
    ) -> Result<(lut::Range, u32), Full> {
        let is_picked = |backend: &&Backend| !backend.draining && backend.weight > 0;
        let is_here = |backend: &Backend| matches!(self.desired.place(backend), Place::Here);
        let picked = || service.backends.values().filter(is_picked);
        // Where all of them are here or none is, the one table says all.
        let has_local = service.forwarding.may_pass_on()
            && service.frontends.iter().any(|frontend| frontend.external)
            && picked().any(is_here)
            && !picked().all(is_here);
        let shares: Vec<Share> = service
            .backends
            .iter()
            .filter(|(_, backend)| is_picked(backend))
            .map(|(&id, backend)| Share {
                candidate: Candidate {
                    id,
                    weight: backend.weight,
                },
                slot: self.backend_slots[&id],
                local: has_local && is_here(backend),
            })
            .collect();
        // An exception for moments when nodes disagree: an element each is enough, and keeps it small.
        let own = shares.iter().filter(|share| share.local);
        let local_length = own.clone().count() as u32;
        let tables = &self.observed.tables;
        let found = owned
            .and_then(|range| Some((range, tables.get(&range)?)))
            .filter(|(_, table)| table.service == slot)
            .map(|(range, table)| (range, &table.content));
        if let Some((range, Content::Built(of))) = found
            && *of == shares
        {
            return Ok((range, local_length));
        }
        let candidates: Vec<Candidate> = shares.iter().map(|share| share.candidate).collect();
        let length = maglev::size(&candidates);
        // Ten million elements in a first state: the shares are in the order of their ids, and few.
        let slot_of = |id: &BackendId| {
            let index = shares.binary_search_by_key(id, |share| share.candidate.id);
            shares[index.expect("a table names its candidates only")].slot
        };
        let elements: Vec<u32> = maglev::populate(length, &candidates)
            .iter()
            .map(slot_of)
            .chain(own.map(|share| share.slot))
            .collect();
        if let Some((range, Content::Found(held))) = found
            && *held == elements
        {
            let service = slot;
            self.plan.enter.push(Action::KeepTable {
                service,
                range,
                shares,
            });
            return Ok((range, local_length));
        }
        if let Some((range, _)) = found {
            self.free_table(slot, range);
        }
        if length == 0 {
            return Ok((lut::Range::EMPTY, 0));
        }
        let len = length + local_length;
        let range = self.lut.allocate(len).ok_or_else(|| Full {
            what: "table slots",
            wanted: u64::from(self.lut.capacity() - self.lut.free_slots()) + u64::from(len),
            capacity: u64::from(self.lut.capacity()),
        })?;
        self.plan.enter.push(Action::WriteTable {
            service: slot,
            range,
            shares,
            slots: elements,
        });
        Ok((range, local_length))
    }

    fn free_table(&mut self, slot: u32, range: lut::Range) {
        let owner = self.observed.tables.get(&range).map(|table| table.service);
        if owner == Some(slot) {
            self.plan.leave.push(Action::FreeTable { range });
        }
    }

    /// The writes to the bank of frontends.
    fn plan_frontends(&mut self, touched: &Touched) -> Result<Vec<cuckoo::Write>, Full> {
        let slots: HashMap<ServiceId, u32> = self
            .services
            .iter()
            .map(|(slot, entry)| (ServiceId(entry.id), *slot))
            .collect();
        let mut places = touched.frontends.clone();
        for &(is_v4, protocol, port) in &touched.node_ports {
            let of_family = |address: &IpAddr| address.is_ipv4() == is_v4;
            let own = self.desired.own_addresses().filter(of_family);
            places.extend(own.map(|address| (DEFAULT_NETWORK, address, protocol, port)));
        }
        let mut addresses = touched.addresses.clone();
        addresses.extend(touched.frontends.iter().map(|place| (place.0, place.1)));
        let wanted: BTreeMap<FrontendAt, Option<FrontendEntry>> = places
            .into_iter()
            .map(|place| (place, self.frontend_entry(place, &slots)))
            .chain(
                addresses
                    .into_iter()
                    .map(|(vpc, address)| ((vpc, address, 0, 0), self.address_entry(vpc, address))),
            )
            .collect();
        let mut table = self.observed.frontends(self.observed.active()).clone();
        let mut writes = Vec::new();
        // Room is made before it is taken.
        for (place, _) in wanted.iter().filter(|(_, entry)| entry.is_none()) {
            writes.extend(table.remove(&key_of(place)));
        }
        for entry in wanted.into_values().flatten() {
            let added = table.insert(entry).map_err(|full| Full {
                what: "frontends",
                wanted: full.entries as u64 + 1,
                capacity: full.entries as u64,
            })?;
            writes.extend(added);
        }
        Ok(writes)
    }

    /// Who answers at a place, if anybody does.
    fn frontend_entry(
        &self,
        place: FrontendAt,
        slots: &HashMap<ServiceId, u32>,
    ) -> Option<FrontendEntry> {
        let (vpc, address, protocol, port) = place;
        // An address of this node itself, which other programs of the node use as well.
        let is_own = vpc == DEFAULT_NETWORK && self.is_own(address);
        let (service, flags) = match self.desired.frontends.get(&place) {
            Some(answer) if answer.external && is_own => {
                (answer.service, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)
            }
            Some(answer) if answer.external => (answer.service, FRONTEND_EXTERNAL),
            Some(answer) => (answer.service, FRONTEND_CLUSTER),
            None if is_own => {
                let node_port = (address.is_ipv4(), protocol, port);
                let service = *self.desired.node_ports.get(&node_port)?;
                (service, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT)
            }
            None => return None,
        };
        let held = || self.observed.service(service).map(|(slot, _)| slot);
        let slot = slots.get(&service).copied().or_else(held);
        Some(FrontendEntry {
            key: key_of(&place),
            service: slot.expect("a service with a frontend has a slot by now"),
            flags: FRONTEND_USED | flags,
        })
    }

    /// What stands for a VIP itself, if it is one. An address of this node's is none: its other
    /// ports are for the node, and so are its neighbours' questions.
    fn address_entry(&self, vpc: VpcId, address: IpAddr) -> Option<FrontendEntry> {
        let is_default = vpc == DEFAULT_NETWORK;
        let is_vip = self.desired.vips.contains_key(&(vpc, address));
        if !is_vip || is_default && self.is_own(address) {
            return None;
        }
        let announced = if is_default && self.desired.announces(address) {
            FRONTEND_ANNOUNCED
        } else {
            0
        };
        Some(FrontendEntry {
            key: FrontendKey::of_address(vpc.0, address.into()),
            service: 0,
            flags: FRONTEND_USED | FRONTEND_ADDRESS | announced,
        })
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.desired.own_addresses().any(|own| own == address)
    }

    /// Takes away what no plan of ours can have left, but a plan that was cut short can.
    fn plan_strays(&mut self) {
        let observed = self.observed;
        for (slot, entry) in observed.backends.iter() {
            if observed.backend_ids.get(&entry.id) != Some(&slot) {
                let entry = BackendEntry::default();
                self.plan.leave.push(Action::WriteBackend { slot, entry });
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

    fn plan_routes(&mut self) -> Result<(), Full> {
        let prefix = |vpc: u32, range: IpNetwork| Prefix {
            vpc,
            address: range.network().into(),
            bits: RouteKey::prefix_bits(range.prefix(), range.is_ipv4()),
        };
        let mut wanted = BTreeMap::new();
        let unreachable = RouteEntry {
            kind: ROUTE_UNREACHABLE,
            node: 0,
        };
        for range in &self.desired.cluster_ranges {
            wanted.insert(prefix(0, *range), unreachable);
        }
        for node in self.desired.other_nodes() {
            let entry = RouteEntry {
                kind: ROUTE_NODE_HOST,
                node: self.node_slot(node),
            };
            wanted.insert(prefix(0, node.address.into()), entry);
        }
        for (&(vpc, range), name) in &self.desired.routes {
            // A node that has a range and no address yet cannot be routed to: its pods are
            // unreachable, as the rest of the cluster's ranges is. This node's own range is below.
            let node = self.desired.nodes.get(name);
            let Some(node) = node.filter(|node| node.id != self.desired.node_id) else {
                continue;
            };
            let entry = RouteEntry {
                kind: ROUTE_PODS,
                node: self.node_slot(node),
            };
            wanted.insert(prefix(vpc.0, range), entry);
        }
        if let Some(range) = self.local.pod_range {
            wanted.insert(
                prefix(0, range),
                RouteEntry {
                    kind: ROUTE_LOCAL,
                    node: NODE_LOCAL,
                },
            );
        }
        Full::check("routes", wanted.len(), maps::ROUTES_MAX)?;
        for (&prefix, &entry) in &wanted {
            if self.observed.routes.get(&prefix) != Some(&entry) {
                self.plan.enter.push(Action::SetRoute { prefix, entry });
            }
        }
        for &prefix in self
            .observed
            .routes
            .keys()
            .filter(|p| !wanted.contains_key(p))
        {
            self.plan.leave.push(Action::RemoveRoute { prefix });
        }
        Ok(())
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
            ..self.local.in_config(self.observed.config)
        };
        if config != self.observed.config {
            self.plan.enter.push(Action::WriteConfig { config });
        }
    }
}

fn key_of(place: &FrontendAt) -> FrontendKey {
    let &(vpc, address, protocol, port) = place;
    FrontendKey::new(vpc.0, address.into(), protocol, port.to_be())
}

/// Where a frontend's entry says it is.
fn place_of(key: &FrontendKey) -> FrontendAt {
    let address = IpAddr::from(key.address);
    (
        VpcId(key.vpc),
        address,
        key.protocol,
        u16::from_be(key.port_be),
    )
}

#[cfg(test)]
mod tests;
