use crate::{Address, FlowKey};

/// A connection whose client has sent a SYN, and nothing since.
pub const FLOW_OPENING: u8 = 1;
/// A connection in use.
pub const FLOW_ESTABLISHED: u8 = 2;
/// A connection that its client has begun to close, or reset.
pub const FLOW_CLOSING: u8 = 3;
/// Datagrams.
pub const FLOW_DATAGRAMS: u8 = 4;

/// The connection was met in its middle, and its backend is what the table suggested: it may be
/// another's.
pub const FLOW_GUESSED: u8 = 1;

/// Where the flow of a client to a VIP goes; `flows` finds it by the [`wide`](crate::hash::wide) hash of the
/// flow: the kernel takes a third of the time for eight bytes that it takes for a whole [`FlowKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TrackEntry {
    /// `BackendId` it was given.
    pub backend: u32,
    /// Its slot. Another backend may have it by now: compare [`Self::backend`].
    pub backend_slot: u32,
    /// `ServiceId`.
    pub service: u32,
    /// [`FLOW_OPENING`], [`FLOW_ESTABLISHED`], [`FLOW_CLOSING`] or [`FLOW_DATAGRAMS`]: says how
    /// long the entry lives after the last packet.
    pub state: u8,
    /// [`FLOW_GUESSED`].
    pub flags: u8,
    /// Port of the node that the flow is translated to, network order; 0 unless the service is
    /// [`SERVICE_NAT`](crate::SERVICE_NAT).
    pub nat_port_be: u16,
    /// `bpf_jiffies64` of the last packet that met this entry.
    pub seen_jiffies: u64,
    /// Packets that met it.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
    /// Where the entry in `nat` says that the client is; zero with [`Self::nat_port_be`].
    pub place: ClientPlace,
    /// As the client's packets are. Another flow that has the same hash goes without a note while there is
    /// this one.
    pub flow: FlowKey,
    /// Zero.
    pub padding: u32,
}
map_struct!(TrackEntry, 104);

/// Where the client of a translated flow is: where its last packet came from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClientPlace {
    /// Its own address or a router's.
    pub mac: [u8; 6],
    /// The inner of two VLAN tags the packet had: the control information behind EtherType 0x8100,
    /// network order; 0 if there were not two.
    pub inner_tag: u16,
    /// The interface it came in by.
    pub ifindex: u32,
    /// The outermost VLAN tag it had, EtherType and control information as they are in a frame; 0 if
    /// none.
    pub tag: u32,
}
map_struct!(ClientPlace, 16);

/// What becomes of a real server's answer to a translated flow; `nat` finds it by the
/// [`FlowKey`](crate::FlowKey) of the answer, real server → node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NatEntry {
    /// Put in as the destination.
    pub client: Address,
    /// Put in as the source.
    pub vip: Address,
    /// The client's port, network order.
    pub client_port_be: u16,
    /// The VIP's port, network order.
    pub vip_port_be: u16,
    /// `BackendId`.
    pub backend: u32,
    /// Its slot. Another backend may have it by now: compare [`Self::backend`].
    pub backend_slot: u32,
    /// Zero.
    pub padding: u32,
    /// `bpf_jiffies64` of the last answer, or of the last question that the flow's note did not settle.
    pub seen_jiffies: u64,
    /// Answers.
    pub packets: u64,
    /// Their bytes, with the Ethernet header.
    pub bytes: u64,
    /// Where they go.
    pub place: ClientPlace,
}
map_struct!(NatEntry, 88);

/// A client of a service with session affinity; the key of `affinity`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AffinityKey {
    /// The client's address. For sockets of this node: the cookie of its network namespace, in the
    /// last two words.
    pub client: Address,
    /// `ServiceId`.
    pub service: u32,
}
map_struct!(AffinityKey, 20);

/// The backend that a client had last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AffinityEntry {
    /// When it was last given it: `bpf_ktime_get_coarse_ns`, nanoseconds of `CLOCK_MONOTONIC_COARSE`,
    /// because how long a client keeps its backend is a number of seconds.
    pub seen_ns: u64,
    /// `BackendId`.
    pub backend: u32,
    /// Its slot. Another backend may have it by now: compare [`Self::backend`].
    pub backend_slot: u32,
}
map_struct!(AffinityEntry, 16);

/// How busy a backend is. `loads` is an array of these, indexed by backend slot; for services with
/// [`SERVICE_LEAST_LOAD`](crate::SERVICE_LEAST_LOAD) only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LoadEntry {
    /// Flows in `flows` that are open. Programs count up; the agent puts it right when it sweeps.
    pub connections: u32,
    /// The same on the other nodes that balance, as the control plane said last.
    pub elsewhere: u32,
    /// The backend's weight.
    pub weight: u32,
    /// Zero.
    pub padding: u32,
}
map_struct!(LoadEntry, 16);

/// How many flows are noted. `noted` is an array of these, indexed by [`Self::of_service`], and by
/// [`Self::OF_ALL`] for all services together. What it is for: [`noting`](crate::noting).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NotedEntry {
    /// Entries in `flows`. Programs count up; the agent puts it right when it sweeps.
    pub flows: u32,
    /// The [`noting::window`](crate::noting::window) in which the last one was noted.
    pub window: u32,
    /// How many were noted in it.
    pub in_window: u32,
    /// Zero.
    pub padding: u32,
}
map_struct!(NotedEntry, 16);

impl NotedEntry {
    /// The index in `noted` of all services together.
    pub const OF_ALL: u32 = 0;

    /// The index in `noted` of the service in slot `slot`.
    #[inline(always)]
    pub const fn of_service(slot: u32) -> u32 {
        slot + 1
    }
}

/// A packet that was fragmented; the key of `fragments` (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FragmentKey {
    /// Who sends.
    pub source: Address,
    /// Who receives.
    pub destination: Address,
    /// The network both addresses belong to.
    pub vpc: u32,
    /// As on the wire; of IPv4 in the low half.
    pub identification: u32,
    /// IP protocol number of what was fragmented.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 3],
}
map_struct!(FragmentKey, 44);

/// The ports that only its first fragment shows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FragmentPorts {
    /// Network order.
    pub source_port_be: u16,
    /// Network order.
    pub destination_port_be: u16,
}
map_struct!(FragmentPorts, 4);

/// Who may use a service; what the prefixes of `source_ranges` are made of. A prefix length counts
/// the 32 bits of the service, and 96 more before the bits of an IPv4 prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SourceRangeKey {
    /// `ServiceId`, in network order, as an LPM trie compares from the first bit on.
    pub service_be: u32,
    /// The client's address.
    pub client: Address,
}
map_struct!(SourceRangeKey, 20);

impl SourceRangeKey {
    /// Bits of a whole key.
    pub const BITS: u32 = 160;
}

/// Who else announced a VIP that this node announces; `conflicts` finds it by the VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConflictEntry {
    /// `bpf_jiffies64` of the last announcement.
    pub seen_jiffies: u64,
    /// The address it was announced with.
    pub mac: [u8; 6],
    /// Zero.
    pub padding: u16,
}
map_struct!(ConflictEntry, 16);

/// An interface that packets for VIPs arrive on; `uplinks` finds it by ifindex.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UplinkEntry {
    /// Its address.
    pub mac: [u8; 6],
    /// None defined.
    pub flags: u16,
    /// Largest packet it takes.
    pub mtu: u32,
}
map_struct!(UplinkEntry, 12);
