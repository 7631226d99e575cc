//! Each node's own part of the cluster's ranges of pod addresses, one of each family.

use std::collections::BTreeSet;

use fairlead_api::FamilyRanges;
use fairlead_objects::{About, Cache, Change, Changed, EventType, Object, ObjectName, WriteError};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use k8s_openapi::api::core::v1::Node;

use crate::{
    controller::{Context, Controller, Outcome, everything},
    node_prefix,
};

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
        let mut outcome = Outcome::default();
        for Part { node: name, ranges } in plan(&nodes, context.config.cluster_cidr) {
            let Some(ranges) = ranges else {
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
                spec.pod_cidr = ranges.first().map(ToString::to_string);
                spec.pod_cidrs = Some(ranges.iter().map(ToString::to_string).collect());
            };
            outcome.wrote(context.writer.update::<Node>(&name, None, change).await?);
        }
        Ok(outcome)
    }
}

/// What one node is given.
#[derive(Debug, PartialEq)]
struct Part {
    node: ObjectName,
    /// All the node's ranges from now on, in the cluster's order of families; `None` when one of
    /// them cannot be had.
    ranges: Option<Vec<IpNetwork>>,
}

/// The ranges a node has.
fn ranges_of(node: &Node) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let both = spec.pod_cidrs.iter().flatten();
    // The older field repeats the first.
    let first = spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.is_none());
    both.chain(first)
        .filter_map(|range| range.parse().ok())
        .collect()
}

/// Ranges for each node that lacks one of a family of the cluster. What a node has it keeps: its
/// pods have their addresses from there.
fn plan(nodes: &[&Node], cluster: FamilyRanges) -> Vec<Part> {
    let taken: BTreeSet<IpNetwork> = nodes.iter().flat_map(|node| ranges_of(node)).collect();
    let mut free: Vec<_> = cluster
        .iter()
        .map(|range| ranges(range, node_prefix(range)).filter(|part| !taken.contains(part)))
        .collect();
    let is_in_need = |node: &&&Node| {
        let held = ranges_of(node);
        let lacks = |range: IpNetwork| !held.iter().any(|part| part.is_ipv4() == range.is_ipv4());
        cluster.iter().any(lacks) && !node.is_terminating()
    };
    let part = |node: &&Node| {
        let held = ranges_of(node);
        let of_families = cluster.iter().zip(&mut free).map(|(range, free)| {
            let held = held
                .iter()
                .find(|part| part.is_ipv4() == range.is_ipv4())
                .copied();
            held.or_else(|| free.next())
        });
        Part {
            node: node.object_name(),
            ranges: of_families.collect(),
        }
    };
    nodes.iter().filter(is_in_need).map(part).collect()
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

    fn node(name: &str, ranges: &[&str]) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
        }))
        .unwrap()
    }

    /// What nodes that have `held` are given of `cluster`: "" when a range cannot be had.
    fn given(cluster: &str, held: &[(&str, &[&str])]) -> Vec<(String, String)> {
        let nodes: Vec<_> = held
            .iter()
            .map(|(name, ranges)| node(name, ranges))
            .collect();
        let text = |ranges: Vec<IpNetwork>| {
            let texts: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            texts.join(",")
        };
        plan(&nodes.iter().collect::<Vec<_>>(), cluster.parse().unwrap())
            .into_iter()
            .map(|part| (part.node.name, part.ranges.map(text).unwrap_or_default()))
            .collect()
    }

    #[test]
    fn each_node_without_a_range_gets_the_lowest_free_one() {
        let held: [(&str, &[&str]); 3] = [("a", &[]), ("b", &["10.244.0.0/24"]), ("c", &[])];
        for (cluster, expected) in [
            ("10.244.0.0/16", ["10.244.1.0/24", "10.244.2.0/24"]),
            ("10.244.0.0/23", ["10.244.1.0/24", ""]),
        ] {
            let expected = ["a", "c"].into_iter().zip(expected);
            let expected: Vec<_> = expected
                .map(|(name, range)| (name.to_owned(), range.to_owned()))
                .collect();
            assert_eq!(given(cluster, &held), expected, "{cluster}");
        }
    }

    #[test]
    fn node_gets_a_range_of_each_family_and_keeps_the_one_it_has() {
        let held: [(&str, &[&str]); 4] = [
            ("new", &[]),
            ("v4", &["10.244.0.0/24"]),
            ("both", &["10.244.7.0/24", "2001:db8:a::/64"]),
            ("last", &[]),
        ];
        let expected = [
            ("new", "10.244.1.0/24,2001:db8:a:1::/64"),
            ("v4", "10.244.0.0/24,2001:db8:a:2::/64"),
            ("last", "10.244.2.0/24,2001:db8:a:3::/64"),
        ];
        let expected = expected.map(|(name, ranges)| (name.to_owned(), ranges.to_owned()));
        assert_eq!(given("10.244.0.0/16,2001:db8:a::/56", &held), expected);
    }

    #[test]
    fn node_that_cannot_have_both_gets_none() {
        let held: [(&str, &[&str]); 2] = [("a", &["10.244.0.0/24", "2001:db8::/64"]), ("b", &[])];
        let nothing = [("b".to_owned(), String::new())];
        assert_eq!(given("10.244.0.0/16,2001:db8::/64", &held), nothing);
    }
}
