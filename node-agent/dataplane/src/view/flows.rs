//! Flows the maps remember: as the client's packets are balanced, as pods answer, as real servers
//! answer, and as pods reach the outside.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use fairlead_api::BackendId;
use fairlead_dataplane_common::{
    Address, FLOW_ESTABLISHED, FlowEntry, FlowKey, NatEntry, TrackEntry,
};
use serde_json::{Value, json};

use super::{Node, protocol_name};
use crate::Error;
use crate::loader::Tables;
use crate::state::State;
use crate::trace::explain::{Names, flow_state};

/// Flows listed unless `limit` asks for another number.
const FLOWS_DEFAULT: usize = 1_000;
/// Flows looked at, at most, to find those that are asked for.
const FLOWS_MAX: usize = 400_000;

/// A flow, whichever map has it.
#[derive(Clone, Debug)]
struct Flow {
    kind: &'static str,
    protocol: u8,
    vpc: u32,
    from: SocketAddr,
    to: SocketAddr,
    /// What takes the place of one of them.
    via: Option<SocketAddr>,
    /// `BackendId`, 0 if none is involved.
    backend: u32,
    state: Option<&'static str>,
    seen_jiffies: u64,
    packets: u64,
    bytes: u64,
}

/// The flows that `params` ask for by `kind` and `client`, as far as that is known without names.
/// Reads maps only: nobody waits for it.
#[derive(Debug, Default)]
pub(crate) struct Gathered(Vec<Flow>);

/// How many connections of a backend are established, and how many are not, as IPVS counts them.
pub(crate) type Connections = HashMap<u32, (u32, u32)>;

/// Counts the noted flows of all backends.
pub(crate) fn connections(tables: &Tables) -> Result<Connections, Error> {
    let mut connections = Connections::new();
    let count = |entries: &[(u64, TrackEntry)]| {
        for (_, entry) in entries {
            let (active, inactive) = connections.entry(entry.backend).or_default();
            // IPVS counts datagrams, and connections that open or close, as inactive.
            if entry.state == FLOW_ESTABLISHED {
                *active += 1;
            } else {
                *inactive += 1;
            }
        }
    };
    let counted = tables.swept.flows.for_each_batch(count);
    counted.map_err(Error::Sweep)?;
    Ok(connections)
}

impl Gathered {
    pub(crate) fn read(tables: &Tables, params: &Value) -> Result<Self, Error> {
        let kind = params.get("kind").and_then(Value::as_str);
        let client: Option<IpAddr> = match params.get("client").and_then(Value::as_str) {
            Some(text) => Some(text.parse().map_err(|_| Error::BadParameter {
                name: "client",
                problem: format!("{text:?} is no IP address"),
            })?),
            None => None,
        };
        let mut flows = Vec::new();
        let wanted = |name| kind.is_none_or(|kind| kind == name);
        let mut add = |flow: Flow| {
            if client.is_none_or(|client| flow.from.ip() == client) {
                flows.push(flow);
            }
        };
        if wanted("tracked") {
            let found = tables.tracked_flows(FLOWS_MAX)?;
            found
                .iter()
                .for_each(|(key, entry)| add(tracked(key, entry)));
        }
        if wanted("service") {
            let found = tables.service_flows(FLOWS_MAX)?;
            found
                .iter()
                .for_each(|(key, entry)| add(answered(key, entry)));
        }
        if wanted("nat") {
            let found = tables.translated_flows(FLOWS_MAX)?;
            found
                .iter()
                .for_each(|(key, entry)| add(translated(key, entry)));
        }
        if wanted("masquerade") {
            let found = tables.masqueraded_flows(FLOWS_MAX)?;
            found
                .iter()
                .for_each(|(key, entry)| add(masqueraded(key, entry)));
        }
        Ok(Self(flows))
    }
}

/// The flows that were gathered, with names; of those with the `service` and the `backend` that
/// `params` ask for, the `limit` with the most packets.
pub(super) fn flows(
    state: &State,
    node: &Node<'_>,
    gathered: Gathered,
    params: &Value,
) -> Result<Value, Error> {
    let text = |name| params.get(name).and_then(Value::as_str);
    let (service, backend) = (text("service"), text("backend"));
    // Query strings carry numbers as text.
    let limit = params.get("limit").and_then(|limit| match limit {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64().and_then(|n| usize::try_from(n).ok()),
    });
    let mut flows = gathered.0;
    flows.retain(|flow| {
        let names = service_name(state, flow.backend);
        service.is_none_or(|wanted| names.as_deref().is_some_and(|name| is_named(name, wanted)))
            && backend.is_none_or(|wanted| {
                flow.backend.to_string() == wanted
                    || Names::backend(state, flow.backend).as_deref() == Some(wanted)
            })
    });
    flows.sort_by_key(|flow| std::cmp::Reverse(flow.packets));
    flows.truncate(limit.unwrap_or(FLOWS_DEFAULT));
    let rows = flows.into_iter().map(|flow| {
        json!({
            "kind": flow.kind,
            "protocol": protocol_name(flow.protocol),
            "vpc": flow.vpc,
            "from": flow.from.to_string(),
            "to": flow.to.to_string(),
            "via": flow.via.or_else(|| backend_at(state, flow.backend)).map(|via| via.to_string()),
            "service": service_name(state, flow.backend),
            "backend": (flow.backend != 0).then_some(flow.backend),
            "backendName": Names::backend(state, flow.backend),
            "state": flow.state,
            "idleSeconds": node.age(flow.seen_jiffies),
            "packets": flow.packets,
            "bytes": flow.bytes,
        })
    });
    Ok(rows.collect::<Vec<_>>().into())
}

/// Whether `wanted` names a service, or the object whose port it is.
pub(super) fn is_named(name: &str, wanted: &str) -> bool {
    let object = name.split_once(':').map_or(name, |(object, _)| object);
    name == wanted || object == wanted
}

fn service_name(state: &State, backend: u32) -> Option<String> {
    let service = state.desired.as_ref()?.backends.get(&BackendId(backend))?;
    Names::service(state, service.0)
}

fn backend_at(state: &State, id: u32) -> Option<SocketAddr> {
    let slot = state.observed.backend_ids.get(&id)?;
    let entry = state.observed.backends.get(*slot)?;
    Some(socket(entry.address, entry.port_be))
}

/// As the client sends it to the VIP.
fn tracked(key: &FlowKey, entry: &TrackEntry) -> Flow {
    Flow {
        kind: "tracked",
        protocol: key.protocol,
        vpc: key.vpc,
        from: socket(key.source, key.source_port_be),
        to: socket(key.destination, key.destination_port_be),
        via: None,
        backend: entry.backend,
        state: Some(flow_state(entry)),
        seen_jiffies: entry.seen_jiffies,
        packets: entry.packets,
        bytes: entry.bytes,
    }
}

/// Kept as the pod answers; people think of it as the client's connection.
fn answered(key: &FlowKey, entry: &FlowEntry) -> Flow {
    Flow {
        from: socket(key.destination, key.destination_port_be),
        to: socket(entry.address, entry.port_be),
        via: Some(socket(key.source, key.source_port_be)),
        ..plain("service", key, entry)
    }
}

/// Kept as the real server answers.
fn translated(key: &FlowKey, entry: &NatEntry) -> Flow {
    Flow {
        kind: "nat",
        protocol: key.protocol,
        vpc: key.vpc,
        from: socket(entry.client, entry.client_port_be),
        to: socket(entry.vip, entry.vip_port_be),
        via: Some(socket(key.destination, key.destination_port_be)),
        backend: entry.backend,
        state: None,
        seen_jiffies: entry.seen_jiffies,
        packets: entry.packets,
        bytes: entry.bytes,
    }
}

/// As the pod sends it.
fn masqueraded(key: &FlowKey, entry: &FlowEntry) -> Flow {
    plain("masquerade", key, entry)
}

fn plain(kind: &'static str, key: &FlowKey, entry: &FlowEntry) -> Flow {
    Flow {
        kind,
        protocol: key.protocol,
        vpc: key.vpc,
        from: socket(key.source, key.source_port_be),
        to: socket(key.destination, key.destination_port_be),
        via: Some(socket(entry.address, entry.port_be)),
        backend: entry.backend,
        state: None,
        seen_jiffies: entry.seen_jiffies,
        packets: entry.packets,
        bytes: entry.bytes,
    }
}

fn socket(address: Address, port_be: u16) -> SocketAddr {
    SocketAddr::new(address.into(), u16::from_be(port_be))
}
