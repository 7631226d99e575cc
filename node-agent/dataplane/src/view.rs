//! What the maps hold, as JSON for netctl. Addresses and states are text, counters are numbers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_api::{BackendId, ServiceId};
use fairlead_dataplane_common::{
    Address, BACKEND_DRAINING, DropReason, FRONTEND_ADDRESS, FRONTEND_EXTERNAL, FlowEntry, FlowKey,
    NODE_ADJACENT, NODE_LOCAL, NODE_RESOLVED, ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS, RouteKey,
    ServiceEntry, maps, protocol,
};
use serde_json::{Value, json};

use crate::Error;
use crate::desired::Service;
use crate::observed::{range_of, table_of};
use crate::state::State;

/// The views there are.
pub const NAMES: &[&str] = &[
    "services",
    "backends",
    "flows",
    "drops",
    "routes",
    "nodes",
    "endpoints",
    "status",
];

/// Flows listed unless `limit` asks for another number.
const FLOWS_DEFAULT: usize = 1_000;
/// Flows listed at most: a listing is made under the lock.
const FLOWS_MAX: usize = 100_000;

/// What a view shows of this node beside the maps.
pub(crate) struct Node<'a> {
    pub(crate) name: &'a str,
    pub(crate) attachments: Value,
}

/// The view called `name`. `params` narrows it: `service` ("namespace/name" or an id) for services
/// and backends, `limit` for flows.
pub(crate) fn render(
    state: &State,
    node: &Node<'_>,
    name: &str,
    params: &Value,
) -> Result<Value, Error> {
    match name {
        "services" => services(state, params),
        "backends" => backends(state, params),
        "flows" => flows(state, params),
        "drops" => drops(state),
        "routes" => Ok(routes(state)),
        "nodes" => Ok(nodes(state)),
        "endpoints" => endpoints(state),
        "status" => status(state, node),
        _ => Err(Error::NoView {
            name: name.to_owned(),
        }),
    }
}

fn services(state: &State, params: &Value) -> Result<Value, Error> {
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
        let stats = state.loaded.tables.stats_of_service(slot)?;
        let described = description(state, entry);
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

fn backends(state: &State, params: &Value) -> Result<Value, Error> {
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

/// Backends of a service: those in its table, by what the table really holds, and those that the
/// control plane named beside (draining, or of weight 0).
fn backends_of(state: &State, service: &ServiceEntry) -> Result<Vec<Value>, Error> {
    let mut slots: BTreeMap<u32, u32> = BTreeMap::new();
    for slot in state.loaded.tables.read_table(table_of(service))? {
        *slots.entry(slot).or_default() += 1;
    }
    let described = description(state, service);
    for id in described.iter().flat_map(|service| service.backends.keys()) {
        if let Some(slot) = state.observed.backend_ids.get(&id.0) {
            slots.entry(*slot).or_default();
        }
    }
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
    Ok(rows)
}

fn flows(state: &State, params: &Value) -> Result<Value, Error> {
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

fn drops(state: &State) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for reason in DropReason::ALL {
        let stats = state.loaded.tables.stats_of_drops(*reason as u32)?;
        rows.push(json!({
            "reason": reason.name(),
            "description": reason.description(),
            "packets": stats.packets,
            "bytes": stats.bytes,
        }));
    }
    Ok(rows.into())
}

fn routes(state: &State) -> Value {
    let rows = state.observed.routes.iter().map(|(prefix, entry)| {
        let is_v4 = prefix.address.is_v4();
        let length = prefix.bits - RouteKey::prefix_bits(0, is_v4);
        let (kind, node) = match entry.kind {
            ROUTE_PODS => ("pods", node_name(state, entry.node)),
            ROUTE_NODE_HOST => ("node", node_name(state, entry.node)),
            ROUTE_LOCAL => ("local", node_name(state, NODE_LOCAL)),
            _ => ("unreachable", Value::Null),
        };
        json!({
            "vpc": prefix.vpc,
            "prefix": format!("{}/{length}", prefix.address),
            "kind": kind,
            "node": node,
        })
    });
    rows.collect::<Vec<_>>().into()
}

fn nodes(state: &State) -> Value {
    let rows = state.observed.nodes.iter().map(|(slot, entry)| {
        let resolved = entry.flags & NODE_RESOLVED != 0;
        json!({
            "id": entry.id,
            "name": node_name(state, slot),
            "address": IpAddr::from(entry.address),
            "resolved": resolved,
            "adjacent": entry.flags & NODE_ADJACENT != 0,
            "mac": resolved.then(|| mac_text(entry.mac)),
            "interface": entry.ifindex,
            "mtu": entry.mtu,
        })
    });
    rows.collect::<Vec<_>>().into()
}

fn endpoints(state: &State) -> Result<Value, Error> {
    let rows = state
        .loaded
        .tables
        .reachable_pods()?
        .into_iter()
        .map(|(key, entry)| {
            json!({
                "vpc": key.vpc,
                "address": IpAddr::from(key.address),
                "interface": entry.ifindex,
                "mac": mac_text(entry.mac),
            })
        });
    Ok(rows.collect::<Vec<_>>().into())
}

fn status(state: &State, node: &Node<'_>) -> Result<Value, Error> {
    let observed = &state.observed;
    let bank = observed.active();
    let mut drops = 0;
    for reason in DropReason::ALL {
        drops += state.loaded.tables.stats_of_drops(*reason as u32)?.packets;
    }
    let used: u32 = observed
        .services(bank)
        .values()
        .map(|service| range_of(service).len)
        .sum();
    let resolved = observed
        .nodes
        .values()
        .filter(|n| n.flags & NODE_RESOLVED != 0)
        .count();
    let usage = |used: usize, capacity: u32| json!({ "used": used, "capacity": capacity });
    Ok(json!({
        "node": node.name,
        "nodeId": observed.config.node_id,
        "address": state.local.address,
        "podRange": state.local.pod_range.map(|range| range.to_string()),
        "generation": observed.generation.0,
        "synced": state.desired.is_some(),
        "bank": bank,
        "schemaVersion": maps::SCHEMA_VERSION,
        "attachments": node.attachments,
        "nodesResolved": resolved,
        "drops": drops,
        "maps": {
            "services": usage(observed.services(bank).count(), maps::SERVICES_MAX - 1),
            "frontends": usage(observed.frontends(bank).iter().count(), maps::FRONTENDS_MAX),
            "backends": usage(observed.backends.count(), maps::BACKENDS_MAX - 1),
            "lut": usage(used as usize, maps::LUT_SLOTS),
            "nodes": usage(observed.nodes.count(), maps::NODES_MAX - 1),
            "routes": usage(observed.routes.len(), maps::ROUTES_MAX),
            "endpoints": usage(state.loaded.tables.reachable_pods()?.len(), maps::PODS_MAX),
        },
    }))
}

/// The name of the node in `slot`; its id where the name is not known yet.
fn node_name(state: &State, slot: u32) -> Value {
    if slot == NODE_LOCAL {
        return "local".into();
    }
    let Some(entry) = state.observed.nodes.get(slot) else {
        return Value::Null;
    };
    let named = state
        .desired
        .as_ref()
        .and_then(|desired| desired.node_name(entry.id));
    named.map_or_else(|| entry.id.to_string().into(), |name| name.as_str().into())
}

fn endpoint(address: Address, port_be: u16) -> String {
    std::net::SocketAddr::new(address.into(), u16::from_be(port_be)).to_string()
}

fn protocol_name(number: u8) -> Value {
    match number {
        protocol::TCP => "TCP".into(),
        protocol::UDP => "UDP".into(),
        protocol::SCTP => "SCTP".into(),
        protocol::ICMP => "ICMP".into(),
        protocol::ICMPV6 => "ICMPv6".into(),
        other => other.into(),
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
