//! `netctl backend`.

use anyhow::bail;
use serde_json::Value;

use crate::{
    merge::{self, number},
    output::{self, Output},
    services::{add_columns, qualified},
    source::Source,
    table::{Column, Rows, column, table, wide},
};

const LIST: &[Column] = &[
    column("SERVICE", "service"),
    column("BACKEND", "name"),
    wide("ID", "id"),
    column("ADDRESS", "endpoint"),
    column("NODE", "node"),
    column("MODE", "modes"),
    wide("WHY", "reasons"),
    column("STATE", "state"),
    column("WEIGHT", "weight"),
    column("SLOTS", "slots"),
    column("CONNECTIONS", "connections"),
    column("PACKETS", "packets"),
    column("PACKETS/S", "packetsPerSecond"),
    wide("BYTES/S", "bytesPerSecond"),
];

const BY_NODE: &[Column] = &[
    column("  SEEN FROM", "from"),
    column("MODE", "mode"),
    column("WHY", "reason"),
    column("STATE", "state"),
    column("SLOTS", "slots"),
    column("CONNECTIONS", "connections"),
    column("OPEN", "activeConnections"),
    column("ELSEWHERE", "connectionsElsewhere"),
    column("PACKETS", "packets"),
    column("PACKETS/S", "packetsPerSecond"),
    column("BYTES/S", "bytesPerSecond"),
];

/// All backends, each once however many nodes hold it.
pub(crate) async fn list(source: &Source, service: Option<&str>) -> anyhow::Result<Rows> {
    let query = service.map(|service| format!("service={}", qualified(service)));
    let answers = source.view("backends", &query.unwrap_or_default()).await?;
    let mut rows = merge::backends(&answers);
    rows.iter_mut().for_each(add_columns);
    let empty = match service {
        Some(service) => format!(
            "No backend of service {} is in the maps.",
            qualified(service)
        ),
        None => "No backend is in the maps.".to_owned(),
    };
    Ok(Rows::new(LIST, rows, empty))
}

/// One backend, by name, address or id, as each node sees it.
pub(crate) async fn show(source: &Source, backend: &str, output: Output) -> anyhow::Result<()> {
    let answers = source.view("backends", "connections=yes").await?;
    let mut found = merge::backends(&answers);
    found.iter_mut().for_each(add_columns);
    let id: Option<u64> = backend.parse().ok();
    found.retain(|candidate| {
        let is = |field| candidate[field] == backend;
        is("name")
            || is("address")
            || is("endpoint")
            || (id.is_some() && candidate["id"].as_u64() == id)
    });
    if found.is_empty() {
        bail!("no node's maps have a backend {backend:?} (see `netctl backend ls`)");
    }
    if !output.is_for_people() {
        return output::document(output, &Value::Array(found));
    }
    let texts: Vec<String> = found.iter().map(describe).collect();
    output::write(&texts.join("\n"))
}

fn describe(backend: &Value) -> String {
    let text_of = |field: &str| backend[field].as_str().unwrap_or("?");
    let place = if backend["isServer"] == true {
        "outside the cluster".to_owned()
    } else {
        format!("on {}", text_of("node"))
    };
    let mut text = format!(
        "{} ({}), {place}, of {}\n",
        text_of("name"),
        text_of("endpoint"),
        text_of("service")
    );
    text.push_str(&format!(
        "  id {}, weight {}, {}; {} connections, {} packets, {} bytes so far\n",
        backend["id"],
        backend["weight"],
        text_of("state"),
        number(&backend["connections"]),
        number(&backend["packets"]),
        number(&backend["bytes"])
    ));
    let rows: Vec<Value> = backend["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| {
            let mut row = node.clone();
            row["from"] = format!("  {}", node["node"].as_str().unwrap_or("?")).into();
            row
        })
        .collect();
    text.push_str(&table(BY_NODE, &rows, true));
    text
}
