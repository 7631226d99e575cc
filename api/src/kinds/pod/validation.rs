//! Source: `ValidatePod` and `ValidatePodUpdate` in `k8s.io/kubernetes/pkg/apis/core/validation`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers;
use crate::balancing::weight_of_pod;
use crate::kinds::columns::{list, text};
use crate::kinds::validation::{label_map, labels, metadata, not_negative, one_of};
use crate::names;
use crate::status::FieldError;

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A pod; on update, all but a few fields of its spec must stay.
pub(super) fn pod(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    errors.extend(pod_spec(&new["spec"], "spec"));
    let annotations = label_map(new, "/metadata/annotations");
    errors.extend(weight_of_pod(Some(&annotations)).1);
    if let Some(old) = old {
        errors.extend(update(&new["spec"], &old["spec"]));
    }
    errors
}

/// The spec of a pod or of a template; `at` is its path.
pub(in crate::kinds) fn pod_spec(spec: &Value, at: &str) -> Vec<FieldError> {
    let field = |name: &str| format!("{at}.{name}");
    let mut errors = volumes(spec, &field("volumes"));
    let volumes: BTreeSet<&str> = list(spec, "/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .collect();

    if list(spec, "/containers").is_empty() {
        errors.push(FieldError::required(field("containers"), ""));
    }
    let mut seen = BTreeSet::new();
    for key in ["initContainers", "containers"] {
        let at = field(key);
        for (position, container) in list(spec, &format!("/{key}")).iter().enumerate() {
            let at = format!("{at}[{position}]");
            errors.extend(containers::container(container, &at, &volumes));
            let name = text(container, "/name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
        }
    }

    errors.extend(one_of(
        spec,
        "/restartPolicy",
        &field("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    ));
    errors.extend(one_of(
        spec,
        "/dnsPolicy",
        &field("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    ));
    errors.extend(not_negative(
        spec,
        "/terminationGracePeriodSeconds",
        &field("terminationGracePeriodSeconds"),
    ));
    errors.extend(labels(spec, "/nodeSelector", &field("nodeSelector")));
    for (key, rule) in [
        ("nodeName", names::dns_1123_subdomain as fn(&str) -> _),
        ("serviceAccountName", names::dns_1123_subdomain),
        ("hostname", names::dns_1123_label),
        ("subdomain", names::dns_1123_label),
    ] {
        let name = text(spec, &format!("/{key}"));
        if let (false, Some(rule)) = (name.is_empty(), rule(name)) {
            errors.push(FieldError::invalid(field(key), name, &rule));
        }
    }
    for (position, toleration) in list(spec, "/tolerations").iter().enumerate() {
        let at = format!("{}[{position}]", field("tolerations"));
        errors.extend(one_of(
            toleration,
            "/operator",
            &format!("{at}.operator"),
            &["Equal", "Exists", "Lt", "Gt"],
        ));
        errors.extend(one_of(
            toleration,
            "/effect",
            &format!("{at}.effect"),
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        ));
    }
    errors
}

fn volumes(spec: &Value, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (position, volume) in list(spec, "/volumes").iter().enumerate() {
        let at = format!("{at}[{position}]");
        let name = text(volume, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if let Some(rule) = names::dns_1123_label(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, &rule));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        let members = volume.as_object().into_iter().flatten();
        let mut sources = members.filter(|(key, _)| *key != "name");
        if sources.next().is_none() {
            errors.push(FieldError::required(&at, "must specify a volume type"));
        }
        for (source, _) in sources {
            errors.push(FieldError::forbidden(
                format!("{at}.{source}"),
                "may not specify more than 1 volume type",
            ));
        }
        for (source, required) in [
            ("secret", "secretName"),
            ("configMap", "name"),
            ("hostPath", "path"),
            ("persistentVolumeClaim", "claimName"),
        ] {
            let given = volume.get(source);
            if given.is_some_and(|source| text(source, &format!("/{required}")).is_empty()) {
                errors.push(FieldError::required(
                    format!("{at}.{source}.{required}"),
                    "",
                ));
            }
        }
    }
    errors
}

fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["containers", "initContainers"] {
        let pointer = format!("/{key}");
        if list(new, &pointer).len() != list(old, &pointer).len() {
            errors.push(FieldError::forbidden(
                format!("spec.{key}"),
                "pod updates may not add or remove containers",
            ));
            return errors;
        }
    }
    let kept = list(old, "/tolerations")
        .iter()
        .all(|toleration| list(new, "/tolerations").contains(toleration));
    if !kept {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    if without_mutable(new) != without_mutable(old) {
        errors.push(FieldError::forbidden("spec", MUTABLE));
    }
    errors
}

/// A spec without what an update may change, and without members that say nothing.
fn without_mutable(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let negative = spec["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|grace| grace < 0);
    if let Some(members) = spec.as_object_mut() {
        for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            members.remove(key);
        }
        if negative {
            members.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
        }
        members.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
    }
    for key in ["containers", "initContainers"] {
        let containers = spec.get_mut(key).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(members) = container.as_object_mut() {
                members.remove("image");
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests;
