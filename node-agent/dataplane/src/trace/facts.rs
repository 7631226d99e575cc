//! What the live tables say of a flow: the same reads that the programs make, one by one, so that
//! what they decide can be told with its reason.

use std::collections::BTreeSet;

use aya::maps::lpm_trie::Key;
use fairlead_dataplane_common::{
    AffinityEntry, AffinityKey, BACKEND_DRAINING, BACKEND_SILENT, BackendEntry, Config, FlowKey,
    FrontendEntry, FrontendKey, LUT_MOVING, LUT_SETTLING, LUT_SLOT_MASK, LUT_STATE_MASK, LoadEntry,
    NodeEntry, RouteKey, SERVICE_AFFINITY, SERVICE_DESTINATION_HASH, SERVICE_EXTERNAL_LOCAL,
    SERVICE_IN_TURN, SERVICE_SOURCE_HASH, SERVICE_SOURCE_RANGES, ServiceEntry, SourceRangeKey,
    TrackEntry, hash, maps,
};

use super::{Error, absent};
use crate::loader::Tables;
use crate::observed::range_of;

/// What the tables say of one flow.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The flow.
    pub key: FlowKey,
    /// The node's parameters, with the bank in force.
    pub config: Config,
    /// Whether the destination is a VIP at all, or in one.
    pub is_vip: bool,
    /// Who answers at the destination.
    pub frontend: Option<FrontendEntry>,
    /// The service behind it.
    pub service: Option<ServiceEntry>,
    /// What the pick is made by.
    pub hash: u32,
    /// Where that points; nothing if there is no backend.
    pub table_slot: Option<TableSlot>,
    /// Whose turn it is: an index into the table.
    pub turn: Option<u32>,
    /// The flow's entry in `flows`.
    pub flow: Option<TrackEntry>,
    /// What its client had last.
    pub affinity: Option<AffinityEntry>,
    /// Whether the service's source ranges have its client; nothing if it has none.
    pub is_source_allowed: Option<bool>,
}

/// An element of a service's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSlot {
    /// Its place in the service's table, or in the list of this node's own backends.
    pub index: u32,
    /// How many there are.
    pub length: u32,
    /// What it is, as the bits above the backend's slot say.
    pub state: SlotState,
    /// The backend slot it names.
    pub current: u32,
    /// The backend slot that had the flow before slots began to move.
    pub base: Option<u32>,
}

/// Whether a table slot has changed hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// It has not.
    Stable,
    /// It has, and connections of before may go on.
    Moving,
    /// It had, and those that were noted go on.
    Settling,
}

impl SlotState {
    /// Of an element of `lut`.
    pub fn of(element: u32) -> Self {
        match element & LUT_STATE_MASK {
            LUT_MOVING => Self::Moving,
            LUT_SETTLING => Self::Settling,
            _ => Self::Stable,
        }
    }

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Moving => "moving",
            Self::Settling => "settling",
        }
    }
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn read(live: &Tables, key: FlowKey) -> Result<Self, Error> {
        let config = live
            .config
            .get(&0, 0)
            .map_err(Error::map("read", maps::CONFIG))?;
        let wanted = FrontendKey::new(
            key.vpc,
            key.destination,
            key.protocol,
            key.destination_port_be,
        );
        let address = FrontendKey::of_address(key.vpc, key.destination);
        let mut facts = Self {
            key,
            config,
            is_vip: find(live, &config, &address)?.is_some(),
            frontend: find(live, &config, &wanted)?,
            service: None,
            hash: hash::flow(&config.seed, &key),
            table_slot: None,
            turn: None,
            flow: absent(
                live.flows.get(&hash::wide(&config.seed, &key), 0),
                maps::FLOWS,
            )?
            .filter(|entry| entry.flow == key),
            affinity: None,
            is_source_allowed: None,
        };
        if let Some(frontend) = facts.frontend {
            let index = ServiceEntry::index(config.bank, frontend.service);
            let service = live
                .services
                .get(index)
                .map_err(Error::map("read", maps::SERVICES))?;
            facts.add_service(live, frontend.service, service)?;
        }
        Ok(facts)
    }

    /// The key that the packet's flow has in `flows`.
    pub(super) fn noted_by(&self) -> u64 {
        hash::wide(&self.config.seed, &self.key)
    }

    fn add_service(
        &mut self,
        live: &Tables,
        slot: u32,
        service: ServiceEntry,
    ) -> Result<(), Error> {
        let has = |flags| service.flags & flags != 0;
        self.service = Some(service);
        self.hash = pick_hash(&self.config.seed, &self.key, service.flags);
        let (table, index) = if has(SERVICE_EXTERNAL_LOCAL) {
            let first = service.lut_offset + service.lut_length;
            (
                (first, service.local_length),
                service.local_index(self.hash),
            )
        } else {
            let first = service.lut_offset;
            ((first, service.lut_length), service.lut_index(self.hash))
        };
        if has(SERVICE_IN_TURN) {
            let turn = live
                .turns
                .get(&slot, 0)
                .map_err(Error::map("read", maps::TURNS))?;
            self.turn = turn.checked_rem(table.1);
        }
        if let Some(index) = index {
            let element = element(live, index)?;
            let state = SlotState::of(element);
            let base = match service.base_index(self.hash) {
                Some(index) if state != SlotState::Stable => {
                    Some(self::element(live, index)? & LUT_SLOT_MASK)
                }
                _ => None,
            };
            self.table_slot = Some(TableSlot {
                index: index - table.0,
                length: table.1,
                state,
                current: element & LUT_SLOT_MASK,
                base,
            });
        }
        if has(SERVICE_AFFINITY) {
            let key = AffinityKey {
                client: self.key.source,
                service: service.id,
            };
            self.affinity = absent(live.affinity.get(&key, 0), maps::AFFINITY)?;
        }
        if has(SERVICE_SOURCE_RANGES) {
            let key = SourceRangeKey {
                service_be: service.id.to_be(),
                client: self.key.source,
            };
            let key = Key::new(SourceRangeKey::BITS, key);
            let found = absent(live.source_ranges.get(&key, 0), maps::SOURCE_RANGES)?;
            self.is_source_allowed = Some(found.is_some());
        }
        Ok(())
    }

    /// The slots of the backends that the service can pick: those of its table, of the table before,
    /// and of this node's own list.
    pub fn backend_slots(&self, live: &Tables) -> Result<BTreeSet<u32>, Error> {
        let Some(service) = self.service else {
            return Ok(BTreeSet::new());
        };
        let range = range_of(&service);
        let elements = live
            .lut
            .read_mapped(range.offset, range.len as usize)
            .map_err(Error::map("read", maps::LUT))?;
        let slots = elements.iter().map(|element| element & LUT_SLOT_MASK);
        let mut slots: BTreeSet<u32> = slots.collect();
        slots.extend(self.flow.map(|flow| flow.backend_slot));
        slots.extend(self.affinity.map(|affinity| affinity.backend_slot));
        Ok(slots)
    }
}

/// The backend in `slot`, if there is one.
pub fn backend(live: &Tables, slot: u32) -> Result<Option<BackendEntry>, Error> {
    let entry = live
        .backends
        .get(slot)
        .map_err(Error::map("read", maps::BACKENDS))?;
    Ok(Some(entry).filter(|entry| entry.id != 0))
}

/// What state a backend is in, in a word.
pub fn backend_state(entry: &BackendEntry) -> &'static str {
    match entry.state {
        // Its new connections are others' for as long as its node is not heard of.
        BACKEND_DRAINING if entry.flags & BACKEND_SILENT != 0 => "silent",
        BACKEND_DRAINING => "draining",
        _ => "active",
    }
}

/// The node in `slot`, if there is one.
pub fn node(live: &Tables, slot: u32) -> Result<Option<NodeEntry>, Error> {
    let entry = live
        .nodes
        .get(slot)
        .map_err(Error::map("read", maps::NODES))?;
    Ok(Some(entry).filter(|entry| entry.id != 0))
}

/// How busy the backend in `slot` is.
pub fn load(live: &Tables, slot: u32) -> Result<LoadEntry, Error> {
    live.loads
        .get(slot)
        .map_err(Error::map("read", maps::LOADS))
}

/// What a service with these flags picks by: the flow, or one of its ends.
fn pick_hash(seed: &[u64; 2], key: &FlowKey, flags: u32) -> u32 {
    if flags & (SERVICE_SOURCE_HASH | SERVICE_AFFINITY) != 0 {
        hash::source(seed, key.vpc, &key.source)
    } else if flags & SERVICE_DESTINATION_HASH != 0 {
        hash::destination(seed, key.vpc, &key.destination)
    } else {
        hash::flow(seed, key)
    }
}

/// The frontend of `key`: that of the very address, or that of the longest prefix that has one. The
/// node's own addresses are in none.
fn find(live: &Tables, config: &Config, key: &FrontendKey) -> Result<Option<FrontendEntry>, Error> {
    let found = find_exact(live, config, key)?;
    if found.is_some() || config.has_vip_prefixes == 0 || config.is_own(&key.address) {
        return Ok(found);
    }
    let place = RouteKey {
        vpc_be: key.vpc.to_be(),
        address: key.address,
    };
    let mut bits = RouteKey::BITS;
    let vip = |bits| {
        absent(
            live.vip_prefixes.get(&Key::new(bits, place), 0),
            maps::VIP_PREFIXES,
        )
    };
    while let Some(prefix) = vip(bits)? {
        if let Some(found) = find_exact(live, config, &key.at_prefix(&prefix))? {
            return Ok(Some(found));
        }
        bits = prefix.bits() - 1;
    }
    Ok(None)
}

fn find_exact(
    live: &Tables,
    config: &Config,
    key: &FrontendKey,
) -> Result<Option<FrontendEntry>, Error> {
    for bucket in key.buckets() {
        let bucket = live
            .frontends
            .get(FrontendKey::index(config.bank, bucket))
            .map_err(Error::map("read", maps::FRONTENDS))?;
        if let Some(entry) = bucket.find(key) {
            return Ok(Some(*entry));
        }
    }
    Ok(None)
}

fn element(live: &Tables, index: u32) -> Result<u32, Error> {
    live.lut.get(index).map_err(Error::map("read", maps::LUT))
}
