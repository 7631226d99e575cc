//! What the maps hold, as far as a plan decides by it: read from the pinned maps when the agent
//! starts, and carried along with every action that succeeded since.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fairlead_api::{BackendId, Generation};
use fairlead_dataplane_common::{
    Address, BackendEntry, Config, NodeEntry, RouteEntry, ServiceEntry,
};

use crate::action::Action;
use crate::cuckoo;
use crate::lut;
use crate::maglev::Candidate;

/// The state of the maps. Unused elements are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The element of `config`.
    pub config: Config,
    /// What `meta` says is in force.
    pub generation: Generation,
    /// Both banks of `services`, by slot.
    pub services: [BTreeMap<u32, ServiceEntry>; 2],
    /// Both banks of `frontends`.
    pub frontends: [cuckoo::Table; 2],
    /// What the ranges of `lut` hold that a service of the active bank owns.
    pub tables: HashMap<lut::Range, Table>,
    /// `backends` by slot.
    pub backends: BTreeMap<u32, BackendEntry>,
    /// `backend_ids`: id → slot.
    pub backend_ids: BTreeMap<u32, u32>,
    /// `nodes` by slot.
    pub nodes: BTreeMap<u32, NodeEntry>,
    /// `node_addresses`: address → slot.
    pub node_addresses: BTreeMap<Address, u32>,
    /// `routes`.
    pub routes: BTreeMap<Prefix, RouteEntry>,
    /// `vpcs`.
    pub vpcs: BTreeSet<u32>,
}

/// What a range of `lut` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// The Maglev table of these backends, at these slots.
    Built(Vec<Share>),
    /// These elements, found after a restart.
    Found(Vec<u32>),
}

/// A backend's claim on a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Who, and how much of it.
    pub candidate: Candidate,
    /// The backend slot that stands in the table for it.
    pub slot: u32,
    /// Whether it stands in the second table too, that of this node's own backends.
    pub local: bool,
}

/// A prefix of `routes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The network.
    pub vpc: u32,
    /// The destination, host bits clear.
    pub address: Address,
    /// Bits of the whole key, as `RouteKey::prefix_bits` counts them.
    pub bits: u32,
}

impl Observed {
    /// The bank the programs read.
    pub fn active(&self) -> usize {
        (self.config.bank & 1) as usize
    }

    /// The id of the backend in `slot`.
    pub fn backend_at(&self, slot: u32) -> Option<BackendId> {
        self.backends.get(&slot).map(|entry| BackendId(entry.id))
    }

    /// Notes an action that was executed.
    pub fn record(&mut self, action: &Action) {
        match action {
            Action::WriteNode { slot, entry } if entry.id == 0 => {
                self.nodes.remove(slot);
            }
            Action::WriteNode { slot, entry } => {
                self.nodes.insert(*slot, *entry);
            }
            Action::SetNodeAddress { address, slot } => {
                self.node_addresses.insert(*address, *slot);
            }
            Action::RemoveNodeAddress { address } => {
                self.node_addresses.remove(address);
            }
            Action::WriteBackend { slot, entry } if entry.id == 0 => {
                self.backends.remove(slot);
            }
            Action::WriteBackend { slot, entry } => {
                self.backends.insert(*slot, *entry);
            }
            Action::SetBackendId { id, slot } => {
                self.backend_ids.insert(id.0, *slot);
            }
            Action::RemoveBackendId { id } => {
                self.backend_ids.remove(&id.0);
            }
            Action::WriteTable { range, shares, .. } | Action::KeepTable { range, shares } => {
                self.tables.insert(*range, Table::Built(shares.clone()));
            }
            Action::ResetStats { .. } => {}
            Action::WriteService { bank, slot, entry } if entry.id == 0 => {
                self.services[*bank].remove(slot);
            }
            Action::WriteService { bank, slot, entry } => {
                self.services[*bank].insert(*slot, *entry);
            }
            Action::WriteBucket { bank, write } => self.frontends[*bank].record(write),
            Action::SetRoute { prefix, entry } => {
                self.routes.insert(*prefix, *entry);
            }
            Action::RemoveRoute { prefix } => {
                self.routes.remove(prefix);
            }
            Action::AddVpc { vpc } => {
                self.vpcs.insert(*vpc);
            }
            Action::RemoveVpc { vpc } => {
                self.vpcs.remove(vpc);
            }
            Action::WriteConfig { config } => {
                self.config = *config;
                let reachable: BTreeSet<lut::Range> = self.services[self.active()]
                    .values()
                    .map(range_of)
                    .collect();
                self.tables.retain(|range, _| reachable.contains(range));
            }
            Action::SetGeneration { generation } => self.generation = *generation,
        }
    }
}

/// The range of `lut` that a service owns: its table, and that of this node's own backends.
pub fn range_of(service: &ServiceEntry) -> lut::Range {
    lut::Range {
        offset: service.lut_offset,
        len: service.lut_length.saturating_add(service.local_length),
    }
}

/// The range of `lut` that all its backends share.
pub fn table_of(service: &ServiceEntry) -> lut::Range {
    lut::Range {
        offset: service.lut_offset,
        len: service.lut_length,
    }
}
