//! How many connections backends have in the whole cluster: each node says what it sees, and is
//! told what all others see together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fairlead_proto::node;
use tokio::sync::watch;

/// How often one node is told at most. Counts are a hint: a pick may be as old as this.
pub(crate) const TELL_PERIOD: Duration = Duration::from_millis(500);
/// How many backends one message names at most.
const MESSAGE_MAX: usize = 4096;

/// Connections by backend.
type Counts = BTreeMap<u32, u32>;

/// What all nodes with a session reported.
#[derive(Default)]
pub(crate) struct Loads {
    nodes: Mutex<HashMap<String, Reported>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Reported {
    session: uuid::Uuid,
    counts: Counts,
}

impl Loads {
    /// Turns over whenever somebody reported.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A session of a node begins: what it reported before counts no more.
    pub(crate) fn begin(&self, node: &str, session: uuid::Uuid) {
        let reported = Reported {
            session,
            ..Reported::default()
        };
        self.nodes().insert(node.to_owned(), reported);
        self.tell();
    }

    /// It ended, unless another has begun.
    pub(crate) fn end(&self, node: &str, session: uuid::Uuid) {
        let mut nodes = self.nodes();
        if nodes
            .get(node)
            .is_some_and(|reported| reported.session == session)
        {
            nodes.remove(node);
            drop(nodes);
            self.tell();
        }
    }

    /// Takes in what changed at a node.
    pub(crate) fn report(&self, node: &str, loads: &node::Loads) {
        let mut nodes = self.nodes();
        let Some(reported) = nodes.get_mut(node) else {
            return;
        };
        for load in &loads.backends {
            if load.connections == 0 {
                reported.counts.remove(&load.id);
            } else {
                reported.counts.insert(load.id, load.connections);
            }
        }
        drop(nodes);
        self.tell();
    }

    /// What all nodes but this one have together.
    fn elsewhere(&self, node: &str) -> Counts {
        let mut sum = Counts::new();
        for (_, reported) in self.nodes().iter().filter(|(name, _)| *name != node) {
            for (id, connections) in &reported.counts {
                let total = sum.entry(*id).or_default();
                *total = total.saturating_add(*connections);
            }
        }
        sum
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Reported>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one node was told.
#[derive(Default)]
pub(crate) struct Told(Counts);

impl Told {
    /// The messages that bring a node up to date; none if it is.
    pub(crate) fn update(&mut self, node: &str, loads: &Loads) -> Vec<node::Loads> {
        let now = loads.elsewhere(node);
        let changed = now
            .iter()
            .filter(|(id, connections)| self.0.get(id) != Some(connections))
            .map(|(id, connections)| (*id, *connections));
        let gone = self
            .0
            .keys()
            .filter(|id| !now.contains_key(id))
            .map(|id| (*id, 0));
        let backends: Vec<_> = changed
            .chain(gone)
            .map(|(id, connections)| node::BackendLoad { id, connections })
            .collect();
        self.0 = now;
        backends
            .chunks(MESSAGE_MAX)
            .map(|chunk| node::Loads {
                backends: chunk.to_vec(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(loads: &Loads, node: &str, counts: &[(u32, u32)]) {
        let backends = counts
            .iter()
            .map(|(id, connections)| node::BackendLoad {
                id: *id,
                connections: *connections,
            })
            .collect();
        loads.report(node, &node::Loads { backends });
    }

    fn told(told: &mut Told, node: &str, loads: &Loads) -> Vec<(u32, u32)> {
        told.update(node, loads)
            .iter()
            .flat_map(|message| &message.backends)
            .map(|load| (load.id, load.connections))
            .collect()
    }

    #[test]
    fn node_is_told_what_the_others_have_and_only_what_changed() {
        let loads = Loads::default();
        let sessions: Vec<_> = ["a", "b", "c"]
            .map(|node| (node, uuid::Uuid::new_v4()))
            .into();
        for (node, session) in &sessions {
            loads.begin(node, *session);
        }
        let mut a = Told::default();
        assert_eq!(told(&mut a, "a", &loads), []);
        report(&loads, "a", &[(1, 100)]);
        report(&loads, "b", &[(1, 3), (2, 5)]);
        report(&loads, "c", &[(1, 4)]);
        assert_eq!(told(&mut a, "a", &loads), [(1, 7), (2, 5)]);
        assert_eq!(told(&mut a, "a", &loads), []);
        report(&loads, "b", &[(2, 6)]);
        assert_eq!(told(&mut a, "a", &loads), [(2, 6)]);

        loads.end("b", uuid::Uuid::new_v4());
        assert_eq!(told(&mut a, "a", &loads), [], "another session's end");
        loads.end("b", sessions[1].1);
        assert_eq!(told(&mut a, "a", &loads), [(1, 4), (2, 0)]);
        loads.begin("c", uuid::Uuid::new_v4());
        assert_eq!(told(&mut a, "a", &loads), [(1, 0)]);
        report(&loads, "b", &[(1, 1)]);
        assert_eq!(told(&mut a, "a", &loads), [], "b has no session");
    }
}
