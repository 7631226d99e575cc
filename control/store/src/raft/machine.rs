use std::{io, sync::Arc};

use fairlead_api::Revision;
use futures::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    entry::RaftEntry,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::{
    sync::Notify,
    task::{JoinError, spawn_blocking},
};
use tracing::debug;

use super::{LogEntry, LogId, RaftSnapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::{
    Event, Op,
    published::Published,
    snapshots::{self, Contents, SnapshotFile, Snapshots},
    state::{Outcome, State},
};

/// Drives the state with what is committed, and shows it.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    published: Arc<Published>,
    snapshots: Arc<Snapshots>,
    latest: Arc<std::sync::Mutex<Option<RaftSnapshotParts>>>,
    bytes_since_snapshot: u64,
    snapshot_bytes: u64,
    /// Told when the log has grown by bytes rather than entries.
    large: Arc<Notify>,
}

type RaftSnapshotParts = (SnapshotMeta, SnapshotFile);

/// Writes one snapshot: of the state when it was made, whatever is applied meanwhile.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    meta: SnapshotMeta,
    state: State,
    snapshots: Arc<Snapshots>,
    latest: Arc<std::sync::Mutex<Option<RaftSnapshotParts>>>,
}

impl Machine {
    /// Begins with what a snapshot holds, or with nothing.
    pub(crate) fn new(
        restored: Option<(SnapshotFile, Contents)>,
        snapshots: Arc<Snapshots>,
        published: Arc<Published>,
        snapshot_bytes: u64,
        large: Arc<Notify>,
    ) -> Self {
        let mut machine = Self {
            state: State::default(),
            applied: None,
            membership: StoredMembership::default(),
            published,
            snapshots,
            latest: Arc::default(),
            bytes_since_snapshot: 0,
            snapshot_bytes,
            large,
        };
        if let Some((file, contents)) = restored {
            machine.adopt(contents, file);
        }
        machine
    }

    fn adopt(&mut self, contents: Contents, file: SnapshotFile) {
        let Contents { meta, state } = contents;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.bytes_since_snapshot = 0;
        let index = self.applied.map(|applied| applied.index);
        self.published.replace(&self.state, index);
        *self
            .latest
            .lock()
            .expect("nobody panics with the lock held") = Some((meta, file));
    }

    fn apply_entry(&mut self, entry: &LogEntry) -> (Outcome, Vec<Event>) {
        self.applied = Some(entry.log_id);
        match &entry.payload {
            EntryPayload::Normal(command) => {
                self.bytes_since_snapshot += bytes(&command.transaction.ops);
                self.state.apply(command)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id()), membership.clone());
                (Outcome::NoCommand, Vec::new())
            }
            EntryPayload::Blank => (Outcome::NoCommand, Vec::new()),
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotWriter;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let (outcome, events) = self.apply_entry(&entry);
            // Shown before it is answered: whoever has the answer finds it here.
            self.published
                .advance(&self.state, events, entry.log_id.index);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        if self.bytes_since_snapshot > self.snapshot_bytes {
            self.bytes_since_snapshot = 0;
            self.large.notify_one();
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotWriter {
        self.bytes_since_snapshot = 0;
        SnapshotWriter {
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            state: self.state.clone(),
            snapshots: Arc::clone(&self.snapshots),
            latest: Arc::clone(&self.latest),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let snapshots = Arc::clone(&self.snapshots);
        let last = meta.last_log_id;
        let read = spawn_blocking(move || {
            let contents = snapshots::read(&snapshot)?;
            let kept = snapshots.keep(snapshot.path(), last)?;
            Ok::<_, io::Error>((contents, kept))
        });
        let (contents, kept) = read.await.map_err(panicked)??;
        let Revision(revision) = contents.state.snapshot().revision();
        debug!(revision, "snapshot installed");
        self.adopt(contents, kept);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let latest = self
            .latest
            .lock()
            .expect("nobody panics with the lock held");
        Ok(latest
            .clone()
            .map(|(meta, snapshot)| RaftSnapshot { meta, snapshot }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotWriter {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let (meta, state) = (self.meta.clone(), self.state.clone());
        let snapshots = Arc::clone(&self.snapshots);
        let written = spawn_blocking(move || {
            let path = snapshots.unfinished();
            snapshots::write(&path, &meta, &state)?;
            snapshots.keep(&path, meta.last_log_id)
        });
        let snapshot = written.await.map_err(panicked)??;
        let meta = self.meta.clone();
        let mut latest = self
            .latest
            .lock()
            .expect("nobody panics with the lock held");
        // One that was installed meanwhile may be newer.
        let newer = |(kept, _): &RaftSnapshotParts| kept.last_log_id > meta.last_log_id;
        if !latest.as_ref().is_some_and(newer) {
            *latest = Some((meta.clone(), snapshot.clone()));
        }
        Ok(RaftSnapshot { meta, snapshot })
    }
}

fn bytes(ops: &[Op]) -> u64 {
    let op = |op: &Op| match op {
        Op::Put { value, .. } => value.head.len() + value.tail.len(),
        Op::Delete { .. } => 0,
    };
    ops.iter().map(op).sum::<usize>() as u64
}

fn panicked(e: JoinError) -> io::Error {
    io::Error::other(e)
}
