use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fairlead_objects::Object;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{
    filter,
    node_info::{NodeInfo, Resident},
    score,
};
use crate::pod_state;

/// The nodes and what is, or is about to be, on each of them.
#[derive(Default)]
pub(super) struct State {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<String, NodeInfo>,
    /// Where each pod counts.
    places: HashMap<String, String>,
}

impl State {
    pub(super) fn set_node(&self, name: &str, node: Option<Arc<Node>>) {
        let mut inner = self.inner();
        let info = inner.nodes.entry(name.to_owned()).or_default();
        info.set_node(node);
        if info.node.is_none() && info.count() == 0 {
            inner.nodes.remove(name);
        }
    }

    /// Counts a bound pod where it is bound.
    pub(super) fn set_pod(&self, pod: &Pod) {
        if let Some(node) = pod_state::node(pod) {
            self.inner().set(pod.uid(), node, Resident::new(pod));
        }
    }

    pub(super) fn remove_pod(&self, uid: &str) {
        self.inner().remove(uid);
    }

    /// The node for a pod, which counts there from now on; or why there is none.
    pub(super) fn place(&self, pod: &Pod) -> Result<String, String> {
        let mut inner = self.inner();
        let wanted = Resident::new(pod);
        let mut fitting = Vec::new();
        let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
        let mut count = 0;
        for info in inner.nodes.values().filter(|info| info.node.is_some()) {
            count += 1;
            let reasons = filter::reasons(pod, &wanted, info);
            if reasons.is_empty() {
                fitting.push(info);
            }
            for reason in reasons {
                *refusals.entry(reason).or_default() += 1;
            }
        }
        let Some(best) = score::best(pod, &wanted, &fitting) else {
            return Err(explain(count, &refusals));
        };
        let node = best.name();
        inner.set(pod.uid(), &node, wanted);
        Ok(node)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn set(&mut self, uid: &str, node: &str, resident: Resident) {
        self.remove(uid);
        self.places.insert(uid.to_owned(), node.to_owned());
        self.nodes
            .entry(node.to_owned())
            .or_default()
            .insert(uid, resident);
    }

    fn remove(&mut self, uid: &str) {
        let Some(node) = self.places.remove(uid) else {
            return;
        };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.remove(uid);
            if info.node.is_none() && info.count() == 0 {
                self.nodes.remove(&node);
            }
        }
    }
}

/// Upstream's sentence about a pod that fits nowhere.
fn explain(nodes: usize, refusals: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut parts: Vec<String> = refusals
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, more: Value) -> Node {
        let mut value = json!({
            "metadata": {"name": name, "labels": {"zone": name}},
            "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
        });
        for (key, field) in more.as_object().unwrap() {
            value["spec"][key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, cpu: &str, more: Value) -> Pod {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "set", "controller": true},
            ]},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        for (key, field) in more.as_object().unwrap() {
            value["spec"][key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn state(nodes: &[Node]) -> State {
        let state = State::default();
        for node in nodes {
            state.set_node(&node.object_name().name, Some(Arc::new(node.clone())));
        }
        state
    }

    fn three() -> State {
        state(&["n1", "n2", "n3"].map(|name| node(name, json!({}))))
    }

    #[test]
    fn replicas_spread_over_the_nodes() {
        let state = three();
        let places: Vec<_> = ["a", "b", "c"]
            .map(|name| state.place(&pod(name, "100m", json!({}))).unwrap())
            .into();
        assert_eq!(places, ["n1", "n2", "n3"]);
    }

    #[test]
    fn placed_pod_counts_at_once_and_until_it_is_removed() {
        let state = state(&[node("n1", json!({}))]);
        assert_eq!(state.place(&pod("a", "2", json!({}))).as_deref(), Ok("n1"));
        let second = pod("b", "1", json!({}));
        assert_eq!(
            state.place(&second).unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu."
        );
        state.remove_pod("a");
        assert_eq!(state.place(&second).as_deref(), Ok("n1"));
    }

    #[test]
    fn refusals_are_counted_in_upstreams_words() {
        let tainted =
            json!({"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]});
        let nodes = [
            node("n1", json!({"unschedulable": true})),
            node("n2", tainted),
            node("n3", json!({})),
        ];
        let big = pod("a", "3", json!({}));
        assert_eq!(
            state(&nodes).place(&big).unwrap_err(),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {dedicated: db}, \
             1 node(s) were unschedulable.",
        );
        assert_eq!(
            state(&[]).place(&big).unwrap_err(),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn pod_goes_only_where_its_spec_allows() {
        let in_zone = |operator: &str, values: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}],
            }}}})
        };
        let prefers = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["n3"]}]}},
        ]}}});
        for (what, spec, expected) in [
            (
                "selector",
                json!({"nodeSelector": {"zone": "n2"}}),
                Some("n2"),
            ),
            (
                "selector of nothing",
                json!({"nodeSelector": {"zone": "n9"}}),
                None,
            ),
            ("affinity", in_zone("In", json!(["n3"])), Some("n3")),
            (
                "negative affinity",
                in_zone("NotIn", json!(["n1", "n2"])),
                Some("n3"),
            ),
            ("preference", prefers, Some("n3")),
        ] {
            let placed = three().place(&pod("a", "100m", spec)).ok();
            assert_eq!(placed.as_deref(), expected, "{what}");
        }
    }

    #[test]
    fn host_port_is_taken_once_a_node_and_pods_are_counted() {
        let state = state(&[node("n1", json!({}))]);
        let ports = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        assert!(state.place(&pod("a", "0", ports.clone())).is_ok());
        let refused = state.place(&pod("b", "0", ports)).unwrap_err();
        assert!(
            refused.contains("1 node(s) didn't have free ports for the requested pod ports"),
            "{refused}"
        );
        for name in ["c", "d"] {
            assert!(state.place(&pod(name, "0", json!({}))).is_ok());
        }
        assert_eq!(
            state.place(&pod("e", "0", json!({}))).unwrap_err(),
            "0/1 nodes are available: 1 Too many pods."
        );
    }

    #[test]
    fn tolerated_taint_keeps_nobody_off() {
        let taints = json!({"taints": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}]});
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "gpu", "operator": "Exists"}), true),
            (json!({"key": "gpu", "value": "a"}), true),
            (json!({"key": "gpu", "value": "b"}), false),
            (
                json!({"key": "gpu", "value": "a", "effect": "NoExecute"}),
                false,
            ),
        ] {
            let tolerant = pod("a", "0", json!({"tolerations": [toleration]}));
            let placed = state(&[node("n1", taints.clone())]).place(&tolerant);
            assert_eq!(placed.is_ok(), expected, "{toleration}");
        }
    }
}
