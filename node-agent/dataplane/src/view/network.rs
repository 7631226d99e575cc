//! Where packets go: nodes, routes, pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairlead_dataplane_common::{
    NODE_ADJACENT, NODE_LOCAL, NODE_RESOLVED, NODE_SERVER, ROUTE_LOCAL, ROUTE_NODE_HOST,
    ROUTE_PODS, RouteKey,
};
use serde_json::{Value, json};

use super::node_name;
use crate::Error;
use crate::decode::mac_text;
use crate::desired::Desired;
use crate::state::State;

pub(super) fn routes(state: &State) -> Value {
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

pub(super) fn nodes(state: &State) -> Value {
    let nodes = state.desired.iter().flat_map(Desired::other_nodes);
    let silent: BTreeSet<u32> = nodes
        .filter(|node| node.silent)
        .map(|node| node.id)
        .collect();
    let rows = state.observed.nodes.iter().map(|(slot, entry)| {
        let resolved = entry.flags & NODE_RESOLVED != 0;
        let is_server = entry.flags & NODE_SERVER != 0;
        json!({
            "id": entry.id,
            "name": node_name(state, slot),
            "address": IpAddr::from(entry.address),
            "resolved": resolved,
            "isServer": is_server,
            "isSilent": !is_server && silent.contains(&entry.id),
            "adjacent": entry.flags & NODE_ADJACENT != 0,
            "passedOn": (!is_server).then(|| state.reach(entry).to_string()),
            "mac": resolved.then(|| mac_text(entry.mac)),
            "interface": entry.ifindex,
            "mtu": entry.mtu,
        })
    });
    rows.collect::<Vec<_>>().into()
}

pub(super) fn endpoints(state: &State) -> Result<Value, Error> {
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
