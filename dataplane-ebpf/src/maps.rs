//! The maps, one declaration each. Names, meaning and capacities: `dataplane-common`'s `maps`.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap};
use fairlead_dataplane_common::maps::{
    AFFINITY_MAX, BACKENDS_MAX, CONFLICTS_MAX, COUNTERS_MAX, DROP_REASONS_MAX, DROP_SAMPLES_MAX,
    FLOWS_MAX, FRAGMENTS_MAX, FRONTEND_BUCKETS, LUT_SLOTS, NAT_MAX, NEWCOMERS_MAX, NODES_MAX,
    NOTED_MAX, PODS_MAX, REPLIES_MAX, ROUTES_MAX, SERVICE_DROPS_MAX, SERVICES_MAX, SNAT_MAX,
    SOCKETS_MAX, SOURCE_RANGES_MAX, UPLINKS_MAX, VIP_PREFIXES_MAX, VPCS_MAX,
};
use fairlead_dataplane_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, BackendStats, Config, ConflictEntry,
    DropSample, DropSampleKey, DropStats, EndpointEntry, EndpointKey, FlowEntry, FlowKey,
    FragmentKey, FragmentPorts, FrontendBucket, LoadEntry, Meta, NatEntry, NodeEntry, NotedEntry,
    PodEntry, ProbeEntry, RouteEntry, RouteKey, ServiceDropKey, ServiceEntry, ServiceStats,
    SocketKey, SocketOrigin, SourceRangeKey, TrackEntry, UplinkEntry, VipPrefix,
};

use crate::nat::Translation;
use crate::prefix;
use crate::reply::Delivery;
use crate::track::Query;

/// The node's parameters.
#[map(name = "config")]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// The agent's mark of what the maps hold. No program reads it; it is here to live as long as they.
#[map(name = "meta")]
pub static META: Array<Meta> = Array::with_max_entries(1, 0);

/// Address, port, protocol and network to service slot, in two banks.
#[map(name = "frontends")]
pub static FRONTENDS: Array<FrontendBucket> = Array::with_max_entries(2 * FRONTEND_BUCKETS, 0);

/// Service slot to table, in two banks.
#[map(name = "services")]
pub static SERVICES: Array<ServiceEntry> = Array::with_max_entries(2 * SERVICES_MAX, 0);

/// The services' tables, one behind the other. The agent writes to its memory: through calls, ten
/// million elements take seconds.
#[map(name = "lut")]
pub static LUT: Array<u32> = Array::with_max_entries(LUT_SLOTS, BPF_F_MMAPABLE);

/// Backend slot to backend.
#[map(name = "backends")]
pub static BACKENDS: Array<BackendEntry> = Array::with_max_entries(BACKENDS_MAX, 0);

/// The id that nodes tell each other to backend slot.
#[map(name = "backend_ids")]
pub static BACKEND_IDS: HashMap<u32, u32> =
    HashMap::with_max_entries(BACKENDS_MAX, BPF_F_NO_PREALLOC);

/// Node slot to node.
#[map(name = "nodes")]
pub static NODES: Array<NodeEntry> = Array::with_max_entries(NODES_MAX, 0);

/// The addresses that may encapsulate for this node.
#[map(name = "node_addresses")]
pub static NODE_ADDRESSES: HashMap<Address, u32> =
    HashMap::with_max_entries(NODES_MAX, BPF_F_NO_PREALLOC);

/// The pods here, by address.
#[map(name = "endpoints")]
pub static ENDPOINTS: HashMap<EndpointKey, EndpointEntry> =
    HashMap::with_max_entries(PODS_MAX, BPF_F_NO_PREALLOC);

/// The pods here, by the host's end of their veth pair.
#[map(name = "pods")]
pub static PODS: HashMap<u32, PodEntry> = HashMap::with_max_entries(PODS_MAX, BPF_F_NO_PREALLOC);

/// Where the cluster's addresses are.
#[map(name = "routes")]
pub static ROUTES: LpmTrie<RouteKey, RouteEntry> = LpmTrie::with_max_entries(ROUTES_MAX, 0);

/// The networks beside the default one.
#[map(name = "vpcs")]
pub static VPCS: HashMap<u32, u32> = HashMap::with_max_entries(VPCS_MAX, BPF_F_NO_PREALLOC);

/// What pods answer to clients of a VIP, and as whom.
#[map(name = "replies")]
pub static REPLIES: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(REPLIES_MAX, 0);

/// What pods may answer to clients whose flows they have not taken yet.
#[map(name = "newcomers")]
pub static NEWCOMERS: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(NEWCOMERS_MAX, 0);

/// What pods send to the outside, and as whom.
#[map(name = "snat_out")]
pub static SNAT_OUT: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(SNAT_MAX, 0);

/// What the outside answers, and to whom.
#[map(name = "snat_in")]
pub static SNAT_IN: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(SNAT_MAX, 0);

/// What sockets asked for, by what they were given.
#[map(name = "socket_origins")]
pub static SOCKET_ORIGINS: LruHashMap<SocketKey, SocketOrigin> =
    LruHashMap::with_max_entries(SOCKETS_MAX, 0);

/// Where clients' flows go, of those that are noted. Not an LRU map: what is noted stays until the
/// agent sweeps it away.
#[map(name = "flows")]
pub static FLOWS: HashMap<u64, TrackEntry> =
    HashMap::with_max_entries(FLOWS_MAX, BPF_F_NO_PREALLOC);

/// What real servers answer to translated flows, and to whom.
#[map(name = "nat")]
pub static NAT: HashMap<FlowKey, NatEntry> = HashMap::with_max_entries(NAT_MAX, BPF_F_NO_PREALLOC);

/// A translation in the making: scratch space of a CPU's, which nobody else reads.
#[map(name = "translation")]
pub static TRANSLATION: PerCpuArray<Translation> = PerCpuArray::with_max_entries(1, 0);

/// The backends that clients had last, of services with session affinity.
#[map(name = "affinity")]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityEntry> =
    LruHashMap::with_max_entries(AFFINITY_MAX, 0);

/// The ports of packets that were fragmented.
#[map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(FRAGMENTS_MAX, 0);

/// VIPs that are prefixes.
#[map(name = "vip_prefixes")]
pub static VIP_PREFIXES: LpmTrie<RouteKey, VipPrefix> =
    LpmTrie::with_max_entries(VIP_PREFIXES_MAX, 0);

/// Who may use a service.
#[map(name = "source_ranges")]
pub static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32> =
    LpmTrie::with_max_entries(SOURCE_RANGES_MAX, 0);

/// Service slot to whose turn it is.
#[map(name = "turns")]
pub static TURNS: Array<u32> = Array::with_max_entries(SERVICES_MAX, 0);

/// Backend slot to how busy it is.
#[map(name = "loads")]
pub static LOADS: Array<LoadEntry> = Array::with_max_entries(BACKENDS_MAX, 0);

/// How many flows are noted: of all services, then by service slot.
#[map(name = "noted")]
pub static NOTED: Array<NotedEntry> = Array::with_max_entries(NOTED_MAX, 0);

/// The interfaces that packets for VIPs arrive on.
#[map(name = "uplinks")]
pub static UPLINKS: HashMap<u32, UplinkEntry> =
    HashMap::with_max_entries(UPLINKS_MAX, BPF_F_NO_PREALLOC);

/// A VIP that this node announces to who else announced it.
#[map(name = "conflicts")]
pub static CONFLICTS: LruHashMap<Address, ConflictEntry> =
    LruHashMap::with_max_entries(CONFLICTS_MAX, 0);

/// The id of a node of this segment to what became of the last probe. Read on no packet's way.
#[map(name = "probes")]
pub static PROBES: HashMap<u32, ProbeEntry> =
    HashMap::with_max_entries(NODES_MAX, BPF_F_NO_PREALLOC);

/// Backend slot to counters.
#[map(name = "backend_stats")]
pub static BACKEND_STATS: PerCpuArray<BackendStats> =
    PerCpuArray::with_max_entries(BACKENDS_MAX, 0);

/// Drops by service and reason.
#[map(name = "service_drops")]
pub static SERVICE_DROPS: PerCpuHashMap<ServiceDropKey, u64> =
    PerCpuHashMap::with_max_entries(SERVICE_DROPS_MAX, BPF_F_NO_PREALLOC);

/// Drop reason to the last packet that was dropped for it.
#[map(name = "drop_samples")]
pub static DROP_SAMPLES: LruHashMap<DropSampleKey, DropSample> =
    LruHashMap::with_max_entries(DROP_SAMPLES_MAX, 0);

/// What is counted and is no drop.
#[map(name = "counters")]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// Where the question of a packet that takes a second look is put together: the stack has no room for
/// it. Not pinned, as it holds nothing from one packet to the next.
#[map(name = "query")]
pub static QUERY: PerCpuArray<Query> = PerCpuArray::with_max_entries(1, 0);

/// The same for the prefix that a packet's address is in.
#[map(name = "prefix_query")]
pub static PREFIX_QUERY: PerCpuArray<prefix::Query> = PerCpuArray::with_max_entries(1, 0);

/// The same for what a pod here is to be given.
#[map(name = "delivery")]
pub static DELIVERY: PerCpuArray<Delivery> = PerCpuArray::with_max_entries(1, 0);

/// Service slot to counters.
#[map(name = "service_stats")]
pub static SERVICE_STATS: PerCpuArray<ServiceStats> =
    PerCpuArray::with_max_entries(SERVICES_MAX, 0);

/// Drop reason to counters.
#[map(name = "drops")]
pub static DROPS: PerCpuArray<DropStats> = PerCpuArray::with_max_entries(DROP_REASONS_MAX, 0);
