//! What the maps hold, as far as a plan decides by it: read from the pinned maps when the agent
//! starts, and carried along with every action that succeeded since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use fairlead_api::{Generation, ServiceId, VpcId};
use fairlead_dataplane_common::{
    Address, BackendEntry, Config, FORMERS_PER_SLOT, FrontendKey, LUT_EMPTY, LUT_STABLE,
    NODE_SERVER, NodeEntry, RouteEntry, RouteKey, SERVICE_EXTERNAL_LOCAL, ServiceEntry,
    SourceRangeKey, VipPrefix, maps,
};
use ipnetwork::IpNetwork;

use crate::action::Action;
use crate::cuckoo;
use crate::lut;
use crate::moving::{self, Moving, Seconds};
use crate::recipe::Recipe;
use crate::slot_map::SlotMap;

/// The state of the maps. Unused elements are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The element of `config`.
    pub config: Config,
    /// What `meta` says is in force.
    pub generation: Generation,
    /// Tables in `lut`: those of the active bank's services, and those written beside them.
    pub tables: HashMap<lut::Range, Table>,
    /// `backends` by slot.
    pub backends: SlotMap<BackendEntry>,
    /// `backend_ids`: id → slot.
    pub backend_ids: HashMap<u32, u32>,
    /// `nodes` by slot.
    pub nodes: SlotMap<NodeEntry>,
    /// The slots of `nodes` that hold machines outside the cluster, by their addresses.
    pub servers: BTreeMap<Address, u32>,
    /// `node_addresses`: address → slot.
    pub node_addresses: BTreeMap<Address, u32>,
    /// `routes`.
    pub routes: BTreeMap<Prefix, RouteEntry>,
    /// `vip_prefixes`.
    pub vip_prefixes: BTreeSet<Prefix>,
    /// `vpcs`.
    pub vpcs: BTreeSet<u32>,
    /// `source_ranges`.
    pub source_ranges: BTreeSet<SourceRange>,
    /// `loads` by backend slot, of backends that are compared by their connections.
    pub loads: HashMap<u32, Load>,
    /// The service slots that have had backend slots in their tables.
    pub backend_owners: HashMap<u32, u32>,
    /// Slots of services with tables whose connections have to be looked for.
    pub moving: BTreeSet<u32>,
    /// What of `lut` no table uses.
    lut: lut::Allocator,
    /// Both banks of `services`, by slot.
    services: [SlotMap<ServiceEntry>; 2],
    /// The slots of both banks' services, by their ids.
    service_slots: [HashMap<u32, u32>; 2],
    /// Both banks of `frontends`.
    frontends: [cuckoo::Table; 2],
    /// The slots of `services` in which the banks differ.
    unlike_services: BTreeSet<u32>,
    /// The buckets of `frontends` in which the banks differ.
    unlike_buckets: BTreeSet<u32>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            config: Config::default(),
            generation: Generation::default(),
            tables: HashMap::new(),
            backends: SlotMap::new(maps::BACKENDS_MAX),
            backend_ids: HashMap::new(),
            nodes: SlotMap::new(maps::NODES_MAX),
            servers: BTreeMap::new(),
            node_addresses: BTreeMap::new(),
            routes: BTreeMap::new(),
            vip_prefixes: BTreeSet::new(),
            vpcs: BTreeSet::new(),
            source_ranges: BTreeSet::new(),
            loads: HashMap::new(),
            backend_owners: HashMap::new(),
            moving: BTreeSet::new(),
            lut: lut::Allocator::new(maps::LUT_SLOTS),
            services: [0, 1].map(|_| SlotMap::new(maps::SERVICES_MAX)),
            service_slots: Default::default(),
            frontends: Default::default(),
            unlike_services: BTreeSet::new(),
            unlike_buckets: BTreeSet::new(),
        }
    }
}

/// A range of `lut` that is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The service slot that owns it.
    pub service: u32,
    /// What is in it.
    pub content: Content,
}

/// What a range of `lut` holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The tables made from this, but for the one that packets from outside pick from, if that
    /// has slots whose connections have to be looked for.
    Built(Recipe, Option<Moving>),
    /// These elements, found after a restart.
    Found(Vec<u32>),
}

impl Content {
    /// The table that packets from outside pick from, where `entry` says how long each is.
    pub fn packet_table(&self, entry: &ServiceEntry, now: Seconds) -> Moving {
        match self {
            Self::Built(_, Some(moving)) => moving.clone(),
            Self::Built(recipe, None) => Moving::stable(recipe.packet_table()),
            Self::Found(elements) => {
                let (all, rest) = elements.split_at(elements.len().min(entry.lut_length as usize));
                let (local, rest) = rest.split_at(rest.len().min(entry.local_length as usize));
                let (base, formers) = rest.split_at(rest.len().min(entry.base_length as usize));
                let picked = if entry.flags & SERVICE_EXTERNAL_LOCAL != 0 {
                    local
                } else {
                    all
                };
                Moving::found(picked.to_vec(), base.to_vec(), formers.to_vec(), now)
            }
        }
    }
}

/// How a scheduler that counts connections sees a backend, beside those on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Load {
    /// Its weight. 0: it is not compared by its connections.
    pub weight: u32,
    /// Its connections on other nodes.
    pub elsewhere: u32,
}

/// A prefix of `source_ranges`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRange {
    /// Whose clients these are.
    pub service: ServiceId,
    /// The clients' addresses, host bits clear.
    pub address: Address,
    /// Bits of the whole key, see [`SourceRangeKey`].
    pub bits: u32,
}

impl SourceRange {
    /// The clients in `range` of a service.
    pub fn new(service: ServiceId, range: IpNetwork) -> Self {
        let family = if range.is_ipv4() { 96 } else { 0 };
        Self {
            service,
            address: range.network().into(),
            bits: SourceRangeKey::BITS - 128 + family + u32::from(range.prefix()),
        }
    }

    /// From the lowest to the highest of a service.
    pub fn all_of(service: ServiceId) -> RangeInclusive<Self> {
        let at = |word: u32| Self {
            service,
            address: Address { words: [word; 4] },
            bits: word,
        };
        at(0)..=at(u32::MAX)
    }
}

/// A prefix of `routes` or `vip_prefixes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The network.
    pub vpc: u32,
    /// The destination, host bits clear.
    pub address: Address,
    /// Bits of the whole key, as `RouteKey::prefix_bits` counts them.
    pub bits: u32,
}

impl Prefix {
    /// The addresses in `range`, of a network.
    pub fn new(vpc: u32, range: IpNetwork) -> Self {
        Self {
            vpc,
            address: range.network().into(),
            bits: RouteKey::prefix_bits(range.prefix(), range.is_ipv4()),
        }
    }

    /// The reverse.
    pub fn range(&self) -> (VpcId, IpNetwork) {
        let key = FrontendKey::of_address(self.vpc, self.address);
        (VpcId(self.vpc), range_of_key(&key.at_prefix(&self.vip())))
    }

    /// What the programs know of it if it is a VIP.
    pub fn vip(&self) -> VipPrefix {
        VipPrefix {
            network: self.address,
            length: self.bits - (RouteKey::BITS - 128),
        }
    }
}

impl Observed {
    /// The bank the programs read.
    pub fn active(&self) -> usize {
        (self.config.bank & 1) as usize
    }

    /// A bank of `services`, by slot.
    pub fn services(&self, bank: usize) -> &SlotMap<ServiceEntry> {
        &self.services[bank]
    }

    /// The slot and entry of a service in the active bank.
    pub fn service(&self, id: ServiceId) -> Option<(u32, ServiceEntry)> {
        let slot = *self.service_slots[self.active()].get(&id.0)?;
        Some((slot, *self.services[self.active()].get(slot)?))
    }

    /// A bank of `frontends`.
    pub fn frontends(&self, bank: usize) -> &cuckoo::Table {
        &self.frontends[bank]
    }

    /// What of `lut` no table uses.
    pub fn lut(&self) -> &lut::Allocator {
        &self.lut
    }

    /// The writes to the inactive bank after which both are alike. None if they are.
    pub fn level(&self) -> Vec<Action> {
        let (active, bank) = (self.active(), 1 - self.active());
        let services = self.unlike_services.iter().map(|&slot| {
            let entry = self.services[active].get(slot).copied();
            let entry = entry.unwrap_or_default();
            Action::WriteService { bank, slot, entry }
        });
        let buckets = self.unlike_buckets.iter().map(|&bucket| {
            let content = *self.frontends[active].bucket(bucket);
            let write = cuckoo::Write { bucket, content };
            Action::WriteBucket { bank, write }
        });
        services.chain(buckets).collect()
    }

    /// Takes over both banks of `frontends` as they were read.
    pub(crate) fn adopt_frontends(&mut self, banks: [cuckoo::Table; 2]) {
        self.unlike_buckets = (0..maps::FRONTEND_BUCKETS)
            .filter(|&bucket| banks[0].bucket(bucket) != banks[1].bucket(bucket))
            .collect();
        self.frontends = banks;
    }

    /// Takes over a table as it was read. One that overlaps another cannot be of our making; its
    /// service gets a new one.
    pub(crate) fn adopt_table(&mut self, service: u32, range: lut::Range, elements: Vec<u32>) {
        if range.len > 0 && self.lut.reserve(range).is_ok() {
            for element in &elements {
                let slot = moving::slot_of(*element);
                if slot != LUT_EMPTY {
                    self.backend_owners.insert(slot, service);
                }
            }
            if elements
                .iter()
                .any(|element| moving::state_of(*element) != LUT_STABLE)
            {
                self.moving.insert(service);
            }
            let content = Content::Found(elements);
            self.tables.insert(range, Table { service, content });
        }
    }

    fn set_node(&mut self, slot: u32, entry: NodeEntry) {
        let before = if entry.id == 0 {
            self.nodes.remove(slot)
        } else {
            self.nodes.insert(slot, entry)
        };
        if let Some(before) = before
            && self.servers.get(&before.address) == Some(&slot)
        {
            self.servers.remove(&before.address);
        }
        if entry.flags & NODE_SERVER != 0 {
            self.servers.insert(entry.address, slot);
        }
    }

    /// Takes over from what was known before the maps were read what they do not say: whose backend
    /// slots are that stand in no table, and since when table slots have been moving, where they
    /// are what they were.
    pub(crate) fn remember(&mut self, before: &Self) {
        for (slot, service) in &before.backend_owners {
            if self.backends.get(*slot) == before.backends.get(*slot) {
                self.backend_owners.entry(*slot).or_insert(*service);
            }
        }
        for (range, table) in &mut self.tables {
            let Some(known) = before.tables.get(range) else {
                continue;
            };
            let Some((_, entry)) = before.service_at(known.service) else {
                continue;
            };
            if let Content::Built(_, Some(moving)) = &known.content
                && known.service == table.service
                && table.content.packet_table(entry, 0) == *moving
            {
                table.content = known.content.clone();
            }
        }
    }

    fn has_moving_table(&self, slot: u32) -> bool {
        let entry = self.services[self.active()].get(slot);
        let table = entry.and_then(|entry| self.tables.get(&range_of(entry)));
        table.is_some_and(|table| matches!(table.content, Content::Built(_, Some(_))))
    }

    /// A service of the active bank by its slot.
    fn service_at(&self, slot: u32) -> Option<(u32, &ServiceEntry)> {
        Some((slot, self.services[self.active()].get(slot)?))
    }

    /// Notes an action that was executed.
    pub fn record(&mut self, action: &Action) {
        match action {
            Action::WriteNode { slot, entry } => self.set_node(*slot, *entry),
            Action::SetNodeAddress { address, slot } => {
                self.node_addresses.insert(*address, *slot);
            }
            Action::RemoveNodeAddress { address } => {
                self.node_addresses.remove(address);
            }
            Action::WriteBackend { slot, entry } if entry.id == 0 => {
                self.backends.remove(*slot);
                self.backend_owners.remove(slot);
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
            Action::WriteTable {
                service,
                range,
                recipe,
                moving,
                ..
            }
            | Action::KeepTable {
                service,
                range,
                recipe,
                moving,
            } => {
                for share in &recipe.shares {
                    self.backend_owners.insert(share.slot, *service);
                }
                if moving.is_some() {
                    self.moving.insert(*service);
                } else {
                    self.moving.remove(service);
                }
                let table = Table {
                    service: *service,
                    content: Content::Built(recipe.clone(), moving.clone()),
                };
                if self.tables.insert(*range, table).is_none() {
                    let reserved = self.lut.reserve(*range);
                    debug_assert_eq!(reserved, Ok(()), "a plan takes free ranges only");
                }
            }
            Action::FreeTable { range } => {
                if let Some(table) = self.tables.remove(range) {
                    self.lut.release(*range);
                    if !self.has_moving_table(table.service) {
                        self.moving.remove(&table.service);
                    }
                }
            }
            Action::ResetStats { .. } | Action::ForgetDrops { .. } | Action::FoldStats { .. } => {}
            Action::WriteLoad { slot, load } if *load == Load::default() => {
                self.loads.remove(slot);
            }
            Action::WriteLoad { slot, load } => {
                self.loads.insert(*slot, *load);
            }
            Action::AddSourceRange { range } => {
                self.source_ranges.insert(*range);
            }
            Action::RemoveSourceRange { range } => {
                self.source_ranges.remove(range);
            }
            Action::WriteService { bank, slot, entry } => self.set_service(*bank, *slot, *entry),
            Action::WriteBucket { bank, write } => {
                self.frontends[*bank].record(write);
                let [first, second] = &self.frontends;
                if first.bucket(write.bucket) == second.bucket(write.bucket) {
                    self.unlike_buckets.remove(&write.bucket);
                } else {
                    self.unlike_buckets.insert(write.bucket);
                }
            }
            Action::SetRoute { prefix, entry } => {
                self.routes.insert(*prefix, *entry);
            }
            Action::RemoveRoute { prefix } => {
                self.routes.remove(prefix);
            }
            Action::AddVipPrefix { prefix } => {
                self.vip_prefixes.insert(*prefix);
            }
            Action::RemoveVipPrefix { prefix } => {
                self.vip_prefixes.remove(prefix);
            }
            Action::AddVpc { vpc } => {
                self.vpcs.insert(*vpc);
            }
            Action::RemoveVpc { vpc } => {
                self.vpcs.remove(vpc);
            }
            Action::WriteConfig { config } => self.config = *config,
            Action::SetGeneration { generation } => self.generation = *generation,
        }
    }

    fn set_service(&mut self, bank: usize, slot: u32, entry: ServiceEntry) {
        let slots = &mut self.service_slots[bank];
        let previous = if entry.id == 0 {
            self.services[bank].remove(slot)
        } else {
            self.services[bank].insert(slot, entry)
        };
        if let Some(previous) = previous
            && slots.get(&previous.id) == Some(&slot)
        {
            slots.remove(&previous.id);
        }
        if entry.id != 0 {
            slots.insert(entry.id, slot);
        }
        let [first, second] = &self.services;
        if first.get(slot) == second.get(slot) {
            self.unlike_services.remove(&slot);
        } else {
            self.unlike_services.insert(slot);
        }
    }
}

/// The addresses at which a frontend answers.
pub fn range_of_key(key: &FrontendKey) -> IpNetwork {
    let address = IpAddr::from(key.address);
    let length = match (key.prefix, address) {
        (0, _) => return address.into(),
        (length, IpAddr::V4(_)) => length.saturating_sub(96),
        (length, IpAddr::V6(_)) => length,
    };
    IpNetwork::new(address, length).unwrap_or_else(|_| address.into())
}

/// The range of `lut` that a service owns: its table, that of this node's own backends, the base, and
/// former owners.
pub fn range_of(service: &ServiceEntry) -> lut::Range {
    lut::Range {
        offset: service.lut_offset,
        len: service
            .lut_length
            .saturating_add(service.local_length)
            .saturating_add(service.base_length)
            .saturating_add(service.former_length.saturating_mul(FORMERS_PER_SLOT)),
    }
}

/// The range of `lut` that all its backends share.
pub fn table_of(service: &ServiceEntry) -> lut::Range {
    lut::Range {
        offset: service.lut_offset,
        len: service.lut_length,
    }
}
