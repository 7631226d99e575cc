//! Names, versions and capacities of the maps.
//!
//! A name has at most 15 bytes (`BPF_OBJ_NAME_LEN` less its terminator). Arrays are allocated when
//! they are created; hash maps grow up to their capacity, except LRU ones, which are allocated.

/// Version of all layouts in this crate, part of the pin path. Changing a struct, a capacity's
/// meaning or the hash of frontends means raising it. An agent takes over the maps of another version
/// that keep their name, kind, sizes and capacity: one whose elements mean something else gets another
/// name.
pub const SCHEMA_VERSION: u32 = 6;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident $value:literal,)*) => {
        $(
            $(#[$doc])*
            pub const $name: &str = $value;
            const _: () = assert!($value.len() <= 15, "the kernel cuts longer names");
        )*

        /// Every map that is pinned.
        pub const ALL: &[&str] = &[$($name,)*];
    };
}

names! {
    /// Array of one [`Config`](crate::Config).
    CONFIG "config",
    /// Array of one [`Meta`](crate::Meta); the programs do not read it.
    META "meta",
    /// Array of [`FrontendBucket`](crate::FrontendBucket), two banks of [`FRONTEND_BUCKETS`].
    FRONTENDS "frontends",
    /// LPM trie: [`RouteKey`](crate::RouteKey) → [`VipPrefix`](crate::VipPrefix).
    VIP_PREFIXES "vip_prefixes",
    /// Array of [`ServiceEntry`](crate::ServiceEntry), two banks of [`SERVICES_MAX`].
    SERVICES "services",
    /// Array of `u32` that can be mapped: backend slots by table slot, see [`LUT_SLOT_MASK`](crate::LUT_SLOT_MASK).
    LUT "lut",
    /// Array of [`BackendEntry`](crate::BackendEntry) by backend slot.
    BACKENDS "backends",
    /// Hash: `BackendId` (`u32`) → backend slot (`u32`).
    BACKEND_IDS "backend_ids",
    /// Array of [`NodeEntry`](crate::NodeEntry) by node slot.
    NODES "nodes",
    /// Hash: [`Address`](crate::Address) of another node → node slot (`u32`). Who may encapsulate.
    NODE_ADDRESSES "node_addresses",
    /// Hash: [`EndpointKey`](crate::EndpointKey) → [`EndpointEntry`](crate::EndpointEntry).
    ENDPOINTS "endpoints",
    /// Hash: ifindex (`u32`) of the host's end of a pod's veth → [`PodEntry`](crate::PodEntry).
    PODS "pods",
    /// LPM trie: [`RouteKey`](crate::RouteKey) → [`RouteEntry`](crate::RouteEntry).
    ROUTES "routes",
    /// Hash: VNI (`u32`) of each VPC beside the default one → 0 (`u32`).
    VPCS "vpcs",
    /// LRU hash: [`FlowKey`](crate::FlowKey) pod → client, to [`FlowEntry`](crate::FlowEntry) VIP.
    REPLIES "replies",
    /// LRU hash: the same of flows that no pod is known to have taken yet.
    NEWCOMERS "newcomers",
    /// LRU hash: [`FlowKey`](crate::FlowKey) pod → outside, to [`FlowEntry`](crate::FlowEntry).
    SNAT_OUT "snat_out",
    /// LRU hash: [`FlowKey`](crate::FlowKey) outside → node, to [`FlowEntry`](crate::FlowEntry).
    SNAT_IN "snat_in",
    /// LRU hash: [`SocketKey`](crate::SocketKey) → [`SocketOrigin`](crate::SocketOrigin).
    SOCKET_ORIGINS "socket_origins",
    /// Hash: [`hash::wide`](crate::hash::wide) of client → VIP, to [`TrackEntry`](crate::TrackEntry).
    FLOWS "flows",
    /// Hash: [`FlowKey`](crate::FlowKey) real server → node, to [`NatEntry`](crate::NatEntry).
    NAT "nat",
    /// LRU hash: [`AffinityKey`](crate::AffinityKey) → [`AffinityEntry`](crate::AffinityEntry).
    AFFINITY "affinity",
    /// LRU hash: [`FragmentKey`](crate::FragmentKey) → [`FragmentPorts`](crate::FragmentPorts).
    FRAGMENTS "fragments",
    /// LPM trie: [`SourceRangeKey`](crate::SourceRangeKey) → 0 (`u32`).
    SOURCE_RANGES "source_ranges",
    /// Array of `u32` by service slot: whose turn it is, see
    /// [`SERVICE_IN_TURN`](crate::SERVICE_IN_TURN).
    TURNS "turns",
    /// Array of [`LoadEntry`](crate::LoadEntry) by backend slot.
    LOADS "loads",
    /// Array of [`NotedEntry`](crate::NotedEntry): of all services, then by service slot.
    NOTED "noted",
    /// Hash: ifindex (`u32`) → [`UplinkEntry`](crate::UplinkEntry).
    UPLINKS "uplinks",
    /// LRU hash: [`Address`](crate::Address) of a VIP → [`ConflictEntry`](crate::ConflictEntry).
    CONFLICTS "conflicts",
    /// Hash: id (`u32`) of a node of this segment → [`ProbeEntry`](crate::ProbeEntry).
    PROBES "probes",
    /// Per-CPU array of [`BackendStats`](crate::BackendStats) by backend slot.
    BACKEND_STATS "backend_stats",
    /// Per-CPU hash: [`ServiceDropKey`](crate::ServiceDropKey) → `u64`.
    SERVICE_DROPS "service_drops",
    /// LRU hash: [`DropSampleKey`](crate::DropSampleKey) → [`DropSample`](crate::DropSample).
    DROP_SAMPLES "drop_samples",
    /// Per-CPU array of `u64` by [`Counter`](crate::Counter).
    COUNTERS "counters",
    /// Per-CPU array of [`ServiceStats`](crate::ServiceStats) by service slot.
    SERVICE_STATS "service_stats",
    /// Per-CPU array of [`DropStats`](crate::DropStats) by [`DropReason`](crate::DropReason).
    DROPS "drops",
}

/// Buckets of one bank of `frontends`, a power of two. Two entries each: with 89 % as the most a
/// cuckoo table of this shape fills to, some 116,000 frontends. 4 MiB a bank.
pub const FRONTEND_BUCKETS: u32 = 1 << 16;
/// Frontends the agent accepts: a load of 76 %, where insertion never needs a long search.
pub const FRONTENDS_MAX: u32 = 100_000;
/// VIPs that are prefixes.
pub const VIP_PREFIXES_MAX: u32 = 1 << 12;
/// How many of them an address may be in: programs look for each that has nobody at the port.
pub const VIP_PREFIXES_NESTED_MAX: u32 = 4;
/// Service ports of one bank of `services`. 1 MiB a bank; `service_stats` 3.5 MiB a CPU.
pub const SERVICES_MAX: u32 = 1 << 16;
/// Slots of `lut`. 10,000 services of 10 backends need 1009 slots each, 10.1 million in all, and a
/// changed service holds two regions until the flip. 128 MiB: the kernel gives each eight bytes.
pub const LUT_SLOTS: u32 = 1 << 24;
/// Backends of all services. 8 MiB.
pub const BACKENDS_MAX: u32 = 1 << 18;
/// Nodes of the cluster, this one included, and real servers outside of it. 640 KiB.
pub const NODES_MAX: u32 = 1 << 14;
/// Pods of this node, well above Kubernetes' 110.
pub const PODS_MAX: u32 = 1 << 12;
/// Prefixes: a range and an address for each node, and the cluster's own.
pub const ROUTES_MAX: u32 = 1 << 14;
/// Networks beside the default one.
pub const VPCS_MAX: u32 = 1 << 12;
/// Flows from clients to pods of this node. About 150 bytes each, 38 MiB.
pub const REPLIES_MAX: u32 = 1 << 18;
/// Flows from clients that no pod has taken yet: more than there are in a round trip to a client, but for
/// floods. About 150 bytes each, 10 MiB.
pub const NEWCOMERS_MAX: u32 = 1 << 16;
/// Masqueraded flows of this node's pods, in each direction. About 150 bytes each, 2 × 19 MiB.
pub const SNAT_MAX: u32 = 1 << 17;
/// Translated sockets of this node. About 110 bytes each, 7 MiB.
pub const SOCKETS_MAX: u32 = 1 << 16;
/// Flows of clients that are noted. Entries take memory (about 140 bytes each) only while they are
/// in use: 36 MiB at most.
pub const FLOWS_MAX: u32 = 1 << 18;
/// Translated flows, each of which is noted too. About 170 bytes each, 43 MiB at most.
pub const NAT_MAX: u32 = FLOWS_MAX;
/// Elements of `noted`: 1 MiB.
pub const NOTED_MAX: u32 = SERVICES_MAX + 1;
/// Clients of services with session affinity. About 100 bytes each, 12 MiB.
pub const AFFINITY_MAX: u32 = 1 << 17;
/// Fragmented packets on their way. About 110 bytes each, 1.8 MiB.
pub const FRAGMENTS_MAX: u32 = 1 << 14;
/// Prefixes of all services' source ranges.
pub const SOURCE_RANGES_MAX: u32 = 1 << 16;
/// Interfaces that packets for VIPs arrive on.
pub const UPLINKS_MAX: u32 = 64;
/// VIPs that somebody else announces too. About 100 bytes each, 100 KiB.
pub const CONFLICTS_MAX: u32 = 1 << 10;
/// Pairs of a service and a reason that are counted apart; what finds no room is counted by reason
/// only.
pub const SERVICE_DROPS_MAX: u32 = 1 << 13;
/// Pairs of a service and a reason whose last packet is kept. About 200 bytes each, 200 KiB.
pub const DROP_SAMPLES_MAX: u32 = 1 << 10;
/// Room for counters to come.
pub const COUNTERS_MAX: u32 = 64;
/// Room for reasons to come. 1 KiB a CPU.
pub const DROP_REASONS_MAX: u32 = 64;

/// First port used to masquerade: above Linux's default ephemeral range (32768–60999), so the
/// node's own sockets never meet it.
pub const SNAT_PORT_MIN: u16 = 61_000;
/// Last port used to masquerade.
pub const SNAT_PORT_MAX: u16 = 65_535;

/// First port used for translated flows (`nat`). They are told apart by the real server's address
/// and port, so the range may be shared with sockets that listen; it ends below Linux's default
/// ephemeral range, whose sockets connect to real servers themselves, and below Kubernetes' node ports
/// (30000–32767), whose frontends go before answers.
pub const NAT_PORT_MIN: u16 = 10_000;
/// Last port used for translated flows.
pub const NAT_PORT_MAX: u16 = 29_999;

const _: () = assert!(FRONTEND_BUCKETS.is_power_of_two());
const _: () = assert!(FRONTENDS_MAX < FRONTEND_BUCKETS * crate::BUCKET_ENTRIES as u32 * 89 / 100);
const _: () = assert!(BACKENDS_MAX <= crate::LUT_SLOT_MASK);
