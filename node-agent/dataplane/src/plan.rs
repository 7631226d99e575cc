//! What to do to the maps: a pure function of the desired state, this node's own facts and what
//! the maps hold, to an ordered list of actions.
//!
//! The order keeps every packet whole, and an agent may die after any action:
//! 1. what the new state refers to is written where nobody looks yet: nodes, backends, ranges of
//!    the LUT, the inactive bank of services and frontends, and routes;
//! 2. one write of `config` flips the bank (skipped when services and frontends are unchanged);
//! 3. what the old state alone referred to is removed;
//! 4. the generation is written.
//!
//! A bank is written again by the next plan that changes services or frontends: between the flip
//! that left it and that write pass the removals and a whole plan, which is longer than a packet
//! stays in a program.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fairlead_api::{BackendId, Generation, ServiceId};
use fairlead_dataplane_common::{
    Address, BACKEND_ACTIVE, BACKEND_DRAINING, BackendEntry, Config, FRONTEND_ADDRESS,
    FRONTEND_CLUSTER, FRONTEND_EXTERNAL, FRONTEND_USED, FrontendEntry, FrontendKey, NODE_LOCAL,
    NodeEntry, ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS, ROUTE_UNREACHABLE, RouteEntry, RouteKey,
    SERVICE_DR, ServiceEntry, maps,
};
use ipnetwork::IpNetwork;

use crate::action::Action;
use crate::desired::{Backend, Desired, Place, Service};
use crate::local::Local;
use crate::lut;
use crate::maglev::{self, Candidate};
use crate::observed::{Observed, Prefix, Share, Table, range_of};

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

/// The actions that bring the maps from `observed` to `desired`. None if they are there.
pub fn plan(
    desired: &Desired,
    local: &Local,
    observed: &Observed,
    generation: Generation,
) -> Result<Vec<Action>, Full> {
    let mut planner = Planner {
        desired,
        local,
        observed,
        before_flip: Vec::new(),
        after_flip: Vec::new(),
        node_slots: BTreeMap::new(),
        backend_slots: HashMap::new(),
    };
    planner.plan_nodes()?;
    planner.plan_backends()?;
    let services = planner.plan_services()?;
    let frontends = planner.wanted_frontends(&services)?;
    planner.plan_routes()?;
    let bank = planner.plan_banks(&services, &frontends)?;
    planner.plan_config(bank);

    let mut actions = planner.before_flip;
    actions.append(&mut planner.after_flip);
    if observed.generation != generation {
        actions.push(Action::SetGeneration { generation });
    }
    Ok(actions)
}

/// The frontends there should be, by VPC, address, protocol and port.
type Frontends = BTreeMap<(u32, Address, u8, u16), FrontendEntry>;

struct Planner<'a> {
    desired: &'a Desired,
    local: &'a Local,
    observed: &'a Observed,
    before_flip: Vec<Action>,
    after_flip: Vec<Action>,
    /// Node id → slot.
    node_slots: BTreeMap<u32, u32>,
    backend_slots: HashMap<BackendId, u32>,
}

impl Planner<'_> {
    fn plan_nodes(&mut self) -> Result<(), Full> {
        // Slot 0 is this node.
        Full::check("nodes", self.desired.nodes.len(), maps::NODES_MAX - 1)?;
        let held: BTreeMap<u32, u32> = self
            .observed
            .nodes
            .iter()
            .map(|(slot, entry)| (entry.id, *slot))
            .collect();
        let mut free = (1..maps::NODES_MAX).filter(|s| !self.observed.nodes.contains_key(s));
        let mut addresses = BTreeMap::new();
        for (&id, node) in &self.desired.nodes {
            let Some(slot) = held.get(&id).copied().or_else(|| free.next()) else {
                // Those that leave hold the slots until the flip.
                let (wanted, capacity) = (self.observed.nodes.len() as u64 + 1, maps::NODES_MAX);
                return Err(Full {
                    what: "nodes",
                    wanted,
                    capacity: u64::from(capacity),
                });
            };
            let before = self.observed.nodes.get(&slot);
            let entry = self.local.node_entry(id, node.address, before);
            if before != Some(&entry) {
                self.before_flip.push(Action::WriteNode { slot, entry });
            }
            self.node_slots.insert(id, slot);
            addresses.insert(Address::from(node.address), slot);
        }
        for (&address, &slot) in &addresses {
            if self.observed.node_addresses.get(&address) != Some(&slot) {
                self.before_flip
                    .push(Action::SetNodeAddress { address, slot });
            }
        }
        for &address in self.observed.node_addresses.keys() {
            if !addresses.contains_key(&address) {
                self.after_flip.push(Action::RemoveNodeAddress { address });
            }
        }
        let kept: BTreeSet<u32> = self.node_slots.values().copied().collect();
        for &slot in self
            .observed
            .nodes
            .keys()
            .filter(|slot| !kept.contains(slot))
        {
            self.after_flip.push(Action::WriteNode {
                slot,
                entry: NodeEntry::default(),
            });
        }
        Ok(())
    }

    fn plan_backends(&mut self) -> Result<(), Full> {
        let count = self
            .desired
            .services
            .values()
            .map(|s| s.backends.len())
            .sum();
        // Slot 0 is what a table slot that was never written points at.
        Full::check("backends", count, maps::BACKENDS_MAX - 1)?;
        let held = &self.observed.backends;
        let mut free = (1..maps::BACKENDS_MAX).filter(|slot| !held.contains_key(slot));
        let mut kept = BTreeSet::new();
        for service in self.desired.services.values() {
            for (&id, backend) in &service.backends {
                let node = match backend.place {
                    Place::Here => NODE_LOCAL,
                    Place::Node(node) => self.node_slots[&node],
                    Place::Elsewhere => NODE_ELSEWHERE,
                };
                let entry = BackendEntry {
                    address: backend.address.into(),
                    id: id.0,
                    node,
                    vpc: service.vpc.0,
                    port_be: backend.port.to_be(),
                    state: if backend.draining {
                        BACKEND_DRAINING
                    } else {
                        BACKEND_ACTIVE
                    },
                    flags: 0,
                };
                // An id stands for one address and port. Should it ever not, the new ones get a
                // slot of their own, and nobody sees the one with the port of the other.
                let same = |slot: &u32| {
                    held.get(slot).is_some_and(|before| {
                        (before.id, before.address, before.port_be, before.vpc)
                            == (entry.id, entry.address, entry.port_be, entry.vpc)
                    })
                };
                let slot = self.observed.backend_ids.get(&id.0).copied().filter(same);
                let Some(slot) = slot.or_else(|| free.next()) else {
                    let (wanted, capacity) = ((held.len() + 1) as u64, maps::BACKENDS_MAX);
                    return Err(Full {
                        what: "backends",
                        wanted,
                        capacity: u64::from(capacity),
                    });
                };
                if held.get(&slot) != Some(&entry) {
                    self.before_flip.push(Action::WriteBackend { slot, entry });
                }
                if self.observed.backend_ids.get(&id.0) != Some(&slot) {
                    self.before_flip.push(Action::SetBackendId { id, slot });
                }
                kept.insert(slot);
                self.backend_slots.insert(id, slot);
            }
        }
        for &id in self.observed.backend_ids.keys() {
            if !self.backend_slots.contains_key(&BackendId(id)) {
                self.after_flip
                    .push(Action::RemoveBackendId { id: BackendId(id) });
            }
        }
        for &slot in held.keys().filter(|slot| !kept.contains(slot)) {
            self.after_flip.push(Action::WriteBackend {
                slot,
                entry: BackendEntry::default(),
            });
        }
        Ok(())
    }

    /// Gives every service a slot and a table: the bank as it should be, by slot.
    fn plan_services(&mut self) -> Result<BTreeMap<u32, ServiceEntry>, Full> {
        // Slot 0 is what the entries that stand for a VIP itself point at.
        Full::check(
            "service ports",
            self.desired.services.len(),
            maps::SERVICES_MAX - 1,
        )?;
        let active = &self.observed.services[self.observed.active()];
        let aside = &self.observed.services[1 - self.observed.active()];
        let held: HashMap<ServiceId, u32> = active
            .iter()
            .map(|(slot, entry)| (ServiceId(entry.id), *slot))
            .collect();
        // A slot of the other bank may be read until the flip by nobody, but its counters are
        // still some service's.
        let mut free = (1..maps::SERVICES_MAX)
            .filter(|slot| !active.contains_key(slot) && !aside.contains_key(slot))
            .chain(
                (1..maps::SERVICES_MAX)
                    .filter(|slot| !active.contains_key(slot) && aside.contains_key(slot)),
            );

        let mut lut = lut::Allocator::new(maps::LUT_SLOTS);
        let mut owned: HashMap<u32, lut::Range> = HashMap::new();
        for (&slot, entry) in active {
            // Two services with one range cannot be of our making; the second gets a new one.
            if lut.reserve(range_of(entry)).is_ok() {
                owned.insert(slot, range_of(entry));
            }
        }

        let mut bank = BTreeMap::new();
        for (&id, service) in &self.desired.services {
            let slot = match held.get(&id) {
                Some(slot) => *slot,
                None => {
                    let slot = free.next().ok_or(Full {
                        what: "service ports",
                        wanted: (active.len() + 1) as u64,
                        capacity: u64::from(maps::SERVICES_MAX - 1),
                    })?;
                    self.before_flip.push(Action::ResetStats { slot });
                    slot
                }
            };
            let owned = owned.get(&slot).copied();
            let (range, local_length) = self.plan_table(service, owned, &mut lut)?;
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
                padding: 0,
            };
            bank.insert(slot, entry);
        }
        Ok(bank)
    }

    /// The range that holds the service's tables: its own, if they are in it, else a new one. How much
    /// of it, at its end, is the table of this node's own backends.
    fn plan_table(
        &mut self,
        service: &Service,
        owned: Option<lut::Range>,
        lut: &mut lut::Allocator,
    ) -> Result<(lut::Range, u32), Full> {
        let is_picked = |backend: &&Backend| !backend.draining && backend.weight > 0;
        let picked = || service.backends.values().filter(is_picked);
        // Where all of them are here or none is, the one table says all.
        let has_local = service.forwarding.may_pass_on()
            && service.frontends.iter().any(|frontend| frontend.external)
            && picked().any(|backend| backend.place == Place::Here)
            && picked().any(|backend| backend.place != Place::Here);
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
                local: has_local && backend.place == Place::Here,
            })
            .collect();
        // An exception for moments when nodes disagree: an element each is enough, and keeps it small.
        let own: Vec<u32> = shares
            .iter()
            .filter(|share| share.local)
            .map(|share| share.slot)
            .collect();
        let local_length = own.len() as u32;
        let found = owned.and_then(|range| Some((range, self.observed.tables.get(&range)?)));
        if let Some((range, Table::Built(of))) = found
            && *of == shares
        {
            return Ok((range, local_length));
        }
        let candidates: Vec<Candidate> = shares.iter().map(|share| share.candidate).collect();
        let length = maglev::size(&candidates);
        if length == 0 {
            return Ok((lut::Range::EMPTY, 0));
        }
        let slots: Vec<u32> = maglev::populate(length, &candidates)
            .iter()
            .map(|id| self.backend_slots[id])
            .chain(own)
            .collect();
        let len = length + local_length;
        if let Some((range, Table::Found(elements))) = found
            && *elements == slots
        {
            self.before_flip.push(Action::KeepTable { range, shares });
            return Ok((range, local_length));
        }
        let range = lut.allocate(len).ok_or_else(|| Full {
            what: "table slots",
            wanted: u64::from(lut.capacity() - lut.free_slots()) + u64::from(len),
            capacity: u64::from(lut.capacity()),
        })?;
        self.before_flip.push(Action::WriteTable {
            range,
            shares,
            slots,
        });
        Ok((range, local_length))
    }

    fn wanted_frontends(&self, services: &BTreeMap<u32, ServiceEntry>) -> Result<Frontends, Full> {
        let slots: HashMap<u32, u32> = services
            .iter()
            .map(|(slot, entry)| (entry.id, *slot))
            .collect();
        let mut wanted = BTreeMap::new();
        for (id, service) in &self.desired.services {
            for frontend in &service.frontends {
                let address = Address::from(frontend.address);
                let vpc = service.vpc.0;
                let scope = if frontend.external {
                    FRONTEND_EXTERNAL
                } else {
                    FRONTEND_CLUSTER
                };
                let port_be = frontend.port.to_be();
                wanted.insert(
                    (vpc, address, service.protocol, port_be),
                    FrontendEntry {
                        key: FrontendKey::new(vpc, address, service.protocol, port_be),
                        service: slots[&id.0],
                        flags: FRONTEND_USED | scope,
                    },
                );
                if frontend.external {
                    wanted.insert(
                        (vpc, address, 0, 0),
                        FrontendEntry {
                            key: FrontendKey::of_address(vpc, address),
                            service: 0,
                            flags: FRONTEND_USED | FRONTEND_ADDRESS,
                        },
                    );
                }
            }
        }
        Full::check("frontends", wanted.len(), maps::FRONTENDS_MAX)?;
        Ok(wanted)
    }

    /// Writes services and frontends to the other bank if the active one holds others: the bank
    /// that is to be active.
    fn plan_banks(
        &mut self,
        services: &BTreeMap<u32, ServiceEntry>,
        frontends: &Frontends,
    ) -> Result<usize, Full> {
        let active = self.observed.active();
        let table = &self.observed.frontends[active];
        let same = self.observed.services[active] == *services
            && table.iter().count() == frontends.len()
            && frontends
                .values()
                .all(|entry| table.get(&entry.key) == Some(entry));
        if same {
            return Ok(active);
        }
        let bank = 1 - active;
        let held = &self.observed.services[bank];
        for (&slot, &entry) in services {
            if held.get(&slot) != Some(&entry) {
                self.before_flip
                    .push(Action::WriteService { bank, slot, entry });
            }
        }
        for &slot in held.keys().filter(|slot| !services.contains_key(slot)) {
            let entry = ServiceEntry::default();
            self.before_flip
                .push(Action::WriteService { bank, slot, entry });
        }

        let mut table = self.observed.frontends[bank].clone();
        let stale: Vec<FrontendKey> = table
            .iter()
            .map(|entry| entry.key)
            .filter(|k| !frontends.contains_key(&(k.vpc, k.address, k.protocol, k.port_be)))
            .collect();
        for key in stale {
            let writes = table.remove(&key);
            self.before_flip.extend(
                writes
                    .into_iter()
                    .map(|write| Action::WriteBucket { bank, write }),
            );
        }
        for entry in frontends.values() {
            let writes = table.insert(*entry).map_err(|full| Full {
                what: "frontends",
                wanted: frontends.len() as u64,
                capacity: full.entries as u64,
            })?;
            self.before_flip.extend(
                writes
                    .into_iter()
                    .map(|write| Action::WriteBucket { bank, write }),
            );
        }
        Ok(bank)
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
        for (id, node) in &self.desired.nodes {
            let entry = RouteEntry {
                kind: ROUTE_NODE_HOST,
                node: self.node_slots[id],
            };
            wanted.insert(prefix(0, node.address.into()), entry);
        }
        for (&(vpc, range), id) in &self.desired.routes {
            let entry = RouteEntry {
                kind: ROUTE_PODS,
                node: self.node_slots[id],
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
                self.before_flip.push(Action::SetRoute { prefix, entry });
            }
        }
        for &prefix in self
            .observed
            .routes
            .keys()
            .filter(|p| !wanted.contains_key(p))
        {
            self.after_flip.push(Action::RemoveRoute { prefix });
        }

        let services = self.desired.services.values().map(|service| service.vpc.0);
        let routes = self.desired.routes.keys().map(|(vpc, _)| vpc.0);
        let vpcs: BTreeSet<u32> = services.chain(routes).filter(|vpc| *vpc != 0).collect();
        Full::check("networks", vpcs.len(), maps::VPCS_MAX)?;
        for &vpc in vpcs.difference(&self.observed.vpcs) {
            self.before_flip.push(Action::AddVpc { vpc });
        }
        for &vpc in self.observed.vpcs.difference(&vpcs) {
            self.after_flip.push(Action::RemoveVpc { vpc });
        }
        Ok(())
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
            self.before_flip.push(Action::WriteConfig { config });
        }
    }
}

#[cfg(test)]
mod tests;
