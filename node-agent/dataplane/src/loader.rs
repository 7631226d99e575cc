//! The programs and maps in the kernel.
//!
//! Everything is pinned below `<bpffs>/v<schema version>/`: `maps/`, `programs/` and `links/`. A
//! loader that finds maps pinned adopts them, loads its own programs over them, and puts these into
//! the pinned links' place; packets meet the old program or the new one, never none. What it does
//! with maps of another version: [`succession`](crate::succession).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use fairlead_dataplane_common::maps;
use fairlead_dataplane_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, BackendStats, Config, ConflictEntry,
    DropSample, DropSampleKey, DropStats, EndpointEntry, EndpointKey, FlowEntry, FlowKey,
    FragmentKey, FragmentPorts, FrontendBucket, LoadEntry, Meta, NatEntry, NodeEntry, NotedEntry,
    PodEntry, ProbeEntry, RouteEntry, RouteKey, ServiceDropKey, ServiceEntry, ServiceStats,
    SocketKey, SocketOrigin, SourceRangeKey, TrackEntry, UplinkEntry, VipPrefix,
};

use crate::entries::Entries;
use crate::links::{self, Attachment, Hook, Links};
use crate::object;
use crate::succession::{Folder, Inherited};
use crate::sweep;
use crate::sys;

/// Why programs or maps are not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary has none.
    #[error(transparent)]
    Object(#[from] object::Missing),
    /// The object was not accepted.
    #[error("load the eBPF object")]
    Load(#[source] Box<EbpfError>),
    /// The verifier refused a program, or the kernel cannot run it.
    #[error("load program {name}")]
    Program {
        /// The program's name.
        name: &'static str,
        /// The verifier's log is in here.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object lacks something this binary expects: they were not built together.
    #[error("the eBPF object has no {name}")]
    Absent {
        /// What is missing.
        name: &'static str,
    },
    /// A map is of another kind or size than this binary expects.
    #[error("open map {name}")]
    Map {
        /// The map's name.
        name: &'static str,
        /// What does not fit.
        #[source]
        source: Box<MapError>,
    },
    /// A pinned map was made for another layout under the same schema version.
    #[error("map {name} was pinned with a layout of {found}, not {expected}")]
    Layout {
        /// The map's name.
        name: &'static str,
        /// Key size, value size and capacity of the pinned map.
        found: String,
        /// The same of this binary's.
        expected: String,
    },
    /// A directory of the bpffs could not be made or read.
    #[error("{operation} {}", path.display())]
    Files {
        /// What was tried.
        operation: &'static str,
        /// With which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program could not be attached.
    #[error(transparent)]
    Link(#[from] links::Error),
}

/// Where a node's programs are attached and everything is pinned.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory of a bpffs, the node's own. One is mounted there if none is.
    pub bpffs: PathBuf,
    /// Names of the uplinks.
    pub uplinks: Vec<String>,
    /// The cgroup v2 directory whose sockets are translated.
    pub cgroup: PathBuf,
    /// Version of the maps' layouts: [`maps::SCHEMA_VERSION`], except where a test has the same
    /// layouts play two versions.
    pub version: u32,
}

impl Place {
    /// The directory of all pins of this version.
    pub fn pins(&self) -> PathBuf {
        self.folder().root()
    }

    fn folder(&self) -> Folder {
        Folder::new(&self.bpffs, self.version)
    }
}

/// The program of each hook.
const PROGRAMS: [&str; 12] = [
    "xdp_ingress",
    "tc_uplink_in",
    "tc_uplink_out",
    "tc_from_pod",
    "sock_connect4",
    "sock_connect6",
    "sock_sendmsg4",
    "sock_sendmsg6",
    "sock_recvmsg4",
    "sock_recvmsg6",
    "sock_getpeername4",
    "sock_getpeername6",
];

/// Programs, maps and links of a node.
pub struct Loaded {
    /// The maps, by type.
    pub tables: Tables,
    place: Place,
    programs: Programs,
    links: Links,
    /// Whose programs are at the hooks, while that is another version.
    predecessor: Option<Folder>,
}

impl Loaded {
    /// Loads the programs, adopting what is pinned at `place`, and attaches each to its hooks; but
    /// where programs of another version are attached, these stay until [`Self::take_over`].
    pub fn open(place: &Place) -> Result<Self, Error> {
        let object = object::embedded()?;
        mount(&place.bpffs)?;
        let own = place.folder();
        let mut predecessor = None;
        if !own.has_links()? {
            predecessor = Folder::serving(&place.bpffs)?;
        }
        if predecessor.is_some() {
            // An agent of this version has been here, and did not come so far as to serve.
            own.remove()?;
        }
        for directory in [own.maps(), own.programs(), own.links()] {
            create_directory(&directory)?;
        }
        let inherited = predecessor
            .as_ref()
            .map(|before| Inherited::share(object, before, &own))
            .transpose()?;
        let (programs, mut tables) = Programs::load(object, Some(&own.maps()))?;
        if let Some(inherited) = inherited {
            inherited.copy_tables(&mut tables)?;
            inherited.report(place.version);
        }
        let mut loaded = Self {
            tables,
            place: place.clone(),
            programs,
            links: Links::new(own.links()),
            predecessor,
        };
        if loaded.predecessor.is_none() {
            loaded.take_over()?;
        }
        Ok(loaded)
    }

    /// The version whose programs are at the hooks, while that is not this one.
    pub fn served_by(&self) -> Option<u32> {
        self.predecessor.as_ref().map(Folder::version)
    }

    /// Puts this version's programs to their hooks, in the place of whatever programs of ours are
    /// there, and removes what other versions have pinned. The maps have to hold a whole state by
    /// now, unless no other version serves.
    ///
    /// Pins of links move here before the programs are replaced: wherever this is cut short, each
    /// version that has links has whole maps too, and an agent of any version can go on from there.
    pub fn take_over(&mut self) -> Result<(), Error> {
        let own = self.place.folder();
        let others: Vec<Folder> = Folder::all(&self.place.bpffs)?
            .into_iter()
            .filter(|folder| *folder != own)
            .collect();
        for other in &others {
            self.links.adopt(&other.links())?;
        }
        self.attach()?;
        self.programs.pin(&own.programs())?;
        for other in &others {
            other.remove()?;
        }
        if let Some(before) = self.predecessor.take() {
            tracing::info!(
                from = before.version(),
                to = own.version(),
                "programs of another version of the maps replaced"
            );
        }
        Ok(())
    }

    fn attach(&self) -> Result<(), Error> {
        let programs = &self.programs;
        let cgroup = File::open(&self.place.cgroup).map_err(files("open", &self.place.cgroup))?;
        let mut hooks = Vec::new();
        for uplink in &self.place.uplinks {
            let ifindex = links::interface_index(uplink)?;
            hooks.push(Hook::Xdp { ifindex });
            hooks.push(Hook::Ingress { ifindex });
            hooks.push(Hook::Egress { ifindex });
        }
        for (attach_type, name) in [
            (sys::CGROUP_INET4_CONNECT, "sock_connect4"),
            (sys::CGROUP_INET6_CONNECT, "sock_connect6"),
            (sys::CGROUP_UDP4_SENDMSG, "sock_sendmsg4"),
            (sys::CGROUP_UDP6_SENDMSG, "sock_sendmsg6"),
            (sys::CGROUP_UDP4_RECVMSG, "sock_recvmsg4"),
            (sys::CGROUP_UDP6_RECVMSG, "sock_recvmsg6"),
            (sys::CGROUP_INET4_GETPEERNAME, "sock_getpeername4"),
            (sys::CGROUP_INET6_GETPEERNAME, "sock_getpeername6"),
        ] {
            hooks.push(Hook::Cgroup {
                directory: cgroup.as_fd(),
                attach_type,
                name,
            });
        }
        // Pods first: a pod whose veth has gone leaves a dead link behind, which goes with this.
        self.links.replace_pods(programs.fd("tc_from_pod")?)?;
        for hook in &hooks {
            self.links.put(hook, programs.fd(hook.program())?)?;
        }
        // Asking takes longer than replacing: all hooks are of one version before it begins.
        for hook in &hooks {
            links::expect_one(hook)?;
        }
        Ok(())
    }

    /// The links that are in use.
    fn links(&self) -> Links {
        match &self.predecessor {
            Some(before) => Links::new(before.links()),
            None => self.links.clone(),
        }
    }

    /// Attaches the pods' program to the host's end of a pod's veth. Does nothing if it is attached.
    pub fn attach_pod_veth(&self, ifindex: u32) -> Result<(), Error> {
        const NAME: &str = "tc_from_pod";
        let hook = Hook::Pod { ifindex };
        let Some(before) = &self.predecessor else {
            return Ok(self.links.attach(&hook, self.programs.fd(NAME)?)?);
        };
        let path = before.programs().join(NAME);
        let program = sys::pinned(&path).map_err(files("open program", &path))?;
        let program = program.ok_or(Error::Absent { name: NAME })?;
        Ok(self.links().attach(&hook, program.as_fd())?)
    }

    /// Detaches it. Does nothing if it is not attached, or if the veth has gone.
    pub fn detach_pod_veth(&self, ifindex: u32) -> Result<(), Error> {
        Ok(self.links().detach(&Hook::Pod { ifindex })?)
    }

    /// What is attached, by the links' names.
    pub fn attachments(&self) -> Result<BTreeMap<String, Attachment>, Error> {
        Ok(self.links().attachments()?)
    }

    /// The tags of the programs that are attached to an uplink: what XDP runs, and TC on arrival.
    pub fn attached_tags(&self, ifindex: u32) -> Result<[Option<[u8; 8]>; 2], Error> {
        let links = self.links();
        Ok([
            links.program_tag(&Hook::Xdp { ifindex })?,
            links.program_tag(&Hook::Ingress { ifindex })?,
        ])
    }

    /// The programs, to be run on packets of one's own.
    pub fn programs_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Detaches every program of the node at `place` and removes every pin, of any schema version.
    pub fn remove(place: &Place) -> Result<(), Error> {
        // Removing the last pin of a link detaches it; maps and programs go with their last user.
        match fs::remove_dir_all(&place.bpffs) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A bpffs mounted for this node alone: empty by now, and unmounted.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                nix::mount::umount2(&place.bpffs, nix::mount::MntFlags::MNT_DETACH)
                    .map_err(io::Error::from)
                    .and_then(|()| fs::remove_dir(&place.bpffs))
                    .map_err(files("unmount", &place.bpffs))
            }
            Err(source) => Err(files("remove", &place.bpffs)(source)),
        }
    }
}

/// The programs in the kernel, attached or not.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads the programs of `object` over the maps pinned in the directory `pins`, which are
    /// created as needed; without one, over new maps that vanish with the handles.
    pub fn load(object: &[u8], pins: Option<&Path>) -> Result<(Self, Tables), Error> {
        let mut ebpf = open_object(object, pins)?;
        for name in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or(Error::Absent { name })?;
            load(program).map_err(|source| Error::Program {
                name,
                source: Box::new(source),
            })?;
        }
        let tables = Tables::take(&mut ebpf)?;
        Ok((Self { ebpf }, tables))
    }

    /// The program of that name.
    pub fn get_mut(&mut self, name: &'static str) -> Result<&mut Program, Error> {
        self.ebpf.program_mut(name).ok_or(Error::Absent { name })
    }

    fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        let program = self.ebpf.program(name).ok_or(Error::Absent { name })?;
        let fd = program.fd().map_err(|source| Error::Program {
            name,
            source: Box::new(source),
        })?;
        Ok(fd.as_fd())
    }

    /// Pins the programs in `directory`, in place of their predecessors, for tools to find.
    fn pin(&self, directory: &Path) -> Result<(), Error> {
        for name in PROGRAMS {
            let path = directory.join(name);
            let new = directory.join(format!("{name}-new"));
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(files("remove", &new)(error));
                }
                Ok(()) | Err(_) => {}
            }
            sys::pin(self.fd(name)?, &new).map_err(files("pin program", &new))?;
            fs::rename(&new, &path).map_err(files("rename to", &path))?;
        }
        Ok(())
    }
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        other => Err(ProgramError::UnexpectedProgramType).inspect_err(|_| {
            tracing::error!(?other, "the object holds a program of no kind of ours");
        }),
    }
}

/// Typed handles of the maps; see `fairlead_dataplane_common::maps` for what each is.
#[expect(missing_docs, reason = "documented once, with the maps' names")]
pub struct Tables {
    pub config: Array<MapData, Config>,
    pub meta: Array<MapData, Meta>,
    pub frontends: Slots<FrontendBucket>,
    pub services: Slots<ServiceEntry>,
    pub lut: Slots<u32>,
    pub backends: Slots<BackendEntry>,
    pub backend_ids: HashMap<MapData, u32, u32>,
    pub nodes: Slots<NodeEntry>,
    pub node_addresses: HashMap<MapData, Address, u32>,
    pub endpoints: HashMap<MapData, EndpointKey, EndpointEntry>,
    pub pods: HashMap<MapData, u32, PodEntry>,
    pub routes: LpmTrie<MapData, RouteKey, RouteEntry>,
    pub vip_prefixes: LpmTrie<MapData, RouteKey, VipPrefix>,
    pub vpcs: HashMap<MapData, u32, u32>,
    pub replies: HashMap<MapData, FlowKey, FlowEntry>,
    pub newcomers: HashMap<MapData, FlowKey, FlowEntry>,
    pub snat_out: HashMap<MapData, FlowKey, FlowEntry>,
    pub snat_in: HashMap<MapData, FlowKey, FlowEntry>,
    pub socket_origins: HashMap<MapData, SocketKey, SocketOrigin>,
    pub flows: HashMap<MapData, u64, TrackEntry>,
    pub nat: HashMap<MapData, FlowKey, NatEntry>,
    pub affinity: HashMap<MapData, AffinityKey, AffinityEntry>,
    pub fragments: HashMap<MapData, FragmentKey, FragmentPorts>,
    pub source_ranges: LpmTrie<MapData, SourceRangeKey, u32>,
    pub turns: Array<MapData, u32>,
    pub loads: Slots<LoadEntry>,
    pub noted: Slots<NotedEntry>,
    pub uplinks: HashMap<MapData, u32, UplinkEntry>,
    pub conflicts: HashMap<MapData, Address, ConflictEntry>,
    pub probes: HashMap<MapData, u32, ProbeEntry>,
    pub backend_stats: PerCpuArray<MapData, BackendStats>,
    pub service_drops: PerCpuHashMap<MapData, ServiceDropKey, u64>,
    pub drop_samples: HashMap<MapData, DropSampleKey, DropSample>,
    pub counters: PerCpuArray<MapData, u64>,
    pub service_stats: PerCpuArray<MapData, ServiceStats>,
    pub drops: PerCpuArray<MapData, DropStats>,
    /// Those of the above that are read in batches.
    pub swept: sweep::Maps,
}

/// Opens the maps of an object: those pinned in the directory `pins`, or new ones.
pub(crate) fn open_object(object: &[u8], pins: Option<&Path>) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for name in maps::ALL {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    loader
        .load(object)
        .map_err(|error| Error::Load(Box::new(error)))
}

impl Tables {
    /// Opens the maps pinned in the directory `pins` once more, for who looks at them beside their
    /// owner. Loads no program.
    pub fn open(object: &[u8], pins: &Path) -> Result<Self, Error> {
        Self::take(&mut open_object(object, Some(pins))?)
    }

    fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let swept = sweep::Maps {
            flows: entries(ebpf, maps::FLOWS)?,
            nat: entries(ebpf, maps::NAT)?,
            affinity: entries(ebpf, maps::AFFINITY)?,
        };
        Ok(Self {
            swept,
            config: open(ebpf, maps::CONFIG, 1)?,
            meta: open(ebpf, maps::META, 1)?,
            frontends: Slots::take(ebpf, maps::FRONTENDS, 2 * maps::FRONTEND_BUCKETS)?,
            services: Slots::take(ebpf, maps::SERVICES, 2 * maps::SERVICES_MAX)?,
            lut: Slots::take(ebpf, maps::LUT, maps::LUT_SLOTS)?,
            backends: Slots::take(ebpf, maps::BACKENDS, maps::BACKENDS_MAX)?,
            backend_ids: open(ebpf, maps::BACKEND_IDS, maps::BACKENDS_MAX)?,
            nodes: Slots::take(ebpf, maps::NODES, maps::NODES_MAX)?,
            node_addresses: open(ebpf, maps::NODE_ADDRESSES, maps::NODES_MAX)?,
            endpoints: open(ebpf, maps::ENDPOINTS, maps::PODS_MAX)?,
            pods: open(ebpf, maps::PODS, maps::PODS_MAX)?,
            routes: open(ebpf, maps::ROUTES, maps::ROUTES_MAX)?,
            vip_prefixes: open(ebpf, maps::VIP_PREFIXES, maps::VIP_PREFIXES_MAX)?,
            vpcs: open(ebpf, maps::VPCS, maps::VPCS_MAX)?,
            replies: open(ebpf, maps::REPLIES, maps::REPLIES_MAX)?,
            newcomers: open(ebpf, maps::NEWCOMERS, maps::NEWCOMERS_MAX)?,
            snat_out: open(ebpf, maps::SNAT_OUT, maps::SNAT_MAX)?,
            snat_in: open(ebpf, maps::SNAT_IN, maps::SNAT_MAX)?,
            socket_origins: open(ebpf, maps::SOCKET_ORIGINS, maps::SOCKETS_MAX)?,
            flows: open(ebpf, maps::FLOWS, maps::FLOWS_MAX)?,
            nat: open(ebpf, maps::NAT, maps::NAT_MAX)?,
            affinity: open(ebpf, maps::AFFINITY, maps::AFFINITY_MAX)?,
            fragments: open(ebpf, maps::FRAGMENTS, maps::FRAGMENTS_MAX)?,
            source_ranges: open(ebpf, maps::SOURCE_RANGES, maps::SOURCE_RANGES_MAX)?,
            turns: open(ebpf, maps::TURNS, maps::SERVICES_MAX)?,
            loads: Slots::take(ebpf, maps::LOADS, maps::BACKENDS_MAX)?,
            noted: Slots::take(ebpf, maps::NOTED, maps::NOTED_MAX)?,
            uplinks: open(ebpf, maps::UPLINKS, maps::UPLINKS_MAX)?,
            conflicts: open(ebpf, maps::CONFLICTS, maps::CONFLICTS_MAX)?,
            probes: open(ebpf, maps::PROBES, maps::NODES_MAX)?,
            backend_stats: open(ebpf, maps::BACKEND_STATS, maps::BACKENDS_MAX)?,
            service_drops: open(ebpf, maps::SERVICE_DROPS, maps::SERVICE_DROPS_MAX)?,
            drop_samples: open(ebpf, maps::DROP_SAMPLES, maps::DROP_SAMPLES_MAX)?,
            counters: open(ebpf, maps::COUNTERS, maps::COUNTERS_MAX)?,
            service_stats: open(ebpf, maps::SERVICE_STATS, maps::SERVICES_MAX)?,
            drops: open(ebpf, maps::DROPS, maps::DROP_REASONS_MAX)?,
        })
    }
}

/// A large array, read and written by ranges.
pub struct Slots<V: Pod> {
    array: Array<MapData, V>,
    fd: OwnedFd,
}

impl<V: Pod> Slots<V> {
    /// Elements of the array.
    pub fn capacity(&self) -> u32 {
        self.array.len()
    }

    /// Reads one element.
    pub fn get(&self, index: u32) -> Result<V, MapError> {
        self.array.get(&index, 0)
    }

    /// Writes one element.
    pub fn set(&mut self, index: u32, value: V) -> Result<(), MapError> {
        self.array.set(index, value, 0)
    }

    /// Reads `count` elements from `first` on; fewer if the array ends before.
    pub fn read(&self, first: u32, count: usize) -> io::Result<Vec<V>> {
        sys::read_array(self.fd.as_fd(), first, count)
    }

    /// Writes `values` from `first` on.
    pub fn write(&mut self, first: u32, values: &[V]) -> io::Result<()> {
        sys::write_array(self.fd.as_fd(), first, values)
    }

    fn take(ebpf: &mut Ebpf, name: &'static str, capacity: u32) -> Result<Self, Error> {
        Self::of(take(ebpf, name, capacity)?, name)
    }

    /// The array `data`, called `name`.
    pub(crate) fn of(data: Map, name: &'static str) -> Result<Self, Error> {
        let Map::Array(map_data) = &data else {
            return Err(Error::Absent { name });
        };
        let fd = map_data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(files("duplicate the descriptor of", Path::new(name)))?;
        let array = Array::try_from(data).map_err(|source| Error::Map {
            name,
            source: Box::new(source),
        })?;
        Ok(Self { array, fd })
    }
}

impl Slots<u32> {
    /// Reads as [`Self::read`] does, from the memory of an array that can be mapped.
    pub fn read_mapped(&self, first: u32, count: usize) -> io::Result<Vec<u32>> {
        sys::read_mapped(self.fd.as_fd(), first, count)
    }

    /// Writes as [`Self::write`] does, to the memory of an array that can be mapped: a hundred
    /// times faster.
    pub fn write_mapped(&mut self, first: u32, values: &[u32]) -> io::Result<()> {
        sys::write_mapped(self.fd.as_fd(), first, values)
    }
}

/// A hash map of the object, by a descriptor of its own.
fn entries<K: Pod, V: Pod>(ebpf: &Ebpf, name: &'static str) -> Result<Entries<K, V>, Error> {
    match ebpf.map(name) {
        Some(Map::HashMap(data) | Map::LruHashMap(data)) => Entries::of(data.fd().as_fd())
            .map_err(files("duplicate the descriptor of", Path::new(name))),
        _ => Err(Error::Absent { name }),
    }
}

fn open<M>(ebpf: &mut Ebpf, name: &'static str, capacity: u32) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = take(ebpf, name, capacity)?;
    M::try_from(map).map_err(|source| Error::Map {
        name,
        source: Box::new(source),
    })
}

/// Takes a map out of the object, and refuses one that was pinned with another capacity; key and
/// value sizes are checked where it is given its type.
fn take(ebpf: &mut Ebpf, name: &'static str, capacity: u32) -> Result<Map, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Absent { name })?;
    let data = match &map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::LpmTrie(data) => data,
        _ => return Err(Error::Absent { name }),
    };
    let info = data.info().map_err(|source| Error::Map {
        name,
        source: Box::new(source),
    })?;
    if info.max_entries() != capacity {
        return Err(Error::Layout {
            name,
            found: format!("{} elements", info.max_entries()),
            expected: format!("{capacity}"),
        });
    }
    Ok(map)
}

/// Makes sure that `directory` exists and is on a bpffs, mounting one if need be.
pub fn mount(directory: &Path) -> Result<(), Error> {
    /// `BPF_FS_MAGIC` of linux/magic.h.
    const BPF_FS: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0xcafe_4a11);
    /// Where every distribution mounts it.
    const USUAL: &str = "/sys/fs/bpf";
    let is_bpffs = |path: &Path| {
        nix::sys::statfs::statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS)
    };
    let existing = directory
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    if is_bpffs(existing) {
        return create_directory(directory);
    }
    let point = if directory.starts_with(USUAL) {
        Path::new(USUAL)
    } else {
        directory
    };
    if point == directory {
        fs::create_dir_all(directory).map_err(files("create", directory))?;
    }
    nix::mount::mount(
        Some("bpffs"),
        point,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|errno| files("mount a bpffs at", point)(errno.into()))?;
    create_directory(directory)
}

fn create_directory(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(files("create", path))
}

pub(crate) fn files(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Files {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// Names of the programs with these ids, without those that have gone meanwhile.
pub(crate) fn program_names(ids: &[u32]) -> Vec<String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|program: &ProgramInfo| ids.contains(&program.id()))
        .filter_map(|program| program.name_as_str().map(str::to_owned))
        .collect()
}
