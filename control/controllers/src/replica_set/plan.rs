use std::time::Duration;

use fairlead_objects::{Object, ObjectName};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{claim, rank};
use crate::pod_state;

/// How many pods one pass creates or deletes at most.
const BURST: usize = 500;

/// What to do about the pods of one ReplicaSet. Pods are named by name and uid.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) adopt: Vec<(ObjectName, String)>,
    pub(super) release: Vec<(ObjectName, String)>,
    pub(super) create: usize,
    pub(super) delete: Vec<(ObjectName, String)>,
    pub(super) status: ReplicaSetStatus,
    pub(super) again: Option<Duration>,
}

/// Compares a set with the pods of its namespace.
pub(super) fn plan(set: &ReplicaSet, pods: &[&Pod], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let identity = |pod: &Pod| (pod.object_name(), pod.uid().to_owned());
    let mut owned: Vec<&Pod> = Vec::new();
    for &pod in pods {
        match claim::any_controller(pod) {
            Some(owner) if owner.uid == set.uid() => {
                if claim::selects(set, pod) || set.is_terminating() {
                    owned.push(pod);
                } else {
                    plan.release.push(identity(pod));
                }
            }
            None if !set.is_terminating()
                && pod_state::is_active(pod)
                && claim::selects(set, pod) =>
            {
                plan.adopt.push(identity(pod));
                owned.push(pod);
            }
            Some(_) | None => {}
        }
    }
    let active: Vec<&Pod> = owned
        .iter()
        .copied()
        .filter(|pod| pod_state::is_active(pod))
        .collect();
    let spec = set.spec.clone();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !set.is_terminating() {
        if active.len() < wanted {
            plan.create = (wanted - active.len()).min(BURST);
        } else {
            let excess = (active.len() - wanted).min(BURST);
            plan.delete = rank::first_to_go(&active, now)
                .into_iter()
                .take(excess)
                .map(identity)
                .collect();
        }
    }

    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let due: Vec<_> = active
        .iter()
        .filter_map(|pod| pod_state::available_in(pod, min_ready, now))
        .collect();
    plan.again = due
        .iter()
        .filter(|wait| !wait.is_zero())
        .min()
        .and_then(|wait| Duration::try_from(*wait + SignedDuration::from_millis(100)).ok());
    let template = spec
        .template
        .unwrap_or_default()
        .metadata
        .unwrap_or_default();
    let is_labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let wanted = template.labels.iter().flatten();
        wanted
            .into_iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    };
    let count = |of: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| of(pod)).count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    let terminating = owned
        .iter()
        .filter(|pod| pod.is_terminating() && !pod_state::has_ended(pod))
        .count();
    plan.status = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&is_labelled)),
        ready_replicas: some(count(&pod_state::is_ready)),
        available_replicas: some(count(&|pod| {
            pod_state::available_in(pod, min_ready, now) == Some(SignedDuration::ZERO)
        })),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: set
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone()),
    };
    plan
}

/// The status with the ReplicaFailure condition as the last pass left it.
pub(super) fn with_failure(
    set: &ReplicaSet,
    mut status: ReplicaSetStatus,
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    const KIND: &str = "ReplicaFailure";
    let mut conditions = status.conditions.take().unwrap_or_default();
    let old = conditions
        .iter()
        .position(|condition| condition.type_.as_deref() == Some(KIND));
    let old = old.map(|index| conditions.remove(index));
    if let Some((reason, message)) = failure {
        let since = old
            .and_then(|old| old.last_transition_time)
            .unwrap_or(Time(now));
        conditions.push(ReplicaSetCondition {
            type_: Some(KIND.to_owned()),
            status: Some("True".to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since),
        });
    }
    let had = set
        .status
        .as_ref()
        .is_some_and(|status| status.conditions.is_some());
    status.conditions = Some(conditions).filter(|list| had || !list.is_empty());
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "set", "generation": 4},
            "spec": {
                "replicas": replicas, "minReadySeconds": min_ready,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}},
            },
        }))
        .unwrap()
    }

    fn pod(name: &str, more: Value) -> Pod {
        let mut value = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": name, "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "set", "controller": true}],
            },
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:09:55Z"},
            ]},
        });
        fn merge(into: &mut Value, from: Value) {
            match (into, from) {
                (Value::Object(into), Value::Object(from)) => {
                    for (key, value) in from {
                        merge(into.entry(key).or_insert(Value::Null), value);
                    }
                }
                (into, from) => *into = from,
            }
        }
        merge(&mut value, more);
        serde_json::from_value(value).unwrap()
    }

    fn check(set: &ReplicaSet, pods: &[Pod]) -> Plan {
        plan(set, &pods.iter().collect::<Vec<_>>(), now())
    }

    #[test]
    fn missing_pods_are_created_and_ended_or_leaving_ones_do_not_count() {
        let pods = [
            pod("a", json!({})),
            pod("b", json!({"status": {"phase": "Failed"}})),
            pod(
                "c",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            ),
        ];
        let plan = check(&set(3, 0), &pods);
        assert_eq!((plan.create, plan.delete.len()), (2, 0));
        assert_eq!(plan.status.replicas, 1);
        assert_eq!(plan.status.terminating_replicas, Some(1));
        assert_eq!(plan.status.observed_generation, Some(4));
    }

    #[test]
    fn surplus_goes_in_upstreams_order() {
        let bare =
            json!({"spec": {"nodeName": null}, "status": {"phase": "Pending", "conditions": []}});
        // (what decides, the one that stays, the one that goes)
        for (what, stays, goes) in [
            ("unbound", json!({}), bare),
            (
                "pending",
                json!({}),
                json!({"status": {"phase": "Pending"}}),
            ),
            (
                "not ready",
                json!({}),
                json!({"status": {"conditions": []}}),
            ),
            (
                "deletion cost",
                json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "5"}}}),
                json!({}),
            ),
            (
                "ready for a shorter time",
                json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2025-12-01T00:00:00Z"}]}}),
                json!({}),
            ),
            (
                "restarts",
                json!({}),
                json!({"status": {"containerStatuses": [
                    {"name": "x", "image": "", "imageID": "", "ready": true, "restartCount": 3},
                ]}}),
            ),
        ] {
            let plan = check(&set(1, 0), &[pod("stays", stays), pod("goes", goes)]);
            assert_eq!(
                plan.delete,
                [(ObjectName::new("shop", "goes"), "goes".to_owned())],
                "{what}"
            );
        }
    }

    #[test]
    fn pod_that_shares_its_node_with_others_goes_first() {
        let pods = [
            pod("a", json!({"spec": {"nodeName": "n1"}})),
            pod("b", json!({"spec": {"nodeName": "n2"}})),
            pod("c", json!({"spec": {"nodeName": "n2"}})),
        ];
        let gone = check(&set(2, 0), &pods).delete;
        assert!(
            matches!(&gone[..], [(name, _)] if name.name != "a"),
            "{gone:?}"
        );
    }

    #[test]
    fn pod_is_available_only_after_min_ready_seconds_and_looked_at_again_then() {
        let plan = check(&set(1, 10), &[pod("a", json!({}))]);
        assert_eq!(plan.status.ready_replicas, Some(1));
        assert_eq!(plan.status.available_replicas, None);
        assert_eq!(plan.again, Some(Duration::from_millis(5_100)));
        assert_eq!(
            check(&set(1, 5), &[pod("a", json!({}))])
                .status
                .available_replicas,
            Some(1)
        );
    }

    #[test]
    fn orphan_is_adopted_and_relabelled_pod_released() {
        let orphan = pod("a", json!({"metadata": {"ownerReferences": null}}));
        let stray = pod("b", json!({"metadata": {"labels": {"app": "other"}}}));
        let plan = check(&set(1, 0), &[orphan, stray]);
        assert_eq!(plan.adopt, [(ObjectName::new("shop", "a"), "a".to_owned())]);
        assert_eq!(
            plan.release,
            [(ObjectName::new("shop", "b"), "b".to_owned())]
        );
        assert_eq!((plan.create, plan.delete.len()), (0, 0));
    }
}
