use std::{io, path::PathBuf};

use fairlead_api::Revision;

use crate::MemberId;

/// Why a member's store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory could not be used.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("{path} is in use by another process")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory holds another member's data.
    #[error("{path} belongs to member {member} of cluster {cluster_id}")]
    Foreign {
        /// The identity file.
        path: PathBuf,
        /// Whose data it is.
        member: MemberId,
        /// In which cluster.
        cluster_id: String,
    },
    /// The log has a damaged record that is not a torn tail. Starting would lose acknowledged
    /// writes: the member must be replaced by one with a new id.
    #[error("log segment {path} is damaged at byte {offset}: {reason}")]
    DamagedLog {
        /// The segment.
        path: PathBuf,
        /// Where the bad record begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// No snapshot can be read that the log continues from.
    #[error("snapshot {path} is damaged")]
    DamagedSnapshot {
        /// The newest snapshot.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// The timing contradicts itself.
    #[error("invalid timing: {0}")]
    Timing(String),
    /// The consensus could not start from what is on disk.
    #[error("cannot start the consensus: {0}")]
    Consensus(String),
}

/// Why a member did not become part of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The endpoint is no URL, or its TLS settings are unusable.
    #[error("invalid peer endpoint {endpoint}: {reason}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster will not have this member.
    #[error("the cluster refused member {member}: {reason}")]
    Refused {
        /// This member.
        member: MemberId,
        /// In the words of the leader.
        reason: String,
    },
    /// No leader could be reached in time; asking again is safe.
    #[error("the cluster did not answer: {0}")]
    Unavailable(String),
}

/// Why there is no snapshot or watch at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// It has been forgotten.
    #[error("revision is older than {}, the oldest kept", oldest.0)]
    Expired {
        /// The oldest revision that can be asked for.
        oldest: Revision,
    },
    /// This member has not got that far.
    #[error("revision is newer than {}, the current one", current.0)]
    Future {
        /// The newest revision that can be asked for.
        current: Revision,
    },
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher fell so far behind that mutations it has not seen are forgotten; it must list
    /// again.
    #[error("the watch fell behind the mutations that are kept")]
    Expired,
    /// The store was shut down.
    #[error("the store is shutting down")]
    Closed,
}
