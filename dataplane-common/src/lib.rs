//! What the eBPF programs and user space agree on: map keys and values, map names and capacities,
//! drop reasons, the flow hash, checksums, and how a lookup or a pick is made.
//!
//! `no_std`, no allocation, nothing of Kubernetes. Every struct is `repr(C)` with explicit padding
//! and an asserted size, so that a key never carries uninitialised bytes into a hash map. Layouts
//! are versioned by [`maps::SCHEMA_VERSION`], which is part of the path the maps are pinned at.
//!
//! Reading a table (hash, bucket, slot) is here because kernel and user space must agree on it.
//! *Building* tables — cuckoo insertion, Maglev population, slot allocation — is the agent's and
//! lives in `node-agent/dataplane`.
//!
//! # Banks
//!
//! `frontends` and `services` hold two banks each. [`Config::bank`] names the one the programs
//! read; the agent writes the other and then flips that one byte, so a packet sees one whole
//! generation or the next, never a mixture. `lut` regions and `backends` slots that the active bank
//! can reach are not written until the *next* flip has made them unreachable.
//!
//! ```text
//! frontends[bank]  (address, port, protocol, vpc) ─► service slot
//! services[bank]   service slot                   ─► [offset, length) of lut
//! lut              offset + slot of the flow hash ─► backend slot
//! backends         backend slot                   ─► address, port, node slot
//! nodes            node slot (0 = this node)      ─► address, MAC
//! ```

#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

/// Asserts a map struct's size at compile time and, for user space, that it is plain old data.
macro_rules! map_struct {
    ($name:ty, $size:expr) => {
        const _: () = assert!(
            core::mem::size_of::<$name>() == $size,
            "the size of a map struct is part of its layout"
        );
        // SAFETY: `repr(C)`, `Copy`, fixed-width integers only, and the asserted size equals the
        // sum of the fields, so there is no implicit padding to leak or to leave uninitialised.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

mod address;
mod backend;
pub mod checksum;
mod config;
mod counter;
mod drop_reason;
mod endpoint;
mod flow;
mod frontend;
pub mod hash;
pub mod mac;
pub mod maps;
mod node;
pub mod noting;
pub mod probe;
pub mod protocol;
mod route;
mod service;
mod socket;
mod stats;
mod track;
pub mod traffic;

pub use address::Address;
pub use backend::{
    BACKEND_ACTIVE, BACKEND_DRAINING, BACKEND_EMPTY, BACKEND_SERVER, BACKEND_SILENT, BackendEntry,
};
pub use config::{Config, Meta};
pub use counter::Counter;
pub use drop_reason::DropReason;
pub use endpoint::{EndpointEntry, EndpointKey, PodEntry};
pub use flow::{FlowEntry, FlowKey};
pub use frontend::{
    BUCKET_ENTRIES, FRONTEND_ADDRESS, FRONTEND_ANNOUNCED, FRONTEND_CLUSTER, FRONTEND_EXTERNAL,
    FRONTEND_NODE_PORT, FRONTEND_USED, FrontendBucket, FrontendEntry, FrontendKey, VipPrefix,
};
pub use node::{
    NODE_ADJACENT, NODE_BY_INTERFACE, NODE_LOCAL, NODE_RESOLVED, NODE_SERVER, NODE_USED, NodeEntry,
};
pub use probe::{Probe, ProbeEntry};
pub use route::{
    ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS, ROUTE_UNREACHABLE, RouteEntry, RouteKey,
};
pub use service::{
    FORMERS_PER_SLOT, LEAST_LOAD_BACKENDS_MAX, LUT_EMPTY, LUT_MOVING, LUT_SETTLING, LUT_SLOT_MASK,
    LUT_STABLE, LUT_STATE_MASK, SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SCHEDULER_WEIGHTED_LEAST_CONNECTIONS, SERVICE_AFFINITY,
    SERVICE_DESTINATION_HASH, SERVICE_DR, SERVICE_EXTERNAL_LOCAL, SERVICE_GUE, SERVICE_IN_TURN,
    SERVICE_INTERNAL_LOCAL, SERVICE_LEAST_LOAD, SERVICE_NAT, SERVICE_NOTED,
    SERVICE_SCHEDULER_SHIFT, SERVICE_SERVERS, SERVICE_SLOW, SERVICE_SLOW_FOR_SOCKETS,
    SERVICE_SOURCE_HASH, SERVICE_SOURCE_RANGES, SERVICE_TRACK, ServiceEntry,
};
pub use socket::{SocketKey, SocketOrigin};
pub use stats::{
    BackendStats, DropSample, DropSampleKey, DropStats, SAMPLE_BYTES, ServiceDropKey, ServiceStats,
};
pub use track::{
    AffinityEntry, AffinityKey, ClientPlace, ConflictEntry, FLOW_CLOSING, FLOW_DATAGRAMS,
    FLOW_ESTABLISHED, FLOW_GUESSED, FLOW_OPENING, FragmentKey, FragmentPorts, LoadEntry, NatEntry,
    NotedEntry, SourceRangeKey, TrackEntry, UplinkEntry,
};
