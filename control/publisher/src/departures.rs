//! Pods that are to go stay a moment longer: until no node gives them new connections.
//!
//! A pod's node knows of its deletion at once; that its endpoint has left the tables of all others
//! takes a few steps more, and a connection that begins in between would find nobody. So its node
//! is told only when the others have acknowledged a state without it, or a short time has passed.
//! A leader holds back only what it has seen begin: a pod that stops already is never called back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use fairlead_api::Generation;
use fairlead_proto::node::BackendState;
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::state::{Compiled, PodKey, PublishedPod, Workload};

/// See the [module](self).
pub(crate) struct Departures {
    hold_max: Duration,
    held: Mutex<BTreeMap<PodKey, Departure>>,
    changed: watch::Sender<()>,
}

struct Departure {
    began: Instant,
    addresses: BTreeSet<Bytes>,
    /// The first state in which nothing new is for the pod.
    left: Option<Generation>,
}

impl Departures {
    /// Nothing is held back for longer than `hold_max`.
    pub(crate) fn new(hold_max: Duration) -> Self {
        Self {
            hold_max,
            held: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// This member begins to lead: what is leaving now, it has not seen begin.
    pub(crate) fn begin(&self) {
        self.held().clear();
    }

    /// Tells when pods begin to be held back, or are let go.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Takes in a state that is about to be published.
    pub(crate) fn note(&self, compiled: &Compiled) {
        let mut held = self.held();
        for (pod, addresses) in &compiled.departures {
            held.entry(pod.clone()).or_insert_with(|| Departure {
                began: Instant::now(),
                addresses: addresses.clone(),
                left: None,
            });
        }
        if held.values().all(|departure| departure.left.is_some()) {
            return;
        }
        let services = compiled.dataplane.services.values();
        let active: BTreeSet<&Bytes> = services
            .flat_map(|service| &service.backends)
            .filter(|backend| backend.state() == BackendState::Active)
            .map(|backend| &backend.address)
            .collect();
        for departure in held.values_mut() {
            let is_active = departure.addresses.iter().any(|one| active.contains(one));
            if departure.left.is_none() && !is_active {
                departure.left = Some(compiled.generation);
            }
        }
        drop(held);
        self.changed.send_replace(());
    }

    /// Lets go those pods whose states without them `is_held` everywhere, and those that have
    /// waited for too long. Returns when the next of the others will have.
    pub(crate) fn let_go(&self, is_held: impl Fn(Generation) -> bool) -> Option<Instant> {
        let mut held = self.held();
        let before = held.len();
        held.retain(|_, departure| {
            departure.began.elapsed() < self.hold_max && !departure.left.is_some_and(&is_held)
        });
        let has_changed = held.len() < before;
        let next = held.values().map(|departure| departure.began).min();
        drop(held);
        if has_changed {
            self.changed.send_replace(());
        }
        next.map(|began| began + self.hold_max)
    }

    /// What a node is to run for now: pods that are held back are as if nobody had asked them to go.
    pub(crate) fn hold_back(&self, workload: &Arc<Workload>) -> Arc<Workload> {
        let held = self.held();
        let concerned: Vec<&PodKey> = held
            .keys()
            .filter(|pod| workload.pods.contains_key(*pod))
            .collect();
        if concerned.is_empty() {
            return Arc::clone(workload);
        }
        let mut workload = Workload::clone(workload);
        for pod in concerned {
            if let Some(published) = workload.pods.get_mut(pod) {
                *published = PublishedPod {
                    wanted: without_deletion(&published.wanted),
                    json: without_deletion(&published.json),
                };
            }
        }
        Arc::new(workload)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<PodKey, Departure>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn without_deletion(pod: &Bytes) -> Bytes {
    let mut value: Value = serde_json::from_slice(pod).expect("a published pod is JSON");
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("deletionTimestamp");
        metadata.remove("deletionGracePeriodSeconds");
    }
    value.to_string().into()
}

#[cfg(test)]
mod tests {
    use fairlead_proto::node::{Backend, Service};
    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::state::Dataplane;

    const HOLD_MAX: Duration = Duration::from_secs(2);

    fn key() -> PodKey {
        ("shop".to_owned(), "web".to_owned(), "1".to_owned())
    }

    fn address() -> Bytes {
        Bytes::from_static(&[10, 244, 1, 7])
    }

    fn state(generation: u64, backend: Option<BackendState>, departs: bool) -> Compiled {
        let backends = backend.map(|state| Backend {
            address: address(),
            state: state.into(),
            ..Backend::default()
        });
        let service = Service {
            backends: backends.into_iter().collect(),
            ..Service::default()
        };
        let departures = departs.then(|| (key(), BTreeSet::from([address()])));
        Compiled {
            generation: Generation(generation),
            dataplane: Arc::new(Dataplane {
                services: [(1, Arc::new(service))].into(),
                ..Dataplane::default()
            }),
            departures: departures.into_iter().collect(),
            ..Compiled::default()
        }
    }

    fn workload(metadata: &Value) -> Arc<Workload> {
        let json: Bytes = json!({"metadata": metadata}).to_string().into();
        let pod = PublishedPod {
            wanted: json.clone(),
            json,
        };
        Arc::new(Workload {
            pods: [(key(), pod)].into(),
            ..Workload::default()
        })
    }

    fn is_held_back(departures: &Departures) -> bool {
        let asked = json!({
            "name": "web", "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30,
        });
        let (asked, before) = (workload(&asked), workload(&json!({"name": "web"})));
        let now = departures.hold_back(&asked);
        assert!(now == asked || now == before, "{now:?}");
        now == before
    }

    #[tokio::test(start_paused = true)]
    async fn pod_is_held_back_until_all_nodes_hold_a_state_in_which_nothing_new_is_for_it() {
        use BackendState::{Active, Draining};
        for last in [Some(Draining), None] {
            let departures = Departures::new(HOLD_MAX);
            assert!(!is_held_back(&departures));
            departures.note(&state(5, Some(Active), true));
            assert!(is_held_back(&departures));
            // All hold the newest, and it is among the backends there.
            assert!(departures.let_go(|_| true).is_some());
            assert!(is_held_back(&departures));
            departures.note(&state(6, last, false));
            departures.note(&state(7, last, false));
            departures.let_go(|generation| generation <= Generation(5));
            assert!(is_held_back(&departures));
            let mut changes = departures.subscribe();
            assert_eq!(
                departures.let_go(|generation| generation <= Generation(6)),
                None
            );
            assert!(changes.has_changed().unwrap());
            changes.mark_unchanged();
            assert!(!is_held_back(&departures));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_back_for_long_nor_by_a_leader_that_has_not_seen_it_begin() {
        let departures = Departures::new(HOLD_MAX);
        departures.note(&state(5, Some(BackendState::Active), true));
        let due = departures.let_go(|_| false).unwrap();
        advance(due - Instant::now()).await;
        assert_eq!(departures.let_go(|_| false), None);
        assert!(!is_held_back(&departures));

        departures.note(&state(8, Some(BackendState::Active), true));
        departures.begin();
        assert!(!is_held_back(&departures));
    }
}
