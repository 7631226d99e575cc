//! What kinds that keep replicas of a pod template share.

use serde_json::{Value, json};

use super::defaults::{object, set};
use super::pod::pod_spec_defaults;

/// Upstream's defaults of a ReplicaSet, and the part of a Deployment that is the same.
pub(super) fn default_replicas(workload: &mut Value) {
    let Some(spec) = object(workload, "spec") else {
        return;
    };
    set(spec, "replicas", 1);
    if let Some(template) = object(spec, "template")
        && let Some(pod_spec) = object(template, "spec")
    {
        pod_spec_defaults(pod_spec);
    }
}

/// Upstream's defaults of a Deployment.
pub(super) fn default_deployment(deployment: &mut Value) {
    default_replicas(deployment);
    let Some(spec) = object(deployment, "spec") else {
        return;
    };
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    let Some(strategy) = object(spec, "strategy") else {
        return;
    };
    set(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        set(strategy, "rollingUpdate", json!({}));
        let rolling = &mut strategy["rollingUpdate"];
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_rolls_by_a_quarter_unless_told_otherwise() {
        let mut given = json!({ "spec": {} });
        default_deployment(&mut given);
        assert_eq!(given["spec"]["replicas"], 1);
        assert_eq!(
            given["spec"]["strategy"],
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": "25%" } })
        );
        let mut given = json!({ "spec": { "replicas": 0, "strategy": { "type": "Recreate" } } });
        default_deployment(&mut given);
        assert_eq!(given["spec"]["replicas"], 0);
        assert_eq!(given["spec"]["strategy"], json!({ "type": "Recreate" }));
        assert_eq!(given["spec"]["template"]["spec"]["restartPolicy"], "Always");
    }
}
