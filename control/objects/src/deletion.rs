//! What deleting an object means: marking it until something else has happened, or removing it and
//! what it holds.

use fairlead_api::{claims::Claim, resource::Resource};
use fairlead_store::{Expect, Key, Op};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// How long a deleted pod may take, in seconds, when it does not say (upstream's default).
const POD_GRACE_SECONDS: i64 = 30;

/// How a deletion treats a running pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// A bound pod is marked, and goes when its node has stopped it.
    Pod,
    /// The object goes now, whatever still runs.
    Immediate,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    Nothing,
    Mark,
    Remove,
}

/// Decides what deleting `value` means and marks it if that is all.
pub(crate) fn deletion(
    resource: &Resource,
    value: &mut Value,
    grace: Grace,
    now: Timestamp,
) -> Deletion {
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
pub(crate) fn is_finished(value: &Value, resource: &Resource) -> bool {
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

/// A Service's cluster IPs and node ports are released with it, in one transaction.
pub(crate) fn held_claims(resource: &Resource, value: &Value) -> Vec<Op> {
    if resource.kind != "Service" || !resource.group.is_empty() {
        return Vec::new();
    }
    let release = |claim: &Claim| Op::Delete {
        key: Key::raw(claim.key()),
        expect: Expect::Any,
    };
    Claim::of_service(value).iter().map(release).collect()
}

#[cfg(test)]
mod tests {
    use fairlead_api::resource;

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
    fn deleted_service_releases_each_address_and_port_once() {
        let service = json!({"spec": {
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 81}],
        }});
        let keys: Vec<_> = held_claims(&resource::SERVICE, &service)
            .into_iter()
            .map(|op| match op {
                Op::Put { key, .. } | Op::Delete { key, .. } => key.to_string(),
            })
            .collect();
        assert_eq!(
            keys,
            [
                "/registry/ranges/serviceips/10.96.0.7",
                "/registry/ranges/servicenodeports/TCP/30080"
            ]
        );
    }
}
