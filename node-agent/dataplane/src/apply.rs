//! Executing a plan's actions on the maps, one at a time, and reading back what a plan decides by.

mod probes;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap as HashTable, MapData, MapError, PerCpuArray, PerCpuValues};
use fairlead_api::{Generation, ServiceId};
use fairlead_dataplane_common::{
    Address, BackendEntry, BackendStats, ConflictEntry, DropReason, DropSampleKey, EndpointEntry,
    EndpointKey, FrontendKey, LoadEntry, Meta, NotedEntry, PodEntry, RouteKey, ServiceDropKey,
    ServiceEntry, ServiceStats, SourceRangeKey, UplinkEntry, maps as names,
};

use crate::action::Action;
use crate::cuckoo;
use crate::loader::{Slots, Tables};
use crate::lut;
use crate::observed::{Load, Observed, Prefix, SourceRange, range_of};
use crate::pod_network::PodLink;

/// A map could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} map {map}")]
pub struct Error {
    operation: &'static str,
    map: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    pub(crate) fn of<E>(operation: &'static str, map: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self {
            operation,
            map,
            source: source.into(),
        }
    }
}

/// What a pod's map entries are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEntries {
    /// The pod's addresses, `::` for one it does not have.
    pub addresses: [Address; 2],
    /// The host's end of its veth pair.
    pub interface: u32,
    /// The Ethernet address of its own end.
    pub mac: [u8; 6],
}

impl From<&PodLink> for PodEntries {
    fn from(pod: &PodLink) -> Self {
        Self {
            addresses: addresses(&pod.addresses),
            interface: pod.host.index,
            mac: pod.pod_mac,
        }
    }
}

impl PodEntries {
    fn keys(&self) -> impl Iterator<Item = EndpointKey> + use<> {
        endpoint_keys(self.addresses)
    }
}

/// The addresses of a pod as maps hold them. A pod has one of each family at most.
fn addresses(of_pod: &[IpAddr]) -> [Address; 2] {
    let at = |index| of_pod.get(index).copied().map(Address::from);
    [0, 1].map(|index| at(index).unwrap_or(Address::UNSPECIFIED))
}

fn endpoint_keys(addresses: [Address; 2]) -> impl Iterator<Item = EndpointKey> {
    let held = addresses.into_iter();
    held.filter(|address| !address.is_unspecified())
        .map(|address| EndpointKey { address, vpc: 0 })
}

impl Tables {
    /// Reads everything that a plan decides by.
    pub fn observe(&self) -> Result<Observed, Error> {
        let config = self
            .config
            .get(&0, 0)
            .map_err(Error::of("read", names::CONFIG))?;
        let meta = self
            .meta
            .get(&0, 0)
            .map_err(Error::of("read", names::META))?;
        let mut observed = Observed::default();
        observed.config = config;
        observed.generation = Generation(meta.generation);
        observed.backend_ids = collect(self.backend_ids.iter(), names::BACKEND_IDS)?;
        observed.node_addresses = collect(self.node_addresses.iter(), names::NODE_ADDRESSES)?;
        observed.vpcs = collect::<_, _, BTreeMap<u32, u32>>(self.vpcs.iter(), names::VPCS)?
            .into_keys()
            .collect();
        let backends = used(
            &self.backends,
            names::BACKENDS,
            0,
            names::BACKENDS_MAX,
            |backend| backend.id != 0,
        )?;
        for (slot, entry) in backends {
            observed.backends.insert(slot, entry);
        }
        for (slot, entry) in used(&self.nodes, names::NODES, 0, names::NODES_MAX, |node| {
            node.id != 0
        })? {
            observed.record(&Action::WriteNode { slot, entry });
        }
        for bank in [0, 1] {
            let first = ServiceEntry::index(bank as u32, 0);
            let services = used(
                &self.services,
                names::SERVICES,
                first,
                names::SERVICES_MAX,
                |s| s.id != 0,
            )?;
            for (slot, entry) in services {
                observed.record(&Action::WriteService { bank, slot, entry });
            }
        }
        let frontends = |bank: u32| {
            self.frontends
                .read(
                    FrontendKey::index(bank, 0),
                    names::FRONTEND_BUCKETS as usize,
                )
                .map(cuckoo::Table::from_buckets)
                .map_err(Error::of("read", names::FRONTENDS))
        };
        observed.adopt_frontends([frontends(0)?, frontends(1)?]);
        for route in self.routes.iter() {
            let (key, entry) = route.map_err(Error::of("read", names::ROUTES))?;
            observed.routes.insert(prefix_of(&key), entry);
        }
        for prefix in self.vip_prefixes.iter() {
            let (key, _) = prefix.map_err(Error::of("read", names::VIP_PREFIXES))?;
            observed.vip_prefixes.insert(prefix_of(&key));
        }
        for range in self.source_ranges.iter() {
            let (key, _) = range.map_err(Error::of("read", names::SOURCE_RANGES))?;
            observed.source_ranges.insert(SourceRange {
                service: ServiceId(u32::from_be(key.data().service_be)),
                address: key.data().client,
                bits: key.prefix_len(),
            });
        }
        let loads = used(&self.loads, names::LOADS, 0, names::BACKENDS_MAX, |load| {
            load.weight != 0 || load.elsewhere != 0
        })?;
        for (slot, entry) in loads {
            let load = Load {
                weight: entry.weight,
                elsewhere: entry.elsewhere,
            };
            observed.loads.insert(slot, load);
        }
        let active: Vec<(u32, lut::Range)> = observed
            .services(observed.active())
            .iter()
            .map(|(slot, entry)| (slot, range_of(entry)))
            .collect();
        for (slot, range) in active {
            observed.adopt_table(slot, range, self.read_table(range)?);
        }
        Ok(observed)
    }

    /// Does what actions say each of which [may be one](Action::may_be_one) with the next.
    pub fn execute(&mut self, together: &[Action]) -> Result<(), Error> {
        let [Action::WriteBackend { slot, .. }, _, ..] = together else {
            return together
                .iter()
                .try_for_each(|action| self.execute_one(action));
        };
        let entries = together.iter().filter_map(|action| match action {
            Action::WriteBackend { entry, .. } => Some(*entry),
            _ => None,
        });
        let entries: Vec<BackendEntry> = entries.collect();
        write(&mut self.backends, names::BACKENDS, *slot, &entries)
    }

    fn execute_one(&mut self, action: &Action) -> Result<(), Error> {
        match action {
            Action::WriteNode { slot, entry } => {
                write(&mut self.nodes, names::NODES, *slot, &[*entry])
            }
            Action::SetNodeAddress { address, slot } => insert(
                &mut self.node_addresses,
                names::NODE_ADDRESSES,
                *address,
                *slot,
            ),
            Action::RemoveNodeAddress { address } => {
                remove(&mut self.node_addresses, names::NODE_ADDRESSES, address)
            }
            Action::WriteBackend { slot, entry } => {
                write(&mut self.backends, names::BACKENDS, *slot, &[*entry])
            }
            Action::SetBackendId { id, slot } => {
                insert(&mut self.backend_ids, names::BACKEND_IDS, id.0, *slot)
            }
            Action::RemoveBackendId { id } => {
                remove(&mut self.backend_ids, names::BACKEND_IDS, &id.0)
            }
            Action::WriteTable {
                range, elements, ..
            } => self
                .lut
                .write_mapped(range.offset, elements)
                .map_err(Error::of("write", names::LUT)),
            Action::KeepTable { .. } | Action::FreeTable { .. } => Ok(()),
            Action::ResetStats { slot } => self.reset_stats(*slot),
            Action::ForgetDrops { slot } => self.forget_drops(*slot),
            Action::FoldStats { slot, service } => self.fold_stats(*slot, *service),
            Action::WriteLoad { slot, load } => self.write_load(*slot, *load),
            Action::AddSourceRange { range } => self
                .source_ranges
                .insert(&source_key(range), 0, 0)
                .map_err(Error::of("write", names::SOURCE_RANGES)),
            Action::RemoveSourceRange { range } => absent_is_fine(
                self.source_ranges.remove(&source_key(range)),
                names::SOURCE_RANGES,
            ),
            Action::WriteService { bank, slot, entry } => {
                let index = ServiceEntry::index(*bank as u32, *slot);
                write(&mut self.services, names::SERVICES, index, &[*entry])
            }
            Action::WriteBucket { bank, write } => {
                let index = FrontendKey::index(*bank as u32, write.bucket);
                self::write(
                    &mut self.frontends,
                    names::FRONTENDS,
                    index,
                    &[write.content],
                )
            }
            Action::SetRoute { prefix, entry } => self
                .routes
                .insert(&trie_key(prefix), *entry, 0)
                .map_err(Error::of("write", names::ROUTES)),
            Action::RemoveRoute { prefix } => {
                absent_is_fine(self.routes.remove(&trie_key(prefix)), names::ROUTES)
            }
            Action::AddVipPrefix { prefix } => self
                .vip_prefixes
                .insert(&trie_key(prefix), prefix.vip(), 0)
                .map_err(Error::of("write", names::VIP_PREFIXES)),
            Action::RemoveVipPrefix { prefix } => absent_is_fine(
                self.vip_prefixes.remove(&trie_key(prefix)),
                names::VIP_PREFIXES,
            ),
            Action::AddVpc { vpc } => insert(&mut self.vpcs, names::VPCS, *vpc, 0),
            Action::RemoveVpc { vpc } => remove(&mut self.vpcs, names::VPCS, vpc),
            Action::WriteConfig { config } => self
                .config
                .set(0, *config, 0)
                .map_err(Error::of("write", names::CONFIG)),
            Action::SetGeneration { generation } => {
                let meta = Meta {
                    generation: generation.0,
                    schema_version: names::SCHEMA_VERSION,
                    padding: 0,
                };
                self.meta
                    .set(0, meta, 0)
                    .map_err(Error::of("write", names::META))
            }
        }
    }

    /// Says which interfaces are uplinks, and what they are like.
    pub fn set_uplinks(&mut self, uplinks: &BTreeMap<u32, UplinkEntry>) -> Result<(), Error> {
        let held = self.known_uplinks()?;
        for interface in held.keys().filter(|held| !uplinks.contains_key(held)) {
            remove(&mut self.uplinks, names::UPLINKS, interface)?;
        }
        for (interface, entry) in uplinks {
            if held.get(interface) != Some(entry) {
                insert(&mut self.uplinks, names::UPLINKS, *interface, *entry)?;
            }
        }
        Ok(())
    }

    /// Reads and forgets who else has announced VIPs of this node.
    pub fn take_conflicts(&mut self) -> Result<BTreeMap<IpAddr, ConflictEntry>, Error> {
        let held: BTreeMap<Address, ConflictEntry> =
            collect(self.conflicts.iter(), names::CONFLICTS)?;
        for vip in held.keys() {
            remove(&mut self.conflicts, names::CONFLICTS, vip)?;
        }
        Ok(held
            .into_iter()
            .map(|(vip, entry)| (vip.into(), entry))
            .collect())
    }

    /// The interfaces that the programs know as uplinks.
    pub fn known_uplinks(&self) -> Result<BTreeMap<u32, UplinkEntry>, Error> {
        collect(self.uplinks.iter(), names::UPLINKS)
    }

    /// Lets packets reach a pod, and lets it send.
    pub fn set_pod(&mut self, pod: &PodEntries) -> Result<(), Error> {
        let guard = PodEntry {
            addresses: pod.addresses,
            vpc: 0,
            flags: 0,
        };
        insert(&mut self.pods, names::PODS, pod.interface, guard)?;
        let endpoint = EndpointEntry {
            ifindex: pod.interface,
            mac: pod.mac,
            flags: 0,
        };
        for key in pod.keys() {
            insert(&mut self.endpoints, names::ENDPOINTS, key, endpoint)?;
        }
        Ok(())
    }

    /// The reverse of [`Self::set_pod`], for a pod of these addresses.
    pub fn remove_pod(&mut self, of_pod: &[IpAddr], interface: Option<u32>) -> Result<(), Error> {
        for key in endpoint_keys(addresses(of_pod)) {
            remove(&mut self.endpoints, names::ENDPOINTS, &key)?;
        }
        match interface {
            Some(interface) => remove(&mut self.pods, names::PODS, &interface),
            None => Ok(()),
        }
    }

    /// Forgets every pod but `kept`.
    pub fn retain_pods(&mut self, kept: &[PodEntries]) -> Result<(), Error> {
        for (key, _) in self.reachable_pods()? {
            if !kept.iter().any(|pod| pod.keys().any(|kept| kept == key)) {
                remove(&mut self.endpoints, names::ENDPOINTS, &key)?;
            }
        }
        let guards: BTreeMap<u32, PodEntry> = collect(self.pods.iter(), names::PODS)?;
        for interface in guards.into_keys() {
            if !kept.iter().any(|pod| pod.interface == interface) {
                remove(&mut self.pods, names::PODS, &interface)?;
            }
        }
        Ok(())
    }

    /// Sets how many connections a backend has on this node.
    pub fn set_connections(&mut self, slot: u32, connections: u32) -> Result<(), Error> {
        let entry = self.load(slot)?;
        if entry.connections == connections {
            return Ok(());
        }
        let entry = LoadEntry {
            connections,
            ..entry
        };
        write(&mut self.loads, names::LOADS, slot, &[entry])
    }

    /// Sets how many flows are noted, of all services and of each one by its slot.
    pub fn set_noted(
        &mut self,
        of_all: usize,
        by_service: &HashMap<u32, u32>,
    ) -> Result<(), Error> {
        let held = self.noted.read(0, names::NOTED_MAX as usize);
        let held = held.map_err(Error::of("read", names::NOTED))?;
        let of_services = by_service
            .iter()
            .map(|(slot, flows)| (NotedEntry::of_service(*slot), *flows));
        let of_all = u32::try_from(of_all).unwrap_or(u32::MAX);
        for (index, flows) in of_services.chain([(NotedEntry::OF_ALL, of_all)]) {
            let before = held.get(index as usize).copied().unwrap_or_default();
            if before.flows != flows {
                // What is noted meanwhile is lost to the sum until it is put right again.
                let entry = NotedEntry { flows, ..before };
                write(&mut self.noted, names::NOTED, index, &[entry])?;
            }
        }
        Ok(())
    }

    fn write_load(&mut self, slot: u32, load: Load) -> Result<(), Error> {
        let entry = if load == Load::default() {
            LoadEntry::default()
        } else {
            LoadEntry {
                weight: load.weight,
                elsewhere: load.elsewhere,
                ..self.load(slot)?
            }
        };
        write(&mut self.loads, names::LOADS, slot, &[entry])
    }

    fn reset_stats(&mut self, slot: u32) -> Result<(), Error> {
        let zeroes = vec![ServiceStats::default(); cpus(names::SERVICE_STATS)?];
        write_per_cpu(&mut self.service_stats, names::SERVICE_STATS, slot, zeroes)
    }

    fn forget_drops(&mut self, slot: u32) -> Result<(), Error> {
        for reason in DropReason::ALL {
            let key = ServiceDropKey {
                service: slot,
                reason: *reason as u32,
            };
            absent_is_fine(self.service_drops.remove(&key), names::SERVICE_DROPS)?;
            let key = DropSampleKey {
                service: slot + 1,
                reason: *reason as u32,
            };
            absent_is_fine(self.drop_samples.remove(&key), names::DROP_SAMPLES)?;
        }
        Ok(())
    }

    fn fold_stats(&mut self, slot: u32, service: Option<u32>) -> Result<(), Error> {
        let counted = self
            .backend_stats
            .get(&slot, 0)
            .map_err(Error::of("read", names::BACKEND_STATS))?;
        if counted.iter().all(|one| *one == BackendStats::default()) {
            return Ok(());
        }
        if let Some(service) = service {
            let before = self
                .service_stats
                .get(&service, 0)
                .map_err(Error::of("read", names::SERVICE_STATS))?;
            // Drops that are counted in between are lost to the sum; they are in `drops` all the same.
            let sums = before.iter().zip(counted.iter());
            let sums = sums.map(|(before, counted)| before.plus_backend(counted));
            let sums = sums.collect();
            write_per_cpu(&mut self.service_stats, names::SERVICE_STATS, service, sums)?;
        }
        let zeroes = vec![BackendStats::default(); counted.len()];
        write_per_cpu(&mut self.backend_stats, names::BACKEND_STATS, slot, zeroes)
    }
}

fn cpus(name: &'static str) -> Result<usize, Error> {
    aya::util::nr_cpus().map_err(|(_, source)| Error::of("count CPUs for", name)(source))
}

fn write_per_cpu<V: Pod>(
    array: &mut PerCpuArray<MapData, V>,
    name: &'static str,
    slot: u32,
    values: Vec<V>,
) -> Result<(), Error> {
    let values = PerCpuValues::try_from(values).map_err(Error::of("write", name))?;
    array.set(slot, values, 0).map_err(Error::of("write", name))
}

fn write<V: Pod>(
    slots: &mut Slots<V>,
    name: &'static str,
    first: u32,
    values: &[V],
) -> Result<(), Error> {
    slots.write(first, values).map_err(Error::of("write", name))
}

/// The elements of `first..first + count` that are in use, by their distance from `first`.
fn used<V: Pod>(
    slots: &Slots<V>,
    name: &'static str,
    first: u32,
    count: u32,
    in_use: impl Fn(&V) -> bool,
) -> Result<BTreeMap<u32, V>, Error> {
    let values = slots
        .read(first, count as usize)
        .map_err(Error::of("read", name))?;
    Ok((0..)
        .zip(values)
        .filter(|(_, value)| in_use(value))
        .collect())
}

fn trie_key(prefix: &Prefix) -> Key<RouteKey> {
    Key::new(
        prefix.bits,
        RouteKey {
            vpc_be: prefix.vpc.to_be(),
            address: prefix.address,
        },
    )
}

fn prefix_of(key: &Key<RouteKey>) -> Prefix {
    let RouteKey { vpc_be, address } = key.data();
    Prefix {
        vpc: u32::from_be(vpc_be),
        address,
        bits: key.prefix_len(),
    }
}

fn source_key(range: &SourceRange) -> Key<SourceRangeKey> {
    Key::new(
        range.bits,
        SourceRangeKey {
            service_be: range.service.0.to_be(),
            client: range.address,
        },
    )
}

pub(crate) fn collect<K, V, C: FromIterator<(K, V)>>(
    entries: impl Iterator<Item = Result<(K, V), MapError>>,
    name: &'static str,
) -> Result<C, Error> {
    entries
        .collect::<Result<C, _>>()
        .map_err(Error::of("read", name))
}

fn insert<K: Pod, V: Pod>(
    table: &mut HashTable<MapData, K, V>,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), Error> {
    table
        .insert(key, value, 0)
        .map_err(Error::of("write", name))
}

fn remove<K: Pod, V: Pod>(
    table: &mut HashTable<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<(), Error> {
    absent_is_fine(table.remove(key), name)
}

fn absent_is_fine(result: Result<(), MapError>, name: &'static str) -> Result<(), Error> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::of("remove from", name)),
    }
}
