//! One answer of many: what several nodes say of the same services.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::source::Answer;

/// Counters that are summed over nodes: a packet is counted where it was balanced, and that is one
/// node.
const COUNTERS: [&str; 10] = [
    "packets",
    "bytes",
    "connections",
    "answers",
    "answerBytes",
    "packetsPerSecond",
    "bytesPerSecond",
    "connectionsPerSecond",
    "answersPerSecond",
    "answerBytesPerSecond",
];
/// Counters of backends that not every node has.
const NOTED: [&str; 2] = ["activeConnections", "inactiveConnections"];

/// One object a service port, by name and id, with the counters of all nodes; what they do not agree
/// on is told by node.
pub(crate) fn services(answers: &[Answer]) -> Vec<Value> {
    let mut merged: BTreeMap<(String, u64), Value> = BTreeMap::new();
    for answer in answers {
        for object in answer.body.as_array().into_iter().flatten() {
            let name = object["name"].as_str().unwrap_or_default().to_owned();
            let key = (name, object["id"].as_u64().unwrap_or_default());
            match merged.get_mut(&key) {
                Some(service) => add_service(service, object, &answer.node),
                None => {
                    let mut service = object.clone();
                    begin_service(&mut service, &answer.node);
                    merged.insert(key, service);
                }
            }
        }
    }
    merged.into_values().collect()
}

/// One object a backend, as [`services`].
pub(crate) fn backends(answers: &[Answer]) -> Vec<Value> {
    let mut merged: BTreeMap<(String, u64), Value> = BTreeMap::new();
    for answer in answers {
        for object in answer.body.as_array().into_iter().flatten() {
            let service = object["service"].as_str().unwrap_or_default().to_owned();
            let key = (service, object["id"].as_u64().unwrap_or_default());
            match merged.get_mut(&key) {
                Some(backend) => add_backend(backend, object, &answer.node),
                None => {
                    let mut backend = object.clone();
                    begin_backend(&mut backend, &answer.node);
                    merged.insert(key, backend);
                }
            }
        }
    }
    merged.into_values().collect()
}

fn begin_service(service: &mut Value, node: &str) {
    for frontend in service["frontends"].as_array_mut().into_iter().flatten() {
        begin_frontend(frontend, node);
    }
    for backend in service["backends"].as_array_mut().into_iter().flatten() {
        begin_backend(backend, node);
    }
    service["tables"] = json!([table_of(service, node)]);
    if let Some(service) = service.as_object_mut() {
        service.remove("table");
    }
}

fn add_service(service: &mut Value, other: &Value, node: &str) {
    add(service, other, &COUNTERS);
    add(service, other, &["drops", "resets"]);
    for (reason, packets) in other["dropsByReason"].as_object().into_iter().flatten() {
        let sum = number(&service["dropsByReason"][reason]) + number(packets);
        service["dropsByReason"][reason] = sum.into();
    }
    if let Some(tables) = service["tables"].as_array_mut() {
        tables.push(table_of(other, node));
    }
    let place =
        |frontend: &Value| ["address", "port", "protocol"].map(|field| frontend[field].to_string());
    for frontend in other["frontends"].as_array().into_iter().flatten() {
        let known = service["frontends"].as_array_mut();
        let Some(known) = known else { continue };
        match known
            .iter_mut()
            .find(|known| place(known) == place(frontend))
        {
            Some(known) => {
                if frontend["announcedHere"] == true
                    && let Some(nodes) = known["announcedBy"].as_array_mut()
                {
                    nodes.push(node.into());
                }
            }
            // A node port is at each node's own address.
            None => {
                let mut frontend = frontend.clone();
                begin_frontend(&mut frontend, node);
                known.push(frontend);
            }
        }
    }
    for backend in other["backends"].as_array().into_iter().flatten() {
        let known = service["backends"].as_array_mut();
        let Some(known) = known else { continue };
        match known.iter_mut().find(|known| known["id"] == backend["id"]) {
            Some(known) => add_backend(known, backend, node),
            None => {
                let mut backend = backend.clone();
                begin_backend(&mut backend, node);
                known.push(backend);
            }
        }
    }
}

fn begin_frontend(frontend: &mut Value, node: &str) {
    let announced = frontend["announcedHere"] == true;
    if let Some(frontend) = frontend.as_object_mut() {
        frontend.remove("announcedHere");
        let nodes = if announced { json!([node]) } else { json!([]) };
        frontend.insert("announcedBy".to_owned(), nodes);
    }
}

fn begin_backend(backend: &mut Value, node: &str) {
    backend["nodes"] = json!([seen_from(backend, node)]);
    // A node calls its own backends local.
    if backend["node"] == "local" && !node.is_empty() {
        backend["node"] = node.into();
    }
    if let Some(backend) = backend.as_object_mut() {
        for field in ["mode", "modeReason", "connectionsElsewhere"] {
            backend.remove(field);
        }
    }
}

fn add_backend(backend: &mut Value, other: &Value, node: &str) {
    add(backend, other, &COUNTERS);
    for field in NOTED {
        if !other[field].is_null() {
            backend[field] = (number(&backend[field]) + number(&other[field])).into();
        }
    }
    if let Some(nodes) = backend["nodes"].as_array_mut() {
        nodes.push(seen_from(other, node));
    }
}

/// What a node does with a backend.
fn seen_from(backend: &Value, node: &str) -> Value {
    json!({
        "node": node,
        "mode": backend["mode"],
        "reason": backend["modeReason"],
        "state": backend["state"],
        "slots": backend["slots"],
        "packets": backend["packets"],
        "bytes": backend["bytes"],
        "connections": backend["connections"],
        "answers": backend["answers"],
        "answerBytes": backend["answerBytes"],
        "packetsPerSecond": backend["packetsPerSecond"],
        "bytesPerSecond": backend["bytesPerSecond"],
        "connectionsPerSecond": backend["connectionsPerSecond"],
        "answersPerSecond": backend["answersPerSecond"],
        "answerBytesPerSecond": backend["answerBytesPerSecond"],
        "activeConnections": backend["activeConnections"],
        "inactiveConnections": backend["inactiveConnections"],
        "connectionsElsewhere": backend["connectionsElsewhere"],
    })
}

fn table_of(service: &Value, node: &str) -> Value {
    let mut table = json!({ "node": node });
    for field in ["slots", "stable", "moving", "settling"] {
        table[field] = service["table"][field].clone();
    }
    table
}

fn add(to: &mut Value, from: &Value, fields: &[&str]) {
    for field in fields {
        to[*field] = (number(&to[*field]) + number(&from[*field])).into();
    }
}

/// A count; of what is absent, 0.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node: &str, packets: u64, backend_node: &str, announced: bool) -> Answer {
        let body = json!([{
            "id": 1,
            "name": "hello/hello:http",
            "frontends": [{
                "address": "198.18.100.1", "port": 80, "protocol": "TCP",
                "announcedHere": announced,
            }],
            "backends": [{
                "id": 7, "node": backend_node, "mode": if backend_node == "local" { "local" } else { "dr" },
                "share": 1.0, "packets": packets, "activeConnections": packets,
                "connectionsElsewhere": 10 - packets,
            }],
            "table": {"slots": 101, "stable": 100, "moving": 1, "settling": 0},
            "packets": packets, "bytes": 0, "connections": 1, "drops": 1,
            "dropsByReason": {"NoBackend": 1},
        }]);
        Answer {
            node: node.into(),
            body,
        }
    }

    #[test]
    fn counters_are_summed_over_nodes_and_local_backends_get_their_nodes_name() {
        let merged = services(&[
            answer("node-1", 3, "local", false),
            answer("node-2", 4, "node-1", true),
        ]);
        assert_eq!(merged.len(), 1);
        let service = &merged[0];
        assert_eq!(service["packets"], 7);
        assert_eq!(service["connections"], 2);
        assert_eq!(service["dropsByReason"]["NoBackend"], 2);
        assert_eq!(service["frontends"][0]["announcedBy"], json!(["node-2"]));
        assert_eq!(service["tables"][1]["node"], "node-2");
        let backend = &service["backends"][0];
        assert_eq!(backend["node"], "node-1");
        assert_eq!(backend["packets"], 7);
        assert_eq!(backend["activeConnections"], 7);
        assert_eq!(backend["nodes"][0]["mode"], "local");
        assert_eq!(backend["nodes"][1]["mode"], "dr");
        assert_eq!(backend["nodes"][1]["connectionsElsewhere"], 6);
        assert_eq!(backend.get("connectionsElsewhere"), None, "of one node");
    }
}
