//! Source: `k8s.io/kubernetes/pkg/apis/core/v1/defaults.go`.

use serde_json::{Map, Value, json};

use crate::kinds::defaults::{items, object, set, set_number};

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// 0644.
const FILE_MODE: i64 = 420;
const TOKEN_LIFETIME_S: i64 = 3600;
const ABSENCES: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
const ABSENCE_TOLERATED_S: i64 = 300;

/// A pod of its own: what templates get, and what only makes sense once it is a pod.
pub(super) fn pod(pod: &mut Value) {
    let Some(spec) = object(pod, "spec") else {
        return;
    };
    pod_spec(spec);
    set(spec, "enableServiceLinks", true);
    set(spec, "serviceAccountName", "default");
    set(spec, "serviceAccount", "default");
    tolerate_absence(spec);
    for list in ["containers", "initContainers"] {
        items(spec, list).for_each(requests_from_limits);
    }
    if let Some(status) = object(pod, "status") {
        set(status, "phase", "Pending");
    }
}

/// A pod that says nothing about it stays on a node that does not answer for five minutes.
///
/// Source: the admission plugin `DefaultTolerationSeconds`.
fn tolerate_absence(spec: &mut Value) {
    for key in ABSENCES {
        let tolerations = spec["tolerations"].as_array();
        let is_covered = tolerations.into_iter().flatten().any(|toleration| {
            let is_for = |field: &str, wanted: &str| match toleration[field].as_str() {
                None | Some("") => true,
                Some(given) => given == wanted,
            };
            is_for("key", key) && is_for("effect", "NoExecute")
        });
        if !is_covered {
            set(spec, "tolerations", json!([]));
            if let Some(tolerations) = spec["tolerations"].as_array_mut() {
                tolerations.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": ABSENCE_TOLERATED_S,
                }));
            }
        }
    }
}

/// The spec of a pod or of a pod template.
pub(in crate::kinds) fn pod_spec(spec: &mut Value) {
    set(spec, "restartPolicy", "Always");
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "securityContext", json!({}));
    service_account(spec);

    let host_network = spec["hostNetwork"] == true;
    for list in CONTAINER_LISTS {
        for container in items(spec, list) {
            container_defaults(container);
            for port in items(container, "ports") {
                set(port, "protocol", "TCP");
                if host_network && let Some(number) = port["containerPort"].as_i64() {
                    set_number(port, "hostPort", number);
                }
            }
        }
    }
    items(spec, "volumes").for_each(volume);
    for constraint in items(spec, "topologySpreadConstraints") {
        set(constraint, "nodeAffinityPolicy", "Honor");
        set(constraint, "nodeTaintsPolicy", "Ignore");
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are served.
fn service_account(spec: &mut Value) {
    let given = ["serviceAccountName", "serviceAccount"]
        .into_iter()
        .find_map(|key| spec[key].as_str().filter(|name| !name.is_empty()));
    if let Some(name) = given.map(str::to_owned) {
        spec["serviceAccountName"] = name.as_str().into();
        spec["serviceAccount"] = name.into();
    }
}

fn container_defaults(container: &mut Value) {
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    set(container, "resources", json!({}));
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    set(container, "imagePullPolicy", policy);

    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else {
            continue;
        };
        set_number(probe, "timeoutSeconds", 1);
        set_number(probe, "periodSeconds", 10);
        set_number(probe, "successThreshold", 1);
        set_number(probe, "failureThreshold", 3);
        http_get(probe);
        if let Some(grpc) = probe.get_mut("grpc") {
            set(grpc, "service", "");
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            http_get(hook);
        }
    }
    for variable in items(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
}

fn http_get(action: &mut Value) {
    if let Some(get) = action.get_mut("httpGet") {
        set(get, "path", "/");
        set(get, "scheme", "HTTP");
    }
}

/// An image whose tag may move is looked for each time.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().into_iter().flatten();
    if sources.filter(|(key, _)| *key != "name").count() == 0 {
        set(volume, "emptyDir", json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            set(source, "defaultMode", FILE_MODE);
            field_versions(source);
        }
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                set(token, "expirationSeconds", TOKEN_LIFETIME_S);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                field_versions(downward);
            }
        }
    }
    if let Some(host_path) = volume.get_mut("hostPath") {
        set(host_path, "type", "");
    }
}

fn field_versions(downward: &mut Value) {
    for file in items(downward, "items") {
        if let Some(field) = file.get_mut("fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
}

/// A limit without a request asks for as much.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").cloned() else {
        return;
    };
    let Some(Value::Object(requests)) = container
        .get_mut("resources")
        .and_then(|resources| object(resources, "requests"))
    else {
        return;
    };
    for (name, limit) in limits.as_object().unwrap_or(&Map::new()) {
        requests.entry(name).or_insert_with(|| limit.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_upstreams_defaults() {
        let mut given = json!({ "spec": { "serviceAccount": "robot", "containers": [{
            "name": "a", "image": "hello", "ports": [{ "containerPort": 80 }],
            "resources": { "limits": { "cpu": "1" } },
            "readinessProbe": { "httpGet": { "port": 80 } },
        }], "volumes": [{ "name": "v" }, { "name": "c", "configMap": { "name": "x" } }] } });
        pod(&mut given);
        assert_eq!(
            given,
            json!({ "spec": {
                "serviceAccount": "robot", "serviceAccountName": "robot",
                "containers": [{
                    "name": "a", "image": "hello", "imagePullPolicy": "Always",
                    "ports": [{ "containerPort": 80, "protocol": "TCP" }],
                    "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "1" } },
                    "readinessProbe": {
                        "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" },
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                        "failureThreshold": 3,
                    },
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                }],
                "volumes": [
                    { "name": "v", "emptyDir": {} },
                    { "name": "c", "configMap": { "name": "x", "defaultMode": 420 } },
                ],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
                "securityContext": {}, "enableServiceLinks": true,
                "tolerations": [
                    {
                        "key": "node.kubernetes.io/not-ready", "operator": "Exists",
                        "effect": "NoExecute", "tolerationSeconds": 300,
                    },
                    {
                        "key": "node.kubernetes.io/unreachable", "operator": "Exists",
                        "effect": "NoExecute", "tolerationSeconds": 300,
                    },
                ],
            }, "status": { "phase": "Pending" } })
        );
    }

    #[test]
    fn what_is_given_is_kept_even_when_zero() {
        let mut given = json!({ "spec": {
            "terminationGracePeriodSeconds": 0, "enableServiceLinks": false, "containers": [],
        } });
        pod(&mut given);
        assert_eq!(given["spec"]["terminationGracePeriodSeconds"], 0);
        assert_eq!(given["spec"]["enableServiceLinks"], false);
    }

    #[test]
    fn pod_has_an_account_and_tolerates_absence_for_five_minutes_unless_it_says() {
        let seconds = |tolerations: Value| {
            let mut given = json!({ "spec": { "containers": [], "tolerations": tolerations } });
            pod(&mut given);
            assert_eq!(given["spec"]["serviceAccountName"], "default");
            let tolerations = given["spec"]["tolerations"].as_array().cloned();
            tolerations
                .into_iter()
                .flatten()
                .map(|toleration| toleration["tolerationSeconds"].as_i64())
                .collect::<Vec<_>>()
        };
        assert_eq!(seconds(Value::Null), [Some(300), Some(300)]);
        let not_ready = json!({
            "key": "node.kubernetes.io/not-ready", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 5,
        });
        assert_eq!(seconds(json!([not_ready])), [Some(5), Some(300)]);
        let schedules_only =
            json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" });
        assert_eq!(
            seconds(json!([schedules_only])),
            [None, Some(300), Some(300)]
        );
        assert_eq!(seconds(json!([{ "operator": "Exists" }])), [None]);
    }

    #[test]
    fn the_pull_policy_follows_the_tag() {
        let check = |image, expect| assert_eq!(pull_policy(image), expect, "{image}");
        check("hello", "Always");
        check("hello:latest", "Always");
        check("hello:0.1", "IfNotPresent");
        check("registry:5000/hello", "Always");
        check("registry:5000/hello:1", "IfNotPresent");
        check("hello@sha256:0", "IfNotPresent");
    }
}
