//! `netctl service`.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::{Value, json};

use crate::{
    source::{Answer, Source},
    table::{Column, Rows, column, wide},
};

const LIST: &[Column] = &[
    column("SERVICE", "name"),
    wide("ID", "id"),
    column("FRONTENDS", "frontends"),
    column("SCHEDULER", "scheduler"),
    column("FORWARDING", "forwarding"),
    column("BACKENDS", "backendCount"),
    wide("SLOTS", "slots"),
    column("CONNECTIONS", "connections"),
    column("PACKETS", "packets"),
    column("BYTES", "bytes"),
    column("DROPS", "drops"),
];

const SHOW: &[Column] = &[
    column("SERVICE", "service"),
    column("FRONTENDS", "frontends"),
    column("BACKEND", "name"),
    wide("ID", "id"),
    column("ADDRESS", "address"),
    column("PORT", "port"),
    column("NODE", "node"),
    column("MODE", "mode"),
    wide("REASON", "modeReason"),
    column("STATE", "state"),
    column("WEIGHT", "weight"),
    wide("SLOTS", "slots"),
    column("SHARE", "share"),
];

/// All service ports. Counters are summed over the nodes that answered: a packet is counted where
/// it was balanced, and that is one node.
pub(crate) async fn list(source: &Source) -> anyhow::Result<Rows> {
    let answers = source.view("services", "").await?;
    Ok(Rows::new(
        LIST,
        merge(&answers).into_values().collect(),
        "No service is in the maps.",
    ))
}

/// The backends of one Service, port by port.
pub(crate) async fn show(source: &Source, service: &str) -> anyhow::Result<Rows> {
    let service = qualified(service);
    let answers = source
        .view("services", &format!("service={service}"))
        .await?;
    let mut rows = Vec::new();
    for (_, object) in merge(&answers) {
        let Some(backends) = object["backends"].as_array() else {
            continue;
        };
        for backend in backends {
            let mut row = backend.clone();
            row["service"] = object["name"].clone();
            row["frontends"] = object["frontends"].clone();
            row["share"] = percent(&backend["share"]);
            rows.push(row);
        }
        if backends.is_empty() {
            rows.push(json!({
                "service": object["name"],
                "frontends": object["frontends"],
                "state": "no backend",
            }));
        }
    }
    if rows.is_empty() {
        bail!("service {service} is in no node's maps (see `netctl service ls`)");
    }
    Ok(Rows::new(SHOW, rows, ""))
}

/// `NAME` is in namespace `default`.
pub(crate) fn qualified(service: &str) -> String {
    if service.contains('/') {
        service.to_owned()
    } else {
        format!("default/{service}")
    }
}

/// A share of a table, for people.
fn percent(share: &Value) -> Value {
    share.as_f64().map_or(Value::Null, |share| {
        format!("{:.1} %", share * 100.0).into()
    })
}

/// One row a service port: what the first node says of it, with everybody's counters.
fn merge(answers: &[Answer]) -> BTreeMap<(String, u64), Value> {
    let mut merged: BTreeMap<(String, u64), Value> = BTreeMap::new();
    let objects = answers.iter().flat_map(|answer| {
        let objects = answer.body.as_array().into_iter().flatten();
        objects.map(move |object| (answer.node.as_str(), object))
    });
    for (node, object) in objects {
        let name = object["name"].as_str().unwrap_or_default().to_owned();
        let key = (name, object["id"].as_u64().unwrap_or_default());
        let row = merged.entry(key).or_insert_with(|| summary(object, node));
        for counter in ["connections", "packets", "bytes", "drops"] {
            let sum = row[counter].as_u64().unwrap_or(0) + object[counter].as_u64().unwrap_or(0);
            row[counter] = sum.into();
        }
    }
    merged
}

fn summary(object: &Value, node: &str) -> Value {
    let mut backends = object["backends"].clone();
    for backend in backends.as_array_mut().into_iter().flatten() {
        // A node calls its own backends local.
        if backend["node"] == "local" && !node.is_empty() {
            backend["node"] = node.into();
        }
    }
    let frontends: Vec<String> = object["frontends"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|frontend| {
            format!(
                "{}:{}/{}",
                frontend["address"].as_str().unwrap_or("?"),
                frontend["port"],
                frontend["protocol"].as_str().unwrap_or("?")
            )
        })
        .collect();
    json!({
        "name": object["name"],
        "id": object["id"],
        "frontends": frontends,
        "scheduler": object["scheduler"],
        "forwarding": object["forwarding"],
        "backendCount": object["backends"].as_array().map_or(0, Vec::len),
        "slots": object["table"]["slots"],
        "backends": backends,
        "connections": 0,
        "packets": 0,
        "bytes": 0,
        "drops": 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node: &str, packets: u64, backend_node: &str) -> Answer {
        let body = json!([{
            "id": 1,
            "name": "hello/hello:http",
            "frontends": [{"address": "198.18.100.1", "port": 80, "protocol": "TCP"}],
            "backends": [{"id": 7, "node": backend_node, "share": 1.0}],
            "table": {"slots": 101},
            "packets": packets, "bytes": 0, "connections": 1, "drops": 0,
        }]);
        Answer {
            node: node.into(),
            body,
        }
    }

    #[test]
    fn counters_are_summed_over_nodes_and_local_backends_get_their_nodes_name() {
        let merged = merge(&[answer("node-1", 3, "local"), answer("node-2", 4, "node-1")]);
        assert_eq!(merged.len(), 1);
        let row = merged.values().next().unwrap();
        assert_eq!(row["packets"], 7);
        assert_eq!(row["connections"], 2);
        assert_eq!(row["backends"][0]["node"], "node-1");
        assert_eq!(row["frontends"][0], "198.18.100.1:80/TCP");
    }

    #[test]
    fn a_bare_name_is_in_the_default_namespace() {
        assert_eq!(qualified("web"), "default/web");
        assert_eq!(qualified("hello/web"), "hello/web");
    }
}
