use fairlead_api::{BackendId, Generation};
use fairlead_dataplane_common::{
    Address, BackendEntry, Config, NodeEntry, RouteEntry, ServiceEntry,
};

use crate::cuckoo;
use crate::lut;
use crate::moving::Moving;
use crate::observed::{Load, Prefix, SourceRange};
use crate::recipe::Recipe;

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
    /// Writes a service's tables to a range that no active service owns.
    WriteTable {
        /// The service slot that is to own it.
        service: u32,
        /// Where.
        range: lut::Range,
        /// What they are made from.
        recipe: Recipe,
        /// The one that packets from outside pick from, unless it is as the recipe makes it.
        moving: Option<Moving>,
        /// The range's elements.
        elements: Vec<u32>,
    },
    /// Writes nothing: tables found after a restart are those that there should be.
    KeepTable {
        /// The service slot that owns them.
        service: u32,
        /// Where.
        range: lut::Range,
        /// As above.
        recipe: Recipe,
        /// As above.
        moving: Option<Moving>,
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
    /// Forgets the drops, by reason, of a service slot that has lost its owner.
    ForgetDrops {
        /// The service slot.
        slot: u32,
    },
    /// Zeroes the counters of a backend slot that has lost its owner, and adds what they were to
    /// its service's.
    FoldStats {
        /// The backend slot.
        slot: u32,
        /// The service slot; none if that is gone too.
        service: Option<u32>,
    },
    /// Says how a scheduler that counts connections is to see a backend. Those that it has here stay
    /// as they are, unless it is not to be seen at all.
    WriteLoad {
        /// The backend slot.
        slot: u32,
        /// How.
        load: Load,
    },
    /// Lets clients use a service.
    AddSourceRange {
        /// Which, and which one.
        range: SourceRange,
    },
    /// The reverse.
    RemoveSourceRange {
        /// Which, and which one.
        range: SourceRange,
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
    /// Makes a prefix a VIP.
    AddVipPrefix {
        /// Which.
        prefix: Prefix,
    },
    /// The reverse.
    RemoveVipPrefix {
        /// Which.
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

impl Action {
    /// Whether `next` writes the element behind this one's, so that one call can make both changes: a
    /// first state may have a hundred thousand backends.
    pub fn may_be_one(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::WriteBackend { slot, .. }, Self::WriteBackend { slot: next, .. }) => {
                slot.checked_add(1) == Some(*next)
            }
            _ => false,
        }
    }
}
