//! What the maps hold, as JSON for netctl. Addresses and states are text, counters are numbers.

mod drops;
mod flows;
mod network;
mod services;
mod status;
mod trace;

pub(crate) use trace::trace;

use fairlead_dataplane_common::{Address, NODE_LOCAL, NODE_SERVER, protocol};
use serde_json::Value;

use crate::Error;
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
        "services" => services::services(state, params),
        "backends" => services::backends(state, params),
        "flows" => flows::flows(state, params),
        "drops" => drops::drops(state),
        "routes" => Ok(network::routes(state)),
        "nodes" => Ok(network::nodes(state)),
        "endpoints" => network::endpoints(state),
        "status" => status::status(state, node),
        _ => Err(Error::NoView {
            name: name.to_owned(),
        }),
    }
}

/// The name of the node in `slot`; its id where the name is not known yet. A machine outside the
/// cluster has none.
fn node_name(state: &State, slot: u32) -> Value {
    if slot == NODE_LOCAL {
        return "local".into();
    }
    let Some(entry) = state.observed.nodes.get(slot) else {
        return Value::Null;
    };
    if entry.flags & NODE_SERVER != 0 {
        return Value::Null;
    }
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
