//! From the cluster's objects to what nodes forward by and run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use bytes::Bytes;
use fairlead_api::Generation;
use fairlead_objects::{Cache, Object, ObjectName};
use fairlead_proto::node;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service, ServicePort},
    discovery::v1::{Endpoint, EndpointSlice},
};
use serde_json::Value;

use crate::{
    announcements::{self, Vip},
    balancing,
    identities::{Identities, PortKey, Wanted},
    names, references, silence,
    state::{Compiled, Dataplane, ObjectKey, PodKey, PublishedPod, Workload},
};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The one VPC there is so far.
const DEFAULT_VPC: u32 = 0;

/// What a state is compiled from.
pub(crate) struct Input<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) identities: &'a Identities,
    pub(crate) parameters: &'a node::Parameters,
    /// The JSON of a ConfigMap or Secret.
    pub(crate) object: &'a dyn Fn(&ObjectKey) -> Option<Bytes>,
}

/// What was compiled before, by the objects it was compiled from: the same ones, not equal ones,
/// give the same again. Holds only what the last compilation used.
#[derive(Default)]
pub(crate) struct Memory {
    services: HashMap<ObjectName, CompiledService>,
    pods: KnownPods,
}

type KnownPods = HashMap<ObjectName, (Arc<Pod>, PublishedPod)>;

struct CompiledService {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    /// How many numbers it had: what found none free may have one now.
    numbers: usize,
    ports: Vec<Arc<node::Service>>,
    vips: Vec<(IpAddr, Vip)>,
    dns_name: Option<Arc<node::DnsName>>,
}

/// Compiles the cluster. Whatever has no number yet is left out until it has.
pub(crate) fn compile(input: &Input<'_>, memory: &mut Memory) -> Compiled {
    let slices = by_service(input.cache);
    let mut before = std::mem::take(memory);
    let mut services = BTreeMap::new();
    let mut vips = BTreeMap::new();
    let mut dns_names = BTreeMap::new();
    for service in input.cache.services.iter() {
        let name = service.object_name();
        let own = slices.get(&name).map_or(&[][..], Vec::as_slice);
        let known = before.services.remove(&name).filter(|known| {
            let is_same =
                |(one, other): (&Arc<EndpointSlice>, &&Arc<EndpointSlice>)| Arc::ptr_eq(one, other);
            Arc::ptr_eq(&known.service, service)
                && known.numbers == input.identities.count(&name)
                && known.slices.len() == own.len()
                && known.slices.iter().zip(own).all(is_same)
        });
        let compiled = known.unwrap_or_else(|| {
            let ports = compile_service(service, &slices, input.identities);
            CompiledService {
                service: Arc::clone(service),
                slices: own.iter().copied().cloned().collect(),
                numbers: input.identities.count(&name),
                vips: announcements::vips(service, ports.iter()),
                ports: ports.into_iter().map(Arc::new).collect(),
                dns_name: dns_name(service, own),
            }
        });
        if let Some(dns_name) = &compiled.dns_name {
            let key = (DEFAULT_VPC, name.namespace.clone(), name.name.clone());
            dns_names.insert(key, Arc::clone(dns_name));
        }
        vips.extend(compiled.vips.iter().cloned());
        services.extend(
            compiled
                .ports
                .iter()
                .map(|port| (port.id, Arc::clone(port))),
        );
        memory.services.insert(name, compiled);
    }
    let nodes = input.cache.nodes.iter().filter_map(|node| {
        let name = node.object_name().name;
        let (address, other) = internal_addresses(node)?;
        let address = node::NodeAddress {
            id: input.identities.node(&name)?,
            address: octets(address),
            other_address: other.map(octets).unwrap_or_default(),
            silent: silence::is_silent(node),
            name: name.clone(),
        };
        Some((name, address))
    });
    let routes = input.cache.nodes.iter().flat_map(|node| {
        let name = node.object_name().name;
        pod_cidrs(node).into_iter().map(move |prefix| {
            let key = node::RouteKey {
                vpc: DEFAULT_VPC,
                prefix: prefix.clone(),
            };
            (
                (DEFAULT_VPC, prefix),
                node::Route {
                    key: Some(key),
                    node: name.clone(),
                },
            )
        })
    });
    let dataplane = Dataplane {
        parameters: input.parameters.clone(),
        services,
        nodes: nodes.collect(),
        routes: routes.collect(),
        announcements: announcements::announcements(input.cache, &vips),
        dns_namespaces: input
            .cache
            .namespaces
            .iter()
            .map(|namespace| (DEFAULT_VPC, namespace.object_name().name))
            .collect(),
        dns_names,
    };
    let mut departures = BTreeMap::new();
    let mut workloads = BTreeMap::new();
    for node in input.cache.nodes.iter() {
        let name = node.object_name().name;
        let workload = compile_workload(
            input,
            node,
            &name,
            (&mut before.pods, &mut memory.pods),
            &mut departures,
        );
        workloads.insert(name, Arc::new(workload));
    }
    Compiled {
        generation: Generation(input.cache.revision().0),
        dataplane: Arc::new(dataplane),
        workloads,
        vips,
        departures,
        announcers: input
            .cache
            .nodes
            .iter()
            .filter(|node| announcements::may_announce(node))
            .map(|node| node.object_name().name)
            .collect(),
    }
}

/// All that needs a number.
pub(crate) fn wanted(cache: &Cache) -> Wanted {
    let slices = by_service(cache);
    let mut wanted = Wanted::default();
    for service in cache
        .services
        .iter()
        .filter(|service| is_forwarded(service))
    {
        let name = service.object_name();
        let ports = wanted.services.entry(name.clone()).or_default();
        for (key, _) in port_keys(service) {
            let endpoints: BTreeSet<_> = endpoints(&slices, &name, &key)
                .map(|(address, number, _)| (address, number))
                .collect();
            ports.insert(key, endpoints);
        }
    }
    wanted.nodes = cache
        .nodes
        .iter()
        .filter(|node| internal_addresses(node).is_some())
        .map(|node| node.object_name().name)
        .collect();
    wanted
}

type Slices<'a> = BTreeMap<ObjectName, Vec<&'a Arc<EndpointSlice>>>;

fn by_service(cache: &Cache) -> Slices<'_> {
    let mut slices = Slices::new();
    for slice in cache.endpoint_slices.iter() {
        let service = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(SERVICE_LABEL));
        if let Some(service) = service {
            let name = ObjectName::new(slice.object_name().namespace, service);
            slices.entry(name).or_default().push(slice);
        }
    }
    slices
}

/// Whether packets for the Service are the dataplane's business: a headless one is only names.
fn is_forwarded(service: &Service) -> bool {
    !frontend_addresses(service).is_empty()
}

fn frontend_addresses(service: &Service) -> Vec<(IpAddr, node::FrontendScope)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let parsed = |text: &String| text.parse::<IpAddr>().ok();
    let cluster: BTreeSet<IpAddr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(&spec.cluster_ip)
        .filter_map(parsed)
        .collect();
    let mut external: BTreeSet<IpAddr> = spec
        .external_ips
        .iter()
        .flatten()
        .filter_map(parsed)
        .collect();
    if spec.type_.as_deref() == Some("LoadBalancer") {
        let status = service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref());
        let ingress = status
            .and_then(|status| status.ingress.as_deref())
            .unwrap_or_default();
        external.extend(
            ingress
                .iter()
                // Packets for others of the load balancer's are to pass through it.
                .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
                .filter_map(|ingress| ingress.ip.as_ref())
                .filter_map(parsed),
        );
    }
    let cluster = cluster
        .into_iter()
        .map(|address| (address, node::FrontendScope::Cluster));
    cluster
        .chain(
            external
                .into_iter()
                .map(|address| (address, node::FrontendScope::External)),
        )
        .collect()
}

fn ports_of(service: &Service) -> &[ServicePort] {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default()
}

/// The ports of a Service, each in the families it has addresses of.
fn port_keys(service: &Service) -> Vec<(PortKey, &ServicePort)> {
    let families: BTreeSet<bool> = frontend_addresses(service)
        .iter()
        .map(|(address, _)| address.is_ipv6())
        .collect();
    let of_port = |port: &ServicePort, is_ipv6| PortKey {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        is_ipv6,
    };
    let ports = ports_of(service).iter();
    ports
        .flat_map(|port| {
            families
                .iter()
                .map(move |is_ipv6| (of_port(port, *is_ipv6), port))
        })
        .collect()
}

/// The endpoints behind a port: address, port number, and whose they are. One address and port is
/// one endpoint, however many slices name it. They are of the port's family. Where none is, machines
/// outside the cluster may be of the other: a tunnel takes packets of either to them.
fn endpoints<'a>(
    slices: &Slices<'a>,
    service: &ObjectName,
    key: &PortKey,
) -> impl Iterator<Item = (IpAddr, u16, &'a Endpoint)> {
    let mut found: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in slices.get(service).into_iter().flatten() {
        let number = slice.ports.iter().flatten().find_map(|candidate| {
            let is_same = candidate.name.as_deref().unwrap_or_default() == key.name
                && candidate.protocol.as_deref().unwrap_or("TCP") == key.protocol;
            is_same.then_some(candidate.port?)
        });
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(state) = backend_state(endpoint) else {
                continue;
            };
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|address| address.parse::<IpAddr>().ok())
            {
                let known = found.entry((address, number)).or_insert(endpoint);
                if state == node::BackendState::Active {
                    *known = endpoint;
                }
            }
        }
    }
    let is_own = |address: &IpAddr| address.is_ipv6() == key.is_ipv6;
    let has_own = found.keys().any(|(address, _)| is_own(address));
    found.retain(|(address, _), endpoint| {
        is_own(address) || (!has_own && endpoint.node_name.is_none())
    });
    found
        .into_iter()
        .map(|((address, number), endpoint)| (address, number, endpoint))
}

/// Ready ones take new connections; those that end but still serve keep the ones they have, unless
/// there is nobody else.
fn backend_state(endpoint: &Endpoint) -> Option<node::BackendState> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let is_ready = conditions.ready.unwrap_or(true);
    let is_serving = conditions.serving.unwrap_or(is_ready);
    if is_ready {
        Some(node::BackendState::Active)
    } else if is_serving && conditions.terminating.unwrap_or(false) {
        Some(node::BackendState::Draining)
    } else {
        None
    }
}

fn compile_service(
    service: &Service,
    slices: &Slices<'_>,
    identities: &Identities,
) -> Vec<node::Service> {
    let name = service.object_name();
    let addresses = frontend_addresses(service);
    if addresses.is_empty() {
        return Vec::new();
    }
    let settings = balancing::settings(service);
    let own = slices.get(&name).map_or(&[][..], Vec::as_slice);
    let weights = balancing::weights(service, own);
    port_keys(service)
        .into_iter()
        .filter_map(|(key, port)| {
            let protocol = match key.protocol.as_str() {
                "TCP" => node::Protocol::Tcp,
                "UDP" => node::Protocol::Udp,
                "SCTP" => node::Protocol::Sctp,
                _ => return None,
            };
            let number = u32::try_from(port.port).ok()?;
            let backends =
                endpoints(slices, &name, &key).filter_map(|(address, number, endpoint)| {
                    let target = endpoint
                        .target_ref
                        .as_ref()
                        .and_then(|target| target.name.clone());
                    Some(node::Backend {
                        id: identities.backend(&name, &key, address, number)?,
                        address: octets(address),
                        port: u32::from(number),
                        node: endpoint.node_name.clone().unwrap_or_default(),
                        weight: weights.get(&address).copied().unwrap_or(1),
                        state: backend_state(endpoint)?.into(),
                        name: target.unwrap_or_else(|| address.to_string()),
                    })
                });
            let mut backends: Vec<_> = backends.collect();
            balancing::settle_states(&mut backends);
            // Every node builds its tables from this order.
            backends.sort_by_key(|backend| backend.id);
            Some(node::Service {
                id: identities.service(&name, &key)?,
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                port_name: key.name.clone(),
                protocol: protocol.into(),
                vpc: DEFAULT_VPC,
                frontends: addresses
                    .iter()
                    .filter(|(address, _)| address.is_ipv6() == key.is_ipv6)
                    .map(|(address, scope)| node::Frontend {
                        address: octets(*address),
                        port: number,
                        scope: (*scope).into(),
                        prefix_length: 0,
                    })
                    .collect(),
                backends,
                node_port: balancing::node_port(service, port),
                ..settings.clone()
            })
        })
        .collect()
}

fn dns_name(service: &Service, slices: &[&Arc<EndpointSlice>]) -> Option<Arc<node::DnsName>> {
    let slices: Vec<&EndpointSlice> = slices.iter().map(|slice| &***slice).collect();
    names::of_service(DEFAULT_VPC, service, &slices).map(Arc::new)
}

fn compile_workload(
    input: &Input<'_>,
    node: &Node,
    name: &str,
    (before, pods): (&mut KnownPods, &mut KnownPods),
    departures: &mut BTreeMap<PodKey, BTreeSet<Bytes>>,
) -> Workload {
    let mut workload = Workload {
        pod_cidrs: pod_cidrs(node),
        ..Workload::default()
    };
    for pod in input.cache.pods_on(name) {
        let object = pod.object_name();
        let (known, message) = match before.remove(&object) {
            Some((known, message)) if Arc::ptr_eq(&known, pod) => (Some(known), message),
            other => (other.map(|(known, _)| known), published(pod)),
        };
        pods.insert(object.clone(), (Arc::clone(pod), message.clone()));
        let key = (object.namespace, object.name, pod.uid().to_owned());
        if known.is_some_and(|known| is_departure(&known, pod)) {
            departures.insert(key.clone(), pod_addresses(pod));
        }
        workload.pods.insert(key, message);
        for key in references::of_pod(pod) {
            if let Some(json) = (input.object)(&key) {
                workload.objects.insert(key, json);
            }
        }
    }
    workload
}

/// Whether a pod was asked to go between the two.
fn is_departure(before: &Pod, now: &Pod) -> bool {
    before.uid() == now.uid() && !before.is_terminating() && now.is_terminating()
}

fn pod_addresses(pod: &Pod) -> BTreeSet<Bytes> {
    let status = pod.status.as_ref();
    let listed = status.and_then(|status| status.pod_ips.as_deref());
    let listed = listed.unwrap_or_default().iter().map(|one| &one.ip);
    let first = status.and_then(|status| status.pod_ip.as_ref());
    let addresses = listed.chain(first).filter_map(|ip| ip.parse().ok());
    addresses.map(octets).collect()
}

fn published(pod: &Pod) -> PublishedPod {
    let mut value = serde_json::to_value(pod).expect("an API type always serialises");
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    let json = value.to_string().into();
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    PublishedPod {
        wanted: value.to_string().into(),
        json,
    }
}

/// Where a node is reached: the address it gave first, and that of the other family, if any.
fn internal_addresses(node: &Node) -> Option<(IpAddr, Option<IpAddr>)> {
    let addresses = node.status.as_ref()?.addresses.as_deref()?;
    let mut internal = addresses
        .iter()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse::<IpAddr>().ok());
    let first = internal.next()?;
    let other = internal.find(|address| address.is_ipv4() != first.is_ipv4());
    Some((first, other))
}

/// The ranges of a node's pods, as the node lists them.
fn pod_cidrs(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let listed = spec.pod_cidrs.clone().unwrap_or_default();
    // The older field repeats the first.
    let ranges = if listed.is_empty() {
        spec.pod_cidr.iter().cloned().collect()
    } else {
        listed
    };
    ranges.into_iter().filter(|cidr| !cidr.is_empty()).collect()
}

/// As it is sent.
pub(crate) fn octets(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
