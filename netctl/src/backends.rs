//! `netctl backend`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    services::qualified,
    source::Source,
    table::{Column, Rows, column, wide},
};

const COLUMNS: &[Column] = &[
    column("SERVICE", "service"),
    column("BACKEND", "name"),
    wide("ID", "id"),
    column("ADDRESS", "address"),
    column("PORT", "port"),
    column("NODE", "node"),
    column("STATE", "state"),
    column("WEIGHT", "weight"),
    column("SLOTS", "slots"),
];

/// All backends, each once however many nodes hold it.
pub(crate) async fn list(source: &Source, service: Option<&str>) -> anyhow::Result<Rows> {
    let query = service
        .map(|service| format!("service={}", qualified(service)))
        .unwrap_or_default();
    let mut rows: BTreeMap<(String, u64), Value> = BTreeMap::new();
    for answer in source.view("backends", &query).await? {
        for mut backend in answer.body.as_array().cloned().unwrap_or_default() {
            if backend["node"] == "local" && !answer.node.is_empty() {
                backend["node"] = answer.node.as_str().into();
            }
            let service = backend["service"].as_str().unwrap_or_default().to_owned();
            let id = backend["id"].as_u64().unwrap_or_default();
            rows.entry((service, id)).or_insert(backend);
        }
    }
    Ok(Rows::new(
        COLUMNS,
        rows.into_values().collect(),
        match service {
            Some(service) => format!(
                "No backend of service {} is in the maps.",
                qualified(service)
            ),
            None => "No backend is in the maps.".to_owned(),
        },
    ))
}
