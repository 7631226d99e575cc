use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::scheduler::tolerates;

/// How long a pod that says nothing about it stays on a node that does not answer.
const DEFAULT_SECONDS: i64 = 300;

/// Whether a pod may stay on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    Stays,
    In(Duration),
    Now,
}

/// Judges a pod by the NoExecute taints of its node and what it tolerates, and for how long.
pub(super) fn judge(node: &Node, pod: &Pod, now: Timestamp) -> Eviction {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let mut soonest: Option<SignedDuration> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let matching: Vec<_> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        let is_about_health = matches!(
            taint.key.as_str(),
            "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"
        );
        let seconds = if matching.is_empty() {
            if !is_about_health {
                return Eviction::Now;
            }
            Some(DEFAULT_SECONDS)
        } else {
            // The shortest of those that limit it; one without a limit tolerates for ever.
            matching
                .iter()
                .filter_map(|toleration| toleration.toleration_seconds)
                .min()
        };
        if let Some(seconds) = seconds {
            let due = since + SignedDuration::from_secs(seconds.max(0));
            let wait = due.duration_since(now);
            soonest = Some(soonest.map_or(wait, |earlier| earlier.min(wait)));
        }
    }
    match soonest {
        None => Eviction::Stays,
        Some(wait) => Duration::try_from(wait)
            .ok()
            .filter(|wait| !wait.is_zero())
            .map_or(Eviction::Now, Eviction::In),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pods_leave_a_tainted_node_when_their_toleration_ends() {
        let unreachable = "node.kubernetes.io/unreachable";
        let forever = json!([{"key": unreachable, "operator": "Exists", "effect": "NoExecute"}]);
        let minute = json!([{"key": unreachable, "operator": "Exists", "tolerationSeconds": 60}]);
        // (taint, tolerations, seconds since, verdict)
        let table: [(&str, Value, i64, Eviction); 6] = [
            (
                unreachable,
                json!([]),
                10,
                Eviction::In(Duration::from_secs(290)),
            ),
            (unreachable, json!([]), 300, Eviction::Now),
            (unreachable, forever, 3_000, Eviction::Stays),
            (
                unreachable,
                minute.clone(),
                10,
                Eviction::In(Duration::from_secs(50)),
            ),
            (unreachable, minute, 61, Eviction::Now),
            ("maintenance", json!([]), 0, Eviction::Now),
        ];
        for (taint, tolerations, seconds, expected) in table {
            let node: Node = serde_json::from_value(json!({
                "metadata": {},
                "spec": {"taints": [{"key": taint, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap();
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}}),
            )
            .unwrap();
            let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let now = start + SignedDuration::from_secs(seconds);
            assert_eq!(judge(&node, &pod, now), expected, "{taint} {seconds}");
        }
    }
}
