use fairlead_api::{
    Revision, object,
    resource::{self, Resource, Scope},
};
use fairlead_store::{Check, CommitError, Entry, Expect, Key, Op, Store, Transaction};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::{Object, ObjectName};

/// How often a write is tried again when another writer was faster.
const ATTEMPTS_MAX: u32 = 8;

/// How long a deleted pod may take, in seconds, when it does not say (upstream's default).
const POD_GRACE_SECONDS: i64 = 30;

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something of that name exists.
    #[error("{0} already exists")]
    Exists(Key),
    /// It does not exist, or is another object of the same name by now.
    #[error("{0} does not exist")]
    Missing(Key),
    /// Its namespace does not exist or is being deleted.
    #[error("namespace {0} does not exist or is being deleted")]
    NamespaceGone(String),
    /// Other writers were faster every time.
    #[error("{0} kept changing under the write")]
    Contended(Key),
    /// What is stored is not an object of its kind.
    #[error("{key} cannot be decoded")]
    Decode {
        /// The object.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The store did not take the write.
    #[error("the store did not take the write of {key}")]
    Store {
        /// The object.
        key: Key,
        /// Why.
        #[source]
        source: CommitError,
    },
}

/// An object as it was written.
#[derive(Clone, Debug)]
pub struct Written<K> {
    /// With what the writer filled in: uid, name, creationTimestamp.
    pub object: K,
    /// When.
    pub revision: Revision,
}

/// How a deletion treats a running pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// A bound pod is marked, and goes when its node has stopped it.
    Pod,
    /// The object goes now, whatever still runs.
    Immediate,
}

/// Writes typed objects so that no other writer's fields are lost: each write replaces exactly the
/// revision it was made from, and is made again from the newer one on a conflict.
#[derive(Clone)]
pub struct Writer {
    store: Store,
}

impl Writer {
    /// A writer to `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The store it writes to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The object as this member holds it now.
    pub fn get<K: Object>(&self, name: &ObjectName) -> Result<Option<K>, WriteError> {
        let key = name.key(K::resource());
        let snapshot = self.store.snapshot();
        snapshot.get(&key).map(|entry| decode(entry)).transpose()
    }

    /// Creates an object: defaults, uid, creationTimestamp and a name from `generateName` are
    /// filled in.
    pub async fn create<K: Object>(&self, object: K) -> Result<Written<K>, WriteError> {
        self.create_with(object, Vec::new()).await
    }

    /// Creates an object together with other records, or nothing.
    pub async fn create_with<K: Object>(
        &self,
        mut object: K,
        with: Vec<Op>,
    ) -> Result<Written<K>, WriteError> {
        let resource = K::resource();
        let generated = {
            let metadata = object.metadata_mut();
            metadata.uid = Some(uuid::Uuid::new_v4().to_string());
            metadata.creation_timestamp = Some(Time(Timestamp::now()));
            metadata.resource_version = None;
            if resource.status {
                metadata.generation = Some(1);
            }
            metadata.name.as_deref().is_none_or(str::is_empty)
        };
        for _ in 0..ATTEMPTS_MAX {
            if generated {
                let metadata = object.metadata_mut();
                let prefix = metadata.generate_name.clone().unwrap_or_default();
                metadata.name = Some(format!("{prefix}{}", random_suffix(5)));
            }
            let name = object.object_name();
            let key = name.key(resource);
            let checks = self.namespace_check(resource, &name)?;
            let mut value = to_value(&object);
            (resource.default)(&mut value);
            let encoded = object::encode(resource, &value);
            let mut ops = vec![Op::Put {
                key: key.clone(),
                expect: Expect::Absent,
                value: encoded.bytes,
                index: encoded.index,
            }];
            ops.extend(with.iter().cloned());
            match self.store.commit(Transaction { checks, ops }).await {
                Ok(committed) => {
                    let object = serde_json::from_value(value)
                        .map_err(|source| WriteError::Decode { key, source })?;
                    return Ok(Written {
                        object,
                        revision: committed.revision,
                    });
                }
                Err(CommitError::Conflict { key: at, .. }) if at == key && !generated => {
                    return Err(WriteError::Exists(key));
                }
                // Another name was drawn twice, or the namespace was written meanwhile.
                Err(CommitError::Conflict { key: at, .. })
                    if at == key || with.iter().all(|op| op_key(op) != &at) => {}
                Err(source) => return Err(WriteError::Store { key, source }),
            }
        }
        Err(WriteError::Contended(object.object_name().key(resource)))
    }

    /// Reads an object, lets `change` alter it, and writes it if that made a difference. With a
    /// uid, an object of the same name but another identity counts as missing.
    ///
    /// Returns the revision of the write, `None` if nothing was different.
    pub async fn update<K: Object>(
        &self,
        name: &ObjectName,
        uid: Option<&str>,
        change: impl FnMut(&mut K),
    ) -> Result<Option<Revision>, WriteError> {
        self.update_with(name, uid, Vec::new(), change).await
    }

    /// As [`update`](Self::update), together with other records, or nothing of both.
    pub async fn update_with<K: Object>(
        &self,
        name: &ObjectName,
        uid: Option<&str>,
        with: Vec<Op>,
        mut change: impl FnMut(&mut K),
    ) -> Result<Option<Revision>, WriteError> {
        let resource = K::resource();
        let key = name.key(resource);
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = self.store.snapshot();
            let entry = snapshot
                .get(&key)
                .ok_or_else(|| WriteError::Missing(key.clone()))?
                .clone();
            let mut object: K = decode(&entry)?;
            if uid.is_some_and(|uid| uid != object.uid()) {
                return Err(WriteError::Missing(key));
            }
            let before = to_value(&object);
            change(&mut object);
            let mut after = to_value(&object);
            if before == after && with.is_empty() {
                return Ok(None);
            }
            if resource.status && before.get("spec") != after.get("spec") {
                let generation = before["metadata"]["generation"].as_i64().unwrap_or(0);
                after["metadata"]["generation"] = json!(generation + 1);
            }
            // A terminating object goes with its last finalizer.
            let op = if is_finished(&after, resource) {
                Op::Delete {
                    key: key.clone(),
                    expect: Expect::Revision(entry.revision),
                }
            } else {
                let encoded = object::encode(resource, &after);
                Op::Put {
                    key: key.clone(),
                    expect: Expect::Revision(entry.revision),
                    value: encoded.bytes,
                    index: encoded.index,
                }
            };
            let mut ops = vec![op];
            ops.extend(with.iter().cloned());
            match self
                .store
                .commit(Transaction {
                    checks: Vec::new(),
                    ops,
                })
                .await
            {
                Ok(committed) => return Ok(Some(committed.revision)),
                Err(CommitError::Conflict { key: at, .. }) if at == key => {
                    tokio::task::yield_now().await;
                }
                Err(source) => return Err(WriteError::Store { key, source }),
            }
        }
        Err(WriteError::Contended(key))
    }

    /// Deletes an object as the API would: one with finalizers is marked, a bound pod is marked
    /// unless `grace` says otherwise, anything else goes at once together with the addresses it
    /// holds. An object that is gone already (or is another one, by uid) is success.
    pub async fn delete(
        &self,
        resource: &'static Resource,
        name: &ObjectName,
        uid: Option<&str>,
        grace: Grace,
    ) -> Result<Option<Revision>, WriteError> {
        let key = name.key(resource);
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = self.store.snapshot();
            let Some(entry) = snapshot.get(&key).cloned() else {
                return Ok(None);
            };
            let mut value: Value =
                serde_json::from_slice(&entry.value).map_err(|source| WriteError::Decode {
                    key: key.clone(),
                    source,
                })?;
            if uid.is_some_and(|uid| value["metadata"]["uid"] != uid) {
                return Ok(None);
            }
            let expect = Expect::Revision(entry.revision);
            let ops = match deletion(resource, &mut value, grace, Timestamp::now()) {
                Deletion::Nothing => return Ok(None),
                Deletion::Mark => {
                    let encoded = object::encode(resource, &value);
                    let (value, index) = (encoded.bytes, encoded.index);
                    vec![Op::Put {
                        key: key.clone(),
                        expect,
                        value,
                        index,
                    }]
                }
                Deletion::Remove => {
                    let mut ops = vec![Op::Delete {
                        key: key.clone(),
                        expect,
                    }];
                    ops.extend(held_addresses(resource, &value));
                    ops
                }
            };
            match self
                .store
                .commit(Transaction {
                    checks: Vec::new(),
                    ops,
                })
                .await
            {
                Ok(committed) => return Ok(Some(committed.revision)),
                Err(CommitError::Conflict { .. }) => tokio::task::yield_now().await,
                Err(source) => return Err(WriteError::Store { key, source }),
            }
        }
        Err(WriteError::Contended(key))
    }

    /// The condition under which an object may be created in its namespace: that the namespace is
    /// still the one that was seen, and that one is active.
    fn namespace_check(
        &self,
        resource: &Resource,
        name: &ObjectName,
    ) -> Result<Vec<Check>, WriteError> {
        if resource.scope == Scope::Cluster {
            return Ok(Vec::new());
        }
        let key = ObjectName::cluster(&name.namespace).key(&resource::NAMESPACE);
        let snapshot = self.store.snapshot();
        let gone = || WriteError::NamespaceGone(name.namespace.clone());
        let entry = snapshot.get(&key).ok_or_else(gone)?;
        let namespace: Value =
            serde_json::from_slice(&entry.value).map_err(|source| WriteError::Decode {
                key: key.clone(),
                source,
            })?;
        if !namespace["metadata"]["deletionTimestamp"].is_null() {
            return Err(gone());
        }
        Ok(vec![Check {
            key,
            expect: Expect::Revision(entry.revision),
        }])
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Deletion {
    Nothing,
    Mark,
    Remove,
}

/// Decides what deleting `value` means and marks it if that is all.
fn deletion(resource: &Resource, value: &mut Value, grace: Grace, now: Timestamp) -> Deletion {
    let is_pod = resource.kind == "Pod" && resource.group.is_empty();
    let is_marked = !value["metadata"]["deletionTimestamp"].is_null();
    let is_finalized = |value: &Value, path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    };
    let is_ended = matches!(
        value["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    let is_bound = value["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| !node.is_empty());
    let seconds = if is_pod && grace == Grace::Pod && is_bound && !is_ended {
        value["spec"]["terminationGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(POD_GRACE_SECONDS)
            .max(0)
    } else {
        0
    };
    let is_namespace = resource.kind == "Namespace" && resource.group.is_empty();
    let waits = (is_pod && grace == Grace::Pod && is_bound && !is_ended)
        || !is_finalized(value, "/metadata/finalizers")
        || (is_namespace && !is_finalized(value, "/spec/finalizers"));
    if !waits {
        return Deletion::Remove;
    }
    if is_marked {
        return Deletion::Nothing;
    }
    let at = now
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(now);
    value["metadata"]["deletionTimestamp"] = json!(Time(at));
    if is_pod {
        value["metadata"]["deletionGracePeriodSeconds"] = json!(seconds);
    }
    if is_namespace {
        value["status"]["phase"] = json!("Terminating");
    }
    Deletion::Mark
}

/// Whether the change took the last thing that kept a terminating object.
fn is_finished(value: &Value, resource: &Resource) -> bool {
    let empty = |path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    };
    let is_marked = !value["metadata"]["deletionTimestamp"].is_null();
    let waits_for_node = resource.kind == "Pod" && resource.group.is_empty();
    let is_namespace = resource.kind == "Namespace" && resource.group.is_empty();
    is_marked
        && !waits_for_node
        && empty("/metadata/finalizers")
        && (!is_namespace || empty("/spec/finalizers"))
}

/// A service's cluster IPs are released with it, in one transaction.
fn held_addresses(resource: &Resource, value: &Value) -> Vec<Op> {
    if resource.kind != "Service" || !resource.group.is_empty() {
        return Vec::new();
    }
    let addresses = value["spec"]["clusterIPs"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut addresses: Vec<_> = addresses
        .iter()
        .chain([&value["spec"]["clusterIP"]])
        .filter_map(Value::as_str)
        .filter(|address| !address.is_empty() && *address != "None")
        .map(str::to_owned)
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
        .into_iter()
        .map(|address| Op::Delete {
            key: Key::raw(format!("/registry/ranges/serviceips/{address}")),
            expect: Expect::Any,
        })
        .collect()
}

fn op_key(op: &Op) -> &Key {
    match op {
        Op::Put { key, .. } | Op::Delete { key, .. } => key,
    }
}

fn decode<K: Object>(entry: &Entry) -> Result<K, WriteError> {
    serde_json::from_slice(&entry.value).map_err(|source| WriteError::Decode {
        key: entry.key.clone(),
        source,
    })
}

fn to_value<K: Object>(object: &K) -> Value {
    serde_json::to_value(object).expect("an API type always serialises")
}

/// `length` characters as upstream draws them for generated names: no vowels, nothing that looks
/// like another.
pub fn random_suffix(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..length)
        .map(|_| {
            char::from(
                *ALPHABET
                    .choose(&mut random)
                    .expect("the alphabet is not empty"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "a", "namespace": "default"}, "spec": spec, "status": status})
    }

    #[test]
    fn deleting_marks_what_still_runs_or_has_finalizers_and_removes_the_rest() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let running = json!({"phase": "Running"});
        let bound = json!({"nodeName": "n", "terminationGracePeriodSeconds": 5});
        for (name, resource, mut value, grace, expected) in [
            (
                "bound pod",
                &resource::POD,
                pod(bound.clone(), running.clone()),
                Grace::Pod,
                Deletion::Mark,
            ),
            (
                "forced",
                &resource::POD,
                pod(bound.clone(), running.clone()),
                Grace::Immediate,
                Deletion::Remove,
            ),
            (
                "unbound pod",
                &resource::POD,
                pod(json!({}), json!({})),
                Grace::Pod,
                Deletion::Remove,
            ),
            (
                "ended pod",
                &resource::POD,
                pod(bound, json!({"phase": "Failed"})),
                Grace::Pod,
                Deletion::Remove,
            ),
            (
                "service",
                &resource::SERVICE,
                json!({"metadata": {}}),
                Grace::Pod,
                Deletion::Remove,
            ),
            (
                "finalizer",
                &resource::SERVICE,
                json!({"metadata": {"finalizers": ["x"]}}),
                Grace::Pod,
                Deletion::Mark,
            ),
            (
                "namespace",
                &resource::NAMESPACE,
                json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}}),
                Grace::Pod,
                Deletion::Mark,
            ),
        ] {
            assert_eq!(
                deletion(resource, &mut value, grace, now),
                expected,
                "{name}"
            );
            if expected == Deletion::Mark {
                assert_eq!(
                    deletion(resource, &mut value, grace, now),
                    Deletion::Nothing,
                    "{name} again"
                );
            }
        }
    }

    #[test]
    fn deleted_service_releases_each_cluster_ip_once() {
        let service = json!({"spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}});
        let ops = held_addresses(&resource::SERVICE, &service);
        assert_eq!(ops.len(), 1);
        assert_eq!(
            op_key(&ops[0]).as_str(),
            "/registry/ranges/serviceips/10.96.0.7"
        );
    }
}
