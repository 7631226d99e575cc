use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answers and says it is ready.
    Ready,
    /// It answers and says it is not.
    NotReady,
    /// Its lease ran out.
    Unreachable,
}

/// Judges a node by its lease and its own word.
pub(super) fn judge(node: &Node, is_lease_over: bool) -> Health {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let ready = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "Ready");
    match ready.map(|ready| ready.status.as_str()) {
        _ if is_lease_over => Health::Unreachable,
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unreachable,
        Some(_) | None => Health::NotReady,
    }
}

/// Brings conditions and taints in line with a node's health. Taints of others stay.
pub(super) fn apply(node: &mut Node, health: Health, now: Timestamp) {
    if health == Health::Unreachable {
        let status = node.status.get_or_insert_default();
        let conditions = status.conditions.get_or_insert_default();
        if !conditions
            .iter()
            .any(|condition| condition.type_ == "Ready")
        {
            conditions.push(NodeCondition {
                type_: "Ready".to_owned(),
                ..NodeCondition::default()
            });
        }
        for condition in conditions
            .iter_mut()
            .filter(|condition| condition.status != "Unknown")
        {
            condition.status = "Unknown".to_owned();
            condition.reason = Some("NodeStatusUnknown".to_owned());
            condition.message = Some("Kubelet stopped posting node status.".to_owned());
            condition.last_transition_time = Some(Time(now));
        }
    }
    let spec = node.spec.get_or_insert_default();
    let is_unschedulable = spec.unschedulable.unwrap_or(false);
    let taints = spec.taints.get_or_insert_default();
    for (key, effect, is_wanted) in [
        (NOT_READY, "NoSchedule", health == Health::NotReady),
        (NOT_READY, "NoExecute", health == Health::NotReady),
        (UNREACHABLE, "NoSchedule", health == Health::Unreachable),
        (UNREACHABLE, "NoExecute", health == Health::Unreachable),
        (UNSCHEDULABLE, "NoSchedule", is_unschedulable),
    ] {
        let has = taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect);
        if is_wanted && !has {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        } else if !is_wanted && has {
            taints.retain(|taint| taint.key != key || taint.effect != effect);
        }
    }
    if taints.is_empty() {
        spec.taints = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1"},
            "spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn taints(node: &Node) -> Vec<(String, String)> {
        let taints = node
            .spec
            .as_ref()
            .unwrap()
            .taints
            .clone()
            .unwrap_or_default();
        taints
            .into_iter()
            .skip(1)
            .map(|taint| (taint.key, taint.effect))
            .collect()
    }

    #[test]
    fn health_sets_its_own_taints_and_leaves_those_of_others() {
        for (ready, is_lease_over, health, expected) in [
            ("True", false, Health::Ready, None),
            ("False", false, Health::NotReady, Some(NOT_READY)),
            ("True", true, Health::Unreachable, Some(UNREACHABLE)),
            ("Unknown", false, Health::Unreachable, Some(UNREACHABLE)),
        ] {
            let mut node = node(ready);
            assert_eq!(
                judge(&node, is_lease_over),
                health,
                "{ready} {is_lease_over}"
            );
            apply(&mut node, health, Timestamp::UNIX_EPOCH);
            let expected: Vec<_> = expected
                .into_iter()
                .flat_map(|key| {
                    [
                        (key.to_owned(), "NoSchedule".to_owned()),
                        (key.to_owned(), "NoExecute".to_owned()),
                    ]
                })
                .collect();
            assert_eq!(taints(&node), expected, "{ready} {is_lease_over}");
        }
    }

    #[test]
    fn node_that_comes_back_loses_the_taints_of_its_absence() {
        let mut node = node("True");
        apply(&mut node, Health::Unreachable, Timestamp::UNIX_EPOCH);
        let status = node.status.as_ref().unwrap().conditions.as_ref().unwrap()[0]
            .status
            .clone();
        assert_eq!(status, "Unknown");
        apply(&mut node, Health::Ready, Timestamp::UNIX_EPOCH);
        assert_eq!(taints(&node), []);
    }
}
