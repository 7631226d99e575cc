//! What the maps hold, as JSON for netctl. Addresses and states are text, counters are numbers.

mod drops;
mod flows;
mod network;
mod services;
mod status;
mod trace;

pub(crate) use trace::trace;

use fairlead_dataplane_common::{NODE_LOCAL, NODE_SERVER, protocol};
use serde_json::Value;

use self::flows::Connections;
use crate::Error;
use crate::jiffies::Jiffies;
use crate::loader::Tables;
use crate::rates::Rates;
use crate::state::State;

/// The views there are.
pub const NAMES: &[&str] = &[
    "services",
    "backends",
    "flows",
    "drops",
    "samples",
    "counters",
    "routes",
    "nodes",
    "endpoints",
    "status",
];

/// What a view shows of this node beside the maps' state.
pub(crate) struct Node<'a> {
    pub(crate) name: &'a str,
    pub(crate) attachments: Value,
    /// How fast backends' counters grow.
    pub(crate) rates: &'a Rates,
    /// The kernel's clock by which programs note when they saw something.
    pub(crate) jiffies: &'a Jiffies,
}

impl Node<'_> {
    /// How many seconds ago that was; nothing if the clock cannot be read.
    fn age(&self, seen_jiffies: u64) -> Option<u32> {
        let now = self.jiffies.now().ok()?;
        Some(self.jiffies.age(seen_jiffies, now))
    }
}

/// What a view is made of that takes time to read and needs no lock.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    flows: flows::Gathered,
    /// Noted flows by backend, if they were asked for.
    connections: Option<Connections>,
}

impl Gathered {
    /// Reads what the view called `name` is made of.
    pub(crate) fn read(tables: &Tables, name: &str, params: &Value) -> Result<Self, Error> {
        let mut gathered = Self::default();
        if name == "flows" {
            gathered.flows = flows::Gathered::read(tables, params)?;
        }
        if params.get("connections").is_some() {
            gathered.connections = Some(flows::connections(tables)?);
        }
        Ok(gathered)
    }
}

/// The view called `name`. `params` narrows it: `service` ("namespace/name" or an id) for services,
/// backends, flows and samples, `backend`, `client`, `kind` and `limit` for flows, `reason` for samples; with
/// `connections`, services and backends tell how many are noted.
pub(crate) fn render(
    state: &State,
    node: &Node<'_>,
    gathered: Gathered,
    name: &str,
    params: &Value,
) -> Result<Value, Error> {
    let connections = gathered.connections.as_ref();
    match name {
        "services" => services::services(state, node, connections, params),
        "backends" => services::backends(state, node, connections, params),
        "flows" => flows::flows(state, node, gathered.flows, params),
        "drops" => drops::drops(state, node),
        "samples" => drops::samples(state, node, params),
        "counters" => drops::counters(state),
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
