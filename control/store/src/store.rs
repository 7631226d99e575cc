use std::sync::Arc;

use fairlead_api::Revision;
use fairlead_proto::raft::raft_server::RaftServer;
use openraft::SnapshotPolicy;
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, spawn_blocking},
};
use tracing::warn;

use crate::{
    CommitError, Committed, Config, JoinError, Leadership, Limits, Member, MemberId, OpenError,
    RevisionError, Snapshot, Timing, Transaction, Watch,
    consensus::{Consensus, Parts},
    data_dir::DataDir,
    log::Log,
    proposals::Proposals,
    published::Published,
    raft::{
        Raft,
        machine::Machine,
        network::{MESSAGE_BYTES_MAX, Network},
        service::Service,
    },
    read_index::ReadIndex,
    snapshots::Snapshots,
    state::{Outcome, State},
};

/// One member of the replicated store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    published: Arc<Published>,
    consensus: Consensus,
    proposals: Proposals,
    reads: ReadIndex,
    log: Log,
    snapshots: Arc<Snapshots>,
    snapshot_on_size: AbortHandle,
    /// Held for its lock.
    _data_dir: DataDir,
}

impl Store {
    /// Opens a member's data: restores the last snapshot and replays the log behind it. A fresh
    /// member belongs to no cluster until it initializes or joins one.
    ///
    /// # Errors
    /// When the data is in use, another member's or damaged; a damaged member is replaced by one
    /// with a new id.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let consensus_config = Arc::new(consensus_config(&config)?);
        let Config {
            member,
            cluster_id,
            endpoint,
            tls,
            timing,
            limits,
            ..
        } = config.clone();
        let disk = spawn_blocking(move || Disk::open(&config));
        let disk = disk.await.expect("reading the disk does not panic")?;
        let large = Arc::new(Notify::new());
        let machine = Machine::new(
            disk.restored,
            Arc::clone(&disk.snapshots),
            Arc::clone(&disk.published),
            limits.snapshot_bytes,
            Arc::clone(&large),
        );
        let network = Network::new(&cluster_id, member, tls);
        let raft = Raft::new(
            member.0,
            consensus_config,
            network.clone(),
            disk.log.clone(),
            machine,
        );
        let raft = raft
            .await
            .map_err(|e| OpenError::Consensus(e.to_string()))?;
        let snapshot_on_size = tokio::spawn(snapshot_when_large(raft.clone(), large));
        let consensus = Consensus::new(Parts {
            raft,
            network,
            member,
            endpoint,
            cluster_id,
            timing,
            published: Arc::clone(&disk.published),
            takes_part: !disk.log.is_pristine(),
        });
        let shared = Shared {
            published: disk.published,
            reads: ReadIndex::spawn(consensus.clone()),
            consensus,
            proposals: Proposals::new(),
            log: disk.log,
            snapshots: disk.snapshots,
            snapshot_on_size: snapshot_on_size.abort_handle(),
            _data_dir: disk.data_dir,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Makes this member the first of a new cluster and waits until it leads; does nothing if it
    /// is already in one.
    pub async fn initialize(&self) -> Result<(), CommitError> {
        self.shared.consensus.initialize().await
    }

    /// Has the cluster add this member, first as a learner that copies the state, then as a voter.
    /// `peer_endpoint` is any member's. Asking again is safe.
    ///
    /// This member's [`Store::raft_service`] must be served at its endpoint by now.
    pub async fn join(&self, peer_endpoint: &str) -> Result<(), JoinError> {
        let pristine = self.shared.log.is_pristine();
        self.shared.consensus.join(peer_endpoint, pristine).await
    }

    /// Has the cluster take a member out for good, also one that is dead. Its id must never be used
    /// again: a replacement joins under a new one.
    pub async fn remove_member(&self, id: MemberId) -> Result<(), CommitError> {
        self.shared.consensus.remove_member(id).await
    }

    /// What peers call; to be served at this member's endpoint, over sockets with `TCP_NODELAY`
    /// (else answers are held back for up to 40 ms).
    pub fn raft_service(&self) -> RaftServer<Service> {
        let consensus = self.shared.consensus.clone();
        let service = Service::new(consensus, Arc::clone(&self.shared.snapshots));
        RaftServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What this member has applied, in constant time. May be behind the other members.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.published.snapshot()
    }

    /// A snapshot that contains every write acknowledged before the call, by any member.
    ///
    /// # Errors
    /// [`CommitError::Unavailable`] when no leader with a quorum answered in time.
    pub async fn linearizable(&self) -> Result<Snapshot, CommitError> {
        self.shared.reads.wait().await?;
        Ok(self.snapshot())
    }

    /// The state as it was at a revision, if it is not forgotten.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, RevisionError> {
        self.shared.published.snapshot_at(revision)
    }

    /// Applies a transaction, once. Through the leader, wherever it is; when this returns, this
    /// member's snapshot contains it.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when a condition did not hold and nothing was done,
    /// [`CommitError::Unavailable`] when the answer did not come in time: it may yet be applied.
    pub async fn commit(&self, transaction: Transaction) -> Result<Committed, CommitError> {
        let proposal = self.shared.proposals.begin(transaction).await;
        match self.shared.consensus.propose(proposal.command()).await? {
            Outcome::Applied(committed) => Ok(committed),
            Outcome::Refused(refusal) => Err(CommitError::Conflict {
                key: refusal.key,
                expected: refusal.expected,
                actual: refusal.actual,
            }),
            Outcome::Forgotten | Outcome::NoCommand => Err(CommitError::Unavailable(
                "the outcome of the write is no longer known".to_owned(),
            )),
        }
    }

    /// Follows the mutations behind a revision of all keys that begin with `prefix`.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RevisionError> {
        self.shared.published.watch(prefix, after)
    }

    /// Who leads. Changes to no leader when this member stops, also by a failure of its disk.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.consensus.leadership()
    }

    /// The members, as of the last change this member has seen.
    pub fn members(&self) -> Vec<Member> {
        self.shared.consensus.members()
    }

    /// Returns when this member has stopped taking part: after [`Store::shutdown`], or because its
    /// disk failed, which only a restart of the process can mend.
    pub async fn stopped(&self) {
        let mut leadership = self.leadership();
        while leadership.changed().await.is_ok() {}
    }

    /// Stops taking part and ends all watches; what was acknowledged is on the disk. The data can
    /// be opened again once every clone of the store and its service is gone.
    pub async fn shutdown(&self) {
        self.shared.snapshot_on_size.abort();
        self.shared.consensus.shutdown().await;
        self.shared.published.close();
        let log = self.shared.log.clone();
        if let Err(e) = spawn_blocking(move || log.close()).await {
            warn!(error = %e, "the log did not close in order");
        }
    }
}

/// What is read from the disk before anything runs.
struct Disk {
    data_dir: DataDir,
    log: Log,
    snapshots: Arc<Snapshots>,
    restored: Option<(crate::snapshots::SnapshotFile, crate::snapshots::Contents)>,
    published: Arc<Published>,
}

impl Disk {
    fn open(config: &Config) -> Result<Self, OpenError> {
        let data_dir = DataDir::open(config)?;
        let log = Log::open(&data_dir.log(), config.limits.segment_bytes)?;
        let snapshots = Snapshots::open(&data_dir.snapshots())?;
        let restored = snapshots.latest(log.purged())?;
        let published = Published::new(&State::default(), &config.limits);
        Ok(Self {
            data_dir,
            log,
            snapshots: Arc::new(snapshots),
            restored,
            published: Arc::new(published),
        })
    }
}

fn consensus_config(config: &Config) -> Result<openraft::Config, OpenError> {
    let Timing {
        heartbeat,
        election,
        ..
    } = config.timing;
    let Limits {
        snapshot_entries,
        log_entries_behind_snapshot,
        ..
    } = config.limits;
    let milliseconds = |duration: std::time::Duration| {
        u64::try_from(duration.as_millis()).map_err(|e| OpenError::Timing(e.to_string()))
    };
    let election = milliseconds(election)?;
    let config = openraft::Config {
        cluster_name: config.cluster_id.clone(),
        heartbeat_interval: milliseconds(heartbeat)?,
        election_timeout_min: election,
        election_timeout_max: election.saturating_mul(2),
        enable_pre_vote: Some(true),
        max_payload_entries: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_entries),
        max_in_snapshot_log_to_keep: log_entries_behind_snapshot,
        replication_lag_threshold: snapshot_entries.saturating_add(log_entries_behind_snapshot),
        // For the whole transfer of a snapshot.
        install_snapshot_timeout: 120_000,
        ..openraft::Config::default()
    };
    config
        .validate()
        .map_err(|e| OpenError::Timing(e.to_string()))
}

/// The consensus counts entries; a log of few but huge ones must not grow without bound either.
async fn snapshot_when_large(raft: Raft, large: Arc<Notify>) {
    loop {
        large.notified().await;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
