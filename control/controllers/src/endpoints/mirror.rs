//! Endpoints that somebody keeps by hand, mirrored to EndpointSlices: where a Service without a
//! selector leads is read from slices alone.
//!
//! Source: upstream's `endpointslicemirroring` controller.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_objects::{Object, ObjectName};
use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::slices::{Action, MANAGED_BY_LABEL, SERVICE_LABEL};
use crate::replica_set::claim;

const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
/// Whoever writes slices beside Endpoints says so.
pub(crate) const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// How many addresses of a subset are mirrored, as upstream.
const ENDPOINTS_MAX: usize = 1000;

/// Whether the slice is a mirror's.
pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY_LABEL))
        .is_some_and(|manager| manager == MANAGED_BY)
}

/// The writes that make the mirrored slices say what the Endpoints do, one slice for each subset
/// and family.
pub(super) fn plan(
    service: &Service,
    endpoints: Option<&Endpoints>,
    present: &[&EndpointSlice],
) -> Vec<Action> {
    let endpoints = endpoints.filter(|endpoints| {
        let labels = endpoints.metadata.labels.as_ref();
        let skips = labels.and_then(|labels| labels.get(SKIP_LABEL));
        skips.is_none_or(|skips| skips != "true")
    });
    let subsets = endpoints.and_then(|endpoints| endpoints.subsets.as_deref());
    let annotations = endpoints.and_then(|endpoints| endpoints.metadata.annotations.clone());
    let mut wanted: Vec<EndpointSlice> = subsets
        .unwrap_or_default()
        .iter()
        .flat_map(|subset| slices(service, subset))
        .collect();
    for slice in &mut wanted {
        slice.metadata.annotations = annotations.clone().map(|all| {
            all.into_iter()
                .filter(|(key, _)| key == fairlead_api::balancing::WEIGHTS)
                .collect()
        });
    }
    let mut actions = Vec::new();
    for slice in present {
        let (name, uid) = (slice.object_name(), slice.uid().to_owned());
        let same = wanted
            .iter()
            .position(|one| one.address_type == slice.address_type && one.ports == slice.ports);
        match same.map(|at| wanted.remove(at)) {
            None => actions.push(Action::Delete { name, uid }),
            Some(one) if is_same(&one, slice) => {}
            Some(one) => actions.push(Action::Update {
                name,
                uid,
                slice: Box::new(one),
            }),
        }
    }
    let created = wanted.into_iter().map(Box::new).map(Action::Create);
    actions.extend(created);
    actions
}

fn is_same(one: &EndpointSlice, other: &EndpointSlice) -> bool {
    let annotations =
        |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    one.endpoints == other.endpoints
        && one.metadata.labels == other.metadata.labels
        && annotations(one) == annotations(other)
}

fn slices(service: &Service, subset: &EndpointSubset) -> Vec<EndpointSlice> {
    let mut families: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    let ready = subset
        .addresses
        .iter()
        .flatten()
        .map(|address| (address, true));
    let others = subset.not_ready_addresses.iter().flatten();
    let others = others.map(|address| (address, false));
    for (address, is_ready) in ready.chain(others).take(ENDPOINTS_MAX) {
        let family = match address.ip.parse() {
            Ok(IpAddr::V4(_)) => "IPv4",
            Ok(IpAddr::V6(_)) => "IPv6",
            Err(_) => continue,
        };
        families
            .entry(family)
            .or_default()
            .push(endpoint(address, is_ready));
    }
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    let ports: Vec<_> = ports.collect();
    let ObjectName { namespace, name } = service.object_name();
    let labels = [
        (SERVICE_LABEL.to_owned(), name.clone()),
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
    ];
    families
        .into_iter()
        .map(|(family, endpoints)| EndpointSlice {
            address_type: family.to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports.clone()),
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                namespace: Some(namespace.clone()),
                labels: Some(labels.clone().into()),
                owner_references: Some(vec![claim::owner(service)]),
                ..ObjectMeta::default()
            },
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, is_ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(is_ready),
            serving: Some(is_ready),
            terminating: Some(false),
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "shop", "uid": "svc"},
            "spec": {"ports": [{"port": 5432}]},
        }))
        .unwrap()
    }

    fn endpoints(labels: Value, subsets: Value) -> Endpoints {
        let metadata = json!({
            "name": "db", "namespace": "shop", "labels": labels,
            "annotations": {"net.fairlead.io/weights": "192.0.2.7=3", "note": "by hand"},
        });
        serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).unwrap()
    }

    fn created(actions: Vec<Action>) -> Vec<EndpointSlice> {
        let slice = |action| match action {
            Action::Create(mut slice) => {
                slice.metadata.name = Some(format!("db-{}", slice.address_type.to_lowercase()));
                *slice
            }
            other => panic!("{other:?}"),
        };
        actions.into_iter().map(slice).collect()
    }

    #[test]
    fn subset_becomes_a_slice_of_each_family() {
        let subsets = json!([{
            "addresses": [{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}],
            "notReadyAddresses": [{"ip": "192.0.2.8"}],
            "ports": [{"port": 5432}],
        }]);
        let endpoints = endpoints(json!({}), subsets);
        let slices = created(plan(&service(), Some(&endpoints), &[]));
        let told: Vec<_> = slices
            .iter()
            .map(|slice| {
                let ready = slice.endpoints.iter().flatten().map(|endpoint| {
                    let conditions = endpoint.conditions.as_ref().unwrap();
                    (endpoint.addresses[0].as_str(), conditions.ready.unwrap())
                });
                (slice.address_type.as_str(), ready.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            told,
            [
                ("IPv4", vec![("192.0.2.7", true), ("192.0.2.8", false)]),
                ("IPv6", vec![("2001:db8::7", true)]),
            ]
        );
        assert_eq!(
            slices[0].metadata.annotations,
            Some(
                [(
                    "net.fairlead.io/weights".to_owned(),
                    "192.0.2.7=3".to_owned()
                )]
                .into()
            )
        );
        let present: Vec<&EndpointSlice> = slices.iter().collect();
        assert_eq!(plan(&service(), Some(&endpoints), &present), []);
        let gone = plan(&service(), None, &present);
        assert!(
            matches!(&gone[..], [Action::Delete { .. }, Action::Delete { .. }]),
            "{gone:?}"
        );
    }

    #[test]
    fn changed_address_changes_its_slice() {
        let with = |address: &str| {
            let subsets = json!([{"addresses": [{"ip": address}], "ports": [{"port": 5432}]}]);
            endpoints(json!({}), subsets)
        };
        let slices = created(plan(&service(), Some(&with("192.0.2.7")), &[]));
        let actions = plan(&service(), Some(&with("192.0.2.9")), &[&slices[0]]);
        assert!(
            matches!(&actions[..], [Action::Update { slice, .. }]
                if slice.endpoints.as_ref().unwrap()[0].addresses == ["192.0.2.9"]),
            "{actions:?}"
        );
    }

    #[test]
    fn endpoints_whose_owner_writes_slices_are_left_alone() {
        let subsets = json!([{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]);
        let endpoints = endpoints(json!({SKIP_LABEL: "true"}), subsets);
        assert_eq!(plan(&service(), Some(&endpoints), &[]), []);
    }
}
