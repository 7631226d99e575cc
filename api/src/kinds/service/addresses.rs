//! A Service's own addresses: `clusterIP`, `clusterIPs`, `ipFamilies`, `ipFamilyPolicy`.
//!
//! Source: `ValidateServiceClusterIPsRelatedFields` and the checks of upgrade and downgrade in
//! `k8s.io/kubernetes/pkg/apis/core/validation`.

use std::net::IpAddr;

use serde_json::Value;

use crate::kinds::columns::{list, text};
use crate::kinds::validation::{ip, one_of};
use crate::status::FieldError;

const CLUSTER_IPS: &str = "spec.clusterIPs";
const FAMILIES: &str = "spec.ipFamilies";
const POLICY: &str = "spec.ipFamilyPolicy";
const FIXED: &str = "may not change once set";

/// What the four fields may say together.
pub(super) fn cluster_ips(spec: &Value) -> Vec<FieldError> {
    if text(spec, "/type") == "ExternalName" {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let (singular, plural) = (text(spec, "/clusterIP"), texts(spec, "/clusterIPs"));
    if singular.is_empty() && !plural.is_empty() {
        errors.push(FieldError::invalid(
            CLUSTER_IPS,
            list(spec, "/clusterIPs").to_vec(),
            "must be empty when `clusterIP` is not specified",
        ));
    } else if plural.first().is_some_and(|first| *first != singular) {
        errors.push(FieldError::invalid(
            CLUSTER_IPS,
            list(spec, "/clusterIPs").to_vec(),
            "first value must match `clusterIP`",
        ));
    }
    let families = texts(spec, "/ipFamilies");
    for (position, family) in families.iter().enumerate() {
        let field = format!("{FAMILIES}[{position}]");
        if !["IPv4", "IPv6"].contains(family) {
            errors.push(FieldError::not_supported(field, *family, &["IPv4", "IPv6"]));
        } else if families[..position].contains(family) {
            errors.push(FieldError::duplicate(field, *family));
        }
    }
    errors.extend(one_of(
        spec,
        "/ipFamilyPolicy",
        POLICY,
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    ));

    let before = errors.len();
    if plural.first() == Some(&"None") {
        if plural.len() > 1 {
            errors.push(FieldError::invalid(
                CLUSTER_IPS,
                list(spec, "/clusterIPs").to_vec(),
                "'None' must be the first and only value",
            ));
        }
        return errors;
    }
    for (position, given) in plural.iter().enumerate() {
        errors.extend(ip(given, &format!("{CLUSTER_IPS}[{position}]")));
    }
    if plural.len() > 2 {
        errors.push(FieldError::invalid(
            CLUSTER_IPS,
            list(spec, "/clusterIPs").to_vec(),
            "may only hold up to 2 values",
        ));
    }
    // What is no address has no family either.
    if errors.len() > before {
        return errors;
    }
    let families_of: Vec<&str> = plural.iter().map(|given| family(given)).collect();
    if let [first, second] = families_of[..]
        && first == second
    {
        errors.push(FieldError::invalid(
            CLUSTER_IPS,
            list(spec, "/clusterIPs").to_vec(),
            "may specify no more than one IP for each IP family",
        ));
    }
    for (position, (given, wanted)) in plural.iter().zip(&families).enumerate() {
        if families_of[position] != *wanted {
            errors.push(FieldError::invalid(
                format!("{CLUSTER_IPS}[{position}]"),
                *given,
                &format!("expected an {wanted} value as indicated by `ipFamilies[{position}]`"),
            ));
        }
    }
    if text(spec, "/ipFamilyPolicy") == "SingleStack" {
        for (count, key) in [(plural.len(), "clusterIPs"), (families.len(), "ipFamilies")] {
            if count > 1 {
                let rule = format!("may not be 'SingleStack' when multiple '{key}' are specified");
                errors.push(FieldError::invalid(POLICY, "SingleStack", &rule));
            }
        }
    }
    errors
}

/// The first address and the first family stay for as long as the Service has them at all; the
/// second ones may come, and go if the policy says so.
pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    if [new, old]
        .iter()
        .any(|spec| text(spec, "/type") == "ExternalName")
    {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let is_headless = |spec: &Value| text(spec, "/clusterIPs/0") == "None";
    if !(is_headless(new) && is_headless(old)) {
        errors.extend(list_update(new, old, "clusterIPs", "clusterIP"));
    }
    errors.extend(list_update(new, old, "ipFamilies", "ipFamily"));
    errors
}

fn list_update(new: &Value, old: &Value, key: &str, one: &str) -> Vec<FieldError> {
    let pointer = format!("/{key}");
    let (before, after) = (texts(old, &pointer), texts(new, &pointer));
    let refused = |position: usize, rule: &str| {
        let field = format!("spec.{key}[{position}]");
        FieldError::invalid(field, list(new, &pointer).to_vec(), rule)
    };
    let mut errors = Vec::new();
    if before.is_empty() {
        return errors;
    }
    if after.is_empty() {
        let rule = format!("primary {one} can not be unset");
        errors.push(refused(0, &rule));
        return errors;
    }
    for (position, (before, after)) in before.iter().zip(&after).enumerate() {
        if before != after {
            errors.push(refused(position, FIXED));
        }
    }
    let policy = text(new, "/ipFamilyPolicy");
    if after.len() < before.len() && policy != "SingleStack" {
        let rule = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.push(FieldError::invalid(POLICY, policy, &rule));
    }
    errors
}

fn family(address: &str) -> &'static str {
    match address.parse() {
        Ok(IpAddr::V6(_)) => "IPv6",
        Ok(IpAddr::V4(_)) | Err(_) => "IPv4",
    }
}

fn texts<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(object, pointer)
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_and_families_must_fit_each_other() {
        for (spec, expect) in [
            (json!({}), vec![]),
            (
                json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack" }),
                vec![],
            ),
            (
                json!({ "clusterIP": "None", "clusterIPs": ["None"] }),
                vec![],
            ),
            (
                json!({ "clusterIP": "None", "clusterIPs": ["None", "10.96.0.1"] }),
                vec![
                    r#"spec.clusterIPs: Invalid value: ["None","10.96.0.1"]: 'None' must be the first and only value"#,
                ],
            ),
            (
                json!({ "clusterIPs": ["10.96.0.1"] }),
                vec![
                    r#"spec.clusterIPs: Invalid value: ["10.96.0.1"]: must be empty when `clusterIP` is not specified"#,
                ],
            ),
            (
                json!({ "clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.1"] }),
                vec![
                    r#"spec.clusterIPs: Invalid value: ["10.96.0.1"]: first value must match `clusterIP`"#,
                ],
            ),
            (
                json!({ "clusterIP": "nonsense", "clusterIPs": ["nonsense"] }),
                vec![
                    r#"spec.clusterIPs[0]: Invalid value: "nonsense": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
                ],
            ),
            (
                json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "10.96.0.2"] }),
                vec![
                    r#"spec.clusterIPs: Invalid value: ["10.96.0.1","10.96.0.2"]: may specify no more than one IP for each IP family"#,
                ],
            ),
            (
                json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv6"] }),
                vec![
                    r#"spec.clusterIPs[0]: Invalid value: "10.96.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`"#,
                ],
            ),
            (
                json!({ "ipFamilies": ["IPv5"] }),
                vec![
                    r#"spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6""#,
                ],
            ),
            (
                json!({ "ipFamilies": ["IPv4", "IPv4"] }),
                vec![r#"spec.ipFamilies[1]: Duplicate value: "IPv4""#],
            ),
            (
                json!({ "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack" }),
                vec![
                    r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": may not be 'SingleStack' when multiple 'ipFamilies' are specified"#,
                ],
            ),
        ] {
            assert_eq!(told(cluster_ips(&spec)), expect, "{spec}");
        }
    }

    #[test]
    fn first_address_stays_and_the_second_goes_by_policy() {
        let with = |ips: &[&str], policy: &str| json!({ "type": "ClusterIP", "clusterIPs": ips, "ipFamilyPolicy": policy });
        let dual = with(&["10.96.0.1", "fd00::1"], "PreferDualStack");
        let single = with(&["10.96.0.1"], "SingleStack");
        assert_eq!(told(update(&dual, &single)), Vec::<String>::new());
        assert_eq!(told(update(&single, &dual)), Vec::<String>::new());
        for (new, old, expect) in [
            (
                with(&["10.96.0.2"], "SingleStack"),
                &single,
                r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.2"]: may not change once set"#,
            ),
            (
                with(&["10.96.0.1", "fd00::2"], "PreferDualStack"),
                &dual,
                r#"spec.clusterIPs[1]: Invalid value: ["10.96.0.1","fd00::2"]: may not change once set"#,
            ),
            (
                with(&["10.96.0.1"], "PreferDualStack"),
                &dual,
                r#"spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be set to 'SingleStack' when releasing the secondary clusterIP"#,
            ),
            (
                with(&["None"], "SingleStack"),
                &single,
                r#"spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set"#,
            ),
            (
                with(&[], "SingleStack"),
                &single,
                "spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset",
            ),
        ] {
            assert_eq!(told(update(&new, old)), [expect]);
        }
        let external = json!({ "type": "ExternalName" });
        assert_eq!(told(update(&external, &single)), Vec::<String>::new());
    }
}
