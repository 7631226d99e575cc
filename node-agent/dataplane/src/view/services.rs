//! Services, what they forward to, and what went through them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_api::{BackendId, ServiceId};
use fairlead_dataplane_common::{
    BACKEND_DRAINING, FRONTEND_ADDRESS, FRONTEND_EXTERNAL, LUT_EMPTY, NODE_LOCAL, ServiceEntry,
};
use serde_json::{Value, json};

use super::{node_name, protocol_name};
use crate::Error;
use crate::desired::Service;
use crate::moving;
use crate::observed::table_of;
use crate::state::State;

pub(super) fn services(state: &State, params: &Value) -> Result<Value, Error> {
    let bank = state.observed.active();
    let mut frontends: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    for entry in state.observed.frontends(bank).iter() {
        if entry.flags & FRONTEND_ADDRESS == 0 {
            let scope = if entry.flags & FRONTEND_EXTERNAL != 0 {
                "external"
            } else {
                "cluster"
            };
            frontends.entry(entry.service).or_default().push(json!({
                "address": IpAddr::from(entry.key.address),
                "port": u16::from_be(entry.key.port_be),
                "protocol": protocol_name(entry.key.protocol),
                "vpc": entry.key.vpc,
                "scope": scope,
            }));
        }
    }
    let mut rows = Vec::new();
    for (slot, entry) in wanted_services(state, params) {
        let described = description(state, entry);
        let backends = slots_of(state, entry)?;
        let stats = state
            .loaded
            .tables
            .stats_of_service(slot, backends.keys().copied())?;
        rows.push(json!({
            "id": entry.id,
            "name": described.map(|service| &service.name),
            "scheduler": described.map(|service| service.scheduler.name()),
            "forwarding": described.map(|service| service.forwarding.to_string()),
            "frontends": frontends.remove(&slot).unwrap_or_default(),
            "backends": backends_of(state, entry)?,
            "table": { "offset": entry.lut_offset, "slots": entry.lut_length },
            "packets": stats.packets,
            "bytes": stats.bytes,
            "connections": stats.connections,
            "drops": stats.drops,
        }));
    }
    Ok(rows.into())
}

pub(super) fn backends(state: &State, params: &Value) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for (_, entry) in wanted_services(state, params) {
        let service = description(state, entry).map(|service| service.name.as_str());
        for mut row in backends_of(state, entry)? {
            row["service"] = json!(service);
            row["serviceId"] = json!(entry.id);
            rows.push(row);
        }
    }
    Ok(rows.into())
}

/// The services of the active bank that `params` asks for, by slot.
fn wanted_services<'a>(
    state: &'a State,
    params: &'a Value,
) -> impl Iterator<Item = (u32, &'a ServiceEntry)> {
    let wanted = params.get("service").map(|wanted| match wanted {
        Value::String(text) => text.clone(),
        number => number.to_string(),
    });
    state
        .observed
        .services(state.observed.active())
        .iter()
        .filter(move |(_, entry)| {
            wanted.as_ref().is_none_or(|wanted| {
                let name = description(state, entry).map(|service| service.name.as_str());
                let object =
                    name.map(|name| name.split_once(':').map_or(name, |(object, _)| object));
                [name, object].contains(&Some(wanted)) || entry.id.to_string() == *wanted
            })
        })
}

/// What the control plane said about a service; nothing after a restart, until it has spoken.
fn description<'a>(state: &'a State, entry: &ServiceEntry) -> Option<&'a Service> {
    state
        .desired
        .as_ref()?
        .services
        .get(&ServiceId(entry.id))
        .map(Arc::as_ref)
}

/// The backend slots of a service, and how many elements of its table each has.
fn slots_of(state: &State, service: &ServiceEntry) -> Result<BTreeMap<u32, u32>, Error> {
    let mut slots: BTreeMap<u32, u32> = BTreeMap::new();
    for element in state.loaded.tables.read_table(table_of(service))? {
        *slots.entry(moving::slot_of(element)).or_default() += 1;
    }
    slots.remove(&LUT_EMPTY);
    let described = description(state, service);
    for id in described.iter().flat_map(|service| service.backends.keys()) {
        if let Some(slot) = state.observed.backend_ids.get(&id.0) {
            slots.entry(*slot).or_default();
        }
    }
    Ok(slots)
}

/// Backends of a service: those in its table, by what the table really holds, and those that the
/// control plane named beside (draining, of weight 0, or gone to the programs because they do not
/// answer or have drained).
fn backends_of(state: &State, service: &ServiceEntry) -> Result<Vec<Value>, Error> {
    let slots = slots_of(state, service)?;
    let described = description(state, service);
    let mut rows = Vec::with_capacity(slots.len());
    for (slot, held) in slots {
        let Some(entry) = state.observed.backends.get(slot) else {
            continue;
        };
        let named = described.and_then(|service| service.backends.get(&BackendId(entry.id)));
        let node = state.observed.nodes.get(entry.node);
        let mode = described
            .filter(|_| node.is_some() || entry.node == NODE_LOCAL)
            .map(|service| service.forwarding.mode(node));
        rows.push(json!({
            "id": entry.id,
            "name": named.map(|backend| &backend.name),
            "address": IpAddr::from(entry.address),
            "port": u16::from_be(entry.port_be),
            "node": node_name(state, entry.node),
            "mode": mode.map(|(mode, _)| mode.to_string()),
            "modeReason": mode.map(|(_, reason)| reason),
            "state": if entry.state == BACKEND_DRAINING { "draining" } else { "active" },
            "weight": named.map(|backend| backend.weight),
            "slots": held,
            "share": f64::from(held) / f64::from(service.lut_length.max(1)),
        }));
    }
    for (id, named) in described.iter().flat_map(|service| &service.backends) {
        if state.local.is_lapsed(*id) {
            rows.push(json!({
                "id": id.0,
                "name": named.name,
                "address": named.address,
                "port": named.port,
                "state": if state.local.unhealthy.contains(id) { "unhealthy" } else { "drained" },
                "weight": named.weight,
                "slots": 0,
                "share": 0.0,
            }));
        }
    }
    Ok(rows)
}
