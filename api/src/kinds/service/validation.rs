//! Source: `ValidateService` and `ValidateServiceUpdate` in
//! `k8s.io/kubernetes/pkg/apis/core/validation`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::kinds::columns::{list, number, text};
use crate::kinds::validation::{labels, metadata, one_of, port, port_or_name};
use crate::names;
use crate::status::FieldError;

const ADDRESS_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// A Service; on update its address must stay.
pub(super) fn service(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1035_label);
    let spec = &new["spec"];
    let kind = text(spec, "/type");
    let headless = text(spec, "/clusterIP") == "None";

    if list(spec, "/ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if kind == "LoadBalancer" && headless {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            "None",
            "may not be set to 'None' for LoadBalancer services",
        ));
    }
    if kind == "ExternalName" {
        errors.extend(external_name(spec));
    }
    errors.extend(ports(spec));
    errors.extend(labels(spec, "/selector", "spec.selector"));
    for (key, supported) in [
        (
            "type",
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"][..],
        ),
        ("sessionAffinity", &["ClientIP", "None"]),
        ("externalTrafficPolicy", &["Cluster", "Local"]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
        (
            "ipFamilyPolicy",
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
    ] {
        let (pointer, field) = (format!("/{key}"), format!("spec.{key}"));
        errors.extend(one_of(spec, &pointer, &field, supported));
    }
    errors.extend(addresses(spec));
    if let Some(old) = old {
        errors.extend(update(spec, &old["spec"]));
    }
    errors
}

fn external_name(spec: &Value) -> Option<FieldError> {
    let name = text(spec, "/externalName").trim_end_matches('.');
    if name.is_empty() {
        return Some(FieldError::required("spec.externalName", ""));
    }
    let rule = names::dns_1123_subdomain(name)?;
    Some(FieldError::invalid("spec.externalName", name, &rule))
}

fn ports(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let ports = list(spec, "/ports");
    let (mut names_seen, mut numbers_seen) = (BTreeSet::new(), BTreeSet::new());
    for (position, declared) in ports.iter().enumerate() {
        let at = format!("spec.ports[{position}]");
        let name = text(declared, "/name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(format!("{at}.name"), ""));
            }
        } else if let Some(rule) = names::dns_1123_label(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, &rule));
        } else if !names_seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        let number_of = number(declared, "/port");
        errors.extend(port(number_of, &format!("{at}.port")));
        errors.extend(one_of(
            declared,
            "/protocol",
            &format!("{at}.protocol"),
            &["SCTP", "TCP", "UDP"],
        ));
        if let Some(target) = declared.get("targetPort") {
            errors.extend(port_or_name(target, &format!("{at}.targetPort")));
        }
        if let Some(given) = declared["nodePort"].as_i64().filter(|given| *given != 0) {
            errors.extend(port(given, &format!("{at}.nodePort")));
        }
        let protocol = text(declared, "/protocol");
        if !numbers_seen.insert((number_of, protocol)) {
            errors.push(FieldError::duplicate(
                at,
                json!({ "protocol": protocol, "port": number_of }),
            ));
        }
    }
    errors
}

fn addresses(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    let given = text(spec, "/clusterIP");
    if !matches!(given, "" | "None") && !is_address(given) {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            given,
            ADDRESS_RULE,
        ));
    }
    let first = text(spec, "/clusterIPs/0");
    if !first.is_empty() && first != given {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            list(spec, "/clusterIPs").to_vec(),
            "first value must match `clusterIP`",
        ));
    }
    for (position, external) in list(spec, "/externalIPs").iter().enumerate() {
        let external = external.as_str().unwrap_or_default();
        if !is_address(external) {
            errors.push(FieldError::invalid(
                format!("spec.externalIPs[{position}]"),
                external,
                ADDRESS_RULE,
            ));
        }
    }
    let asked = text(spec, "/loadBalancerIP");
    if !asked.is_empty() && !is_address(asked) {
        errors.push(FieldError::invalid(
            "spec.loadBalancerIP",
            asked,
            ADDRESS_RULE,
        ));
    }
    errors
}

/// The address stays for as long as the Service has one at all.
fn update(new: &Value, old: &Value) -> Option<FieldError> {
    let (before, after) = (text(old, "/clusterIP"), text(new, "/clusterIP"));
    let has_address = |spec: &Value| text(spec, "/type") != "ExternalName";
    if before.is_empty() || before == after || !has_address(old) || !has_address(new) {
        return None;
    }
    Some(FieldError::invalid(
        "spec.clusterIPs[0]",
        json!([after]),
        "may not change once set",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, old_spec: Option<Value>, expect: &[&str]) {
        let whole = |spec: Value| json!({ "metadata": { "name": "web" }, "spec": spec });
        let errors = service(&whole(spec), old_spec.map(whole).as_ref());
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, expect);
    }

    #[test]
    fn ports_are_required_named_unique_and_in_range() {
        check(json!({}), None, &["spec.ports: Required value"]);
        check(json!({ "clusterIP": "None" }), None, &[]);
        check(
            json!({ "ports": [{ "port": 70000 }] }),
            None,
            &["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        );
        check(
            json!({ "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 80, "protocol": "TCP", "name": "b" }] }),
            None,
            &[
                "spec.ports[0].name: Required value",
                r#"spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80}"#,
            ],
        );
    }

    #[test]
    fn the_type_and_the_policies_are_from_a_list() {
        check(
            json!({ "type": "Magic", "ports": [{ "port": 80 }] }),
            None,
            &[
                r#"spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
            ],
        );
        check(
            json!({ "type": "ExternalName" }),
            None,
            &["spec.externalName: Required value"],
        );
    }

    #[test]
    fn the_address_may_not_change_once_set() {
        let with = |ip: &str| json!({ "clusterIP": ip, "ports": [{ "port": 80 }] });
        check(with("10.96.0.1"), Some(with("10.96.0.1")), &[]);
        check(with("10.96.0.1"), Some(with("")), &[]);
        check(
            with("10.96.0.2"),
            Some(with("10.96.0.1")),
            &[r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.2"]: may not change once set"#],
        );
        check(
            with("nonsense"),
            None,
            &[
                r#"spec.clusterIPs[0]: Invalid value: "nonsense": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
            ],
        );
    }
}
