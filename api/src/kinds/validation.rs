//! The checks that all kinds share, with upstream's words.
//!
//! Source: `k8s.io/apimachinery/pkg/api/validation` and `k8s.io/kubernetes/pkg/apis/core/validation`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::columns::{list, text};
use crate::names;
use crate::quantity::{self, Quantity};
use crate::status::FieldError;

pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// Checks `metadata`, names by `name_rule`; on update also that identity stays.
pub(super) fn metadata(
    object: &Value,
    old: Option<&Value>,
    name_rule: fn(&str) -> Option<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, "/metadata/name");
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if let Some(rule) = name_rule(name) {
        errors.push(FieldError::invalid("metadata.name", name, &rule));
    }
    errors.extend(labels(object, "/metadata/labels", "metadata.labels"));
    errors.extend(annotations(object));
    errors.extend(finalizers_and_owners(object));
    if let Some(old) = old {
        for key in ["name", "namespace", "uid"] {
            let pointer = format!("/metadata/{key}");
            errors.extend(immutable(object, old, &pointer, &format!("metadata.{key}")));
        }
    }
    errors
}

/// Checks a map of labels.
pub(super) fn labels(object: &Value, pointer: &str, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let members = object.pointer(pointer).and_then(Value::as_object);
    for (key, value) in members.into_iter().flatten() {
        for rule in names::qualified_name(key) {
            errors.push(FieldError::invalid(field, key.as_str(), &rule));
        }
        let value = value.as_str().unwrap_or_default();
        if let Some(rule) = names::label_value(value) {
            errors.push(FieldError::invalid(field, value, &rule));
        }
    }
    errors
}

fn annotations(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    let members = object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    for (key, value) in members.into_iter().flatten() {
        // Upper case is allowed in the prefix of annotations only.
        for rule in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(
                "metadata.annotations",
                key.as_str(),
                &rule,
            ));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(
            "metadata.annotations",
            ANNOTATIONS_BYTES_MAX,
        ));
    }
    errors
}

fn finalizers_and_owners(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for finalizer in list(object, "/metadata/finalizers") {
        let name = finalizer.as_str().unwrap_or_default();
        for rule in names::qualified_name(name) {
            errors.push(FieldError::invalid("metadata.finalizers", name, &rule));
        }
        let standard = ["foregroundDeletion", "orphan", "kubernetes"].contains(&name);
        if !standard && !name.contains('/') {
            errors.push(FieldError::invalid(
                "metadata.finalizers",
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    let owners = list(object, "/metadata/ownerReferences");
    for owner in owners {
        for (key, told) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, &format!("/{key}")).is_empty() {
                let field = format!("metadata.ownerReferences.{key}");
                errors.push(FieldError::invalid(field, "", told));
            }
        }
    }
    let controllers = owners.iter().filter(|owner| owner["controller"] == true);
    if controllers.count() > 1 {
        errors.push(FieldError::invalid(
            "metadata.ownerReferences",
            owners.to_vec(),
            "Only one reference can have Controller set to true",
        ));
    }
    errors
}

/// Refuses a change of what is at `pointer`.
pub(super) fn immutable(
    new: &Value,
    old: &Value,
    pointer: &str,
    field: &str,
) -> Option<FieldError> {
    let (after, before) = (new.pointer(pointer), old.pointer(pointer));
    let blank = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v == "");
    if after == before || (blank(after) && blank(before)) {
        return None;
    }
    let after = after.cloned().unwrap_or_default();
    Some(FieldError::invalid(field, after, IMMUTABLE))
}

/// Refuses a negative number at `pointer`.
pub(super) fn not_negative(object: &Value, pointer: &str, field: &str) -> Option<FieldError> {
    let number = object.pointer(pointer).and_then(Value::as_i64)?;
    (number < 0).then(|| FieldError::invalid(field, number, NOT_NEGATIVE))
}

/// Refuses text that is no IP address.
pub(super) fn ip(given: &str, field: &str) -> Option<FieldError> {
    let rule = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    let is_address = given.parse::<IpAddr>().is_ok();
    (!is_address).then(|| FieldError::invalid(field, given, rule))
}

/// Refuses text that is no range of addresses.
pub(super) fn cidr(given: &str, field: &str) -> Option<FieldError> {
    let rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let is_range = given.split_once('/').is_some_and(|(address, prefix)| {
        let bits_max = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        prefix.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
    });
    (!is_range).then(|| FieldError::invalid(field, given, rule))
}

/// Refuses an address that stands for no single machine that others reach.
///
/// Source: `ValidateEndpointIP`.
pub(super) fn special_ip(given: &str, field: &str) -> Option<FieldError> {
    let address: IpAddr = given.parse().ok()?;
    let (is_link_local, is_link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    let rule = if address.is_unspecified() {
        format!("may not be unspecified ({given:?})")
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if is_link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if is_link_local_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return None;
    };
    Some(FieldError::invalid(field, given, &rule))
}

/// Refuses a number that is no port.
pub(super) fn port(number: i64, field: &str) -> Option<FieldError> {
    (!(1..=65_535).contains(&number)).then(|| FieldError::invalid(field, number, PORT_RANGE))
}

/// Checks a port that is given by number or by name.
pub(super) fn port_or_name(value: &Value, field: &str) -> Vec<FieldError> {
    match value {
        Value::String(name) => names::port_name(name)
            .iter()
            .map(|rule| FieldError::invalid(field, name.as_str(), rule))
            .collect(),
        other => port(other.as_i64().unwrap_or_default(), field)
            .into_iter()
            .collect(),
    }
}

/// Refuses text that is none of `supported`. Absent text is left to defaults.
pub(super) fn one_of(
    object: &Value,
    pointer: &str,
    field: &str,
    supported: &[&str],
) -> Option<FieldError> {
    let given = text(object, pointer);
    (!given.is_empty() && !supported.contains(&given))
        .then(|| FieldError::not_supported(field, given, supported))
}

/// Checks a map of resource names to quantities, none negative.
pub(super) fn quantities(object: &Value, pointer: &str, field: &str) -> Vec<FieldError> {
    let members = object.pointer(pointer).and_then(Value::as_object);
    let mut errors = Vec::new();
    for (name, value) in members.into_iter().flatten() {
        let field = format!("{field}[{name}]");
        for rule in names::qualified_name(name) {
            errors.push(FieldError::invalid(field.as_str(), name.as_str(), &rule));
        }
        match Quantity::from_json(value) {
            Err(_) => errors.push(FieldError::invalid(field, value.clone(), quantity::RULE)),
            Ok(amount) if amount.is_negative() => {
                errors.push(FieldError::invalid(field, value.clone(), NOT_NEGATIVE));
            }
            Ok(_) => {}
        }
    }
    errors
}

/// Checks a label selector object; answers it parsed when it is sound.
pub(super) fn label_selector(
    object: &Value,
    pointer: &str,
    field: &str,
    errors: &mut Vec<FieldError>,
) -> Option<crate::selector::LabelSelector> {
    let before = errors.len();
    errors.extend(labels(
        object,
        &format!("{pointer}/matchLabels"),
        &format!("{field}.matchLabels"),
    ));
    let expressions = list(object, &format!("{pointer}/matchExpressions"));
    for (position, expression) in expressions.iter().enumerate() {
        let at = format!("{field}.matchExpressions[{position}]");
        for rule in names::qualified_name(text(expression, "/key")) {
            errors.push(FieldError::invalid(
                format!("{at}.key"),
                text(expression, "/key"),
                &rule,
            ));
        }
        let has_values = !list(expression, "/values").is_empty();
        let operator = text(expression, "/operator");
        match operator {
            "In" | "NotIn" if !has_values => errors.push(FieldError::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if has_values => errors.push(FieldError::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(
                format!("{at}.operator"),
                operator,
                "not a valid selector operator",
            )),
        }
    }
    if errors.len() > before {
        return None;
    }
    let typed = serde_json::from_value(object.pointer(pointer)?.clone()).ok()?;
    crate::selector::LabelSelector::from_object(&typed).ok()
}

/// The labels at a pointer.
pub(super) fn label_map(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let members = object.pointer(pointer).and_then(Value::as_object);
    members
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, old: Option<Value>, expect: &[&str]) {
        let errors = metadata(&object, old.as_ref(), names::dns_1123_subdomain);
        let told: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(told.len(), expect.len(), "{told:?}");
        for (told, expect) in told.iter().zip(expect) {
            assert!(
                told.starts_with(expect),
                "{told} does not start with {expect}"
            );
        }
    }

    #[test]
    fn metadata_is_checked_field_by_field() {
        let meta = |metadata: Value| json!({ "metadata": metadata });
        check(meta(json!({ "name": "a.b" })), None, &[]);
        check(
            meta(json!({})),
            None,
            &["metadata.name: Required value: name or generateName is required"],
        );
        check(
            meta(json!({ "name": "A" })),
            None,
            &[
                r#"metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of"#,
            ],
        );
        check(
            meta(json!({ "name": "a", "labels": { "k": "a b" }, "finalizers": ["mine"] })),
            None,
            &[
                r#"metadata.labels: Invalid value: "a b": a valid label must be an empty string"#,
                r#"metadata.finalizers: Invalid value: "mine": name is neither a standard finalizer"#,
            ],
        );
        check(
            meta(json!({ "name": "a", "uid": "2" })),
            Some(meta(json!({ "name": "a", "uid": "1" }))),
            &[r#"metadata.uid: Invalid value: "2": field is immutable"#],
        );
    }
}
