mod addresses;
mod validation;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, column, labels, list, number, or_none, text, wide};
use super::defaults::{items, object, set, set_number};
use super::{PLAIN, field, through};
use crate::resource::{Column, Resource};

/// An address for a changing set of pods.
pub static SERVICE: Resource = Resource {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    status: true,
    selectable_fields: &[
        field("spec.clusterIP", "/spec/clusterIP"),
        field("spec.type", "/spec/type"),
    ],
    columns: COLUMNS,
    type_name: "core.v1.Service",
    normalize: through::<Service>,
    default,
    validate: validation::service,
    warnings: validation::warnings,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", |service, _| text(service, "/spec/type").into()),
    column("Cluster-IP", |service, _| {
        match text(service, "/spec/clusterIP") {
            "" => or_none(text(service, "/spec/clusterIPs/0")),
            address => address.into(),
        }
    }),
    column("External-IP", |service, _| external_addresses(service)),
    column("Port(s)", |service, _| ports(service)),
    AGE,
    wide("Selector", |service, _| labels(service, "/spec/selector")),
];

fn external_addresses(service: &Value) -> Value {
    let external = list(service, "/spec/externalIPs").iter();
    let external = external.filter_map(Value::as_str);
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").into(),
        "LoadBalancer" => {
            let ingress = list(service, "/status/loadBalancer/ingress").iter();
            let balanced = ingress.map(|point| match text(point, "/ip") {
                "" => text(point, "/hostname"),
                address => address,
            });
            let all: Vec<&str> = balanced.chain(external).collect();
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",").into()
            }
        }
        _ => or_none(external.collect::<Vec<_>>().join(",")),
    }
}

fn ports(service: &Value) -> Value {
    let shown: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let (number_of, protocol) = (number(port, "/port"), text(port, "/protocol"));
            match number(port, "/nodePort") {
                0 => format!("{number_of}/{protocol}"),
                node_port => format!("{number_of}:{node_port}/{protocol}"),
            }
        })
        .collect();
    or_none(shown.join(","))
}

/// How long a client stays with a pod under `sessionAffinity: ClientIP`: three hours.
const AFFINITY_S: i64 = 10_800;

/// Source: `SetDefaults_Service`. Address families are chosen with the addresses.
fn default(service: &mut Value) {
    let Some(spec) = object(service, "spec") else {
        return;
    };
    set(spec, "type", "ClusterIP");
    set(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set(spec, "sessionAffinityConfig", json!({}));
        let config = &mut spec["sessionAffinityConfig"];
        set(config, "clientIP", json!({}));
        let client = &mut config["clientIP"];
        if client["timeoutSeconds"].is_null() {
            set_number(client, "timeoutSeconds", AFFINITY_S);
        }
    }
    for port in items(spec, "ports") {
        set(port, "protocol", "TCP");
        if matches!(&port["targetPort"], Value::Null)
            || port["targetPort"] == 0
            || port["targetPort"] == ""
        {
            port["targetPort"] = port["port"].clone();
        }
    }

    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind == "ExternalName" {
        return;
    }
    set(spec, "internalTrafficPolicy", "Cluster");
    if validation::is_externally_accessible(spec) {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
    if let Some(address) = spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()) {
        let addresses = json!([address]);
        set(spec, "clusterIPs", addresses);
    }
    if let Some(status) = object(service, "status") {
        set(status, "loadBalancer", json!({}));
    }
}
