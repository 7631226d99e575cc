//! What the control plane wants of this node: the pods whole, and of the dataplane and the DNS what
//! changed since it was applied, for they keep what they hold.

use std::{collections::BTreeMap, sync::Arc};

use fairlead_api::Generation;
use fairlead_dataplane::Changes;
use fairlead_dns::Changes as NameChanges;
use fairlead_proto::node::{Delta, Object, Pod, Snapshot};
use serde_json::Value;

/// (namespace, name) of a pod, or (kind, namespace, name) joined, of an object.
type PodKey = (String, String);
type ObjectKey = (String, String, String);

/// What the control plane sends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Update {
    /// Replaces all that came before.
    Snapshot(Snapshot),
    /// Changes what came before.
    Delta(Delta),
}

/// The node's desired state at one generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Desired {
    pub(crate) generation: Generation,
    /// Where pods get their addresses from, one range a family. Empty until allocated.
    pub(crate) pod_cidrs: Vec<String>,
    /// What the dataplane has not taken yet.
    pub(crate) changes: Arc<Changes>,
    /// What the DNS has not taken yet.
    pub(crate) names: NameChanges,
    /// Another one after each change.
    pub(crate) workload: Arc<Workload>,
}

/// What the node is to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Workload {
    pods: BTreeMap<PodKey, Pod>,
    objects: BTreeMap<ObjectKey, Object>,
}

impl Desired {
    /// Takes in what was sent. That it follows what came before is the session's to see.
    pub(crate) fn take(&mut self, update: Update) {
        match update {
            Update::Snapshot(snapshot) => self.replace(snapshot),
            Update::Delta(delta) => self.advance(delta),
        }
    }

    fn replace(&mut self, snapshot: Snapshot) {
        let mut workload = Workload::default();
        workload.upsert_pods(snapshot.pods);
        workload.upsert_objects(snapshot.objects);
        let mut dataplane = snapshot.dataplane.unwrap_or_default();
        *self = Self {
            generation: Generation(snapshot.generation),
            pod_cidrs: snapshot.pod_cidrs,
            names: NameChanges::whole(&mut dataplane),
            changes: Arc::new(Changes::whole(dataplane)),
            workload: Arc::new(workload),
        };
    }

    fn advance(&mut self, mut delta: Delta) {
        Arc::make_mut(&mut self.changes).merge(Changes::take_from(&mut delta));
        self.names.merge(NameChanges::take_from(&mut delta));
        let concerns_workload = !(delta.pods.is_empty()
            && delta.removed_pods.is_empty()
            && delta.objects.is_empty()
            && delta.removed_objects.is_empty());
        if concerns_workload {
            // A new one even if nobody else holds it: who compares them sees that it changed.
            let mut workload = Workload::clone(&self.workload);
            for key in delta.removed_pods {
                workload.pods.remove(&(key.namespace, key.name));
            }
            for key in delta.removed_objects {
                workload
                    .objects
                    .remove(&(key.kind, key.namespace, key.name));
            }
            workload.upsert_pods(delta.pods);
            workload.upsert_objects(delta.objects);
            self.workload = Arc::new(workload);
        }
        if !delta.pod_cidrs.is_empty() {
            self.pod_cidrs = delta.pod_cidrs;
        }
        self.generation = Generation(delta.generation);
    }
}

impl Workload {
    /// The pods bound to this node, as v1.Pod JSON.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &[u8]> {
        self.pods.values().map(|pod| pod.pod_json.as_ref())
    }

    /// The ConfigMaps and Secrets they refer to.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
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
    use fairlead_proto::node::{
        DataplaneState, NodeAddress, ObjectKey, Parameters, PodKey, Route, RouteKey, Service,
    };
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
            pod_cidrs: vec!["10.244.1.0/24".into()],
            dataplane: Some(DataplaneState {
                parameters: Some(Parameters::default()),
                services: vec![service(1, "a"), service(2, "b")],
                nodes: vec![NodeAddress {
                    name: "node-2".into(),
                    id: 2,
                    ..Default::default()
                }],
                routes: vec![route("10.244.2.0/24", "node-2")],
                ..DataplaneState::default()
            }),
            pods: vec![pod("web", "1"), pod("db", "2")],
            objects: vec![Object {
                kind: "Secret".into(),
                name: "s".into(),
                ..Default::default()
            }],
        }
    }

    fn desired(snapshot: Snapshot) -> Desired {
        let mut desired = Desired::default();
        desired.take(Update::Snapshot(snapshot));
        desired
    }

    #[test]
    fn a_delta_that_nobody_waited_for_is_merged_into_the_snapshot() {
        let mut advanced = desired(snapshot());
        let delta = Delta {
            base_generation: 7,
            generation: 9,
            services: vec![service(2, "renamed"), service(3, "c")],
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
        advanced.take(Update::Delta(delta));
        let mut dataplane = snapshot().dataplane.unwrap();
        dataplane.services = vec![service(1, "a"), service(2, "renamed"), service(3, "c")];
        dataplane.routes.push(route("10.244.3.0/24", "node-3"));
        let expected = Snapshot {
            generation: 9,
            dataplane: Some(dataplane),
            pods: vec![pod("web", "3")],
            objects: vec![],
            ..snapshot()
        };
        assert_eq!(advanced, desired(expected));
    }

    #[test]
    fn change_of_a_service_is_all_that_the_dataplane_is_told_and_no_news_for_pods() {
        let mut advanced = desired(snapshot());
        advanced.changes = Arc::default();
        let before = advanced.workload.clone();
        advanced.take(Update::Delta(Delta {
            base_generation: 7,
            generation: 8,
            services: vec![service(2, "renamed")],
            removed_services: vec![1],
            ..Delta::default()
        }));
        assert!(!advanced.changes.is_whole);
        assert_eq!(advanced.changes.services.len(), 2);
        assert!(Arc::ptr_eq(&advanced.workload, &before));
    }
}
