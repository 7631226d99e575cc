use fairlead_api::{
    Revision, object,
    resource::{self, Resource, Scope},
};
use fairlead_store::{Check, CommitError, Entry, Expect, Key, Op, Store, Transaction};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::{
    Grace, Object, ObjectName,
    deletion::{Deletion, deletion, held_claims, is_finished},
};

/// How often a write is tried again when another writer was faster.
const ATTEMPTS_MAX: u32 = 8;

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
                    ops.extend(held_claims(resource, &value));
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
