//! Where the cluster's addresses are.

use std::collections::BTreeMap;

use fairlead_dataplane_common::{
    NODE_LOCAL, ROUTE_LOCAL, ROUTE_NODE_HOST, ROUTE_PODS, ROUTE_UNREACHABLE, RouteEntry, maps,
};

use super::{Full, Planner};
use crate::action::Action;
use crate::observed::Prefix;

impl Planner<'_> {
    pub(super) fn plan_routes(&mut self) -> Result<(), Full> {
        let mut wanted = BTreeMap::new();
        let unreachable = RouteEntry {
            kind: ROUTE_UNREACHABLE,
            node: 0,
        };
        for range in &self.desired.cluster_ranges {
            wanted.insert(Prefix::new(0, *range), unreachable);
        }
        for node in self.desired.other_nodes() {
            let entry = RouteEntry {
                kind: ROUTE_NODE_HOST,
                node: self.node_slot(node),
            };
            for address in node.addresses() {
                wanted.insert(Prefix::new(0, address.into()), entry);
            }
        }
        for (&(vpc, range), name) in &self.desired.routes {
            // A node that has a range and no address yet cannot be routed to: its pods are
            // unreachable, as the rest of the cluster's ranges is. This node's own range is below.
            let node = self.desired.nodes.get(name);
            let Some(node) = node.filter(|node| node.id != self.desired.node_id) else {
                continue;
            };
            let entry = RouteEntry {
                kind: ROUTE_PODS,
                node: self.node_slot(node),
            };
            wanted.insert(Prefix::new(vpc.0, range), entry);
        }
        for &range in &self.local.pod_ranges {
            wanted.insert(
                Prefix::new(0, range),
                RouteEntry {
                    kind: ROUTE_LOCAL,
                    node: NODE_LOCAL,
                },
            );
        }
        Full::check("routes", wanted.len(), maps::ROUTES_MAX)?;
        for (&prefix, &entry) in &wanted {
            if self.observed.routes.get(&prefix) != Some(&entry) {
                self.plan.enter.push(Action::SetRoute { prefix, entry });
            }
        }
        for &prefix in self
            .observed
            .routes
            .keys()
            .filter(|p| !wanted.contains_key(p))
        {
            self.plan.leave.push(Action::RemoveRoute { prefix });
        }
        Ok(())
    }
}
