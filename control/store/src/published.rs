//! What readers of this member see: the applied state, and the mutations that led to it. One lock
//! covers both, so that no reader can see a revision whose events are missing or the reverse.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use fairlead_api::Revision;
use tokio::sync::watch;

use crate::{
    Event, Limits, RevisionError, Snapshot, Watch,
    ring::{Ring, RingLimits},
    state::{Known, ProposerId, State},
};

/// A snapshot is kept this often; between two, mutations are undone. Undoing one costs about a
/// microsecond, keeping one some kilobytes of tree nodes.
const KEYFRAME_REVISIONS: u64 = 256;

/// Shared between the state machine, which writes, and everything that reads.
#[derive(Debug)]
pub(crate) struct Published {
    view: RwLock<View>,
    applied: watch::Sender<Option<u64>>,
}

/// What the lock covers.
#[derive(Debug)]
pub(crate) struct View {
    state: State,
    current: Snapshot,
    ring_limits: RingLimits,
    /// Of all resources.
    history: Ring,
    keyframes: VecDeque<Snapshot>,
    /// Of one resource each, by the first three segments of their keys.
    rings: HashMap<String, Ring>,
    /// The newest mutation this member knows nothing about.
    base: Revision,
    closed: bool,
}

impl Published {
    /// Begins with a state whose past is not known.
    pub(crate) fn new(state: &State, limits: &Limits) -> Self {
        let current = state.snapshot();
        let base = current.revision();
        let history = RingLimits {
            events: limits.history_events,
            bytes: limits.history_bytes,
            age: limits.history_age,
        };
        let ring_limits = RingLimits {
            events: limits.ring_events,
            bytes: limits.ring_bytes,
            age: limits.history_age,
        };
        let view = View {
            state: state.clone(),
            current,
            ring_limits,
            history: Ring::new(history, base),
            keyframes: VecDeque::new(),
            rings: HashMap::new(),
            base,
            closed: false,
        };
        Self {
            view: RwLock::new(view),
            applied: watch::Sender::new(None),
        }
    }

    /// Shows the state after the log entry at `index`, and the mutations it made.
    pub(crate) fn advance(&self, state: &State, events: Vec<Event>, index: u64) {
        if !events.is_empty() {
            self.write().advance(state, events);
        } else {
            self.write().state = state.clone();
        }
        self.applied.send_replace(Some(index));
    }

    /// Shows a state that came from elsewhere, as of the log entry at `index`. Watches expire.
    pub(crate) fn replace(&self, state: &State, index: Option<u64>) {
        self.write().replace(state);
        self.applied.send_replace(index);
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut view = self.write();
        view.closed = true;
        view.wake_all();
    }

    /// The index of the last log entry that is shown.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.applied.subscribe()
    }

    /// The state as it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.read().current.clone()
    }

    /// What became of a command.
    pub(crate) fn look_up(&self, proposer: ProposerId, sequence: u64) -> Known {
        self.read().state.proposers().look_up(proposer, sequence)
    }

    /// The state as it was at `revision`.
    pub(crate) fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, RevisionError> {
        let view = self.read();
        if revision > view.current.revision() {
            let current = view.current.revision();
            return Err(RevisionError::Future { current });
        }
        if revision < view.history.floor() {
            let oldest = view.history.floor();
            return Err(RevisionError::Expired { oldest });
        }
        let behind = view
            .keyframes
            .partition_point(|frame| frame.revision() < revision);
        let mut snapshot = view.keyframes.get(behind).unwrap_or(&view.current).clone();
        let last = snapshot.revision();
        for event in view.history.back_to(revision, last) {
            snapshot.undo(event);
        }
        Ok(snapshot)
    }

    /// Follows the mutations behind `after` of keys that begin with `prefix`.
    pub(crate) fn watch(
        self: &Arc<Self>,
        prefix: &str,
        after: Revision,
    ) -> Result<Watch, RevisionError> {
        let ring = resource_of(prefix).map(str::to_owned);
        let mut view = self.write();
        if after > view.current.revision() {
            let current = view.current.revision();
            return Err(RevisionError::Future { current });
        }
        let source = view.ring_or_new(ring.as_deref());
        let oldest = source.floor();
        let position = source
            .position_after(after)
            .ok_or(RevisionError::Expired { oldest })?;
        let woken = source.subscribe();
        drop(view);
        let published = Arc::clone(self);
        Ok(Watch::new(published, ring, prefix, position, after, woken))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().expect("no reader or writer panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().expect("no reader or writer panics")
    }
}

impl View {
    /// The revision of the state.
    pub(crate) fn revision(&self) -> Revision {
        self.current.revision()
    }

    /// Whether the store was shut down.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// The mutations of one resource, or of all.
    pub(crate) fn ring(&self, resource: Option<&str>) -> &Ring {
        match resource {
            Some(resource) => &self.rings[resource],
            None => &self.history,
        }
    }

    fn ring_or_new(&mut self, resource: Option<&str>) -> &mut Ring {
        let Some(resource) = resource else {
            return &mut self.history;
        };
        let (limits, base) = (self.ring_limits, self.base);
        self.rings
            .entry(resource.to_owned())
            .or_insert_with(|| Ring::new(limits, base))
    }

    fn advance(&mut self, state: &State, events: Vec<Event>) {
        let now = Instant::now();
        let before = self.current.revision().0;
        self.state = state.clone();
        self.current = state.snapshot();
        for event in events {
            let event = Arc::new(event);
            self.history.push(Arc::clone(&event), now);
            if let Some(resource) = resource_of(event.key().as_str()) {
                let ring = self.ring_or_new(Some(resource));
                ring.push(Arc::clone(&event), now);
                ring.wake();
            }
        }
        self.history.wake();
        if before / KEYFRAME_REVISIONS != self.current.revision().0 / KEYFRAME_REVISIONS {
            self.keyframes.push_back(self.current.clone());
        }
        let floor = self.history.floor();
        while self.keyframes.front().is_some_and(|f| f.revision() < floor) {
            self.keyframes.pop_front();
        }
    }

    fn replace(&mut self, state: &State) {
        self.state = state.clone();
        self.current = state.snapshot();
        self.base = self.current.revision();
        self.keyframes.clear();
        self.history.reset(self.base);
        for ring in self.rings.values_mut() {
            ring.reset(self.base);
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        self.history.wake();
        self.rings.values().for_each(Ring::wake);
    }
}

/// `/registry/<group>/<resource>/` of a key or a prefix; `None` of a shorter prefix.
fn resource_of(path: &str) -> Option<&str> {
    let (end, _) = path.match_indices('/').nth(3)?;
    Some(&path[..=end])
}
