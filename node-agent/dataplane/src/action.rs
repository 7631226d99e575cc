use fairlead_api::{BackendId, Generation};
use fairlead_dataplane_common::{
    Address, BackendEntry, Config, NodeEntry, RouteEntry, ServiceEntry,
};

use crate::cuckoo;
use crate::lut;
use crate::observed::{Prefix, Share};

/// One change of one map.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Writes an element of `nodes`; all-zero frees the slot.
    WriteNode {
        /// Which.
        slot: u32,
        /// What.
        entry: NodeEntry,
    },
    /// Lets a node's address encapsulate for us.
    SetNodeAddress {
        /// The node's.
        address: Address,
        /// Its slot in `nodes`.
        slot: u32,
    },
    /// Forgets a node's address.
    RemoveNodeAddress {
        /// The node's.
        address: Address,
    },
    /// Writes an element of `backends`; all-zero frees the slot.
    WriteBackend {
        /// Which.
        slot: u32,
        /// What.
        entry: BackendEntry,
    },
    /// Names the slot of a backend.
    SetBackendId {
        /// The backend.
        id: BackendId,
        /// Its slot in `backends`.
        slot: u32,
    },
    /// Forgets a backend's slot.
    RemoveBackendId {
        /// The backend.
        id: BackendId,
    },
    /// Writes the Maglev table of `shares` to a range that no active service owns.
    WriteTable {
        /// The service slot that is to own it.
        service: u32,
        /// Where.
        range: lut::Range,
        /// Whom it is for.
        shares: Vec<Share>,
        /// The range's elements: backend slots.
        slots: Vec<u32>,
    },
    /// Writes nothing: a table found after a restart is the one it should be.
    KeepTable {
        /// The service slot that owns it.
        service: u32,
        /// Where.
        range: lut::Range,
        /// Whom it is for.
        shares: Vec<Share>,
    },
    /// Writes nothing: a range may be given to another service.
    FreeTable {
        /// Which.
        range: lut::Range,
    },
    /// Zeroes the counters of a service slot that gets a new owner.
    ResetStats {
        /// The service slot.
        slot: u32,
    },
    /// Writes an element of `services`; all-zero frees the slot.
    WriteService {
        /// The bank that is not active.
        bank: usize,
        /// Which.
        slot: u32,
        /// What.
        entry: ServiceEntry,
    },
    /// Writes a bucket of `frontends`.
    WriteBucket {
        /// The bank that is not active.
        bank: usize,
        /// Which, and what.
        write: cuckoo::Write,
    },
    /// Adds or changes a route.
    SetRoute {
        /// Where to.
        prefix: Prefix,
        /// Which way.
        entry: RouteEntry,
    },
    /// Removes a route.
    RemoveRoute {
        /// Where to.
        prefix: Prefix,
    },
    /// Accepts a VNI.
    AddVpc {
        /// The network.
        vpc: u32,
    },
    /// Refuses a VNI again.
    RemoveVpc {
        /// The network.
        vpc: u32,
    },
    /// Writes `config`, and with it names the active bank: the flip.
    WriteConfig {
        /// All of it.
        config: Config,
    },
    /// Says which state is in force.
    SetGeneration {
        /// Its generation.
        generation: Generation,
    },
}
