//! Clearing away notes of flows that have ended, and counting those that have not.
//!
//! Programs note flows and never forget them by themselves: `flows` and `nat` are no LRU maps, so
//! that a flood cannot push out a connection that lives. Every few seconds all entries are read, in
//! batches and without a lock, and those removed that had no packet for as long as their state
//! allows. On the way it is found out which services still have notes, for tables that wait for that
//! ([`crate::moving`]), and how many connections each backend has.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::Duration;

use fairlead_api::{BackendId, ServiceId};
use fairlead_dataplane_common::{
    AffinityEntry, AffinityKey, FLOW_CLOSING, FLOW_DATAGRAMS, FLOW_OPENING, FlowKey, NatEntry,
    SERVICE_AFFINITY, SERVICE_DESTINATION_HASH, SERVICE_SOURCE_HASH, TrackEntry, hash,
};

use crate::desired::{Desired, Service, Timeouts};
use crate::entries::Entries;
use crate::jiffies::Jiffies;
use crate::moving::Seconds;
use crate::sys;

/// Entries that one sweep removes from a map at most: a second's work for the processor at worst.
/// What is left is removed by the next one.
const REMOVALS_MAX: usize = 1 << 16;

/// The maps that are swept.
#[derive(Clone, Debug)]
pub struct Maps {
    /// `flows`.
    pub flows: Entries<u64, TrackEntry>,
    /// `nat`.
    pub nat: Entries<FlowKey, NatEntry>,
    /// `affinity`.
    pub affinity: Entries<AffinityKey, AffinityEntry>,
}

impl Maps {
    /// Whether a flow has a note.
    fn is_noted(&self, rules: &Rules, flow: &FlowKey) -> io::Result<bool> {
        let entry = self.flows.get(&hash::wide(&rules.desired.seed, flow))?;
        Ok(entry.is_some_and(|entry| entry.flow == *flow))
    }
}

/// What a sweep goes by.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The state in force.
    pub desired: Desired,
    /// Backends that are as good as gone.
    pub lapsed: BTreeSet<BackendId>,
    /// Services whose tables wait for their notes to go, with their `SERVICE_*`.
    pub waiting: HashMap<ServiceId, u32>,
    /// When the sweep begins.
    pub began: Seconds,
}

/// What a sweep has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// When it began.
    pub began: Seconds,
    /// Flows that are left.
    pub flows: usize,
    /// Flows that it has removed.
    pub removed: usize,
    /// How many of them each service has. Those that have none are left out.
    pub noted: HashMap<ServiceId, u32>,
    /// Open connections by backend, of services whose scheduler counts them. Those that have none
    /// are left out.
    pub connections: HashMap<BackendId, u32>,
    /// The hashes of all noted flows of the services that were waiting.
    hashes: HashMap<ServiceId, Vec<u32>>,
}

impl Swept {
    /// The hashes of all flows that are noted of a service, if it was waiting, and if that was seen
    /// after all programs had noticed what was written at `written`.
    pub fn hashes_since(&self, service: ServiceId, written: Seconds) -> Option<&[u32]> {
        if self.began <= written.saturating_add(1) {
            return None;
        }
        self.hashes.get(&service).map(Vec::as_slice)
    }

    /// A sweep that began at `began` and saw notes of these flows of waiting services.
    #[cfg(test)]
    pub(crate) fn of(began: Seconds, hashes: &[(ServiceId, &[u32])]) -> Self {
        Self {
            began,
            hashes: hashes.iter().map(|(id, of)| (*id, of.to_vec())).collect(),
            ..Self::default()
        }
    }
}

impl Rules {
    /// How long an entry lives after its last packet.
    fn lifetime(&self, entry: &TrackEntry) -> Duration {
        let Some(service) = self.desired.services.get(&ServiceId(entry.service)) else {
            // It may also be one that has come since.
            return Timeouts::default().closing;
        };
        let timeouts = &service.timeouts;
        let lifetime = match entry.state {
            FLOW_OPENING => Timeouts::OPENING,
            FLOW_CLOSING => timeouts.closing,
            FLOW_DATAGRAMS => timeouts.datagrams,
            _ => timeouts.established,
        };
        if self.is_gone(service, entry.backend) {
            lifetime.min(timeouts.closing)
        } else {
            lifetime
        }
    }

    fn is_gone(&self, service: &Service, backend: u32) -> bool {
        let id = BackendId(backend);
        !service.backends.contains_key(&id) || self.lapsed.contains(&id)
    }

    fn counts_connections(&self, service: u32) -> bool {
        let service = self.desired.services.get(&ServiceId(service));
        service.is_some_and(|service| service.scheduler.counts_connections())
    }

    /// The hash by which the programs find a flow's slot in the table of a service with `flags`.
    fn table_hash(&self, flags: u32, flow: &FlowKey) -> u32 {
        let seed = &self.desired.seed;
        if flags & (SERVICE_SOURCE_HASH | SERVICE_AFFINITY) != 0 {
            hash::source(seed, flow.vpc, &flow.source)
        } else if flags & SERVICE_DESTINATION_HASH != 0 {
            hash::destination(seed, flow.vpc, &flow.destination)
        } else {
            hash::flow(seed, flow)
        }
    }
}

/// Clears away what has ended, and says what is left.
pub(crate) fn sweep(maps: &Maps, rules: &Rules, jiffies: &Jiffies) -> io::Result<Swept> {
    let mut swept = Swept {
        began: rules.began,
        ..Swept::default()
    };
    for service in rules.waiting.keys() {
        swept.hashes.insert(*service, Vec::new());
    }
    let translations = Translations::read(&maps.nat)?;
    let mut removals = Removals::default();
    let now = jiffies.now()?;
    maps.flows.for_each_batch(|batch| {
        for (key, entry) in batch {
            // A translated flow lives as long as either side sends.
            let seen = translations.seen(&entry.flow).max(entry.seen_jiffies);
            let age = Duration::from_secs(jiffies.age(seen, now).into());
            if age >= rules.lifetime(entry) && removals.keys.len() < REMOVALS_MAX {
                removals.keys.push((*key, entry.seen_jiffies));
            } else {
                swept.count(rules, entry);
            }
        }
    })?;
    swept.removed = removals.execute(&maps.flows, |entry| entry.seen_jiffies)?;
    translations.sweep(maps, rules, jiffies)?;
    sweep_affinity(&maps.affinity, rules)?;
    Ok(swept)
}

impl Swept {
    fn count(&mut self, rules: &Rules, entry: &TrackEntry) {
        self.flows += 1;
        if entry.state != FLOW_CLOSING && rules.counts_connections(entry.service) {
            *self
                .connections
                .entry(BackendId(entry.backend))
                .or_default() += 1;
        }
        let service = ServiceId(entry.service);
        *self.noted.entry(service).or_default() += 1;
        if let Some(flags) = rules.waiting.get(&service)
            && let Some(hashes) = self.hashes.get_mut(&service)
        {
            hashes.push(rules.table_hash(*flags, &entry.flow));
        }
    }
}

/// Keys of entries that have ended, and when they were seen last.
struct Removals<K> {
    keys: Vec<(K, u64)>,
}

impl<K> Default for Removals<K> {
    fn default() -> Self {
        Self { keys: Vec::new() }
    }
}

impl<K: aya::Pod> Removals<K> {
    /// Removes them, but for those that a packet has met since; how many that were.
    fn execute<V: aya::Pod>(
        &self,
        entries: &Entries<K, V>,
        seen: impl Fn(&V) -> u64,
    ) -> io::Result<usize> {
        let mut removed = 0;
        for (key, seen_before) in &self.keys {
            if entries
                .get(key)?
                .is_some_and(|entry| seen(&entry) == *seen_before)
            {
                entries.remove(key)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Translated flows: the entries for what real servers answer, by the flow that they answer.
struct Translations {
    by_flow: HashMap<FlowKey, (FlowKey, u64)>,
}

impl Translations {
    fn read(nat: &Entries<FlowKey, NatEntry>) -> io::Result<Self> {
        let mut by_flow = HashMap::new();
        nat.for_each_batch(|batch| {
            for (key, entry) in batch {
                by_flow.insert(flow_of(key, entry), (*key, entry.seen_jiffies));
            }
        })?;
        Ok(Self { by_flow })
    }

    /// When the other side of `flow` has sent last; 0 if it is not translated.
    fn seen(&self, flow: &FlowKey) -> u64 {
        self.by_flow.get(flow).map_or(0, |(_, seen)| *seen)
    }

    /// Removes those whose flow is not noted any more. One that has just begun may be noted a moment
    /// later.
    fn sweep(&self, maps: &Maps, rules: &Rules, jiffies: &Jiffies) -> io::Result<()> {
        let now = jiffies.now()?;
        let mut removed = 0;
        for (flow, (key, seen)) in &self.by_flow {
            let age = Duration::from_secs(jiffies.age(*seen, now).into());
            if removed < REMOVALS_MAX && age >= Timeouts::OPENING && !maps.is_noted(rules, flow)? {
                remove_unless_noted(maps, rules, flow, key, *seen)?;
                removed += 1;
            }
        }
        Ok(())
    }
}

/// Removes the entry for what answers `flow`, unless the flow is noted by the time that it is gone: it may
/// have begun anew and found the entry, and programs do not look for that again.
fn remove_unless_noted(
    maps: &Maps,
    rules: &Rules,
    flow: &FlowKey,
    key: &FlowKey,
    seen: u64,
) -> io::Result<()> {
    let Some(entry) = maps
        .nat
        .get(key)?
        .filter(|entry| entry.seen_jiffies == seen)
    else {
        return Ok(());
    };
    maps.nat.remove(key)?;
    if maps.is_noted(rules, flow)? {
        maps.nat.add(key, &entry)?;
    }
    Ok(())
}

/// The flow, client → VIP, whose answers meet an entry of `nat`.
fn flow_of(key: &FlowKey, entry: &NatEntry) -> FlowKey {
    FlowKey {
        source: entry.client,
        destination: entry.vip,
        source_port_be: entry.client_port_be,
        destination_port_be: entry.vip_port_be,
        ..*key
    }
}

fn sweep_affinity(affinity: &Entries<AffinityKey, AffinityEntry>, rules: &Rules) -> io::Result<()> {
    let now = sys::coarse_now()?;
    let mut removals = Removals::default();
    affinity.for_each_batch(|batch| {
        for (key, entry) in batch {
            let service = rules.desired.services.get(&ServiceId(key.service));
            let lifetime = service
                .filter(|service| !rules.is_gone(service, entry.backend))
                .and_then(|service| service.affinity)
                .unwrap_or_default();
            let age = now.saturating_sub(Duration::from_nanos(entry.seen_ns));
            if age > lifetime && removals.keys.len() < REMOVALS_MAX {
                removals.keys.push((*key, entry.seen_ns));
            }
        }
    })?;
    removals.execute(affinity, |entry| entry.seen_ns)?;
    Ok(())
}

#[cfg(test)]
mod tests;
