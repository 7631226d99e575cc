//! The replicated store: openraft over a write-ahead log, a multi-version map in memory, watches.
//!
//! A [`Store`] is one member of the cluster. Every member answers reads from its own memory:
//! [`Store::snapshot`] with what it has applied, [`Store::linearizable`] after asking the leader
//! how far that must be. Writes are [`Transaction`]s; a follower hands them to the leader, and each
//! is applied once however often it is sent. [`Store::watch`] follows the mutations of a prefix in
//! the order of revisions.
//!
//! ```text
//! Store ─ commit ─▶ consensus ─▶ openraft ─▶ log (fsync) ─▶ machine ─▶ state ─▶ published
//!       ◀ snapshot, watch ──────────────────────────────────────────────────────────┘
//! ```
//!
//! Only `consensus` and `raft` know openraft; `state` is a pure function of the commands applied to
//! it, so that it is the same on every member.
//!
//! Refuses to know: JSON, HTTP, what an object means.

#![forbid(unsafe_code)]

mod codec;
mod config;
mod consensus;
mod data_dir;
mod error;
mod key;
mod log;
mod member;
mod proposals;
mod published;
mod raft;
mod read_index;
mod ring;
mod snapshot;
mod snapshots;
mod state;
mod store;
mod transaction;
mod value;
mod watch;

pub use config::{Config, Limits, Timing};
pub use error::{JoinError, OpenError, RevisionError, WatchError};
pub use fairlead_api::RevisionedBytes;
pub use key::Key;
pub use member::{Leadership, Member, MemberId};
pub use raft::service::Service as RaftService;
pub use snapshot::Snapshot;
pub use store::Store;
pub use transaction::{Check, CommitError, Committed, Expect, Op, Transaction};
pub use value::{Entry, Event};
pub use watch::Watch;
