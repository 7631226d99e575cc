//! `netctl service`.

use anyhow::bail;
use serde_json::{Value, json};

use crate::{
    merge::{self, number},
    output::{self, Output},
    source::Source,
    table::{Column, Rows, column, table, wide},
};

const LIST: &[Column] = &[
    column("SERVICE", "name"),
    wide("ID", "id"),
    column("FRONTENDS", "frontendNames"),
    wide("ANNOUNCED BY", "announcedBy"),
    column("SCHEDULER", "scheduler"),
    column("FORWARDING", "forwarding"),
    column("BACKENDS", "backendCount"),
    wide("SLOTS", "slots"),
    wide("MOVING", "moving"),
    column("CONNECTIONS", "connections"),
    column("PACKETS", "packets"),
    column("BYTES", "bytes"),
    column("PACKETS/S", "packetsPerSecond"),
    wide("BYTES/S", "bytesPerSecond"),
    wide("CONNECTIONS/S", "connectionsPerSecond"),
    column("DROPS", "drops"),
    wide("RESETS", "resets"),
];

const BACKENDS: &[Column] = &[
    column("  BACKEND", "name"),
    wide("ID", "id"),
    column("ADDRESS", "endpoint"),
    column("NODE", "node"),
    column("MODE", "modes"),
    wide("WHY", "reasons"),
    column("STATE", "state"),
    column("WEIGHT", "weight"),
    wide("SLOTS", "slots"),
    column("SHARE", "percent"),
    column("CONNECTIONS", "connections"),
    column("OPEN", "activeConnections"),
    column("PACKETS", "packets"),
    column("PACKETS/S", "packetsPerSecond"),
    wide("BYTES/S", "bytesPerSecond"),
    wide("CONNECTIONS/S", "connectionsPerSecond"),
];

/// All service ports.
pub(crate) async fn list(source: &Source) -> anyhow::Result<Rows> {
    let mut rows = merge::services(&source.view("services", "").await?);
    for service in &mut rows {
        service["frontendNames"] = service["frontends"]
            .as_array()
            .into_iter()
            .flatten()
            .map(frontend_name)
            .collect();
        let announced: Vec<Value> = service["frontends"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|frontend| frontend["announcedBy"].as_array().cloned())
            .flatten()
            .collect();
        service["announcedBy"] = announced.into();
        service["backendCount"] = service["backends"].as_array().map_or(0, Vec::len).into();
        let tables = service["tables"].as_array().cloned().unwrap_or_default();
        let of_first = |field| {
            tables
                .first()
                .map_or(Value::Null, |t: &Value| t[field].clone())
        };
        (service["slots"], service["moving"]) = (of_first("slots"), of_first("moving"));
    }
    Ok(Rows::new(LIST, rows, "No service is in the maps."))
}

/// One Service, port by port: what it is, what went through it, and its backends.
pub(crate) async fn show(source: &Source, service: &str, output: Output) -> anyhow::Result<()> {
    let service = qualified(service);
    let query = format!("service={service}&connections=yes");
    let services = merge::services(&source.view("services", &query).await?);
    if services.is_empty() {
        bail!("service {service} is in no node's maps (see `netctl service ls`)");
    }
    if !output.is_for_people() {
        return output::document(output, &Value::Array(services));
    }
    let ports: Vec<String> = services
        .into_iter()
        .map(|service| describe(service, output == Output::Wide))
        .collect();
    output::write(&ports.join("\n"))
}

/// `NAME` is in namespace `default`.
pub(crate) fn qualified(service: &str) -> String {
    if service.contains('/') {
        service.to_owned()
    } else {
        format!("default/{service}")
    }
}

/// An address and a port as people write them.
pub(crate) fn endpoint(address: &Value, port: &Value) -> String {
    let address = address.as_str().unwrap_or("?");
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// Adds what people read of a backend to its object.
pub(crate) fn add_columns(backend: &mut Value) {
    backend["endpoint"] = endpoint(&backend["address"], &backend["port"]).into();
    backend["percent"] = backend["share"].as_f64().map_or(Value::Null, |share| {
        format!("{:.1} %", share * 100.0).into()
    });
    // That a backend is local to its own node goes without saying.
    let seen = backend["nodes"].as_array().cloned().unwrap_or_default();
    let remote: Vec<Value> = seen
        .iter()
        .filter(|node| node["mode"] != "local")
        .cloned()
        .collect();
    let told = if remote.is_empty() { seen } else { remote };
    for (column, field) in [("modes", "mode"), ("reasons", "reason")] {
        let mut different: Vec<Value> = Vec::new();
        for value in told.iter().map(|node| &node[field]) {
            if !value.is_null() && !different.contains(value) {
                different.push(value.clone());
            }
        }
        backend[column] = different.into();
    }
}

fn describe(mut service: Value, is_wide: bool) -> String {
    let mut text = format!("{}\n", service["name"].as_str().unwrap_or("(unnamed)"));
    let mut line = |subject: &str, said: String| {
        text.push_str(&format!("  {subject:<11} {said}\n"));
    };
    for frontend in service["frontends"].as_array().into_iter().flatten() {
        let scope = frontend["scope"].as_str().unwrap_or("?");
        let nodes: Vec<&str> = frontend["announcedBy"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let announced = if nodes.is_empty() {
            String::new()
        } else {
            format!(", announced by {}", nodes.join(", "))
        };
        line(
            "frontend",
            format!("{} ({scope}{announced})", frontend_name(frontend)),
        );
    }
    let noted = if service["tracked"] == true {
        "every flow is noted"
    } else {
        "flows are noted where slots move"
    };
    let scheduler = service["scheduler"].as_str().unwrap_or("unknown");
    let affinity = match service["affinitySeconds"].as_u64() {
        Some(seconds) => format!(", clients keep their backend for {seconds} s"),
        None => String::new(),
    };
    line("scheduler", format!("{scheduler}, {noted}{affinity}"));
    let local = if service["localOnly"] == true {
        ", to backends of the node that packets enter alone"
    } else {
        ""
    };
    let forwarding = service["forwarding"].as_str().unwrap_or("unknown");
    line("forwarding", format!("{forwarding}{local}"));
    for table in service["tables"].as_array().into_iter().flatten() {
        let said = format!(
            "{} at {}: {} stable, {} moving, {} settling",
            table["slots"],
            table["node"].as_str().unwrap_or("?"),
            table["stable"],
            table["moving"],
            table["settling"]
        );
        line("slots", said);
    }
    let traffic = format!(
        "{} connections, {} packets, {} bytes",
        number(&service["connections"]),
        number(&service["packets"]),
        number(&service["bytes"])
    );
    line("so far", traffic);
    let rates = format!(
        "{} connections, {} packets, {} bytes a second",
        number(&service["connectionsPerSecond"]),
        number(&service["packetsPerSecond"]),
        number(&service["bytesPerSecond"])
    );
    line("now", rates);
    let drops: Vec<String> = service["dropsByReason"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(reason, packets)| format!("{packets} {reason}"))
        .collect();
    let drops = match (drops.is_empty(), number(&service["drops"])) {
        (true, 0) => "none".to_owned(),
        (true, drops) => drops.to_string(),
        (false, _) => drops.join(", "),
    };
    line("dropped", drops);
    let backends = service["backends"].as_array_mut();
    let backends = backends.map(std::mem::take).unwrap_or_default();
    if backends.is_empty() {
        line("backends", "none".to_owned());
        return text;
    }
    let rows: Vec<Value> = backends
        .into_iter()
        .map(|mut backend| {
            add_columns(&mut backend);
            backend["name"] = json!(format!("  {}", backend["name"].as_str().unwrap_or("-")));
            backend
        })
        .collect();
    text.push_str(&table(BACKENDS, &rows, is_wide));
    text
}

fn frontend_name(frontend: &Value) -> String {
    format!(
        "{}/{}",
        endpoint(&frontend["address"], &frontend["port"]),
        frontend["protocol"].as_str().unwrap_or("?")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_in_the_default_namespace() {
        assert_eq!(qualified("web"), "default/web");
        assert_eq!(qualified("hello/web"), "hello/web");
    }

    #[test]
    fn service_tells_who_announces_how_it_is_doing_and_how_backends_are_reached() {
        let backend = |name: &str, node: &str, mode: &str, open: Value| {
            json!({
                "name": name, "address": "10.244.1.10", "port": 8080, "node": node,
                "nodes": [{"node": "node-1", "mode": mode, "reason": "so"},
                          {"node": node, "mode": "local", "reason": "here"}],
                "state": "active", "weight": 1, "share": 0.5, "connections": 2,
                "activeConnections": open, "packets": 20, "packetsPerSecond": 4,
            })
        };
        let service = json!({
            "name": "hello/hello:http",
            "frontends": [{"address": "198.18.100.1", "port": 80, "protocol": "TCP",
                           "scope": "external", "announcedBy": ["node-2"]}],
            "scheduler": "wlc", "forwarding": "auto", "tracked": true,
            "tables": [{"node": "node-1", "slots": 251, "stable": 250, "moving": 1, "settling": 0}],
            "connections": 4, "packets": 40, "bytes": 4000,
            "connectionsPerSecond": 1, "packetsPerSecond": 8, "bytesPerSecond": 800,
            "dropsByReason": {"NoBackend": 3}, "drops": 3,
            "backends": [backend("hello-1", "node-1", "local", 1.into()),
                         backend("hello-2", "node-2", "dr", Value::Null)],
        });
        assert_eq!(
            describe(service, false),
            "\
hello/hello:http
  frontend    198.18.100.1:80/TCP (external, announced by node-2)
  scheduler   wlc, every flow is noted
  forwarding  auto
  slots       251 at node-1: 250 stable, 1 moving, 0 settling
  so far      4 connections, 40 packets, 4000 bytes
  now         1 connections, 8 packets, 800 bytes a second
  dropped     3 NoBackend
  BACKEND   ADDRESS            NODE     MODE    STATE    WEIGHT   SHARE    CONNECTIONS   OPEN   PACKETS   PACKETS/S
  hello-1   10.244.1.10:8080   node-1   local   active   1        50.0 %   2             1      20        4
  hello-2   10.244.1.10:8080   node-2   dr      active   1        50.0 %   2             -      20        4
"
        );
    }
}
