//! Garbage collection: what is owned goes when its owners are gone, the way its deletion asked for.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use fairlead_api::resource::{self, Resource};
use fairlead_objects::{Cache, Change, Grace, ObjectName, WriteError};
use fairlead_store::{Expect, Op, Transaction};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::controller::{Context, Controller, Outcome};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What ownership has to know of an object.
#[derive(Clone)]
struct Node {
    resource: &'static Resource,
    name: ObjectName,
    owners: Vec<OwnerReference>,
    finalizers: Vec<String>,
    is_terminating: bool,
}

/// Who owns whom, by uid.
#[derive(Default)]
struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    fn put(&mut self, uid: &str, node: Node) {
        self.remove(uid);
        for owner in &node.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.to_owned());
        }
        self.nodes.insert(uid.to_owned(), node);
    }

    fn remove(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else {
            return;
        };
        for owner in &node.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    fn dependents_of<'a>(&'a self, uid: &str) -> impl Iterator<Item = (&'a String, &'a Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get_key_value(uid))
    }
}

/// One step, about the object of a uid.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Delete it: nobody owns it any more, or its owner waits for it.
    Delete { uid: String },
    /// Take these owners off it.
    Disown {
        uid: String,
        owners: BTreeSet<String>,
    },
    /// Its dependents are dealt with.
    Unfinalize {
        uid: String,
        finalizer: &'static str,
    },
}

/// What to do about one object. `exists` answers for owners the graph does not hold.
fn plan(graph: &Graph, uid: &str, exists: &dyn Fn(&OwnerReference, &Node) -> bool) -> Vec<Action> {
    let Some(node) = graph.nodes.get(uid) else {
        return Vec::new();
    };
    let mut actions = Vec::new();
    let has = |finalizer: &str| node.finalizers.iter().any(|own| own == finalizer);
    if node.is_terminating && has(ORPHAN) {
        actions.extend(
            graph
                .dependents_of(uid)
                .map(|(dependent, _)| Action::Disown {
                    uid: dependent.clone(),
                    owners: BTreeSet::from([uid.to_owned()]),
                }),
        );
        actions.push(Action::Unfinalize {
            uid: uid.to_owned(),
            finalizer: ORPHAN,
        });
        return actions;
    }
    if node.is_terminating && has(FOREGROUND) {
        let mut is_blocked = false;
        for (dependent, owned) in graph.dependents_of(uid) {
            let reference = owned.owners.iter().find(|owner| owner.uid == uid);
            // Two that own each other would wait for ever.
            let is_cycle = owned.is_terminating
                && owned.finalizers.iter().any(|own| own == FOREGROUND)
                && node.owners.iter().any(|owner| owner.uid == *dependent);
            let blocks = reference.and_then(|owner| owner.block_owner_deletion) == Some(true);
            is_blocked |= blocks && !is_cycle;
            if !owned.is_terminating {
                actions.push(Action::Delete {
                    uid: dependent.clone(),
                });
            }
        }
        if !is_blocked {
            actions.push(Action::Unfinalize {
                uid: uid.to_owned(),
                finalizer: FOREGROUND,
            });
        }
        return actions;
    }
    if node.is_terminating || node.owners.is_empty() {
        return actions;
    }
    let is_alive = |owner: &&OwnerReference| match graph.nodes.get(&owner.uid) {
        // An owner that is deleted in the foreground takes this with it.
        Some(found) => {
            !(found.is_terminating && found.finalizers.iter().any(|own| own == FOREGROUND))
        }
        None => exists(owner, node),
    };
    let (alive, dead): (Vec<&OwnerReference>, Vec<&OwnerReference>) =
        node.owners.iter().partition(|owner| is_alive(owner));
    if alive.is_empty() {
        actions.push(Action::Delete {
            uid: uid.to_owned(),
        });
    } else if !dead.is_empty() {
        let owners = dead.iter().map(|owner| owner.uid.clone()).collect();
        actions.push(Action::Disown {
            uid: uid.to_owned(),
            owners,
        });
    }
    actions
}

/// The garbage collector. Its queue holds uids.
#[derive(Default)]
pub(crate) struct GarbageCollector {
    graph: Mutex<Graph>,
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage";

    fn affected(&self, change: &Change, _: &Cache) -> Vec<ObjectName> {
        let metadata = change.metadata();
        let mut graph = self.graph();
        let uid = |metadata: &ObjectMeta| metadata.uid.clone().unwrap_or_default();
        let mut affected = HashSet::new();
        if let Some(previous) = &metadata.previous {
            let uid = uid(previous);
            affected.extend(
                graph
                    .dependents_of(&uid)
                    .map(|(dependent, _)| dependent.clone()),
            );
            // An owner may be waiting for this one to go.
            affected.extend(
                previous
                    .owner_references
                    .iter()
                    .flatten()
                    .map(|owner| owner.uid.clone()),
            );
            graph.remove(&uid);
        }
        if let Some(current) = &metadata.current {
            let uid = uid(current);
            let node = Node {
                resource: change.resource,
                name: change.name.clone(),
                owners: current.owner_references.clone().unwrap_or_default(),
                finalizers: current.finalizers.clone().unwrap_or_default(),
                is_terminating: current.deletion_timestamp.is_some(),
            };
            if node.is_terminating || !node.owners.is_empty() {
                affected.insert(uid.clone());
            }
            graph.put(&uid, node);
        }
        affected.into_iter().map(ObjectName::cluster).collect()
    }

    async fn reconcile(&self, context: &Context, name: &ObjectName) -> Result<Outcome, WriteError> {
        let mut outcome = Outcome::default();
        let snapshot = context.writer.store().snapshot();
        let exists = |owner: &OwnerReference, dependent: &Node| {
            let (group, version) = owner
                .api_version
                .split_once('/')
                .unwrap_or(("", &owner.api_version));
            // An owner of a kind that is not served cannot be looked up: it is left alone.
            let Some(resource) = resource::by_kind(group, version, &owner.kind) else {
                return true;
            };
            let name = match resource.scope {
                resource::Scope::Cluster => ObjectName::cluster(&owner.name),
                resource::Scope::Namespaced => {
                    ObjectName::new(&dependent.name.namespace, &owner.name)
                }
            };
            snapshot.get(&name.key(resource)).is_some_and(|entry| {
                serde_json::from_slice::<Value>(&entry.value)
                    .is_ok_and(|value| value["metadata"]["uid"] == owner.uid.as_str())
            })
        };
        let actions = plan(&self.graph(), &name.name, &exists);
        for action in actions {
            self.apply(context, action, &mut outcome).await?;
        }
        Ok(outcome)
    }
}

impl GarbageCollector {
    fn graph(&self) -> std::sync::MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn apply(
        &self,
        context: &Context,
        action: Action,
        outcome: &mut Outcome,
    ) -> Result<(), WriteError> {
        let (Action::Delete { uid } | Action::Disown { uid, .. } | Action::Unfinalize { uid, .. }) =
            &action;
        let Some(node) = self.graph().nodes.get(uid).cloned() else {
            return Ok(());
        };
        match &action {
            Action::Delete { uid } => {
                let writer = &context.writer;
                outcome.wrote(
                    writer
                        .delete(node.resource, &node.name, Some(uid), Grace::Pod)
                        .await?,
                );
            }
            Action::Disown { uid, owners } => {
                edit(context, &node, uid, outcome, |metadata| {
                    if let Some(list) = metadata["ownerReferences"].as_array_mut() {
                        list.retain(|owner| {
                            !owner["uid"]
                                .as_str()
                                .is_some_and(|uid| owners.contains(uid))
                        });
                    }
                })
                .await?;
            }
            Action::Unfinalize { uid, finalizer } => {
                edit(context, &node, uid, outcome, |metadata| {
                    if let Some(list) = metadata["finalizers"].as_array_mut() {
                        list.retain(|own| own != finalizer);
                    }
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// Changes the metadata of an object of any kind; removes the object if that took the last thing
/// that kept it.
async fn edit(
    context: &Context,
    node: &Node,
    uid: &str,
    outcome: &mut Outcome,
    change: impl Fn(&mut Value),
) -> Result<(), WriteError> {
    let key = node.name.key(node.resource);
    let store = context.writer.store();
    let Some(entry) = store.snapshot().get(&key).cloned() else {
        return Ok(());
    };
    let mut value: Value =
        serde_json::from_slice(&entry.value).map_err(|source| WriteError::Decode {
            key: key.clone(),
            source,
        })?;
    if value["metadata"]["uid"] != uid {
        return Ok(());
    }
    let before = value.clone();
    change(&mut value["metadata"]);
    if value == before {
        return Ok(());
    }
    for list in ["ownerReferences", "finalizers"] {
        if value["metadata"][list]
            .as_array()
            .is_some_and(Vec::is_empty)
            && let Some(metadata) = value["metadata"].as_object_mut()
        {
            metadata.remove(list);
        }
    }
    let expect = Expect::Revision(entry.revision);
    let encoded = fairlead_api::object::encode(node.resource, &value);
    let op = Op::Put {
        key: key.clone(),
        expect,
        value: encoded.bytes,
        index: encoded.index,
    };
    let transaction = Transaction {
        checks: Vec::new(),
        ops: vec![op],
    };
    let committed = store
        .commit(transaction)
        .await
        .map_err(|source| WriteError::Store {
            key: key.clone(),
            source,
        })?;
    outcome.wrote(Some(committed.revision));
    let was_waiting = !value["metadata"]["deletionTimestamp"].is_null()
        && value["metadata"]["finalizers"].is_null();
    if was_waiting {
        let grace = if is_bound_until_stopped(&value) {
            Grace::Pod
        } else {
            Grace::Immediate
        };
        outcome.wrote(
            context
                .writer
                .delete(node.resource, &node.name, Some(uid), grace)
                .await?,
        );
    }
    Ok(())
}

/// Whether a pod still has time to stop.
fn is_bound_until_stopped(value: &Value) -> bool {
    let due = value["metadata"]["deletionTimestamp"].as_str();
    let due = due.and_then(|due| due.parse::<Timestamp>().ok());
    value["spec"]["nodeName"].is_string() && due.is_some_and(|due| due > Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            uid: uid.to_owned(),
            block_owner_deletion: Some(true),
            ..Default::default()
        }
    }

    fn graph(nodes: &[(&str, &[&str], Option<&str>)]) -> Graph {
        let mut graph = Graph::default();
        for (uid, owners, deletion) in nodes {
            let node = Node {
                resource: &resource::POD,
                name: ObjectName::new("shop", *uid),
                owners: owners.iter().copied().map(owner).collect(),
                finalizers: deletion
                    .iter()
                    .filter(|own| !own.is_empty())
                    .map(|own| (*own).to_owned())
                    .collect(),
                is_terminating: deletion.is_some(),
            };
            graph.put(uid, node);
        }
        graph
    }

    fn check(graph: &Graph, uid: &str) -> Vec<Action> {
        plan(graph, uid, &|owner, _| owner.uid == "elsewhere")
    }

    fn delete(uid: &str) -> Action {
        Action::Delete {
            uid: uid.to_owned(),
        }
    }

    fn disown(uid: &str, of: &str) -> Action {
        Action::Disown {
            uid: uid.to_owned(),
            owners: BTreeSet::from([of.to_owned()]),
        }
    }

    fn unfinalize(uid: &str, finalizer: &'static str) -> Action {
        Action::Unfinalize {
            uid: uid.to_owned(),
            finalizer,
        }
    }

    #[test]
    fn background_deletes_what_has_no_owner_left() {
        let graph = graph(&[
            ("set", &[], None),
            ("kept", &["set"], None),
            ("lost", &["gone"], None),
            ("half", &["set", "gone"], None),
            ("cached", &["elsewhere"], None),
        ]);
        assert_eq!(check(&graph, "kept"), []);
        assert_eq!(check(&graph, "lost"), [delete("lost")]);
        assert_eq!(check(&graph, "half"), [disown("half", "gone")]);
        assert_eq!(check(&graph, "cached"), []);
    }

    #[test]
    fn foreground_waits_for_dependents_that_block() {
        let waiting = graph(&[
            ("set", &[], Some(FOREGROUND)),
            ("a", &["set"], None),
            ("b", &["set"], Some("")),
        ]);
        assert_eq!(check(&waiting, "set"), [delete("a")]);
        assert_eq!(check(&waiting, "a"), [delete("a")]);
        let done = graph(&[("set", &[], Some(FOREGROUND))]);
        assert_eq!(check(&done, "set"), [unfinalize("set", FOREGROUND)]);
    }

    #[test]
    fn orphaning_takes_the_owner_off_and_lets_it_go() {
        let graph = graph(&[("set", &[], Some(ORPHAN)), ("a", &["set"], None)]);
        assert_eq!(
            check(&graph, "set"),
            [disown("a", "set"), unfinalize("set", ORPHAN)]
        );
    }

    #[test]
    fn objects_that_own_each_other_do_not_wait_for_each_other() {
        let graph = graph(&[
            ("a", &["b"], Some(FOREGROUND)),
            ("b", &["a"], Some(FOREGROUND)),
        ]);
        assert_eq!(check(&graph, "a"), [unfinalize("a", FOREGROUND)]);
    }
}
