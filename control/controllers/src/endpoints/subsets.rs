//! Endpoints, the older form that some clients still read.

use std::collections::BTreeMap;

use fairlead_objects::Object;
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::target;
use crate::{pod_state, replica_set::claim};

/// How many addresses one object holds at most, as upstream.
const ADDRESSES_MAX: usize = 1000;

type Ports = Vec<(Option<String>, i32, Option<String>, Option<String>)>;

/// The Endpoints of a Service: one subset for each different set of port numbers.
pub(super) fn endpoints(service: &Service, pods: &[&Pod]) -> Endpoints {
    let mut groups: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let pods = pods
        .iter()
        .filter(|pod| target::publishes_not_ready(service) || !pod.is_terminating());
    for pod in pods.take(ADDRESSES_MAX) {
        // The older form knows one family: the Service's first.
        let addresses = target::addresses(service, pod);
        let Some(address) = addresses.first() else {
            continue;
        };
        let wanted = target::ports(service);
        let ports: Ports = wanted
            .iter()
            .filter_map(|port| {
                let number = target::port_of(pod, port)?;
                let protocol = port.protocol.clone().or_else(|| Some("TCP".to_owned()));
                Some((
                    port.name.clone(),
                    number,
                    protocol,
                    port.app_protocol.clone(),
                ))
            })
            .collect();
        if ports.is_empty() && !wanted.is_empty() {
            continue;
        }
        let entry = EndpointAddress {
            ip: address.to_string(),
            node_name: pod_state::node(pod).map(str::to_owned),
            target_ref: Some(target::reference(pod)),
            hostname: None,
        };
        let group = groups.entry(ports).or_default();
        if target::publishes_not_ready(service) || pod_state::is_ready(pod) {
            group.0.push(entry);
        } else {
            group.1.push(entry);
        }
    }
    let some = |mut list: Vec<EndpointAddress>| {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
        Some(list).filter(|list| !list.is_empty())
    };
    let subsets: Vec<_> = groups
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: Some(
                ports
                    .into_iter()
                    .map(|(name, port, protocol, app_protocol)| EndpointPort {
                        name,
                        port,
                        protocol,
                        app_protocol,
                    })
                    .collect(),
            ),
        })
        .collect();
    let name = service.object_name();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(
        "endpoints.kubernetes.io/managed-by".to_owned(),
        "endpoint-controller".to_owned(),
    );
    Endpoints {
        metadata: ObjectMeta {
            name: Some(name.name),
            namespace: Some(name.namespace),
            labels: Some(labels),
            owner_references: Some(vec![claim::owner(service)]),
            ..ObjectMeta::default()
        },
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    }
}
