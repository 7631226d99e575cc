use serde_json::{Value, json};

use super::*;

fn sound() -> Value {
    json!({
        "metadata": { "name": "a", "namespace": "default" },
        "spec": { "containers": [{ "name": "a", "image": "hello:1" }], "restartPolicy": "Always" },
    })
}

/// Puts `value` at `pointer` of a sound pod and expects exactly these errors.
fn check(pointer: &str, value: Value, expect: &[&str]) {
    let mut given = sound();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    given.pointer_mut(parent).expect("a parent")[key] = value;
    let told: Vec<String> = pod(&given, None).iter().map(ToString::to_string).collect();
    assert_eq!(told, expect, "{pointer}");
}

#[test]
fn a_sound_pod_has_no_errors() {
    check("/spec/nodeName", json!("n1"), &[]);
}

#[test]
fn what_a_pod_must_have_is_asked_for() {
    check(
        "/spec/containers",
        json!([]),
        &["spec.containers: Required value"],
    );
    check(
        "/spec/containers",
        json!([{}]),
        &[
            "spec.containers[0].name: Required value",
            "spec.containers[0].image: Required value",
        ],
    );
}

#[test]
fn values_out_of_range_are_refused_by_path() {
    let one = |container: Value| {
        let mut whole = json!({ "name": "a", "image": "x" });
        for (key, value) in container.as_object().expect("members") {
            whole[key] = value.clone();
        }
        json!([whole])
    };
    check(
        "/spec/restartPolicy",
        json!("Sometimes"),
        &[
            r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
        ],
    );
    check(
        "/spec/containers",
        one(json!({ "ports": [{ "containerPort": 70000, "protocol": "TCP" }] })),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ],
    );
    check(
        "/spec/containers",
        one(json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] })),
        &[r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#],
    );
    check(
        "/spec/containers",
        one(
            json!({ "resources": { "requests": { "cpu": "2" }, "limits": { "cpu": "1", "memory": "-1" } } }),
        ),
        &[
            r#"spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0"#,
            r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
        ],
    );
    check(
        "/spec/containers",
        one(json!({ "livenessProbe": { "successThreshold": 2, "tcpSocket": { "port": 80 } } })),
        &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
    );
    check(
        "/spec/containers",
        one(json!({ "readinessProbe": {} })),
        &["spec.containers[0].readinessProbe: Required value: must specify a handler type"],
    );
}

#[test]
fn containers_and_volumes_have_names_of_their_own() {
    check(
        "/spec/containers",
        json!([{ "name": "a", "image": "x" }, { "name": "a", "image": "y" }]),
        &[r#"spec.containers[1].name: Duplicate value: "a""#],
    );
    check(
        "/spec/volumes",
        json!([{ "name": "v", "emptyDir": {} }, { "name": "v", "emptyDir": {} }]),
        &[r#"spec.volumes[1].name: Duplicate value: "v""#],
    );
}

#[test]
fn an_update_may_change_the_image_and_little_else() {
    let old = sound();
    let mut new = sound();
    new["spec"]["containers"][0]["image"] = "hello:2".into();
    assert_eq!(pod(&new, Some(&old)), []);
    new["spec"]["containers"][0]["args"] = json!(["x"]);
    let told = pod(&new, Some(&old));
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .to_string()
            .starts_with("spec: Forbidden: pod updates may not change fields other than")
    );
    new["spec"]["containers"] = json!([]);
    let told: Vec<String> = pod(&new, Some(&old))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told[1],
        "spec.containers: Forbidden: pod updates may not add or remove containers"
    );
}
