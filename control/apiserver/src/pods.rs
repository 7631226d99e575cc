//! What is particular about pods: their first status, and that they end gracefully.

use serde_json::{Value, json};

use crate::metadata;

/// What a pod that does not say gets between "please stop" and "stopped".
const GRACE_SECONDS: i64 = 30;

/// Completes a new pod.
pub(crate) fn prepare(pod: &mut Value) {
    let class = quality_of_service(pod);
    let status = metadata::member_mut(pod, "status");
    status.insert("phase".to_owned(), "Pending".into());
    status.insert("qosClass".to_owned(), class.into());
}

/// How long a pod may take to end: what the request asks, else what the pod asks; nothing when no
/// node runs it or it has ended.
pub(crate) fn grace_seconds(pod: &Value, asked: Option<i64>) -> i64 {
    let text = |pointer| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let unscheduled = text("/spec/nodeName").is_empty();
    let ended = matches!(text("/status/phase"), "Succeeded" | "Failed");
    if unscheduled || ended {
        return 0;
    }
    let own = || {
        pod.pointer("/spec/terminationGracePeriodSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(GRACE_SECONDS)
    };
    // Negative means "at once, but let the node see it": upstream takes it for 1.
    match asked.unwrap_or_else(own) {
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

/// Binds a pod to a node. `Err` when it is bound already.
pub(crate) fn bind(pod: &mut Value, node: &str, now: jiff::Timestamp) -> Result<(), String> {
    if let Some(bound) = pod.pointer("/spec/nodeName").and_then(Value::as_str)
        && !bound.is_empty()
    {
        return Err(format!(
            "pod {} is already assigned to node {bound:?}",
            metadata::name(pod)
        ));
    }
    metadata::member_mut(pod, "spec").insert("nodeName".to_owned(), node.into());
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": metadata::timestamp(now),
    });
    let conditions = metadata::member_mut(pod, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(condition);
    }
    Ok(())
}

/// `Guaranteed` when every container limits CPU and memory and requests no less, `BestEffort` when
/// none says anything, else `Burstable`.
fn quality_of_service(pod: &Value) -> &'static str {
    let containers: Vec<&Value> = ["/spec/containers", "/spec/initContainers"]
        .iter()
        .filter_map(|pointer| pod.pointer(pointer)?.as_array())
        .flatten()
        .collect();
    let amount = |container: &Value, kind: &str, name: &str| {
        container
            .pointer(&format!("/resources/{kind}/{name}"))
            .filter(|amount| !amount.is_null())
            .cloned()
    };
    let says = |container: &Value| {
        ["requests", "limits"].iter().any(|kind| {
            ["cpu", "memory"]
                .iter()
                .any(|name| amount(container, kind, name).is_some())
        })
    };
    let fixed = |container: &Value| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = amount(container, "limits", name);
            let request = amount(container, "requests", name);
            limit.is_some() && (request.is_none() || request == limit)
        })
    };
    if !containers.iter().any(|container| says(container)) {
        "BestEffort"
    } else if containers.iter().all(|container| fixed(container)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        let cases = [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                "Guaranteed",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
                "Burstable",
            ),
        ];
        for (resources, class) in cases {
            assert_eq!(
                quality_of_service(&pod(resources.clone())),
                class,
                "{resources}"
            );
        }
    }

    #[test]
    fn only_a_pod_that_runs_somewhere_gets_grace() {
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}});
        assert_eq!(grace_seconds(&running, None), 5);
        assert_eq!(grace_seconds(&running, Some(2)), 2);
        assert_eq!(grace_seconds(&running, Some(-1)), 1);
        assert_eq!(grace_seconds(&json!({"spec": {}}), None), 0);
        let ended = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}});
        assert_eq!(grace_seconds(&ended, None), 0);
    }

    #[test]
    fn pod_is_bound_once() {
        let mut pod = json!({"metadata": {"name": "p"}});
        bind(&mut pod, "node-1", jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        let refused = bind(&mut pod, "node-2", jiff::Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(refused, "pod p is already assigned to node \"node-1\"");
    }
}
