//! Services, what they forward to, and what went through them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_api::{BackendId, ServiceId};
use fairlead_dataplane_common::{
    Address, BACKEND_SERVER, FRONTEND_ADDRESS, FRONTEND_ANNOUNCED, FRONTEND_EXTERNAL,
    FRONTEND_NODE_PORT, LUT_EMPTY, LUT_SLOT_MASK, NODE_LOCAL, SERVICE_AFFINITY,
    SERVICE_EXTERNAL_LOCAL, SERVICE_LEAST_LOAD, SERVICE_NOTED, ServiceEntry,
};
use serde_json::{Map, Value, json};

use super::flows::{Connections, is_named};
use super::{Node, node_name, protocol_name};
use crate::Error;
use crate::desired::{Service, range_text};
use crate::observed::{range_of_key, table_of};
use crate::rates::Rate;
use crate::state::State;
use crate::trace::facts::{SlotState, backend_state};

/// Services with their backends, and what went through both.
pub(super) fn services(
    state: &State,
    node: &Node<'_>,
    connections: Option<&Connections>,
    params: &Value,
) -> Result<Value, Error> {
    let mut frontends = frontends(state);
    let tables = &state.loaded.tables;
    let mut lost: BTreeMap<u32, Map<String, Value>> = BTreeMap::new();
    for ((slot, reason), packets) in tables.drops_by_service()? {
        let by_reason = lost.entry(slot).or_default();
        by_reason.insert(reason.name().to_owned(), packets.into());
    }
    let mut rows = Vec::new();
    for (slot, entry) in wanted_services(state, params) {
        let described = description(state, entry);
        let held = Held::read(state, entry)?;
        let stats = tables.stats_of_service(slot, held.backends.keys().copied())?;
        let mut rate = Rate::default();
        for slot in held.backends.keys() {
            if let Some(backend) = state.observed.backends.get(*slot) {
                rate = rate.plus(node.rates.of_backend(*slot, backend.id));
            }
        }
        let [stable, moving, settling] = held.states;
        rows.push(json!({
            "id": entry.id,
            "name": described.map(|service| &service.name),
            "scheduler": described.map(|service| service.scheduler.name()),
            "forwarding": described.map(|service| service.forwarding.to_string()),
            "tracked": entry.flags & SERVICE_NOTED != 0,
            "affinitySeconds": (entry.flags & SERVICE_AFFINITY != 0)
                .then_some(entry.affinity_seconds),
            "localOnly": entry.flags & SERVICE_EXTERNAL_LOCAL != 0,
            "frontends": frontends.remove(&slot).unwrap_or_default(),
            "backends": backends_of(state, node, connections, entry, &held)?,
            "table": {
                "offset": entry.lut_offset,
                "slots": entry.lut_length,
                "stable": stable,
                "moving": moving,
                "settling": settling,
            },
            "packets": stats.packets,
            "bytes": stats.bytes,
            "connections": stats.connections,
            "answers": stats.answers,
            "answerBytes": stats.answer_bytes,
            "drops": stats.drops,
            "resets": stats.resets,
            "dropsByReason": lost.remove(&slot).unwrap_or_default(),
            "packetsPerSecond": rate.packets,
            "bytesPerSecond": rate.bytes,
            "connectionsPerSecond": rate.connections,
            "answersPerSecond": rate.answers,
            "answerBytesPerSecond": rate.answer_bytes,
        }));
    }
    Ok(rows.into())
}

/// Backends with the service that each belongs to.
pub(super) fn backends(
    state: &State,
    node: &Node<'_>,
    connections: Option<&Connections>,
    params: &Value,
) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for (_, entry) in wanted_services(state, params) {
        let service = description(state, entry).map(|service| service.name.as_str());
        let held = Held::read(state, entry)?;
        for mut row in backends_of(state, node, connections, entry, &held)? {
            row["service"] = json!(service);
            row["serviceId"] = json!(entry.id);
            rows.push(row);
        }
    }
    Ok(rows.into())
}

/// The frontends of all services, by service slot.
fn frontends(state: &State) -> BTreeMap<u32, Vec<Value>> {
    let bank = state.observed.active();
    let announced: BTreeSet<(u32, Address)> = (state.observed.frontends(bank).iter())
        .filter(|entry| entry.flags & FRONTEND_ANNOUNCED != 0)
        .map(|entry| (entry.key.vpc, entry.key.address))
        .collect();
    let mut frontends: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    for entry in state.observed.frontends(bank).iter() {
        if entry.flags & FRONTEND_ADDRESS != 0 {
            continue;
        }
        let scope = if entry.flags & FRONTEND_NODE_PORT != 0 {
            "nodePort"
        } else if entry.flags & FRONTEND_EXTERNAL != 0 {
            "external"
        } else {
            "cluster"
        };
        frontends.entry(entry.service).or_default().push(json!({
            "address": range_text(range_of_key(&entry.key)),
            "port": u16::from_be(entry.key.port_be),
            "protocol": protocol_name(entry.key.protocol),
            "vpc": entry.key.vpc,
            "scope": scope,
            "announcedHere": entry.key.prefix == 0
                && announced.contains(&(entry.key.vpc, entry.key.address)),
        }));
    }
    frontends
}

/// What a service's table really holds.
struct Held {
    /// Backend slots, and how many elements each has: those of the table, and those that the control
    /// plane named beside (draining, or of weight 0).
    backends: BTreeMap<u32, u32>,
    /// Elements that are stable, moving and settling.
    states: [u32; 3],
}

impl Held {
    fn read(state: &State, service: &ServiceEntry) -> Result<Self, Error> {
        let mut held = Self {
            backends: BTreeMap::new(),
            states: [0; 3],
        };
        for element in state.loaded.tables.read_table(table_of(service))? {
            *held.backends.entry(element & LUT_SLOT_MASK).or_default() += 1;
            held.states[SlotState::of(element) as usize] += 1;
        }
        held.backends.remove(&LUT_EMPTY);
        let described = description(state, service);
        for id in described.iter().flat_map(|service| service.backends.keys()) {
            if let Some(slot) = state.observed.backend_ids.get(&id.0) {
                held.backends.entry(*slot).or_default();
            }
        }
        Ok(held)
    }
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
                let described = description(state, entry);
                described.is_some_and(|service| is_named(&service.name, wanted))
                    || entry.id.to_string() == *wanted
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

fn backends_of(
    state: &State,
    viewed: &Node<'_>,
    connections: Option<&Connections>,
    service: &ServiceEntry,
    held: &Held,
) -> Result<Vec<Value>, Error> {
    let described = description(state, service);
    // Where flows are not all noted, their number is not known: nothing is better than a wrong one.
    let is_noted = service.flags & SERVICE_NOTED != 0;
    let connections = connections.filter(|_| is_noted);
    // Other nodes' connections are told where a scheduler compares them.
    let is_compared = service.flags & SERVICE_LEAST_LOAD != 0;
    let mut rows = Vec::with_capacity(held.backends.len());
    for (slot, elements) in &held.backends {
        let Some(entry) = state.observed.backends.get(*slot) else {
            continue;
        };
        let named = described.and_then(|service| service.backends.get(&BackendId(entry.id)));
        let node = state.observed.nodes.get(entry.node);
        let mode = described
            .filter(|_| node.is_some() || entry.node == NODE_LOCAL)
            .map(|service| {
                let reached = node.map(|node| (node, state.reach(node)));
                service.forwarding.mode(is_noted, reached)
            });
        let stats = state.loaded.tables.stats_of_backend(*slot)?;
        let rate = viewed.rates.of_backend(*slot, entry.id);
        let (active, inactive) = connections
            .map(|connections| connections.get(&entry.id).copied().unwrap_or_default())
            .unzip();
        rows.push(json!({
            "id": entry.id,
            "name": named.map(|backend| &backend.name),
            "address": IpAddr::from(entry.address),
            "port": u16::from_be(entry.port_be),
            "node": node_name(state, entry.node),
            "isServer": entry.flags & BACKEND_SERVER != 0,
            "mode": mode.as_ref().map(|(mode, _)| mode.to_string()),
            "modeReason": mode.as_ref().map(|(_, reason)| reason),
            "state": backend_state(entry),
            "weight": named.map(|backend| backend.weight),
            "slots": elements,
            "share": f64::from(*elements) / f64::from(service.lut_length.max(1)),
            "packets": stats.packets,
            "bytes": stats.bytes,
            "connections": stats.connections,
            "answers": stats.answers,
            "answerBytes": stats.answer_bytes,
            "packetsPerSecond": rate.packets,
            "bytesPerSecond": rate.bytes,
            "connectionsPerSecond": rate.connections,
            "answersPerSecond": rate.answers,
            "answerBytesPerSecond": rate.answer_bytes,
            "activeConnections": active,
            "inactiveConnections": inactive,
            "connectionsElsewhere": is_compared
                .then(|| state.observed.loads.get(slot).map_or(0, |load| load.elsewhere)),
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
