use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// The keys a controller has to look at. A key is in it once, however often it changes; one that
/// changes while it is worked on is worked on again; one that failed comes back later each time.
pub(crate) struct WorkQueue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when the work in progress on it ends.
    dirty: HashSet<K>,
    processing: HashSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    serial: u64,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub(crate) fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BTreeMap::new(),
            serial: 0,
            failures: HashMap::new(),
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
        }
    }

    /// Asks for work on a key, now.
    pub(crate) fn add(&self, key: K) {
        self.state().add(key);
        self.wake.notify_one();
    }

    /// Asks for work on a key, after a while.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        let mut state = self.state();
        state.serial += 1;
        let at = (Instant::now() + delay, state.serial);
        state.delayed.insert(at, key);
        drop(state);
        self.wake.notify_one();
    }

    /// Asks for work on a key that failed: twice as late as the last time.
    pub(crate) fn add_failed(&self, key: K) {
        let failures = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        let delay = BACK_OFF_MIN.saturating_mul(1 << failures.min(16).saturating_sub(1));
        self.add_after(key, delay.min(BACK_OFF_MAX));
    }

    /// Forgets that a key ever failed.
    pub(crate) fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// The next key. Nobody else gets it until [`done`](Self::done).
    pub(crate) async fn next(&self) -> K {
        loop {
            let wake = self.wake.notified();
            let due = {
                let mut state = self.state();
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match due {
                Some(at) => {
                    // Either is a reason to look again.
                    let _ = tokio::time::timeout_at(at, wake).await;
                }
                None => wake.await,
            }
        }
    }

    /// The work on a key ended.
    pub(crate) fn done(&self, key: &K) {
        let mut state = self.state();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn key_added_while_processed_comes_again_once_after_done() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("a");
        let waits = tokio::time::timeout(Duration::from_secs(1), queue.next()).await;
        assert!(waits.is_err());
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_key_comes_back_later_each_time_until_forgotten() {
        let queue = WorkQueue::new();
        let mut waits = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            queue.add_failed("a");
            assert_eq!(queue.next().await, "a");
            queue.done(&"a");
            waits.push(start.elapsed().as_millis());
        }
        assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
        queue.forget(&"a");
        let start = Instant::now();
        queue.add_failed("a");
        queue.next().await;
        assert!(start.elapsed().as_millis() <= waits[0] + 1);
    }
}
