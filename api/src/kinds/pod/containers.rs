//! Source: `validateContainers` in `k8s.io/kubernetes/pkg/apis/core/validation`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kinds::columns::{list, number, text};
use crate::kinds::validation::{not_negative, one_of, port, port_or_name, quantities};
use crate::names;
use crate::quantity::Quantity;
use crate::status::FieldError;

const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// One container at path `at`, in a pod with these volumes.
pub(super) fn container(container: &Value, at: &str, volumes: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else if let Some(rule) = names::dns_1123_label(name) {
        errors.push(FieldError::invalid(format!("{at}.name"), name, &rule));
    }
    let image = text(container, "/image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            format!("{at}.image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    errors.extend(one_of(
        container,
        "/imagePullPolicy",
        &format!("{at}.imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    ));
    errors.extend(ports(container, at));
    errors.extend(environment(container, at));
    errors.extend(mounts(container, at, volumes));
    errors.extend(resources(container, at));
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(key) {
            errors.extend(self::probe(probe, &format!("{at}.{key}"), key));
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = container.pointer(&format!("/lifecycle/{hook}")) {
            errors.extend(handler(action, &format!("{at}.lifecycle.{hook}")));
        }
    }
    errors
}

fn ports(container: &Value, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (position, declared) in list(container, "/ports").iter().enumerate() {
        let at = format!("{at}.ports[{position}]");
        let name = text(declared, "/name");
        if !name.is_empty() {
            let broken = names::port_name(name);
            if let Some(rule) = broken.first() {
                errors.push(FieldError::invalid(format!("{at}.name"), name, rule));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
        }
        match number(declared, "/containerPort") {
            0 => errors.push(FieldError::required(format!("{at}.containerPort"), "")),
            given => errors.extend(port(given, &format!("{at}.containerPort"))),
        }
        if let Some(given) = declared["hostPort"].as_i64().filter(|given| *given != 0) {
            errors.extend(port(given, &format!("{at}.hostPort")));
        }
        errors.extend(one_of(
            declared,
            "/protocol",
            &format!("{at}.protocol"),
            &["SCTP", "TCP", "UDP"],
        ));
    }
    errors
}

fn environment(container: &Value, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (position, variable) in list(container, "/env").iter().enumerate() {
        let at = format!("{at}.env[{position}]");
        let name = text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if let Some(rule) = names::environment_variable(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, &rule));
        }
        let Some(source) = variable.get("valueFrom") else {
            continue;
        };
        if !text(variable, "/value").is_empty() {
            errors.push(FieldError::invalid(
                format!("{at}.valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        }
        if source.as_object().is_none_or(|members| members.len() != 1) {
            errors.push(FieldError::invalid(
                format!("{at}.valueFrom"),
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ));
        }
    }
    errors
}

fn mounts(container: &Value, at: &str, volumes: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (position, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let at = format!("{at}.volumeMounts[{position}]");
        let name = text(mount, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{at}.name"), name));
        }
        let path = text(mount, "/mountPath");
        if path.is_empty() {
            errors.push(FieldError::required(format!("{at}.mountPath"), ""));
        } else if !seen.insert(path) {
            errors.push(FieldError::invalid(
                format!("{at}.mountPath"),
                path,
                "must be unique",
            ));
        }
        let below = text(mount, "/subPath");
        if below.starts_with('/') {
            errors.push(FieldError::invalid(
                format!("{at}.subPath"),
                below,
                "must be a relative path",
            ));
        } else if below.split('/').any(|step| step == "..") {
            errors.push(FieldError::invalid(
                format!("{at}.subPath"),
                below,
                "must not contain '..'",
            ));
        }
    }
    errors
}

fn resources(container: &Value, at: &str) -> Vec<FieldError> {
    let at = format!("{at}.resources");
    let mut errors = Vec::new();
    for key in ["limits", "requests"] {
        errors.extend(quantities(
            container,
            &format!("/resources/{key}"),
            &format!("{at}.{key}"),
        ));
    }
    let of = |key: &str| container.pointer(&format!("/resources/{key}"))?.as_object();
    for (name, requested) in of("requests").into_iter().flatten() {
        let Some(limit) = of("limits").and_then(|limits| limits.get(name)) else {
            continue;
        };
        let (Ok(asked), Ok(allowed)) = (Quantity::from_json(requested), Quantity::from_json(limit))
        else {
            continue;
        };
        if asked > allowed {
            errors.push(FieldError::invalid(
                format!("{at}.requests"),
                asked.to_string(),
                &format!("must be less than or equal to {name} limit of {allowed}"),
            ));
        }
    }
    errors
}

fn probe(probe: &Value, at: &str, kind: &str) -> Vec<FieldError> {
    let mut errors = handler(probe, at);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.extend(not_negative(
            probe,
            &format!("/{key}"),
            &format!("{at}.{key}"),
        ));
    }
    let successes = number(probe, "/successThreshold");
    if kind != "readinessProbe" && successes > 1 {
        errors.push(FieldError::invalid(
            format!("{at}.successThreshold"),
            successes,
            "must be 1",
        ));
    }
    errors
}

/// What a probe or a hook does: exactly one thing.
fn handler(action: &Value, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given: Vec<&str> = HANDLERS
        .into_iter()
        .filter(|key| action.get(key).is_some())
        .collect();
    let known = !given.is_empty() || action.get("sleep").is_some();
    if !known {
        errors.push(FieldError::required(at, "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        errors.push(FieldError::forbidden(
            format!("{at}.{extra}"),
            "may not specify more than 1 handler type",
        ));
    }
    if let Some(exec) = action.get("exec")
        && list(exec, "/command").is_empty()
    {
        errors.push(FieldError::required(format!("{at}.exec.command"), ""));
    }
    if let Some(get) = action.get("httpGet") {
        errors.extend(port_or_name(&get["port"], &format!("{at}.httpGet.port")));
        errors.extend(one_of(
            get,
            "/scheme",
            &format!("{at}.httpGet.scheme"),
            &["HTTP", "HTTPS"],
        ));
    }
    for key in ["tcpSocket", "grpc"] {
        if let Some(target) = action.get(key) {
            errors.extend(port_or_name(&target["port"], &format!("{at}.{key}.port")));
        }
    }
    errors
}
