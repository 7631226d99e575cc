//! What the control plane wants of this node, kept whole: a snapshot replaces it, a delta advances
//! it.

use std::collections::BTreeMap;

use fairlead_api::Generation;
use fairlead_proto::node::{
    DataplaneState, Delta, NodeAddress, Object, Parameters, Pod, Route, Service, Snapshot,
};
use serde_json::Value;

/// (namespace, name) of a pod, or (kind, namespace, name) joined, of an object.
type PodKey = (String, String);
type ObjectKey = (String, String, String);

/// The node's desired state at one generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Desired {
    pub(crate) generation: Generation,
    pub(crate) pod_cidr: String,
    parameters: Option<Parameters>,
    services: BTreeMap<u32, Service>,
    nodes: BTreeMap<String, NodeAddress>,
    routes: BTreeMap<(u32, String), Route>,
    pods: BTreeMap<PodKey, Pod>,
    objects: BTreeMap<ObjectKey, Object>,
}

/// A delta that does not follow what is held.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a delta from generation {base} does not follow generation {held}")]
pub(crate) struct Gap {
    base: Generation,
    held: Generation,
}

impl Desired {
    /// The state of a snapshot.
    pub(crate) fn from_snapshot(snapshot: Snapshot) -> Self {
        let dataplane = snapshot.dataplane.unwrap_or_default();
        let mut desired = Self {
            generation: Generation(snapshot.generation),
            pod_cidr: snapshot.pod_cidr,
            parameters: dataplane.parameters,
            ..Self::default()
        };
        desired.upsert_dataplane(dataplane.services, dataplane.nodes, dataplane.routes);
        desired.upsert_pods(snapshot.pods);
        desired.upsert_objects(snapshot.objects);
        desired
    }

    /// Applies a delta.
    ///
    /// # Errors
    /// When it starts from another generation; then nothing changed, and a new snapshot is needed.
    pub(crate) fn advance(&mut self, delta: Delta) -> Result<(), Gap> {
        let base = Generation(delta.base_generation);
        if base != self.generation {
            return Err(Gap {
                base,
                held: self.generation,
            });
        }
        for id in delta.removed_services {
            self.services.remove(&id);
        }
        for name in delta.removed_nodes {
            self.nodes.remove(&name);
        }
        for key in delta.removed_routes {
            self.routes.remove(&(key.vpc, key.prefix));
        }
        for key in delta.removed_pods {
            self.pods.remove(&(key.namespace, key.name));
        }
        for key in delta.removed_objects {
            self.objects.remove(&(key.kind, key.namespace, key.name));
        }
        self.upsert_dataplane(delta.services, delta.nodes, delta.routes);
        self.upsert_pods(delta.pods);
        self.upsert_objects(delta.objects);
        if !delta.pod_cidr.is_empty() {
            self.pod_cidr = delta.pod_cidr;
        }
        self.generation = Generation(delta.generation);
        Ok(())
    }

    /// The dataplane's part, whole.
    pub(crate) fn dataplane(&self) -> DataplaneState {
        DataplaneState {
            parameters: self.parameters.clone(),
            services: self.services.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            routes: self.routes.values().cloned().collect(),
        }
    }

    /// The pods bound to this node, as v1.Pod JSON.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &[u8]> {
        self.pods.values().map(|pod| pod.pod_json.as_ref())
    }

    /// The ConfigMaps and Secrets they refer to.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    fn upsert_dataplane(
        &mut self,
        services: Vec<Service>,
        nodes: Vec<NodeAddress>,
        routes: Vec<Route>,
    ) {
        self.services
            .extend(services.into_iter().map(|service| (service.id, service)));
        self.nodes
            .extend(nodes.into_iter().map(|node| (node.name.clone(), node)));
        self.routes.extend(routes.into_iter().filter_map(|route| {
            let key = route.key.clone()?;
            Some(((key.vpc, key.prefix), route))
        }));
    }

    fn upsert_pods(&mut self, pods: Vec<Pod>) {
        self.pods.extend(pods.into_iter().filter_map(|pod| {
            let object: Value = serde_json::from_slice(&pod.pod_json).ok()?;
            let text = |field: &str| Some(object["metadata"][field].as_str()?.to_owned());
            Some(((text("namespace")?, text("name")?), pod))
        }));
    }

    fn upsert_objects(&mut self, objects: Vec<Object>) {
        self.objects.extend(objects.into_iter().map(|object| {
            let key = (
                object.kind.clone(),
                object.namespace.clone(),
                object.name.clone(),
            );
            (key, object)
        }));
    }
}

#[cfg(test)]
mod tests {
    use fairlead_proto::node::{ObjectKey, PodKey, RouteKey};
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str) -> Pod {
        let object = json!({"metadata": {"namespace": "default", "name": name, "uid": uid}});
        Pod {
            pod_json: object.to_string().into(),
        }
    }

    fn route(prefix: &str, node: &str) -> Route {
        let key = RouteKey {
            vpc: 0,
            prefix: prefix.into(),
        };
        Route {
            key: Some(key),
            node: node.into(),
        }
    }

    fn service(id: u32, name: &str) -> Service {
        Service {
            id,
            name: name.into(),
            ..Service::default()
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            generation: 7,
            pod_cidr: "10.244.1.0/24".into(),
            dataplane: Some(DataplaneState {
                parameters: Some(Parameters::default()),
                services: vec![service(1, "a"), service(2, "b")],
                nodes: vec![NodeAddress {
                    name: "node-2".into(),
                    id: 2,
                    ..Default::default()
                }],
                routes: vec![route("10.244.2.0/24", "node-2")],
            }),
            pods: vec![pod("web", "1"), pod("db", "2")],
            objects: vec![Object {
                kind: "Secret".into(),
                name: "s".into(),
                ..Default::default()
            }],
        }
    }

    #[test]
    fn a_delta_that_follows_upserts_and_removes() {
        let mut desired = Desired::from_snapshot(snapshot());
        let delta = Delta {
            base_generation: 7,
            generation: 9,
            services: vec![service(2, "renamed"), service(3, "c")],
            removed_services: vec![1],
            removed_nodes: vec!["node-2".into()],
            removed_routes: vec![RouteKey {
                vpc: 0,
                prefix: "10.244.2.0/24".into(),
            }],
            routes: vec![route("10.244.3.0/24", "node-3")],
            pods: vec![pod("web", "3")],
            removed_pods: vec![PodKey {
                namespace: "default".into(),
                name: "db".into(),
                uid: "2".into(),
            }],
            removed_objects: vec![ObjectKey {
                kind: "Secret".into(),
                name: "s".into(),
                ..Default::default()
            }],
            ..Delta::default()
        };
        desired.advance(delta).unwrap();
        let expected = Desired::from_snapshot(Snapshot {
            generation: 9,
            dataplane: Some(DataplaneState {
                parameters: Some(Parameters::default()),
                services: vec![service(2, "renamed"), service(3, "c")],
                nodes: vec![],
                routes: vec![route("10.244.3.0/24", "node-3")],
            }),
            pods: vec![pod("web", "3")],
            objects: vec![],
            ..snapshot()
        });
        assert_eq!(desired, expected);
    }

    #[test]
    fn a_delta_with_a_gap_changes_nothing() {
        let mut desired = Desired::from_snapshot(snapshot());
        let before = desired.clone();
        let delta = Delta {
            base_generation: 8,
            generation: 9,
            removed_services: vec![1],
            ..Delta::default()
        };
        assert!(desired.advance(delta).is_err());
        assert_eq!(desired, before);
    }
}
