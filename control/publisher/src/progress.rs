use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fairlead_api::Generation;
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

/// How far one node is, for people and for those who wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeProgress {
    /// Its name.
    pub node: String,
    /// The newest generation it should hold.
    pub desired_generation: u64,
    /// The generation its maps correspond to. States that did not concern it count as held.
    pub acknowledged_generation: u64,
    /// Whether its agent has a session with this member.
    pub connected: bool,
    /// How long the oldest message it has not acknowledged is on its way; 0 when it is current.
    pub lag_ms: u64,
    /// Why it could not apply the last one; empty if it could.
    pub error: String,
}

/// How far every node is.
#[derive(Default)]
pub(crate) struct Progress {
    nodes: Mutex<BTreeMap<String, Node>>,
    moved: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    is_connected: bool,
    /// The generation of the last message sent.
    sent: Generation,
    /// The newest compiled state that was compared with what was sent.
    compared: Generation,
    acknowledged: Generation,
    /// When the oldest unacknowledged message was sent.
    waiting_since: Option<Instant>,
    error: String,
}

impl Node {
    fn effective(&self) -> Generation {
        if self.acknowledged >= self.sent {
            self.compared.max(self.acknowledged)
        } else {
            self.acknowledged
        }
    }
}

impl Progress {
    pub(crate) fn connected(&self, node: &str, held: Generation) {
        let fresh = Node {
            is_connected: true,
            acknowledged: held,
            ..Node::default()
        };
        self.nodes().insert(node.to_owned(), fresh);
        self.tell();
    }

    pub(crate) fn disconnected(&self, node: &str) {
        self.change(node, |node| {
            node.is_connected = false;
            node.waiting_since = None;
        });
    }

    /// A message was handed to the connection.
    pub(crate) fn sent(&self, node: &str, generation: Generation) {
        self.change(node, |node| {
            node.sent = generation;
            node.compared = generation;
            node.waiting_since.get_or_insert_with(Instant::now);
        });
    }

    /// A newer state differs in nothing that concerns the node.
    pub(crate) fn compared(&self, node: &str, generation: Generation) {
        self.change(node, |node| node.compared = node.compared.max(generation));
    }

    pub(crate) fn acknowledged(&self, node: &str, generation: Generation, error: String) {
        self.change(node, |node| {
            node.acknowledged = generation;
            node.error = error;
            if node.acknowledged >= node.sent {
                node.waiting_since = None;
            }
        });
    }

    /// Nodes that no longer exist are forgotten.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.nodes()
            .retain(|name, node| node.is_connected || exists(name));
        self.tell();
    }

    /// Waits until the maps of all connected nodes correspond to this generation or a newer one.
    pub(crate) async fn reached(&self, generation: Generation) {
        let mut moved = self.moved.subscribe();
        while !self.holds(generation, |_| true) {
            // The sender lives as long as `self`.
            let _ = moved.changed().await;
        }
    }

    /// Whether the maps of those connected nodes that `counts` correspond to this generation or a
    /// newer one.
    pub(crate) fn holds(&self, generation: Generation, counts: impl Fn(&str) -> bool) -> bool {
        self.nodes()
            .iter()
            .filter(|(name, node)| node.is_connected && counts(name))
            .all(|(_, node)| node.effective() >= generation)
    }

    /// Tells when a node has come further.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    pub(crate) fn list(&self, desired: Generation) -> Vec<NodeProgress> {
        let nodes = self.nodes();
        nodes
            .iter()
            .map(|(name, node)| NodeProgress {
                node: name.clone(),
                desired_generation: desired.0,
                acknowledged_generation: node.effective().0,
                connected: node.is_connected,
                lag_ms: node.waiting_since.map_or(0, |since| {
                    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
                }),
                error: node.error.clone(),
            })
            .collect()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes().get_mut(name) {
            change(node);
        }
        self.tell();
    }

    fn tell(&self) {
        self.moved.send_modify(|count| *count += 1);
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn generation_is_reached_when_every_connected_node_holds_it_or_is_not_concerned() {
        let progress = Progress::default();
        for node in ["n1", "n2", "n3"] {
            progress.connected(node, Generation(0));
            progress.sent(node, Generation(5));
            progress.acknowledged(node, Generation(5), String::new());
        }
        progress.sent("n1", Generation(7));
        progress.compared("n2", Generation(7));
        progress.disconnected("n3");
        let wait = || tokio::time::timeout(Duration::from_secs(1), progress.reached(Generation(7)));
        assert!(wait().await.is_err());
        let lag = progress.list(Generation(7))[0].lag_ms;
        assert!(lag >= 1_000, "{lag}");
        progress.acknowledged("n1", Generation(7), String::new());
        assert!(wait().await.is_ok());
        assert_eq!(progress.list(Generation(7))[0].lag_ms, 0);
    }

    #[test]
    fn refused_state_is_told_and_not_counted_as_held() {
        let progress = Progress::default();
        progress.connected("n1", Generation(3));
        progress.sent("n1", Generation(5));
        progress.acknowledged("n1", Generation(3), "no room".to_owned());
        let node = progress.list(Generation(5)).remove(0);
        assert_eq!(
            (node.acknowledged_generation, node.error.as_str()),
            (3, "no room")
        );
    }
}
