//! Which nodes have fallen silent, and may be dead: seconds after they were heard last, where it
//! takes their Leases tens of seconds to run out.
//!
//! A silent node is marked by an annotation, so that the mark outlives the leader, people see it,
//! and what nodes are told is compiled from it like everything else. The mark is a hint: it decides
//! who gets new connections and who is asked first about unknown ones, and ends no connection.

use std::collections::BTreeMap;

use fairlead_api::Revision;
use fairlead_objects::{About, Cache, EventType, Object, ObjectName, Recorder, WriteError, Writer};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use tracing::warn;

use crate::{
    liveness::{Contact, Liveness},
    reports::is_declared_dead,
};

/// Holds the time at which the node was found silent.
const SILENT_SINCE: &str = "net.fairlead.io/silent-since";

/// Whether a node is marked.
pub(crate) fn is_silent(node: &Node) -> bool {
    let annotations = node.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(SILENT_SINCE))
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    contact: Contact,
    is_silent: bool,
    /// Its Lease has run out: its pods have left the tables, and silence says nothing more.
    is_declared_dead: bool,
}

/// The nodes whose mark is to change, and whether they are to have it. Where more than half of the
/// nodes are lost, nobody is marked: it is likelier that they cannot be heard.
fn plan(nodes: &BTreeMap<String, Known>) -> BTreeMap<String, bool> {
    let counted = || nodes.values().filter(|known| !known.is_declared_dead);
    let is_lost = |known: &&Known| known.is_silent || known.contact == Contact::Lost;
    let is_outage = counted().filter(is_lost).count() * 2 > counted().count();
    let change = |known: &Known| match known.contact {
        Contact::Lost if !known.is_silent && !known.is_declared_dead && !is_outage => Some(true),
        Contact::Steady if known.is_silent => Some(false),
        Contact::Lost | Contact::Steady | Contact::Unsure => None,
    };
    let changes = nodes.iter();
    changes
        .filter_map(|(name, known)| Some((name.clone(), change(known)?)))
        .collect()
}

/// Writes who is silent.
pub(crate) struct Marker {
    writer: Writer,
    recorder: Recorder,
}

impl Marker {
    pub(crate) fn new(writer: Writer, recorder: &Recorder) -> Self {
        Self {
            writer,
            recorder: recorder.speaking_as("silence-marker", None),
        }
    }

    /// Marks the nodes that have fallen silent and those that are back. Returns the newest write.
    pub(crate) async fn reconcile(&self, cache: &Cache, liveness: &Liveness) -> Option<Revision> {
        let nodes = cache.nodes.iter().map(|node| {
            let name = node.object_name().name;
            let known = Known {
                contact: liveness.contact(&name),
                is_silent: is_silent(node),
                is_declared_dead: is_declared_dead(node),
            };
            (name, known)
        });
        let changes = plan(&nodes.collect());
        let written = join_all(changes.iter().map(|(name, is_silent)| async move {
            match self.write(cache, name, *is_silent).await {
                Ok(revision) => revision,
                Err(cause) => {
                    let error = &cause as &dyn std::error::Error;
                    warn!(node = name, error, "silence not marked; trying again");
                    None
                }
            }
        }));
        written.await.into_iter().max().flatten()
    }

    async fn write(
        &self,
        cache: &Cache,
        name: &str,
        is_silent: bool,
    ) -> Result<Option<Revision>, WriteError> {
        let name = ObjectName::cluster(name);
        let now = Timestamp::now();
        let change = |node: &mut Node| {
            let annotations = node.metadata.annotations.get_or_insert_default();
            if is_silent {
                annotations
                    .entry(SILENT_SINCE.to_owned())
                    .or_insert_with(|| now.to_string());
            } else {
                annotations.remove(SILENT_SINCE);
            }
        };
        let written = match self.writer.update::<Node>(&name, None, change).await {
            Err(WriteError::Missing(_)) => return Ok(None),
            other => other?,
        };
        if let Some(node) = cache.nodes.get(&name) {
            let (event_type, reason, message) = if is_silent {
                let message = "is not heard of: others get its pods' new connections";
                (EventType::Warning, "NodeSilent", message)
            } else {
                (EventType::Normal, "NodeHeard", "is heard of again")
            };
            let message = format!("{} {message}", name.name);
            warn!(node = name.name, reason, "{message}");
            self.recorder
                .record(&About::object(&**node), event_type, reason, message)
                .await;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of nodes "a", "b", … of which this is known: "+a" is marked, "-a" is not any
    /// more.
    fn planned(known: &[(Contact, &str)]) -> String {
        let nodes = ('a'..).zip(known).map(|(name, (contact, traits))| {
            let known = Known {
                contact: *contact,
                is_silent: traits.contains("silent"),
                is_declared_dead: traits.contains("dead"),
            };
            (name.to_string(), known)
        });
        let changes = plan(&nodes.collect()).into_iter();
        changes
            .map(|(name, is_silent)| format!("{}{name}", if is_silent { '+' } else { '-' }))
            .collect()
    }

    #[test]
    fn lost_nodes_are_marked_until_they_are_steady_and_not_where_most_are_lost() {
        use Contact::{Lost, Steady, Unsure};
        for (known, expected) in [
            (&[(Steady, ""), (Steady, ""), (Lost, "")][..], "+c"),
            (&[(Steady, ""), (Steady, ""), (Lost, "silent")], ""),
            (&[(Steady, ""), (Steady, ""), (Unsure, "silent")], ""),
            (&[(Steady, ""), (Steady, ""), (Steady, "silent")], "-c"),
            (&[(Unsure, ""), (Unsure, ""), (Unsure, "")], ""),
            // One of two may be dead; two of three cannot be heard.
            (&[(Steady, ""), (Lost, "")], "+b"),
            (&[(Lost, "")], ""),
            (&[(Steady, ""), (Lost, ""), (Lost, "")], ""),
            (&[(Steady, ""), (Lost, "silent"), (Lost, "")], ""),
            (&[(Steady, ""), (Unsure, "silent"), (Lost, "")], ""),
            (&[(Steady, "silent"), (Lost, ""), (Lost, "")], "-a"),
            // Whose pods have left the tables does not count.
            (&[(Steady, ""), (Steady, ""), (Lost, "dead")], ""),
            (
                &[
                    (Steady, ""),
                    (Lost, "dead"),
                    (Lost, "silent dead"),
                    (Lost, ""),
                ],
                "+d",
            ),
        ] {
            assert_eq!(planned(known), expected, "{known:?}");
        }
    }
}
