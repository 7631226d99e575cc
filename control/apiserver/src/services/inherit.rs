//! What a Service keeps when it is replaced.
//!
//! Source: `normalizeClusterIPs`, `patchAllocatedValues` and `dropTypeDependentFields` in
//! `k8s.io/kubernetes/pkg/registry/core/service`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    needs_address, needs_health_check, needs_node_ports, number, ports, ports_mut, protocol,
    service_type, text, texts,
};
use crate::metadata;

/// Keeps what the Service was given when a replacement leaves it out, and drops what its new type
/// has no use for and the replacement only repeats. Before validation, which refuses changed
/// addresses.
pub(crate) fn inherit(old: &Value, new: &mut Value) {
    addresses(old, new);
    families(old, new);
    node_ports(old, new);
    health_check(old, new);
    for (field, has_use) in [
        (
            "allocateLoadBalancerNodePorts",
            is_load_balancer as fn(&Value) -> bool,
        ),
        ("loadBalancerClass", is_load_balancer),
        ("externalTrafficPolicy", is_externally_accessible),
    ] {
        if has_use(old) && !has_use(new) && old["spec"][field] == new["spec"][field] {
            spec(new).shift_remove(field);
        }
    }
}

fn spec(service: &mut Value) -> &mut Map<String, Value> {
    metadata::member_mut(service, "spec")
}

fn is_load_balancer(service: &Value) -> bool {
    service_type(service) == "LoadBalancer"
}

fn is_externally_accessible(service: &Value) -> bool {
    match service_type(service) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !texts(service, "externalIPs").is_empty(),
        _ => false,
    }
}

/// Clients may know `clusterIP` only, or both it and `clusterIPs`.
fn addresses(old: &Value, new: &mut Value) {
    let (before, after) = (text(old, "clusterIP"), text(new, "clusterIP").to_owned());
    let repeats = texts(new, "clusterIPs") == texts(old, "clusterIPs");
    if !needs_address(new) {
        // An address that was only repeated is given back.
        if repeats && (after == before || after.is_empty()) {
            for field in ["clusterIP", "clusterIPs"] {
                spec(new).shift_remove(field);
            }
        }
        return;
    }
    if !needs_address(old) {
        return;
    }
    if after.is_empty() && (repeats || texts(new, "clusterIPs").is_empty()) {
        spec(new).shift_remove("clusterIPs");
        if !before.is_empty() {
            spec(new).insert("clusterIP".to_owned(), before.into());
        }
    } else if after != before && repeats {
        spec(new).insert("clusterIPs".to_owned(), json!([after]));
    }
    if texts(new, "clusterIPs").is_empty() && text(new, "clusterIP") == before {
        let kept = texts(old, "clusterIPs");
        if !kept.is_empty() {
            spec(new).insert("clusterIPs".to_owned(), json!(kept));
        }
    }
}

fn families(old: &Value, new: &mut Value) {
    if !needs_address(new) {
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if old["spec"][field] == new["spec"][field] {
                spec(new).shift_remove(field);
            }
        }
        return;
    }
    if !needs_address(old) {
        return;
    }
    let policy = text(old, "ipFamilyPolicy");
    if text(new, "ipFamilyPolicy").is_empty() && !policy.is_empty() {
        spec(new).insert("ipFamilyPolicy".to_owned(), policy.into());
    }
    let kept = texts(old, "ipFamilies");
    if texts(new, "ipFamilies").is_empty() && !kept.is_empty() {
        spec(new).insert("ipFamilies".to_owned(), json!(kept));
    }
    // To ask for one family is to give the second address back.
    if text(new, "ipFamilyPolicy") == "SingleStack" {
        for field in ["clusterIPs", "ipFamilies"] {
            let given = texts(new, field);
            if given.len() > 1 && given == texts(old, field) {
                spec(new).insert(field.to_owned(), json!([given[0]]));
            }
        }
    }
}

/// A port is the one of the same name, else that of the same number and protocol.
fn node_ports(old: &Value, new: &mut Value) {
    let needed = needs_node_ports(new);
    let held = |port: &Value| {
        let of = |is_same: &dyn Fn(&Value) -> bool| {
            let found = ports(old).iter().find(|old| is_same(old));
            found.and_then(|old| number(old, "nodePort"))
        };
        let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
        of(&|old| name(old) == name(port) && protocol(old) == protocol(port))
            .or_else(|| of(&|old| old["port"] == port["port"] && protocol(old) == protocol(port)))
    };
    let at = |port: &Value, number: u64| (protocol(port).to_owned(), number);
    let mut used: BTreeSet<(String, u64)> = ports(new)
        .iter()
        .filter_map(|port| Some(at(port, number(port, "nodePort")?)))
        .collect();
    for port in ports_mut(new) {
        match (needed, number(port, "nodePort"), held(port)) {
            (true, None, Some(held)) if used.insert(at(port, held)) => {
                port["nodePort"] = held.into();
            }
            (false, Some(asked), Some(held)) if asked == held => {
                if let Some(port) = port.as_object_mut() {
                    port.shift_remove("nodePort");
                }
            }
            _ => {}
        }
    }
}

fn health_check(old: &Value, new: &mut Value) {
    let field = "healthCheckNodePort";
    let (before, after) = (number(&old["spec"], field), number(&new["spec"], field));
    match (needs_health_check(old), needs_health_check(new)) {
        (true, true) if after.is_none() => {
            if let Some(held) = before {
                spec(new).insert(field.to_owned(), held.into());
            }
        }
        (true, false) if after == before => {
            spec(new).shift_remove(field);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited(old: &Value, new: Value) -> Value {
        let mut new = json!({ "spec": new });
        inherit(&json!({ "spec": old }), &mut new);
        new["spec"].clone()
    }

    #[test]
    fn replacement_that_leaves_out_what_was_given_keeps_it() {
        let old = json!({
            "type": "NodePort", "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
        });
        let new = json!({"type": "NodePort", "ports": [
            {"name": "b", "port": 443, "protocol": "TCP"},
            {"name": "a", "port": 80, "protocol": "TCP"},
        ]});
        let new = inherited(&old, new);
        assert_eq!(new["clusterIP"], "10.96.3.4");
        assert_eq!(new["clusterIPs"], json!(["10.96.3.4"]));
        assert_eq!(new["ipFamilies"], json!(["IPv4"]));
        assert_eq!(new["ipFamilyPolicy"], "SingleStack");
        assert_eq!(new["ports"][1]["nodePort"], 30080);
        assert_eq!(new["ports"][0].get("nodePort"), None);
    }

    #[test]
    fn changed_address_alone_is_the_address_that_is_meant() {
        let old = json!({"clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"]});
        let new = json!({"clusterIP": "10.96.9.9", "clusterIPs": ["10.96.3.4"]});
        assert_eq!(inherited(&old, new)["clusterIPs"], json!(["10.96.9.9"]));
        let cleared = json!({"clusterIPs": ["10.96.3.4"]});
        let cleared = inherited(&old, cleared);
        assert_eq!(cleared["clusterIP"], "10.96.3.4");
        assert_eq!(cleared["clusterIPs"], json!(["10.96.3.4"]));
    }

    #[test]
    fn single_stack_gives_the_second_family_back() {
        let old = json!({
            "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4", "2001:db8::4"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
        });
        let mut new = old.clone();
        new["ipFamilyPolicy"] = "SingleStack".into();
        let new = inherited(&old, new);
        assert_eq!(new["clusterIPs"], json!(["10.96.3.4"]));
        assert_eq!(new["ipFamilies"], json!(["IPv4"]));
    }

    #[test]
    fn type_drops_what_it_has_no_use_for() {
        let old = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"],
            "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000, "loadBalancerClass": "example.com/lb",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "nodePort": 30080}],
        });
        let mut plain = old.clone();
        plain["type"] = "ClusterIP".into();
        assert_eq!(
            inherited(&old, plain),
            json!({
                "type": "ClusterIP", "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80}],
            })
        );
        let mut named = old.clone();
        named["type"] = "ExternalName".into();
        assert_eq!(
            inherited(&old, named),
            json!({"type": "ExternalName", "ports": [{"port": 80}]})
        );
    }

    #[test]
    fn one_number_may_serve_two_protocols() {
        let old = json!({"type": "NodePort", "ports": [
            {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053},
            {"name": "t", "port": 53, "protocol": "TCP", "nodePort": 30053},
        ]});
        let new = json!({"type": "NodePort", "ports": [
            {"name": "u", "port": 53, "protocol": "UDP"},
            {"name": "t", "port": 53, "protocol": "TCP"},
        ]});
        let new = inherited(&old, new);
        assert_eq!(new["ports"][0]["nodePort"], 30053);
        assert_eq!(new["ports"][1]["nodePort"], 30053);
    }
}
