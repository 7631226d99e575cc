use std::{path::PathBuf, time::Duration};

use tonic::transport::ClientTlsConfig;

use crate::MemberId;

/// What a member needs to know to open its store.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the snapshots live; created if absent, locked while open.
    pub data_dir: PathBuf,
    /// This member.
    pub member: MemberId,
    /// Which cluster it belongs to; members of another are refused.
    pub cluster_id: String,
    /// How peers reach this member, `https://IP:6445`.
    pub endpoint: String,
    /// How to talk to peers; `None` is plain text, for tests.
    pub tls: Option<ClientTlsConfig>,
    /// When a silent leader is given up, and how long a caller waits.
    pub timing: Timing,
    /// How much is kept.
    pub limits: Limits,
}

/// Durations of the consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of the leader.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower stands for election; up to twice as long is
    /// waited, so that two rarely stand at once.
    pub election: Duration,
    /// How long a commit or a linearizable read waits for a leader and a quorum.
    pub request: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(500),
            request: Duration::from_secs(10),
        }
    }
}

/// Bounds of what is kept in memory and on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Applied entries after which a snapshot is written.
    pub snapshot_entries: u64,
    /// Applied bytes after which a snapshot is written even if the entries are fewer.
    pub snapshot_bytes: u64,
    /// Entries older than the last snapshot that stay in the log, so that a member that was away
    /// briefly catches up without a snapshot.
    pub log_entries_behind_snapshot: u64,
    /// Size at which the log starts a new file.
    pub segment_bytes: u64,
    /// Mutations of one resource that watches can look back on.
    pub ring_events: usize,
    /// Bytes of objects one resource's mutations may hold.
    pub ring_bytes: usize,
    /// Mutations of all resources that [`crate::Store::snapshot_at`] can look back on.
    pub history_events: usize,
    /// Bytes of objects those mutations may hold.
    pub history_bytes: usize,
    /// Age at which a mutation is forgotten even if there is room.
    pub history_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            snapshot_entries: 10_000,
            snapshot_bytes: 64 << 20,
            log_entries_behind_snapshot: 5_000,
            segment_bytes: 64 << 20,
            ring_events: 16_384,
            ring_bytes: 32 << 20,
            history_events: 65_536,
            history_bytes: 128 << 20,
            history_age: Duration::from_secs(300),
        }
    }
}
