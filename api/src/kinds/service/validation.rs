//! Source: `ValidateService` and `ValidateServiceUpdate` in
//! `k8s.io/kubernetes/pkg/apis/core/validation`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::addresses;
use crate::balancing::Balancing;
use crate::kinds::columns::{list, number, text};
use crate::kinds::validation::{
    IMMUTABLE, cidr, ip, label_map, labels, metadata, one_of, port, port_or_name, special_ip,
};
use crate::names;
use crate::status::FieldError;

/// What source ranges were given by before they had a field.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// A day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

/// A Service; on update its addresses must stay.
pub(super) fn service(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1035_label);
    let spec = &new["spec"];
    let kind = text(spec, "/type");
    let headless = is_headless(spec);

    if list(spec, "/ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            "None",
            &format!("may not be set to 'None' for {kind} services"),
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
        ("internalTrafficPolicy", &["Cluster", "Local"]),
    ] {
        let (pointer, field) = (format!("/{key}"), format!("spec.{key}"));
        errors.extend(one_of(spec, &pointer, &field, supported));
    }
    errors.extend(session_affinity(spec));
    errors.extend(addresses::cluster_ips(spec));
    errors.extend(external_addresses(spec));
    errors.extend(source_ranges(new));
    errors.extend(load_balancer(spec));
    errors.extend(external_traffic(spec));
    let annotations = label_map(new, "/metadata/annotations");
    errors.extend(Balancing::of_service(Some(&annotations)).1);
    if let Some(old) = old {
        errors.extend(addresses::update(spec, &old["spec"]));
        errors.extend(load_balancer_class_update(spec, &old["spec"]));
        errors.extend(health_check_update(spec, &old["spec"]));
    }
    errors
}

/// What is valid, and not done.
pub(super) fn warnings(new: &Value) -> Vec<String> {
    let spec = &new["spec"];
    if is_headless(spec) || text(spec, "/type") == "ExternalName" {
        return Vec::new();
    }
    let ports = list(spec, "/ports").iter().enumerate();
    let unbalanced = ports.filter(|(_, declared)| text(declared, "/protocol") == "SCTP");
    unbalanced
        .map(|(position, _)| {
            format!(
                "spec.ports[{position}].protocol: SCTP is not balanced: nobody answers at this port"
            )
        })
        .collect()
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "/clusterIPs/0") == "None" || text(spec, "/clusterIP") == "None"
}

/// Whether clients outside the cluster reach it.
pub(super) fn is_externally_accessible(spec: &Value) -> bool {
    match text(spec, "/type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(spec, "/externalIPs").is_empty(),
        _ => false,
    }
}

fn external_name(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let given = match &spec[key] {
            Value::Array(items) => !items.is_empty(),
            other => !other.is_null(),
        };
        if given {
            errors.push(FieldError::forbidden(
                format!("spec.{key}"),
                "may not be set for ExternalName services",
            ));
        }
    }
    let name = text(spec, "/externalName").trim_end_matches('.');
    if name.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    } else if let Some(rule) = names::dns_1123_subdomain(name) {
        errors.push(FieldError::invalid("spec.externalName", name, &rule));
    }
    errors
}

fn ports(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let ports = list(spec, "/ports");
    let (mut names_seen, mut numbers_seen) = (BTreeSet::new(), BTreeSet::new());
    let mut node_ports_seen = BTreeSet::new();
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
        let application = text(declared, "/appProtocol");
        if !application.is_empty() {
            let rules = names::qualified_name(application);
            errors.extend(
                rules.iter().map(|rule| {
                    FieldError::invalid(format!("{at}.appProtocol"), application, rule)
                }),
            );
        }
        let protocol = text(declared, "/protocol");
        if let Some(given) = declared["nodePort"].as_i64().filter(|given| *given != 0) {
            let field = format!("{at}.nodePort");
            errors.extend(port(given, &field));
            if text(spec, "/type") == "ClusterIP" {
                let why = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(field, why));
            } else if !node_ports_seen.insert((given, protocol)) {
                errors.push(FieldError::duplicate(field, given));
            }
        }
        if !numbers_seen.insert((number_of, protocol)) {
            errors.push(FieldError::duplicate(
                at,
                json!({ "protocol": protocol, "port": number_of }),
            ));
        }
    }
    errors
}

fn session_affinity(spec: &Value) -> Option<FieldError> {
    let config = &spec["sessionAffinityConfig"];
    if text(spec, "/sessionAffinity") != "ClientIP" {
        let why = "must not be set when session affinity is None";
        return (!config.is_null())
            .then(|| FieldError::forbidden("spec.sessionAffinityConfig", why));
    }
    let seconds = config.pointer("/clientIP/timeoutSeconds")?.as_i64()?;
    let fits = (1..=AFFINITY_SECONDS_MAX).contains(&seconds);
    (!fits).then(|| {
        FieldError::invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            seconds,
            &format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
        )
    })
}

fn external_addresses(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (position, external) in list(spec, "/externalIPs").iter().enumerate() {
        let external = external.as_str().unwrap_or_default();
        let field = format!("spec.externalIPs[{position}]");
        match ip(external, &field) {
            Some(error) => errors.push(error),
            None => errors.extend(special_ip(external, &field)),
        }
    }
    let asked = text(spec, "/loadBalancerIP");
    if !asked.is_empty() {
        errors.extend(ip(asked, "spec.loadBalancerIP"));
    }
    errors
}

/// By their field or, where that is empty, by the annotation that came before it.
fn source_ranges(service: &Value) -> Vec<FieldError> {
    let spec = &service["spec"];
    let annotation = format!("metadata.annotations[{SOURCE_RANGES}]");
    let annotated = service["metadata"]["annotations"][SOURCE_RANGES].as_str();
    let given = list(spec, "/loadBalancerSourceRanges");
    let (field, ranges): (&str, Vec<(String, &str)>) = if given.is_empty() {
        let Some(annotated) = annotated else {
            return Vec::new();
        };
        let ranges = annotated.split(',').map(str::trim);
        let ranges = ranges.map(|range| (annotation.clone(), range));
        let is_empty = annotated.trim().is_empty();
        (&annotation, ranges.filter(|_| !is_empty).collect())
    } else {
        let ranges = given.iter().enumerate().map(|(position, range)| {
            let field = format!("spec.loadBalancerSourceRanges[{position}]");
            (field, range.as_str().unwrap_or_default().trim())
        });
        ("spec.loadBalancerSourceRanges", ranges.collect())
    };
    let mut errors = Vec::new();
    if text(spec, "/type") != "LoadBalancer" {
        errors.push(FieldError::forbidden(field, LOAD_BALANCER_ONLY));
    }
    for (field, range) in ranges {
        errors.extend(cidr(range, &field));
    }
    errors
}

/// What only a load balancer may say.
fn load_balancer(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let class = &spec["loadBalancerClass"];
    if text(spec, "/type") == "LoadBalancer" {
        if let Some(class) = class.as_str() {
            let rules = names::qualified_name(class);
            errors.extend(
                rules
                    .iter()
                    .map(|rule| FieldError::invalid("spec.loadBalancerClass", class, rule)),
            );
        }
        return errors;
    }
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !spec[key].is_null() {
            errors.push(FieldError::forbidden(
                format!("spec.{key}"),
                LOAD_BALANCER_ONLY,
            ));
        }
    }
    errors
}

fn load_balancer_class_update(new: &Value, old: &Value) -> Option<FieldError> {
    let balances = |spec: &Value| text(spec, "/type") == "LoadBalancer";
    let key = "loadBalancerClass";
    if !balances(new) || !balances(old) || new[key] == old[key] {
        return None;
    }
    let field = "spec.loadBalancerClass";
    Some(FieldError::invalid(
        field,
        new[key].clone(),
        "may not change once set",
    ))
}

/// Balancers outside are configured with it.
fn health_check_update(new: &Value, old: &Value) -> Option<FieldError> {
    let field = "spec.healthCheckNodePort";
    let (before, after) = (&old["healthCheckNodePort"], &new["healthCheckNodePort"]);
    if before.is_null() || after.is_null() || before == after {
        return None;
    }
    Some(FieldError::invalid(field, after.clone(), IMMUTABLE))
}

fn external_traffic(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let policy = text(spec, "/externalTrafficPolicy");
    if is_externally_accessible(spec) {
        errors.extend(one_of(
            spec,
            "/externalTrafficPolicy",
            "spec.externalTrafficPolicy",
            &["Cluster", "Local"],
        ));
    } else if !policy.is_empty() {
        errors.push(FieldError::invalid(
            "spec.externalTrafficPolicy",
            policy,
            "may only be set for externally-accessible services",
        ));
    }
    let checked_at = number(spec, "/healthCheckNodePort");
    if checked_at != 0 {
        if text(spec, "/type") == "LoadBalancer" && policy == "Local" {
            errors.extend(port(checked_at, "spec.healthCheckNodePort"));
        } else {
            errors.push(FieldError::invalid(
                "spec.healthCheckNodePort",
                checked_at,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ));
        }
    }
    errors
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
    fn sctp_is_taken_and_warned_of_where_it_would_be_balanced() {
        let ports = json!([
            { "name": "web", "port": 80, "protocol": "TCP" },
            { "name": "ss7", "port": 2905, "protocol": "SCTP" },
        ]);
        check(json!({ "ports": ports }), None, &[]);
        let told = |more: Value| {
            let mut spec = json!({ "ports": ports });
            for (field, value) in more.as_object().unwrap() {
                spec[field] = value.clone();
            }
            warnings(&json!({ "spec": spec }))
        };
        let warned = ["spec.ports[1].protocol: SCTP is not balanced: nobody answers at this port"];
        assert_eq!(told(json!({})), warned);
        assert_eq!(told(json!({ "type": "LoadBalancer" })), warned);
        for unbalanced in [
            json!({ "clusterIP": "None" }),
            json!({ "type": "ExternalName" }),
        ] {
            assert!(told(unbalanced.clone()).is_empty(), "{unbalanced}");
        }
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
    fn what_only_reachable_services_may_say_is_refused_of_others() {
        let with = |more: Value| {
            let mut spec =
                json!({ "type": "ClusterIP", "ports": [{ "port": 80, "protocol": "TCP" }] });
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            spec
        };
        for (more, expect) in [
            (
                json!({ "externalTrafficPolicy": "Local" }),
                Some(
                    r#"spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services"#,
                ),
            ),
            (
                json!({ "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.7"] }),
                None,
            ),
            (
                json!({ "type": "NodePort", "healthCheckNodePort": 31000, "externalTrafficPolicy": "Local" }),
                Some(
                    "spec.healthCheckNodePort: Invalid value: 31000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                ),
            ),
            (
                json!({ "allocateLoadBalancerNodePorts": false }),
                Some(
                    "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                ),
            ),
            (
                json!({ "loadBalancerClass": "example.com/lb" }),
                Some(
                    "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                ),
            ),
            (
                json!({ "loadBalancerSourceRanges": ["192.0.2.0/24"] }),
                Some(
                    "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                ),
            ),
            (
                json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": [" 192.0.2.0/24 ", "192.0.2.0"] }),
                Some(
                    r#"spec.loadBalancerSourceRanges[1]: Invalid value: "192.0.2.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
                ),
            ),
            (
                json!({ "ports": [{ "port": 80, "nodePort": 30080 }] }),
                Some(
                    "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                ),
            ),
            (
                json!({ "externalIPs": ["127.0.0.1"] }),
                Some(
                    r#"spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
                ),
            ),
        ] {
            let expect: Vec<&str> = expect.into_iter().collect();
            check(with(more), None, &expect);
        }
    }

    #[test]
    fn affinity_lasts_from_a_second_to_a_day() {
        let with = |affinity: &str, seconds: Value| {
            json!({
                "ports": [{ "port": 80 }], "sessionAffinity": affinity,
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } },
            })
        };
        check(with("ClientIP", json!(86_400)), None, &[]);
        for seconds in [0, 86_401] {
            check(
                with("ClientIP", json!(seconds)),
                None,
                &[&format!(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: {seconds}: must be greater than 0 and less than 86400"
                )],
            );
        }
        check(
            with("None", json!(10)),
            None,
            &[
                "spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None",
            ],
        );
    }

    #[test]
    fn node_ports_are_unique_by_protocol() {
        let with = |second: &str| {
            json!({ "type": "NodePort", "ports": [
                { "name": "a", "port": 53, "protocol": "TCP", "nodePort": 30053 },
                { "name": "b", "port": 54, "protocol": second, "nodePort": 30053 },
            ] })
        };
        check(with("UDP"), None, &[]);
        check(
            with("TCP"),
            None,
            &["spec.ports[1].nodePort: Duplicate value: 30053"],
        );
    }

    #[test]
    fn the_class_of_a_load_balancer_stays() {
        let with = |class: &str| json!({ "type": "LoadBalancer", "loadBalancerClass": class, "ports": [{ "port": 80 }] });
        check(
            with("example.com/b"),
            Some(with("example.com/a")),
            &[r#"spec.loadBalancerClass: Invalid value: "example.com/b": may not change once set"#],
        );
    }

    #[test]
    fn annotations_of_the_balancer_are_checked_by_name() {
        let service = json!({
            "metadata": {
                "name": "web",
                "annotations": {
                    "net.fairlead.io/scheduler": "fastest",
                    "service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.0/33",
                },
            },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
        });
        let errors = super::service(&service, None);
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]",
                "metadata.annotations[net.fairlead.io/scheduler]",
            ]
        );
    }
}
