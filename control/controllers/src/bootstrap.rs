//! What every cluster has from its first moment: the system namespaces, the service `kubernetes`,
//! whose endpoints are the members of the control plane, and `kube-dns`, whom pods ask for names.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use fairlead_api::{
    Index,
    claims::{Claim, Holder},
    cluster_dns,
};
use fairlead_objects::{ObjectName, WriteError};
use fairlead_store::{Expect, Key, Op};
use ipnetwork::IpNetwork;
use k8s_openapi::{
    api::{
        core::v1::{
            EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServicePort,
            ServiceSpec,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use tracing::warn;

use crate::{
    controller::Context,
    endpoints::{SERVICE_LABEL, mirror},
    namespace,
};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Keeps these objects there and current for as long as this member leads.
pub(crate) async fn run(context: Context) {
    loop {
        if let Err(cause) = ensure(&context).await {
            warn!(
                error = &cause as &dyn std::error::Error,
                "the cluster's first objects are not there yet"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn ensure(context: &Context) -> Result<(), WriteError> {
    for name in NAMESPACES {
        if context
            .writer
            .store()
            .snapshot()
            .get(&namespace::key(name))
            .is_none()
        {
            existing_is_fine(context.writer.create(namespace::active(name)).await)?;
        }
    }
    let service = ObjectName::new("default", "kubernetes");
    if context.writer.get::<Service>(&service)?.is_none() {
        create_service(context).await?;
    }
    let members = members(context);
    let port = i32::from(context.config.api_port);
    let (slice, endpoints) = (slice(&members, port), endpoints(&members, port));
    if context.writer.get::<EndpointSlice>(&service)?.is_none() {
        existing_is_fine(context.writer.create(slice.clone()).await)?;
    }
    let change = |present: &mut EndpointSlice| {
        present.endpoints = slice.endpoints.clone();
        present.ports = slice.ports.clone();
    };
    context
        .writer
        .update::<EndpointSlice>(&service, None, change)
        .await?;
    if context.writer.get::<Endpoints>(&service)?.is_none() {
        existing_is_fine(context.writer.create(endpoints.clone()).await)?;
    }
    let change = |present: &mut Endpoints| present.subsets = endpoints.subsets.clone();
    context
        .writer
        .update::<Endpoints>(&service, None, change)
        .await?;
    let dns = ObjectName::new(cluster_dns::SERVICE_NAMESPACE, cluster_dns::SERVICE_NAME);
    if context.writer.get::<Service>(&dns)?.is_none()
        && let Err(cause) = create_dns_service(context).await
    {
        warn!(
            error = &cause as &dyn std::error::Error,
            "pods have nobody to ask for names; another Service may have the address"
        );
    }
    Ok(())
}

fn existing_is_fine<T>(result: Result<T, WriteError>) -> Result<(), WriteError> {
    match result {
        Ok(_) | Err(WriteError::Exists(_)) => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// The addresses the members are reached at.
fn members(context: &Context) -> BTreeSet<IpAddr> {
    let endpoints = context.writer.store().members();
    endpoints
        .iter()
        .filter_map(|member| host(&member.endpoint))
        .collect()
}

/// The address in `https://ADDRESS:PORT`.
fn host(endpoint: &str) -> Option<IpAddr> {
    let authority = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let (host, _) = authority.rsplit_once(':')?;
    host.trim_matches(['[', ']']).parse().ok()
}

async fn create_service(context: &Context) -> Result<(), WriteError> {
    let Some(address) = first_address(context.config.service_cidr.first()) else {
        return Ok(());
    };
    let held = claim(address, "default", "kubernetes", Expect::Any);
    let service = Service {
        metadata: ObjectMeta {
            name: Some("kubernetes".to_owned()),
            namespace: Some("default".to_owned()),
            labels: Some(
                [("component", "apiserver"), ("provider", "kubernetes")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(address.to_string()),
            cluster_ips: Some(vec![address.to_string()]),
            ip_families: Some(vec![family(address)]),
            ip_family_policy: Some("SingleStack".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some("https".to_owned()),
                protocol: Some("TCP".to_owned()),
                port: 443,
                target_port: Some(IntOrString::Int(i32::from(context.config.api_port))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    existing_is_fine(context.writer.create_with(service, vec![held]).await)
}

/// Where pods ask for names: each asks its own node, in whatever families the cluster has.
async fn create_dns_service(context: &Context) -> Result<(), WriteError> {
    let ranges = context.config.service_cidr;
    let addresses: Vec<IpAddr> = ranges.iter().filter_map(cluster_dns::address).collect();
    let Some(first) = addresses.first() else {
        warn!("the range of Services is too small for one that pods ask for names");
        return Ok(());
    };
    let (namespace, name) = (cluster_dns::SERVICE_NAMESPACE, cluster_dns::SERVICE_NAME);
    let held = addresses
        .iter()
        .map(|address| claim(*address, namespace, name, Expect::Absent));
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: 53,
        target_port: Some(IntOrString::Int(i32::from(cluster_dns::NODE_PORT))),
        ..ServicePort::default()
    };
    let policy = match addresses.len() {
        1 => "SingleStack",
        _ => "RequireDualStack",
    };
    let labels = [
        ("k8s-app", "kube-dns"),
        ("kubernetes.io/cluster-service", "true"),
    ];
    let service = Service {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(first.to_string()),
            cluster_ips: Some(addresses.iter().map(ToString::to_string).collect()),
            ip_families: Some(addresses.iter().copied().map(family).collect()),
            ip_family_policy: Some(policy.to_owned()),
            internal_traffic_policy: Some("Local".to_owned()),
            session_affinity: Some("None".to_owned()),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    existing_is_fine(context.writer.create_with(service, held.collect()).await)
}

/// The record that the API server writes for an address, so that nobody else is given it.
fn claim(address: IpAddr, namespace: &str, name: &str, expect: Expect) -> Op {
    let holder = Holder {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Op::Put {
        key: Key::raw(Claim::Address(address).key()),
        expect,
        value: holder.encode(),
        index: Index::default().into(),
    }
}

fn family(address: IpAddr) -> String {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    family.to_owned()
}

fn first_address(range: IpNetwork) -> Option<IpAddr> {
    range.iter().nth(1)
}

fn metadata() -> ObjectMeta {
    ObjectMeta {
        name: Some("kubernetes".to_owned()),
        namespace: Some("default".to_owned()),
        ..ObjectMeta::default()
    }
}

fn slice(members: &BTreeSet<IpAddr>, port: i32) -> EndpointSlice {
    let is_v6 = members.iter().all(IpAddr::is_ipv6) && !members.is_empty();
    EndpointSlice {
        address_type: if is_v6 { "IPv6" } else { "IPv4" }.to_owned(),
        metadata: ObjectMeta {
            labels: Some([(SERVICE_LABEL.to_owned(), "kubernetes".to_owned())].into()),
            ..metadata()
        },
        endpoints: Some(
            members
                .iter()
                .filter(|member| member.is_ipv6() == is_v6)
                .map(|member| Endpoint {
                    addresses: vec![member.to_string()],
                    conditions: Some(EndpointConditions {
                        ready: Some(true),
                        serving: Some(true),
                        terminating: Some(false),
                    }),
                    ..Endpoint::default()
                })
                .collect(),
        ),
        ports: Some(vec![SlicePort {
            name: Some("https".to_owned()),
            port: Some(port),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
    }
}

fn endpoints(members: &BTreeSet<IpAddr>, port: i32) -> Endpoints {
    let addresses: Vec<_> = members
        .iter()
        .map(|member| EndpointAddress {
            ip: member.to_string(),
            ..EndpointAddress::default()
        })
        .collect();
    let subset = EndpointSubset {
        addresses: Some(addresses),
        ports: Some(vec![EndpointPort {
            name: Some("https".to_owned()),
            port,
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
        not_ready_addresses: None,
    };
    let skip = (mirror::SKIP_LABEL.to_owned(), "true".to_owned());
    Endpoints {
        metadata: ObjectMeta {
            labels: Some([skip].into()),
            ..metadata()
        },
        subsets: Some(vec![subset]).filter(|_| !members.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_of_a_member_is_found_in_both_families() {
        for (endpoint, expected) in [
            ("https://198.18.0.11:6445", Some("198.18.0.11")),
            ("https://[2001:db8::1]:6445", Some("2001:db8::1")),
            ("https://example:6445", None),
        ] {
            assert_eq!(
                host(endpoint),
                expected.map(|address| address.parse().unwrap()),
                "{endpoint}"
            );
        }
    }
}
