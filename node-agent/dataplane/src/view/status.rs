//! The node itself.

use fairlead_dataplane_common::{DropReason, NODE_RESOLVED, maps};
use serde_json::{Value, json};

use super::Node;
use crate::Error;
use crate::decode::mac_text;
use crate::observed::range_of;
use crate::state::State;

pub(super) fn status(state: &State, node: &Node<'_>) -> Result<Value, Error> {
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
    let uplinks = state.loaded.tables.known_uplinks()?;
    let uplinks = uplinks.iter().map(|(interface, entry)| {
        json!({ "interface": interface, "mac": mac_text(entry.mac), "mtu": entry.mtu })
    });
    let usage = |used: usize, capacity: u32| json!({ "used": used, "capacity": capacity });
    Ok(json!({
        "node": node.name,
        "nodeId": observed.config.node_id,
        "address": state.local.address,
        "otherAddress": state.local.other_address,
        "podRanges": state.local.pod_ranges,
        "generation": observed.generation.0,
        "synced": state.desired.is_some(),
        "bank": bank,
        "schemaVersion": maps::SCHEMA_VERSION,
        "servedByVersion": state.loaded.served_by(),
        "attachments": node.attachments,
        "uplinks": uplinks.collect::<Vec<_>>(),
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
