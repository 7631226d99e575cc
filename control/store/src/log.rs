//! The write-ahead log: votes, commit marks and entries in one ordered stream of records, in
//! segment files under `<data-dir>/log/`.
//!
//! Records are written in *frames*: whatever was queued when the disk became free is one frame,
//! one write and one fsync. A frame is not begun before the one in front of it is on the disk, so
//! a crash can tear only the last one. On opening, a bad frame with nothing good behind it is that
//! torn tail and is cut; any other damage refuses to open. An error from write or fsync is final:
//! what the kernel still holds is unknown, so nothing is written after it.
//!
//! Entries since the last snapshot also stay in memory; reading never touches the disk.
//!
//! `raft-log` 0.4.6, the obvious library, takes any record that runs beyond the end of the last
//! file for a torn tail. A flipped bit in a length field does the same, and would silently drop
//! every acknowledged entry behind it, in files of up to 1 GiB; hence this one.

mod frame;
mod recovery;
mod segment;
mod storage;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use storage::Log;

use serde::{Deserialize, Serialize};

use crate::raft::{LogEntry, LogId, Vote};

/// One step of the log's history. What follows a record overrides it.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Record {
    /// The vote of this member.
    Vote(Vote),
    /// Entries up to here are committed. Written when there is something else to write.
    Committed(Option<LogId>),
    /// An entry behind all others.
    Entry(LogEntry),
    /// The entries behind this one never were.
    TruncateAfter(Option<LogId>),
    /// The entries up to this one are in a snapshot and may be forgotten.
    Purge(LogId),
}
