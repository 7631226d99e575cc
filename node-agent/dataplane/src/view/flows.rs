//! Flows the maps remember.

use fairlead_dataplane_common::{FlowEntry, FlowKey};
use serde_json::{Value, json};

use super::{endpoint, protocol_name};
use crate::Error;
use crate::state::State;

/// Flows listed unless `limit` asks for another number.
const FLOWS_DEFAULT: usize = 1_000;
/// Flows listed at most: a listing is made under the lock.
const FLOWS_MAX: usize = 100_000;

pub(super) fn flows(state: &State, params: &Value) -> Result<Value, Error> {
    // Query strings carry numbers as text.
    let limit = params.get("limit").and_then(|limit| match limit {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64().and_then(|n| usize::try_from(n).ok()),
    });
    let limit = limit.unwrap_or(FLOWS_DEFAULT).min(FLOWS_MAX);
    let row = |kind: &str, key: &FlowKey, entry: &FlowEntry| {
        let (source, replaced) = (
            endpoint(key.source, key.source_port_be),
            endpoint(entry.address, entry.port_be),
        );
        let destination = endpoint(key.destination, key.destination_port_be);
        // A reply is kept as the pod sends it; people think of it as the client's connection.
        let (from, to) = if kind == "service" {
            (destination, source)
        } else {
            (source, destination)
        };
        json!({
            "kind": kind,
            "protocol": protocol_name(key.protocol),
            "vpc": key.vpc,
            "from": from,
            "to": to,
            "via": replaced,
            "backend": entry.backend,
            "packets": entry.packets,
            "bytes": entry.bytes,
        })
    };
    let mut rows: Vec<Value> = state
        .loaded
        .tables
        .service_flows(limit)?
        .iter()
        .map(|(key, entry)| row("service", key, entry))
        .collect();
    let masqueraded = state.loaded.tables.masqueraded_flows(limit - rows.len())?;
    rows.extend(
        masqueraded
            .iter()
            .map(|(key, entry)| row("masquerade", key, entry)),
    );
    Ok(rows.into())
}
