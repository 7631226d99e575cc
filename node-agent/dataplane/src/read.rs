//! Reading what the maps hold, for plans and for people.

use std::collections::{BTreeMap, HashMap};

use aya::Pod;
use aya::maps::{HashMap as HashTable, MapData, PerCpuArray};
use fairlead_dataplane_common::{
    BackendStats, Counter, DropReason, DropSample, DropStats, EndpointEntry, EndpointKey,
    FlowEntry, FlowKey, LoadEntry, NatEntry, ServiceStats, TrackEntry, maps as names,
};

use crate::apply::{Error, collect};
use crate::loader::Tables;
use crate::lut;

impl Tables {
    /// The elements of a range of the LUT.
    pub fn read_table(&self, range: lut::Range) -> Result<Vec<u32>, Error> {
        // What was never ours can name a range beyond the map; it holds nothing then.
        let end = range.offset.checked_add(range.len);
        if end.is_none_or(|end| end > names::LUT_SLOTS) {
            return Ok(Vec::new());
        }
        self.lut
            .read_mapped(range.offset, range.len as usize)
            .map_err(Error::of("read", names::LUT))
    }

    /// The pods that packets can reach.
    pub fn reachable_pods(&self) -> Result<Vec<(EndpointKey, EndpointEntry)>, Error> {
        self.endpoints
            .iter()
            .collect::<Result<_, _>>()
            .map_err(Error::of("read", names::ENDPOINTS))
    }

    /// Flows from clients to pods of this node, keyed as the pods' answers; `limit` of them.
    pub fn service_flows(&self, limit: usize) -> Result<Vec<(FlowKey, FlowEntry)>, Error> {
        let taken = flows(&self.replies, names::REPLIES, limit)?;
        let newcomers = flows(&self.newcomers, names::NEWCOMERS, limit)?;
        // Of a flow that a pod has taken, its entry as a newcomer is left over.
        let mut all: HashMap<FlowKey, FlowEntry> = newcomers.into_iter().collect();
        all.extend(taken);
        Ok(all.into_iter().take(limit).collect())
    }

    /// Masqueraded flows, keyed as the pods send them; `limit` of them.
    pub fn masqueraded_flows(&self, limit: usize) -> Result<Vec<(FlowKey, FlowEntry)>, Error> {
        flows(&self.snat_out, names::SNAT_OUT, limit)
    }

    /// Flows that are noted, as the client's packets; `limit` of them.
    pub fn tracked_flows(&self, limit: usize) -> Result<Vec<(FlowKey, TrackEntry)>, Error> {
        let entries = flows(&self.flows, names::FLOWS, limit)?;
        let keyed = entries.into_iter().map(|(_, entry)| (entry.flow, entry));
        Ok(keyed.collect())
    }

    /// Translated flows, keyed as real servers answer; `limit` of them.
    pub fn translated_flows(&self, limit: usize) -> Result<Vec<(FlowKey, NatEntry)>, Error> {
        flows(&self.nat, names::NAT, limit)
    }

    /// What a service has seen, all CPUs together: beside what its backends have, and what these
    /// have, whose slots are given.
    pub fn stats_of_service(
        &self,
        slot: u32,
        backends: impl IntoIterator<Item = u32>,
    ) -> Result<ServiceStats, Error> {
        let mut sum = Self::sum(&self.service_stats, names::SERVICE_STATS, slot, |a, b| {
            a.plus(b)
        })?;
        for backend in backends {
            sum = sum.plus_backend(&self.stats_of_backend(backend)?);
        }
        Ok(sum)
    }

    /// What a backend was sent, all CPUs together.
    pub fn stats_of_backend(&self, slot: u32) -> Result<BackendStats, Error> {
        Self::sum(&self.backend_stats, names::BACKEND_STATS, slot, |a, b| {
            a.plus(b)
        })
    }

    /// The counters of a drop reason, all CPUs together.
    pub fn stats_of_drops(&self, reason: u32) -> Result<DropStats, Error> {
        Self::sum(&self.drops, names::DROPS, reason, |a, b| DropStats {
            packets: a.packets + b.packets,
            bytes: a.bytes + b.bytes,
        })
    }

    /// Drops by service slot and reason, all CPUs together.
    pub fn drops_by_service(&self) -> Result<BTreeMap<(u32, DropReason), u64>, Error> {
        let mut drops = BTreeMap::new();
        for entry in self.service_drops.iter() {
            let (key, counts) = entry.map_err(Error::of("read", names::SERVICE_DROPS))?;
            if let Some(reason) = DropReason::from_number(key.reason) {
                drops.insert((key.service, reason), counts.iter().sum());
            }
        }
        Ok(drops)
    }

    /// The last packet that was dropped for each reason of each service, by its slot; of none where the
    /// service was not known yet.
    pub fn drop_samples(&self) -> Result<BTreeMap<(DropReason, Option<u32>), DropSample>, Error> {
        let mut samples = BTreeMap::new();
        for entry in self.drop_samples.iter() {
            let (key, sample) = entry.map_err(Error::of("read", names::DROP_SAMPLES))?;
            if let Some(reason) = DropReason::from_number(key.reason) {
                samples.insert((reason, key.service.checked_sub(1)), sample);
            }
        }
        Ok(samples)
    }

    /// What is counted and is no drop, all CPUs together.
    pub fn count_of(&self, counter: Counter) -> Result<u64, Error> {
        Self::sum(&self.counters, names::COUNTERS, counter as u32, |a, b| {
            a + b
        })
    }

    /// How busy a backend is; zero if no scheduler asks.
    pub fn load(&self, slot: u32) -> Result<LoadEntry, Error> {
        self.loads
            .get(slot)
            .map_err(Error::of("read", names::LOADS))
    }

    fn sum<V: Pod + Default>(
        array: &PerCpuArray<MapData, V>,
        name: &'static str,
        index: u32,
        add: impl Fn(V, &V) -> V,
    ) -> Result<V, Error> {
        let values = array.get(&index, 0).map_err(Error::of("read", name))?;
        Ok(values.iter().fold(V::default(), add))
    }
}

fn flows<K: Pod, V: Pod>(
    table: &HashTable<MapData, K, V>,
    name: &'static str,
    limit: usize,
) -> Result<Vec<(K, V)>, Error> {
    collect(table.iter().take(limit), name)
}
