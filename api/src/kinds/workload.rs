//! What kinds that keep replicas of a pod template share.

use serde_json::{Value, json};

use super::columns::{number, text};
use super::defaults::{object, set};
use super::pod::{default_pod_spec, validate_pod_spec};
use super::validation::{
    immutable, label_map, label_selector, labels, metadata, not_negative, one_of,
};
use crate::names;
use crate::status::FieldError;

/// Upstream's defaults of a ReplicaSet, and the part of a Deployment that is the same.
pub(super) fn default_replicas(workload: &mut Value) {
    let Some(spec) = object(workload, "spec") else {
        return;
    };
    set(spec, "replicas", 1);
    if let Some(template) = object(spec, "template")
        && let Some(pod_spec) = object(template, "spec")
    {
        default_pod_spec(pod_spec);
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

/// A ReplicaSet.
pub(super) fn validate_replica_set(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    validate_replicas(new, old, "replica set")
}

/// A Deployment.
pub(super) fn validate_deployment(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_replicas(new, old, "deployment");
    let spec = &new["spec"];
    errors.extend(strategy(spec));
    errors.extend(not_negative(
        spec,
        "/revisionHistoryLimit",
        "spec.revisionHistoryLimit",
    ));
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64() {
        let field = "spec.progressDeadlineSeconds";
        errors.extend(not_negative(spec, "/progressDeadlineSeconds", field));
        if deadline <= number(spec, "/minReadySeconds") {
            let rule = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid(field, deadline, rule));
        }
    }
    errors
}

/// What is the same for all that keep replicas: `kind` is how messages call it.
fn validate_replicas(new: &Value, old: Option<&Value>, kind: &str) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    for key in ["replicas", "minReadySeconds"] {
        let (pointer, field) = (format!("/spec/{key}"), format!("spec.{key}"));
        errors.extend(not_negative(new, &pointer, &field));
    }
    if new.pointer("/spec/selector").is_none_or(Value::is_null) {
        errors.push(FieldError::required("spec.selector", ""));
    } else if let Some(selector) =
        label_selector(new, "/spec/selector", "spec.selector", &mut errors)
    {
        let template = label_map(new, "/spec/template/metadata/labels");
        if selector.is_empty() {
            errors.push(FieldError::invalid(
                "spec.selector",
                json!({}),
                &format!("empty selector is invalid for {kind}"),
            ));
        } else if !selector.matches(&template) {
            errors.push(FieldError::invalid(
                "spec.template.metadata.labels",
                json!(template),
                "`selector` does not match template `labels`",
            ));
        }
    }
    if let Some(old) = old {
        errors.extend(immutable(new, old, "/spec/selector", "spec.selector"));
    }

    let at = "spec.template";
    errors.extend(labels(
        new,
        "/spec/template/metadata/labels",
        &format!("{at}.labels"),
    ));
    let pod_spec = &new["spec"]["template"]["spec"];
    errors.extend(validate_pod_spec(pod_spec, &format!("{at}.spec")));
    let policy = text(pod_spec, "/restartPolicy");
    if !matches!(policy, "" | "Always") {
        errors.push(FieldError::not_supported(
            format!("{at}.spec.restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    errors
}

fn strategy(spec: &Value) -> Vec<FieldError> {
    let at = "spec.strategy";
    let mut errors = Vec::new();
    errors.extend(one_of(
        spec,
        "/strategy/type",
        &format!("{at}.type"),
        &["Recreate", "RollingUpdate"],
    ));
    let Some(rolling) = spec.pointer("/strategy/rollingUpdate") else {
        return errors;
    };
    let at = format!("{at}.rollingUpdate");
    if text(spec, "/strategy/type") == "Recreate" {
        errors.push(FieldError::forbidden(
            at,
            "may not be specified when strategy `type` is 'Recreate'",
        ));
        return errors;
    }
    let unavailable = amount(rolling, "maxUnavailable", &at, &mut errors);
    let surge = amount(rolling, "maxSurge", &at, &mut errors);
    let field = format!("{at}.maxUnavailable");
    match (unavailable, surge) {
        (Some(0), Some(0)) => errors.push(FieldError::invalid(
            field,
            rolling["maxUnavailable"].clone(),
            "may not be 0 when `maxSurge` is 0",
        )),
        (Some(percent), _) if percent > 100 && rolling["maxUnavailable"].is_string() => {
            errors.push(FieldError::invalid(
                field,
                rolling["maxUnavailable"].clone(),
                "must not be greater than 100%",
            ));
        }
        _ => {}
    }
    errors
}

/// A count or a percentage, whose number is answered.
fn amount(rolling: &Value, key: &str, at: &str, errors: &mut Vec<FieldError>) -> Option<i64> {
    const PERCENT_RULE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
    let field = format!("{at}.{key}");
    match rolling.get(key)? {
        Value::String(percent) => {
            let digits = percent.strip_suffix('%').unwrap_or_default();
            let number = digits.parse().ok().filter(|number: &i64| *number >= 0);
            if number.is_none() {
                errors.push(FieldError::invalid(field, percent.as_str(), PERCENT_RULE));
            }
            number
        }
        count => {
            errors.extend(not_negative(rolling, &format!("/{key}"), &field));
            count.as_i64()
        }
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

    fn check(change: fn(&mut Value), expect: &[&str]) {
        let mut given = json!({
            "metadata": { "name": "web" },
            "spec": {
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "a", "image": "x" }] },
                },
            },
        });
        let before = given.clone();
        change(&mut given);
        let errors = validate_deployment(&given, Some(&before));
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, expect);
    }

    #[test]
    fn the_selector_is_required_and_stays_and_selects_the_template() {
        check(|_| (), &[]);
        check(
            |d| d["spec"]["template"]["metadata"]["labels"]["app"] = "db".into(),
            &[
                r#"spec.template.metadata.labels: Invalid value: {"app":"db"}: `selector` does not match template `labels`"#,
            ],
        );
        check(
            |d| d["spec"]["selector"] = Value::Null,
            &[
                "spec.selector: Required value",
                "spec.selector: Invalid value: null: field is immutable",
            ],
        );
    }

    #[test]
    fn counts_and_percentages_are_checked() {
        check(
            |d| d["spec"]["replicas"] = (-1).into(),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        );
        check(
            |d| {
                d["spec"]["strategy"] =
                    json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": "0%" } });
            },
            &[
                r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0"#,
            ],
        );
        check(
            |d| d["spec"]["template"]["spec"]["restartPolicy"] = "Never".into(),
            &[
                r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
            ],
        );
    }
}
