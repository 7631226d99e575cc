//! What `kube-system/kube-dns` stands for: the process on each node that answers for that node's
//! pods. The Service is internal to nodes, so each of them only ever asks its own.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_api::cluster_dns::{NODE_PORT, SERVICE_NAME, SERVICE_NAMESPACE};
use fairlead_objects::{Cache, Change, Changed, Object, ObjectName, WriteError};
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    apply,
    slices::{Action, MANAGED_BY_LABEL, SERVICE_LABEL},
};
use crate::controller::{Context, Controller, Outcome, everything};

const MANAGED_BY: &str = "node-dns.fairlead.io";
/// How many endpoints a slice may have.
const ENDPOINTS_MAX: usize = 1_000;

/// The controller of kube-dns' EndpointSlices.
pub(crate) struct NodeDnsController;

impl Controller for NodeDnsController {
    const NAME: &'static str = "node-dns";
    const WORKERS: usize = 1;

    fn affected(&self, change: &Change, _cache: &Cache) -> Vec<ObjectName> {
        let is_concerned = match &change.changed {
            Changed::Node(delta) => {
                let mut sides = delta.sides().map(|node| addresses(node));
                let first = sides.next();
                // Heartbeats change nodes as well.
                sides.next().is_none_or(|other| Some(other) != first)
            }
            Changed::EndpointSlice(delta) => delta.sides().any(|slice| is_ours(slice)),
            _ => false,
        };
        if is_concerned {
            everything()
        } else {
            Vec::new()
        }
    }

    async fn reconcile(&self, context: &Context, _all: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let present: Vec<&EndpointSlice> = cache
            .endpoint_slices
            .in_namespace(SERVICE_NAMESPACE)
            .map(|slice| &**slice)
            .filter(|slice| is_ours(slice))
            .collect();
        let mut outcome = Outcome::default();
        for action in plan(cache.nodes.iter().map(|node| &**node), &present) {
            outcome.wrote(apply(context, action).await?);
        }
        Ok(outcome)
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get(MANAGED_BY_LABEL));
    manager.is_some_and(|manager| manager == MANAGED_BY)
}

/// The writes that make the slices name each node at its own addresses.
fn plan<'a>(nodes: impl Iterator<Item = &'a Node>, present: &[&EndpointSlice]) -> Vec<Action> {
    let mut wanted = desired(nodes);
    let mut actions = Vec::new();
    for slice in present {
        let name = slice.object_name();
        let uid = slice.uid().to_owned();
        match wanted.remove(&name.name) {
            None => actions.push(Action::Delete { name, uid }),
            Some(slice_wanted) => {
                let is_same =
                    slice_wanted.endpoints == slice.endpoints && slice_wanted.ports == slice.ports;
                if !is_same {
                    let slice = Box::new(slice_wanted);
                    actions.push(Action::Update { name, uid, slice });
                }
            }
        }
    }
    actions.extend(
        wanted
            .into_values()
            .map(|slice| Action::Create(Box::new(slice))),
    );
    actions
}

fn desired<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeMap<String, EndpointSlice> {
    let mut families: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    for node in nodes {
        for address in addresses(node) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            families
                .entry(family)
                .or_default()
                .push(endpoint(node, address));
        }
    }
    let mut slices = BTreeMap::new();
    for (family, endpoints) in families {
        for (index, endpoints) in endpoints.chunks(ENDPOINTS_MAX).enumerate() {
            let name = format!("{SERVICE_NAME}-{}-{index}", family.to_ascii_lowercase());
            slices.insert(name.clone(), slice(name, family, endpoints.to_vec()));
        }
    }
    slices
}

/// Where the node is reached, one address a family.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.as_ref();
    let listed = status.and_then(|status| status.addresses.as_deref());
    let mut found: Vec<IpAddr> = Vec::new();
    for address in listed.unwrap_or_default() {
        let internal = Some(address).filter(|address| address.type_ == "InternalIP");
        if let Some(address) = internal.and_then(|internal| internal.address.parse::<IpAddr>().ok())
            && !found
                .iter()
                .any(|other| other.is_ipv4() == address.is_ipv4())
        {
            found.push(address);
        }
    }
    found
}

fn endpoint(node: &Node, address: IpAddr) -> Endpoint {
    let name = node.object_name().name;
    Endpoint {
        addresses: vec![address.to_string()],
        // Nobody but the node itself asks it, and that does so whatever the others think of it.
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: Some(name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name),
            uid: node.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn slice(name: String, family: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |name: &str, protocol: &str| EndpointPort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: Some(i32::from(NODE_PORT)),
        app_protocol: None,
    };
    let labels = [
        (SERVICE_LABEL, SERVICE_NAME),
        (MANAGED_BY_LABEL, MANAGED_BY),
    ];
    EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(SERVICE_NAMESPACE.to_owned()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        endpoints: Some(endpoints),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, addresses: &[&str]) -> Node {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        let node = json!({"metadata": {"name": name}, "status": {"addresses": addresses}});
        serde_json::from_value(node).unwrap()
    }

    fn created(actions: Vec<Action>) -> Vec<EndpointSlice> {
        let slices = actions.into_iter().map(|action| match action {
            Action::Create(slice) => *slice,
            other => panic!("{other:?}"),
        });
        slices.collect()
    }

    #[test]
    fn each_family_has_a_slice_of_the_nodes_that_have_it() {
        let nodes = [
            node("n1", &["198.18.0.101", "2001:db8::101"]),
            node("n2", &["198.18.0.102"]),
            node("n3", &[]),
        ];
        let slices = created(plan(nodes.iter(), &[]));
        let found: Vec<_> = slices
            .iter()
            .map(|slice| {
                let endpoints = slice.endpoints.iter().flatten();
                let nodes = endpoints.filter_map(|endpoint| endpoint.node_name.as_deref());
                (slice.address_type.as_str(), nodes.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(found, [("IPv4", vec!["n1", "n2"]), ("IPv6", vec!["n1"])]);
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone_and_the_rest_is_not() {
        let before = [node("n1", &["198.18.0.101"])];
        let mut slices = created(plan(before.iter(), &[]));
        let present = |slices: &[EndpointSlice]| -> Vec<Action> {
            plan(before.iter(), &slices.iter().collect::<Vec<_>>())
        };
        assert_eq!(present(&slices), []);
        slices[0].endpoints = None;
        assert!(matches!(present(&slices)[..], [Action::Update { .. }]));
        slices[0].metadata.name = Some("another".to_owned());
        let actions = present(&slices);
        assert!(matches!(
            actions[..],
            [Action::Delete { .. }, Action::Create(_)]
        ));
    }
}
