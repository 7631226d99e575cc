//! Which pods stand behind a Service, where, and in what condition.

use std::net::IpAddr;

use fairlead_objects::Object;
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::pod_state;

pub(super) fn has_selector(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let is_external = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    !is_external
        && spec
            .and_then(|spec| spec.selector.as_ref())
            .is_some_and(|selector| !selector.is_empty())
}

/// Whether the Service's selector, which must not be empty, matches the pod's labels.
pub(super) fn is_selected(service: &Service, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    has_selector(service)
        && service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref())
            .is_some_and(|selector| {
                selector
                    .iter()
                    .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
            })
}

/// The ports of a Service.
pub(super) fn ports(service: &Service) -> &[ServicePort] {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default()
}

/// The pod's port that a Service port leads to; `None` if the pod names no such port.
pub(super) fn port_of(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars =
                sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|candidate| {
                    candidate.name.as_deref() == Some(name)
                        && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|port| port.container_port)
        }
    }
}

/// The families of a Service, the primary one first, as `IPv4` and `IPv6`. None if it does not say:
/// then it is for the address that its pods have first.
pub(super) fn families(service: &Service) -> &[String] {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.ip_families.as_deref())
        .unwrap_or_default()
}

/// What the API calls the family of an address.
pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The addresses at which a pod may stand behind a Service, one for each family of the Service that
/// the pod has. None when it has ended.
pub(super) fn addresses(service: &Service, pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = pod.status.as_ref().filter(|_| !pod_state::has_ended(pod)) else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|listed| &listed.ip);
    let held: Vec<IpAddr> = status
        .pod_ip
        .iter()
        .chain(listed)
        .filter_map(|address| address.parse().ok())
        .collect();
    match families(service) {
        [] => held.first().copied().into_iter().collect(),
        families => families
            .iter()
            .filter_map(|wanted| held.iter().find(|held| family(**held) == wanted).copied())
            .collect(),
    }
}

/// Whether the Service wants traffic to reach pods that are not ready.
pub(super) fn publishes_not_ready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false)
}

pub(super) fn reference(pod: &Pod) -> ObjectReference {
    let name = pod.object_name();
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(name.namespace),
        name: Some(name.name),
        uid: Some(pod.uid().to_owned()),
        ..ObjectReference::default()
    }
}
