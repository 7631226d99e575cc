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
mod drop_reason;
mod endpoint;
mod flow;
mod frontend;
pub mod hash;
pub mod mac;
pub mod maps;
mod node;
pub mod protocol;
mod route;
mod service;
mod socket;
mod stats;

pub use address::Address;
pub use backend::{BACKEND_ACTIVE, BACKEND_DRAINING, BACKEND_EMPTY, BackendEntry};
pub use config::{Config, Meta};
pub use drop_reason::DropReason;
pub use endpoint::{EndpointEntry, EndpointKey, PodEntry};
pub use flow::{FlowEntry, FlowKey};
pub use frontend::{
    BUCKET_ENTRIES, FRONTEND_ADDRESS, FRONTEND_CLUSTER, FRONTEND_EXTERNAL, FRONTEND_USED,
    FrontendBucket, FrontendEntry, FrontendKey,
};
pub use node::{NODE_ADJACENT, NODE_LOCAL, NODE_RESOLVED, NODE_USED, NodeEntry};
pub use route::{
    ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS, ROUTE_UNREACHABLE, RouteEntry, RouteKey,
};
pub use service::{LUT_EMPTY, LUT_SLOT_MASK, SERVICE_DR, ServiceEntry};
pub use socket::{SocketKey, SocketOrigin};
pub use stats::{DropStats, ServiceStats};
