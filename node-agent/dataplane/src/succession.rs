//! From one version of the maps' layouts to another, without a packet lost.
//!
//! The programs of the version before stay at their hooks, with its maps, until this version's maps
//! hold a whole state: they balance by what they were told last. What connections need is *one* map
//! for both versions, pinned in both folders, wherever its layout has stayed the same; so nothing
//! that a program notes is lost in the change, however long that takes. What only an agent writes is
//! copied, and the first state is applied to that as it is after a restart: tables keep their open
//! windows, and backends their slots, which noted flows name.
//!
//! A folder that has links has whole maps, at any moment; one that has none is not served from, and
//! may be removed. This holds for an older version after a newer one just as well.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapType};
use fairlead_dataplane_common::{BackendEntry, ServiceEntry, maps};

use crate::loader::{Error, Slots, Tables, files, open_object};
use crate::observed::range_of;
use crate::sys;

/// The pins of one version of the layouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    bpffs: PathBuf,
    version: u32,
}

impl Folder {
    /// Of `version`, in a node's directory `bpffs`.
    pub(crate) fn new(bpffs: &Path, version: u32) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            version,
        }
    }

    /// Those that there are in `bpffs`, in order.
    pub(crate) fn all(bpffs: &Path) -> Result<Vec<Self>, Error> {
        let mut versions = names(bpffs)?
            .iter()
            .filter_map(|name| name.strip_prefix('v')?.parse().ok())
            .collect::<Vec<u32>>();
        versions.sort_unstable();
        let folders = versions.into_iter();
        Ok(folders.map(|version| Self::new(bpffs, version)).collect())
    }

    /// The one whose programs are at the hooks. Where an agent ended while it moved links from one
    /// folder to another, both are as good.
    pub(crate) fn serving(bpffs: &Path) -> Result<Option<Self>, Error> {
        for folder in Self::all(bpffs)? {
            if folder.has_links()? {
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.bpffs.join(format!("v{}", self.version))
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root().join("maps")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.root().join("programs")
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root().join("links")
    }

    pub(crate) fn has_links(&self) -> Result<bool, Error> {
        Ok(!names(&self.links())?.is_empty())
    }

    /// Removes it with everything in it, if it is there.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(self.root()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(files("remove", &self.root())(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The names in a directory; none if it is not there.
fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(files("list", directory)(error)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(files("list", directory))
}

/// What the elements of a map refer to, and need to be kept for them to mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    BackendSlots,
    ServiceSlots,
}

use Needs::{BackendSlots, Nothing, ServiceSlots};

/// Maps that programs write, and those of pods and uplinks, which are as they are in any version.
const SHARED: [(&str, Needs); 23] = [
    (maps::REPLIES, Nothing),
    (maps::NEWCOMERS, Nothing),
    (maps::SNAT_OUT, Nothing),
    (maps::SNAT_IN, Nothing),
    (maps::SOCKET_ORIGINS, Nothing),
    (maps::NAT, Nothing),
    (maps::FRAGMENTS, Nothing),
    (maps::FLOWS, BackendSlots),
    (maps::AFFINITY, BackendSlots),
    (maps::LOADS, BackendSlots),
    (maps::BACKEND_STATS, BackendSlots),
    (maps::ENDPOINTS, Nothing),
    (maps::PODS, Nothing),
    (maps::UPLINKS, Nothing),
    (maps::CONFLICTS, Nothing),
    (maps::PROBES, Nothing),
    (maps::COUNTERS, Nothing),
    (maps::DROPS, Nothing),
    (maps::DROP_SAMPLES, ServiceSlots),
    (maps::SERVICE_DROPS, ServiceSlots),
    (maps::SERVICE_STATS, ServiceSlots),
    (maps::NOTED, ServiceSlots),
    (maps::TURNS, ServiceSlots),
];

/// What a version takes over from the one before it.
#[derive(Debug)]
pub(crate) struct Inherited {
    before: Folder,
    keeps_backend_slots: bool,
    keeps_service_slots: bool,
    keeps_nodes: bool,
    keeps_generation: bool,
    left_out: Vec<&'static str>,
}

impl Inherited {
    /// Makes the maps of `object`, pinned in `own`, and those shared that can be.
    pub(crate) fn share(object: &[u8], before: &Folder, own: &Folder) -> Result<Self, Error> {
        // What the object's layouts are is best seen from its maps.
        drop(open_object(object, Some(&own.maps()))?);
        let are_alike = |names: &[&'static str]| -> Result<bool, Error> {
            for name in names {
                let found = Layout::of(&before.maps(), name)?;
                if found.is_none() || found != Layout::of(&own.maps(), name)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let keeps_backend_slots = are_alike(&[maps::BACKEND_IDS])?;
        let tables = [maps::CONFIG, maps::SERVICES, maps::LUT, maps::BACKENDS];
        let keeps_service_slots = keeps_backend_slots && are_alike(&tables)?;
        let mut left_out = Vec::new();
        for (name, needs) in SHARED {
            let makes_sense = match needs {
                Nothing => true,
                BackendSlots => keeps_backend_slots,
                ServiceSlots => keeps_service_slots,
            };
            if makes_sense && are_alike(&[name])? {
                put_pin(&before.maps().join(name), &own.maps().join(name))?;
            } else {
                left_out.push(name);
            }
        }
        Ok(Self {
            before: before.clone(),
            keeps_backend_slots,
            keeps_service_slots,
            keeps_nodes: are_alike(&[maps::NODES, maps::NODE_ADDRESSES])?,
            keeps_generation: are_alike(&[maps::META])?,
            left_out,
        })
    }

    /// Copies what an agent has written, and the next one goes on from. The rest follows from the
    /// state that will be applied.
    pub(crate) fn copy_tables(&self, tables: &mut Tables) -> Result<(), Error> {
        if self.keeps_generation {
            copy_one(&mut tables.meta, self.map(maps::META)?, maps::META)?;
        }
        if self.keeps_nodes {
            self.copy(&mut tables.nodes, maps::NODES)?;
            let name = maps::NODE_ADDRESSES;
            copy_entries(&mut tables.node_addresses, self.map(name)?, name)?;
        }
        if self.keeps_backend_slots {
            let name = maps::BACKEND_IDS;
            copy_entries(&mut tables.backend_ids, self.map(name)?, name)?;
        }
        if self.keeps_service_slots {
            copy_one(&mut tables.config, self.map(maps::CONFIG)?, maps::CONFIG)?;
            self.copy(&mut tables.backends, maps::BACKENDS)?;
            self.copy(&mut tables.services, maps::SERVICES)?;
            self.copy_lut(tables)
        } else if self.keeps_backend_slots {
            hold_backend_slots(tables)
        } else {
            Ok(())
        }
    }

    /// Says who serves, and what was not taken over.
    pub(crate) fn report(&self, version: u32) {
        let serving = self.before.version;
        tracing::info!(
            serving,
            version,
            "programs of another version of the maps serve until a whole state has been applied"
        );
        if !self.left_out.is_empty() {
            let maps = self.left_out.join(", ");
            tracing::warn!(
                serving,
                version,
                maps,
                "maps have another layout in the version before, and begin empty"
            );
        }
    }

    fn map(&self, name: &'static str) -> Result<MapData, Error> {
        let found = open_pinned(&self.before.maps(), name)?;
        found.ok_or(Error::Absent { name })
    }

    fn slots<V: Pod>(&self, name: &'static str) -> Result<Slots<V>, Error> {
        Slots::of(Map::Array(self.map(name)?), name)
    }

    fn copy<V: Pod>(&self, to: &mut Slots<V>, name: &'static str) -> Result<(), Error> {
        let values = self
            .slots::<V>(name)?
            .read(0, to.capacity() as usize)
            .map_err(files("read map", Path::new(name)))?;
        to.write(0, &values)
            .map_err(files("write map", Path::new(name)))
    }

    /// Copies the tables of the services in force.
    fn copy_lut(&self, tables: &mut Tables) -> Result<(), Error> {
        let name = maps::LUT;
        let read = |source| files("read map", Path::new(name))(source);
        let write = |source| files("write map", Path::new(name))(source);
        let lut = self.slots::<u32>(name)?;
        let config = tables.config.get(&0, 0).map_err(of(maps::CONFIG))?;
        let first = ServiceEntry::index(config.bank, 0);
        let services = tables
            .services
            .read(first, maps::SERVICES_MAX as usize)
            .map_err(files("read map", Path::new(maps::SERVICES)))?;
        for service in services.iter().filter(|service| service.id != 0) {
            let range = range_of(service);
            // One that is none of ours is left out, and its service gets another.
            if range
                .offset
                .checked_add(range.len)
                .is_some_and(|end| end <= lut.capacity())
            {
                let elements = lut
                    .read_mapped(range.offset, range.len as usize)
                    .map_err(read)?;
                tables
                    .lut
                    .write_mapped(range.offset, &elements)
                    .map_err(write)?;
            }
        }
        Ok(())
    }
}

/// Keeps the slots of backends whose entries have another layout: the state fills these anew.
fn hold_backend_slots(tables: &mut Tables) -> Result<(), Error> {
    for held in tables.backend_ids.iter() {
        let (id, slot) = held.map_err(of(maps::BACKEND_IDS))?;
        let entry = BackendEntry {
            id,
            ..BackendEntry::default()
        };
        tables
            .backends
            .set(slot, entry)
            .map_err(of(maps::BACKENDS))?;
    }
    Ok(())
}

fn copy_one<V: Pod>(
    to: &mut Array<MapData, V>,
    from: MapData,
    name: &'static str,
) -> Result<(), Error> {
    let from = Array::<MapData, V>::try_from(Map::Array(from)).map_err(of(name))?;
    let value = from.get(&0, 0).map_err(of(name))?;
    to.set(0, value, 0).map_err(of(name))
}

fn copy_entries<K: Pod, V: Pod>(
    to: &mut HashMap<MapData, K, V>,
    from: MapData,
    name: &'static str,
) -> Result<(), Error> {
    let from = HashMap::<MapData, K, V>::try_from(Map::HashMap(from)).map_err(of(name))?;
    for entry in from.iter() {
        let (key, value) = entry.map_err(of(name))?;
        to.insert(key, value, 0).map_err(of(name))?;
    }
    Ok(())
}

/// Has `own` be a pin of what is pinned at `before`, whatever it was.
fn put_pin(before: &Path, own: &Path) -> Result<(), Error> {
    let map = sys::pinned(before).map_err(files("open map", before))?;
    if let Some(map) = map {
        fs::remove_file(own).map_err(files("remove", own))?;
        sys::pin(map.as_fd(), own).map_err(files("pin map", own))?;
    }
    Ok(())
}

/// What has to be the same of a map for two versions to use it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Layout {
    kind: MapType,
    key_bytes: u32,
    value_bytes: u32,
    capacity: u32,
}

impl Layout {
    /// Of the map called `name` that is pinned in `directory`, if there is one.
    fn of(directory: &Path, name: &'static str) -> Result<Option<Self>, Error> {
        let Some(map) = open_pinned(directory, name)? else {
            return Ok(None);
        };
        let info = map.info().map_err(of(name))?;
        Ok(Some(Self {
            kind: info.map_type().map_err(of(name))?,
            key_bytes: info.key_size(),
            value_bytes: info.value_size(),
            capacity: info.max_entries(),
        }))
    }
}

fn open_pinned(directory: &Path, name: &'static str) -> Result<Option<MapData>, Error> {
    let path = directory.join(name);
    let found = sys::pinned(&path).map_err(files("open map", &path))?;
    found.map(MapData::from_fd).transpose().map_err(of(name))
}

fn of(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map {
        name,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_map_is_shared_or_copied_or_follows_from_the_state() {
        let shared = SHARED.map(|(name, _)| name);
        let copied = [
            maps::CONFIG,
            maps::META,
            maps::SERVICES,
            maps::LUT,
            maps::BACKENDS,
            maps::BACKEND_IDS,
            maps::NODES,
            maps::NODE_ADDRESSES,
        ];
        // Where a frontend is depends on a hash, which no size tells.
        let follow = [
            maps::FRONTENDS,
            maps::VIP_PREFIXES,
            maps::ROUTES,
            maps::VPCS,
            maps::SOURCE_RANGES,
        ];
        let named: Vec<&str> = [&shared[..], &copied, &follow].concat();
        assert_eq!(named.len(), maps::ALL.len(), "none twice");
        let named: BTreeSet<_> = named.into_iter().collect();
        assert_eq!(named, maps::ALL.iter().copied().collect());
    }
}
