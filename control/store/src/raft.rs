//! Everything that speaks openraft: its types as this crate uses them, the state machine and the
//! network it drives, the service its peers call. The log, its storage, is `crate::log`.

pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod service;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use openraft::{
    BasicNode, RaftTypeConfig,
    alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf},
};

use crate::{
    snapshots::SnapshotFile,
    state::{Command, Outcome},
};

openraft::declare_raft_types!(
    /// The consensus of [`Command`]s.
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, machine::Machine>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type LogEntry = <TypeConfig as RaftTypeConfig>::Entry;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(crate) type RaftSnapshot = SnapshotOf<TypeConfig, SnapshotFile>;
