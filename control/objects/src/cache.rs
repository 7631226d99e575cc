use std::sync::Arc;

use fairlead_api::{
    Revision,
    resource::{self, Resource},
};
use fairlead_store::Key;
use imbl::{OrdMap, OrdSet};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        coordination::v1::Lease,
        core::v1::{Endpoints, Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;

use crate::{Object, ObjectName};

/// An object of a resource that nothing but garbage collection looks at: its metadata.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Partial {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// What became of one object.
#[derive(Clone, Debug)]
pub struct Delta<K> {
    /// Before; `None` if it was created (or is seen for the first time).
    pub previous: Option<Arc<K>>,
    /// After; `None` if it was deleted.
    pub current: Option<Arc<K>>,
}

impl<K> Delta<K> {
    /// Both sides that exist, the older first.
    pub fn sides(&self) -> impl Iterator<Item = &Arc<K>> {
        self.previous.iter().chain(self.current.iter())
    }

    fn map<T>(&self, of: impl Fn(&K) -> T) -> Delta<T> {
        Delta {
            previous: self.previous.as_deref().map(|object| Arc::new(of(object))),
            current: self.current.as_deref().map(|object| Arc::new(of(object))),
        }
    }
}

/// One resource's objects, in the order of their names, found by their controller too.
#[derive(Clone, Debug)]
pub struct Table<K> {
    objects: OrdMap<ObjectName, Arc<K>>,
    by_controller: OrdMap<String, OrdSet<ObjectName>>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self {
            objects: OrdMap::new(),
            by_controller: OrdMap::new(),
        }
    }
}

impl<K: Object> Table<K> {
    /// The object of that name.
    pub fn get(&self, name: &ObjectName) -> Option<&Arc<K>> {
        self.objects.get(name)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// The objects of a namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range(ObjectName::new(namespace, "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// The objects whose controlling owner has this uid.
    pub fn controlled_by<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<K>> {
        self.by_controller
            .get(uid)
            .into_iter()
            .flat_map(|names| names.iter())
            .filter_map(|name| self.objects.get(name))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// Puts an object in, or takes it out, and says what was there.
    pub fn set(&mut self, name: ObjectName, object: Option<Arc<K>>) -> Option<Arc<K>> {
        let previous = match &object {
            Some(object) => self.objects.insert(name.clone(), object.clone()),
            None => self.objects.remove(&name),
        };
        let owner = |object: &Arc<K>| controller_uid(object.metadata()).map(str::to_owned);
        let (before, after) = (
            previous.as_ref().and_then(owner),
            object.as_ref().and_then(owner),
        );
        if before != after {
            if let Some(uid) = before {
                let names = self.by_controller.entry(uid.clone()).or_default();
                names.remove(&name);
                if names.is_empty() {
                    self.by_controller.remove(&uid);
                }
            }
            if let Some(uid) = after {
                self.by_controller.entry(uid).or_default().insert(name);
            }
        }
        previous
    }
}

/// The uid of the owner that controls an object.
pub(crate) fn controller_uid(metadata: &ObjectMeta) -> Option<&str> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.as_str())
}

macro_rules! cache {
    ($($(#[$doc:meta])* $table:ident: $kind:ident),+ $(,)?) => {
        /// Every object, decoded, as of one revision. Cloning takes constant time and shares all
        /// of it, so a plan can look at one without holding anything up.
        #[derive(Clone, Default)]
        pub struct Cache {
            $($(#[$doc])* pub $table: Table<$kind>,)+
            others: OrdMap<Key, Arc<Partial>>,
            pods_by_node: OrdMap<String, OrdSet<ObjectName>>,
            revision: Revision,
        }

        /// What changed, by kind.
        #[derive(Clone, Debug)]
        pub enum Changed {
            $(#[allow(missing_docs)] $kind(Delta<$kind>),)+
            /// A resource of which only metadata are kept.
            Other(Delta<Partial>),
        }

        impl Cache {
            /// Takes in the object at `key` as it is now. `Ok(None)` for a key that holds no API
            /// object.
            pub(crate) fn apply(
                &mut self,
                key: &Key,
                value: Option<&[u8]>,
                revision: Revision,
            ) -> Result<Option<Change>, serde_json::Error> {
                self.revision = self.revision.max(revision);
                let Some((resource, name)) = parse(key) else { return Ok(None) };
                $(if std::ptr::eq(resource, <$kind as Object>::resource()) {
                    let current: Option<Arc<$kind>> =
                        value.map(serde_json::from_slice).transpose()?.map(Arc::new);
                    let previous = self.$table.set(name.clone(), current.clone());
                    let changed = Changed::$kind(Delta { previous, current });
                    if let Changed::Pod(delta) = &changed {
                        self.index_pod(&name, delta);
                    }
                    return Ok(Some(Change { resource, name, changed }));
                })+
                let current: Option<Arc<Partial>> =
                    value.map(serde_json::from_slice).transpose()?.map(Arc::new);
                let previous = match &current {
                    Some(object) => self.others.insert(key.clone(), object.clone()),
                    None => self.others.remove(key),
                };
                Ok(Some(Change { resource, name, changed: Changed::Other(Delta { previous, current }) }))
            }

            /// The keys of all objects held.
            pub(crate) fn keys(&self) -> Vec<Key> {
                let mut keys: Vec<Key> = self.others.keys().cloned().collect();
                $(keys.extend(self.$table.objects.keys().map(|name| name.key(<$kind as Object>::resource())));)+
                keys
            }
        }

        impl Change {
            /// The metadata before and after.
            pub fn metadata(&self) -> Delta<ObjectMeta> {
                match &self.changed {
                    $(Changed::$kind(delta) => delta.map(|object| object.metadata.clone()),)+
                    Changed::Other(delta) => delta.map(|object| object.metadata.clone()),
                }
            }
        }
    };
}

cache! {
    /// Namespaces.
    namespaces: Namespace,
    /// Nodes.
    nodes: Node,
    /// Pods.
    pods: Pod,
    /// Services.
    services: Service,
    /// EndpointSlices.
    endpoint_slices: EndpointSlice,
    /// Endpoints.
    endpoints: Endpoints,
    /// ServiceAccounts.
    service_accounts: ServiceAccount,
    /// Leases.
    leases: Lease,
    /// Deployments.
    deployments: Deployment,
    /// ReplicaSets.
    replica_sets: ReplicaSet,
}

/// One object that changed.
#[derive(Clone)]
pub struct Change {
    /// What it is.
    pub resource: &'static Resource,
    /// Which one.
    pub name: ObjectName,
    /// How.
    pub changed: Changed,
}

impl Cache {
    /// All writes up to this one are in it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The pods bound to a node.
    pub fn pods_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods_by_node
            .get(node)
            .into_iter()
            .flat_map(|names| names.iter())
            .filter_map(|name| self.pods.get(name))
    }

    /// For a plan's table tests: a cache that holds these pods and nodes.
    pub fn with(
        nodes: impl IntoIterator<Item = Node>,
        pods: impl IntoIterator<Item = Pod>,
    ) -> Self {
        let mut cache = Self::default();
        for node in nodes {
            cache.nodes.set(node.object_name(), Some(Arc::new(node)));
        }
        for pod in pods {
            let (name, current) = (pod.object_name(), Some(Arc::new(pod)));
            let previous = cache.pods.set(name.clone(), current.clone());
            cache.index_pod(&name, &Delta { previous, current });
        }
        cache
    }

    pub(crate) fn observed(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    fn index_pod(&mut self, name: &ObjectName, delta: &Delta<Pod>) {
        let node = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let before = delta.previous.as_ref().and_then(node);
        let after = delta.current.as_ref().and_then(node);
        if before == after {
            return;
        }
        if let Some(node) = before {
            let names = self.pods_by_node.entry(node.clone()).or_default();
            names.remove(name);
            if names.is_empty() {
                self.pods_by_node.remove(&node);
            }
        }
        if let Some(node) = after {
            self.pods_by_node
                .entry(node)
                .or_default()
                .insert(name.clone());
        }
    }
}

/// Which object a key of the store holds; `None` for allocations and other internal records.
fn parse(key: &Key) -> Option<(&'static Resource, ObjectName)> {
    let mut segments = key.as_str().strip_prefix("/registry/")?.split('/');
    let (group, plural) = (segments.next()?, segments.next()?);
    let group = if group == "core" { "" } else { group };
    let resource = resource::RESOURCES
        .iter()
        .copied()
        .find(|resource| resource.plural == plural && resource.group == group)?;
    let name = match (segments.next()?, segments.next()) {
        (namespace, Some(name)) => ObjectName::new(namespace, name),
        (name, None) => ObjectName::cluster(name),
    };
    Some((resource, name))
}
