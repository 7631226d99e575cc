use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fairlead_objects::ObjectName;
use tokio::{sync::Notify, time::Instant};

const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// The pods that wait for a node: those to try now, by priority and then by age; those that were
/// just refused and back off; those that wait for the cluster to change.
pub(super) struct PodQueue {
    state: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    active: BTreeMap<(Reverse<i32>, u64), ObjectName>,
    places: HashMap<ObjectName, (Reverse<i32>, u64)>,
    backing_off: BTreeMap<(Instant, u64), (ObjectName, i32)>,
    parked: HashMap<ObjectName, (Instant, i32)>,
    attempts: HashMap<ObjectName, u32>,
    serial: u64,
    /// How often the cluster changed in a way that matters.
    cycle: u64,
}

impl PodQueue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// A pod to try now.
    pub(super) fn add(&self, name: ObjectName, priority: i32) {
        let mut state = self.state();
        state.parked.remove(&name);
        state.activate(name, priority);
        drop(state);
        self.wake.notify_one();
    }

    /// A pod that needs no node any more.
    pub(super) fn remove(&self, name: &ObjectName) {
        let mut state = self.state();
        if let Some(place) = state.places.remove(name) {
            state.active.remove(&place);
        }
        state.parked.remove(name);
        state.backing_off.retain(|_, (waiting, _)| waiting != name);
        state.attempts.remove(name);
    }

    /// A pod that was bound: it starts afresh should it ever come back.
    pub(super) fn forget(&self, name: &ObjectName) {
        self.state().attempts.remove(name);
    }

    /// The next pod to try, and the cycle to hand to [`park`](Self::park).
    pub(super) async fn next(&self) -> (ObjectName, u64) {
        loop {
            let wake = self.wake.notified();
            let due = {
                let mut state = self.state();
                state.promote(Instant::now());
                if let Some((_, name)) = state.active.pop_first() {
                    state.places.remove(&name);
                    return (name, state.cycle);
                }
                state.backing_off.keys().next().map(|(at, _)| *at)
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

    /// A pod that no node could take. If the cluster changed while that was found out, it is tried
    /// again after its back-off; otherwise it waits for a change.
    pub(super) fn park(&self, name: ObjectName, priority: i32, cycle: u64) {
        let mut state = self.state();
        let attempts = state.attempts.entry(name.clone()).or_default();
        *attempts += 1;
        let wait = BACK_OFF_MIN
            .saturating_mul(1 << (*attempts - 1).min(8))
            .min(BACK_OFF_MAX);
        let until = Instant::now() + wait;
        if state.cycle == cycle {
            state.parked.insert(name, (until, priority));
        } else {
            state.back_off(name, priority, until);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The cluster changed: whoever waits for that is tried again.
    pub(super) fn wake(&self) {
        let mut state = self.state();
        state.cycle += 1;
        let parked = std::mem::take(&mut state.parked);
        for (name, (until, priority)) in parked {
            state.back_off(name, priority, until);
        }
        drop(state);
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn activate(&mut self, name: ObjectName, priority: i32) {
        if self.places.contains_key(&name) {
            return;
        }
        self.serial += 1;
        let place = (Reverse(priority), self.serial);
        self.places.insert(name.clone(), place);
        self.active.insert(place, name);
    }

    fn back_off(&mut self, name: ObjectName, priority: i32, until: Instant) {
        self.serial += 1;
        self.backing_off
            .insert((until, self.serial), (name, priority));
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.backing_off.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (name, priority) = entry.remove();
            self.activate(name, priority);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("shop", name)
    }

    #[tokio::test]
    async fn higher_priority_comes_first_then_the_older() {
        let queue = PodQueue::new();
        queue.add(name("a"), 0);
        queue.add(name("b"), 0);
        queue.add(name("c"), 10);
        let order = [
            queue.next().await.0,
            queue.next().await.0,
            queue.next().await.0,
        ];
        assert_eq!(order, [name("c"), name("a"), name("b")]);
    }

    #[tokio::test(start_paused = true)]
    async fn parked_pod_waits_for_a_change_and_its_back_off() {
        let queue = PodQueue::new();
        queue.add(name("a"), 0);
        let (pod, cycle) = queue.next().await;
        queue.park(pod, 0, cycle);
        assert!(
            tokio::time::timeout(Duration::from_secs(600), queue.next())
                .await
                .is_err()
        );
        queue.wake();
        assert_eq!(queue.next().await.0, name("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn change_during_the_attempt_is_not_missed() {
        let queue = PodQueue::new();
        queue.add(name("a"), 0);
        let (pod, cycle) = queue.next().await;
        queue.wake();
        queue.park(pod, 0, cycle);
        let start = Instant::now();
        assert_eq!(queue.next().await.0, name("a"));
        assert!(start.elapsed() >= BACK_OFF_MIN);
    }
}
