//! Each node's own part of the cluster's range of pod addresses.

use std::collections::BTreeSet;

use fairlead_objects::{About, Cache, Change, Changed, EventType, Object, ObjectName, WriteError};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use k8s_openapi::api::core::v1::Node;

use crate::controller::{Context, Controller, Outcome, everything};

/// The controller of nodes' pod ranges.
pub(crate) struct PodCidrController;

impl Controller for PodCidrController {
    const NAME: &'static str = "pod-cidr";
    const WORKERS: usize = 1;

    fn affected(&self, change: &Change, _: &Cache) -> Vec<ObjectName> {
        match &change.changed {
            Changed::Node(_) => everything(),
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, _: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let nodes: Vec<&Node> = cache.nodes.iter().map(|node| &**node).collect();
        let (cluster, prefix) = (context.config.cluster_cidr, context.config.node_cidr_prefix);
        let mut outcome = Outcome::default();
        for (name, range) in plan(&nodes, cluster, prefix) {
            let Some(range) = range else {
                if let Some(node) = cache.nodes.get(&name) {
                    let recorder = context.recorder.speaking_as("node-ipam-controller", None);
                    let message = format!("Node {name} status is now: CIDRNotAvailable");
                    recorder
                        .record(
                            &About::object(&**node),
                            EventType::Normal,
                            "CIDRNotAvailable",
                            message,
                        )
                        .await;
                }
                continue;
            };
            let change = |node: &mut Node| {
                let spec = node.spec.get_or_insert_default();
                spec.pod_cidr = Some(range.to_string());
                spec.pod_cidrs = Some(vec![range.to_string()]);
            };
            outcome.wrote(context.writer.update::<Node>(&name, None, change).await?);
        }
        Ok(outcome)
    }
}

fn range_of(node: &Node) -> Option<IpNetwork> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()
}

/// A range for each node that has none; `None` when there is none left.
fn plan(nodes: &[&Node], cluster: IpNetwork, prefix: u8) -> Vec<(ObjectName, Option<IpNetwork>)> {
    let taken: BTreeSet<IpNetwork> = nodes.iter().filter_map(|node| range_of(node)).collect();
    let mut free = ranges(cluster, prefix).filter(|range| !taken.contains(range));
    nodes
        .iter()
        .filter(|node| range_of(node).is_none() && !node.is_terminating())
        .map(|node| (node.object_name(), free.next()))
        .collect()
}

/// All ranges of a length within another, lowest first.
fn ranges(cluster: IpNetwork, prefix: u8) -> impl Iterator<Item = IpNetwork> {
    let (bits, base) = match cluster {
        IpNetwork::V4(range) => (32, u128::from(u32::from(range.network()))),
        IpNetwork::V6(range) => (128, u128::from(range.network())),
    };
    let wide = prefix
        .checked_sub(cluster.prefix())
        .filter(|_| prefix <= bits);
    let count = wide.map_or(0, |wide| {
        1_u128.checked_shl(u32::from(wide)).unwrap_or(u128::MAX)
    });
    let step = 1_u128
        .checked_shl(u32::from(bits.saturating_sub(prefix)))
        .unwrap_or(0);
    (0..count).map_while(move |index| {
        let address = base + index * step;
        match cluster {
            IpNetwork::V4(_) => {
                let address = u32::try_from(address).ok()?;
                Ipv4Network::new(address.into(), prefix)
                    .ok()
                    .map(IpNetwork::V4)
            }
            IpNetwork::V6(_) => Ipv6Network::new(address.into(), prefix)
                .ok()
                .map(IpNetwork::V6),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, range: Option<&str>) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": range}}))
            .unwrap()
    }

    #[test]
    fn each_node_without_a_range_gets_the_lowest_free_one() {
        let nodes = [
            node("a", None),
            node("b", Some("10.244.0.0/24")),
            node("c", None),
        ];
        let nodes: Vec<_> = nodes.iter().collect();
        let given = |cluster: &str, prefix| -> Vec<(String, Option<String>)> {
            plan(&nodes, cluster.parse().unwrap(), prefix)
                .into_iter()
                .map(|(name, range)| (name.name, range.map(|range| range.to_string())))
                .collect()
        };
        let some = |name: &str, range: &str| (name.to_owned(), Some(range.to_owned()));
        assert_eq!(
            given("10.244.0.0/16", 24),
            [some("a", "10.244.1.0/24"), some("c", "10.244.2.0/24")]
        );
        assert_eq!(
            given("10.244.0.0/23", 24),
            [some("a", "10.244.1.0/24"), ("c".to_owned(), None)]
        );
        assert_eq!(
            given("2001:db8::/48", 64),
            [some("a", "2001:db8::/64"), some("c", "2001:db8:0:1::/64")]
        );
    }
}
