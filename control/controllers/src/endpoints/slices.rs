use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use fairlead_api::balancing::{WEIGHTS, Weights, weight_of_pod, weights_text};
use fairlead_objects::{Object, ObjectName};
use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::target;
use crate::{pod_state, replica_set::claim};

/// The label that names a slice's Service.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// How many endpoints one slice holds at most, as upstream's default.
const ENDPOINTS_MAX: usize = 100;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Create(Box<EndpointSlice>),
    Update {
        name: ObjectName,
        uid: String,
        slice: Box<EndpointSlice>,
    },
    Delete {
        name: ObjectName,
        uid: String,
    },
}

/// The Service a slice belongs to.
pub(super) fn service(slice: &EndpointSlice) -> Option<&str> {
    slice
        .metadata
        .labels
        .as_ref()?
        .get(SERVICE_LABEL)
        .map(String::as_str)
}

/// Whether this controller keeps the slice, for that Service.
pub(super) fn is_ours(slice: &EndpointSlice, name: &ObjectName) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let manager = labels
        .and_then(|labels| labels.get(MANAGED_BY_LABEL))
        .map(String::as_str);
    manager == Some(MANAGED_BY) && service(slice) == Some(&name.name)
}

/// Name, protocol, number, application protocol.
type Port = (Option<String>, Option<String>, Option<i32>, Option<String>);

/// Slices of one kind share an address family and the pods' port numbers.
type Kind = (String, Vec<Port>);

/// The writes that make the slices name exactly the pods behind the Service. An endpoint stays in
/// the slice that has it, so that one pod's change is one slice's change.
pub(super) fn plan(service: &Service, pods: &[&Pod], present: &[&EndpointSlice]) -> Vec<Action> {
    let mut wanted = desired(service, pods);
    let labels = labels(service);
    let weights = weights(pods);
    let mut actions = Vec::new();
    let mut kept: BTreeMap<Kind, Vec<(&EndpointSlice, EndpointSlice)>> = BTreeMap::new();
    let mut placed = HashSet::new();
    for &slice in present {
        let kind = kind(slice);
        let Some((_, endpoints)) = wanted.get_mut(&kind) else {
            actions.push(delete(slice));
            continue;
        };
        let mut next = slice.clone();
        next.metadata.labels = Some(labels.clone());
        next.endpoints = Some(
            slice
                .endpoints
                .iter()
                .flatten()
                .filter_map(|old| {
                    let at = endpoints
                        .iter()
                        .position(|new| identity(new) == identity(old))?;
                    placed.insert(identity(old)).then(|| endpoints.remove(at))
                })
                .collect(),
        );
        kept.entry(kind).or_default().push((slice, next));
    }
    for (kind, (ports, mut left)) in wanted {
        let mut slices = kept.remove(&kind).unwrap_or_default();
        // The fullest slice with room takes the new ones, so that few slices change.
        slices.sort_by_key(|(_, next)| std::cmp::Reverse(count(next)));
        for (_, next) in &mut slices {
            let room = ENDPOINTS_MAX.saturating_sub(count(next)).min(left.len());
            next.endpoints
                .get_or_insert_default()
                .extend(left.drain(..room));
        }
        let is_first = slices.is_empty();
        let mut full = 0;
        for (slice, mut next) in slices {
            annotate(&mut next, &weights);
            // One slice, even an empty one, says that the Service was looked at.
            if count(&next) == 0 && (full > 0 || !left.is_empty()) {
                actions.push(delete(slice));
                continue;
            }
            full += 1;
            if next != *slice {
                let (name, uid) = (slice.object_name(), slice.uid().to_owned());
                actions.push(Action::Update {
                    name,
                    uid,
                    slice: Box::new(next),
                });
            }
        }
        while !left.is_empty() || (is_first && full == 0) {
            let rest = left.split_off(left.len().min(ENDPOINTS_MAX));
            let endpoints = std::mem::replace(&mut left, rest);
            full += 1;
            let mut slice = slice(service, &kind.0, &ports, endpoints, &labels);
            annotate(&mut slice, &weights);
            actions.push(Action::Create(Box::new(slice)));
        }
    }
    actions
}

/// The weights of pods that do not weigh 1, by their addresses.
fn weights(pods: &[&Pod]) -> Weights {
    let mut weights = Weights::new();
    for pod in pods {
        let (weight, _) = weight_of_pod(pod.metadata.annotations.as_ref());
        let Some(status) = pod.status.as_ref().filter(|_| weight != 1) else {
            continue;
        };
        let others = status.pod_ips.iter().flatten().map(|address| &address.ip);
        let addresses = status.pod_ip.iter().chain(others);
        weights.extend(addresses.filter_map(|ip| Some((ip.parse().ok()?, weight))));
    }
    weights
}

/// Says in a slice what its endpoints weigh.
fn annotate(slice: &mut EndpointSlice, weights: &Weights) {
    let addresses = slice.endpoints.iter().flatten();
    let addresses = addresses.flat_map(|endpoint| &endpoint.addresses);
    let own: Weights = addresses
        .filter_map(|address| {
            let address: IpAddr = address.parse().ok()?;
            Some((address, *weights.get(&address)?))
        })
        .collect();
    let annotations = slice.metadata.annotations.get_or_insert_default();
    match weights_text(&own) {
        Some(text) => drop(annotations.insert(WEIGHTS.to_owned(), text)),
        None => drop(annotations.remove(WEIGHTS)),
    }
    if annotations.is_empty() {
        slice.metadata.annotations = None;
    }
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn delete(slice: &EndpointSlice) -> Action {
    Action::Delete {
        name: slice.object_name(),
        uid: slice.uid().to_owned(),
    }
}

fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), uid)
}

fn kind(slice: &EndpointSlice) -> Kind {
    (
        slice.address_type.clone(),
        port_key(slice.ports.as_deref().unwrap_or_default()),
    )
}

fn port_key(ports: &[EndpointPort]) -> Vec<Port> {
    ports
        .iter()
        .map(|port| {
            (
                port.name.clone(),
                port.protocol.clone(),
                port.port,
                port.app_protocol.clone(),
            )
        })
        .collect()
}

/// The endpoints there should be, grouped by what a slice has in common. A family without pods has
/// one empty group.
fn desired(service: &Service, pods: &[&Pod]) -> BTreeMap<Kind, (Vec<EndpointPort>, Vec<Endpoint>)> {
    let mut groups: BTreeMap<Kind, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for &pod in pods {
        let ports: Vec<_> = target::ports(service)
            .iter()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some(target::port_of(pod, port)?),
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        // A pod that has none of the named ports cannot be reached through the Service.
        if ports.is_empty() && !target::ports(service).is_empty() {
            continue;
        }
        for address in target::addresses(service, pod) {
            let key = (target::family(address).to_owned(), port_key(&ports));
            let new = || (ports.clone(), Vec::new());
            let (_, endpoints) = groups.entry(key).or_insert_with(new);
            endpoints.push(endpoint(service, pod, address));
        }
    }
    let mut families = target::families(service).to_vec();
    if families.is_empty() && groups.is_empty() {
        families.push("IPv4".to_owned());
    }
    for family in families {
        if !groups.keys().any(|(present, _)| *present == family) {
            groups.insert((family, Vec::new()), (Vec::new(), Vec::new()));
        }
    }
    groups
}

fn endpoint(service: &Service, pod: &Pod, address: IpAddr) -> Endpoint {
    let serving = pod_state::is_ready(pod);
    let terminating = pod.is_terminating();
    let ready = target::publishes_not_ready(service) || (serving && !terminating);
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod
            .spec
            .as_ref()
            .filter(|spec| spec.subdomain.as_deref() == service.metadata.name.as_deref())
            .and_then(|spec| spec.hostname.clone()),
        node_name: pod_state::node(pod).map(str::to_owned),
        target_ref: Some(target::reference(pod)),
        ..Endpoint::default()
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), name);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let is_headless = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None");
    if is_headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    labels
}

fn slice(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    labels: &BTreeMap<String, String>,
) -> EndpointSlice {
    let name = service.object_name();
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name.name)),
            namespace: Some(name.namespace),
            labels: Some(labels.clone()),
            owner_references: Some(vec![claim::owner(service)]),
            ..ObjectMeta::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(more: Value) -> Service {
        let mut value = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "svc"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        });
        for (key, field) in more.as_object().unwrap() {
            value["spec"][key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn pod(index: usize, port: i32, ready: bool, terminating: bool) -> Pod {
        let mut value = json!({
            "metadata": {"name": format!("p{index}"), "namespace": "shop", "uid": format!("u{index}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": format!("10.244.{}.{}", index / 200, index % 200 + 1), "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }},
            ]},
        });
        if terminating {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(value).unwrap()
    }

    fn check(service: &Service, pods: &[Pod], present: &[EndpointSlice]) -> Vec<Action> {
        plan(
            service,
            &pods.iter().collect::<Vec<_>>(),
            &present.iter().collect::<Vec<_>>(),
        )
    }

    fn created(actions: &[Action]) -> Vec<EndpointSlice> {
        actions
            .iter()
            .enumerate()
            .filter_map(|(index, action)| match action {
                Action::Create(slice) => {
                    let mut slice = (**slice).clone();
                    slice.metadata.name = Some(format!("web-{index}"));
                    slice.metadata.uid = Some(format!("s{index}"));
                    Some(slice)
                }
                Action::Update { .. } | Action::Delete { .. } => None,
            })
            .collect()
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        // (ready pod, terminating, publishNotReady) → (ready, serving, terminating)
        for (input, expected) in [
            ((true, false, false), (true, true, false)),
            ((false, false, false), (false, false, false)),
            ((true, true, false), (false, true, true)),
            ((false, false, true), (true, false, false)),
            ((false, true, true), (true, false, true)),
        ] {
            let service = service(json!({"publishNotReadyAddresses": input.2}));
            let slices = created(&check(&service, &[pod(1, 8080, input.0, input.1)], &[]));
            let endpoint = &slices[0].endpoints.as_ref().unwrap()[0];
            let conditions = endpoint.conditions.clone().unwrap();
            let actual = (conditions.ready, conditions.serving, conditions.terminating);
            assert_eq!(
                actual,
                (Some(expected.0), Some(expected.1), Some(expected.2)),
                "{input:?}"
            );
            assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
            assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
        }
    }

    #[test]
    fn slices_hold_a_hundred_and_a_removed_pod_changes_one() {
        let service = service(json!({}));
        let mut pods: Vec<_> = (0..250)
            .map(|index| pod(index, 8080, true, false))
            .collect();
        let slices = created(&check(&service, &pods, &[]));
        assert_eq!(slices.iter().map(count).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(check(&service, &pods, &slices), []);

        pods.remove(0);
        let actions = check(&service, &pods, &slices);
        assert!(
            matches!(&actions[..], [Action::Update { slice, .. }] if count(slice) == 99),
            "{actions:?}"
        );
    }

    #[test]
    fn named_port_with_two_numbers_makes_two_slices() {
        let pods = [pod(1, 8080, true, false), pod(2, 9090, true, false)];
        let slices = created(&check(&service(json!({})), &pods, &[]));
        let ports: Vec<_> = slices
            .iter()
            .map(|slice| slice.ports.as_ref().unwrap()[0].port.unwrap())
            .collect();
        assert_eq!(ports, [8080, 9090]);
    }

    #[test]
    fn each_family_of_a_service_has_slices_of_its_own() {
        let mut both = pod(1, 8080, true, false);
        both.status.as_mut().unwrap().pod_ips =
            serde_json::from_value(json!([{"ip": "10.244.0.2"}, {"ip": "2001:db8:a::2"}])).unwrap();
        let only_v4 = pod(2, 8080, true, false);
        for (families, expected) in [
            (json!([]), vec![("IPv4", 2)]),
            (json!(["IPv4"]), vec![("IPv4", 2)]),
            (json!(["IPv6"]), vec![("IPv6", 1)]),
            (json!(["IPv6", "IPv4"]), vec![("IPv4", 2), ("IPv6", 1)]),
        ] {
            let service = service(json!({"ipFamilies": families}));
            let slices = created(&check(&service, &[both.clone(), only_v4.clone()], &[]));
            let found: Vec<_> = slices
                .iter()
                .map(|slice| (&*slice.address_type, count(slice)))
                .collect();
            assert_eq!(found, expected, "{families}");
        }
        let service = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
        let slices = created(&check(&service, &[only_v4], &[]));
        let found: Vec<_> = slices
            .iter()
            .map(|slice| (&*slice.address_type, count(slice)))
            .collect();
        assert_eq!(found, [("IPv4", 1), ("IPv6", 0)], "it was looked at");
    }

    #[test]
    fn slice_says_what_its_pods_weigh() {
        let service = service(json!({}));
        let mut heavy = pod(1, 8080, true, false);
        let weighs = |pod: &mut Pod, weight: &str| {
            let annotation = ("net.fairlead.io/weight".to_owned(), weight.to_owned());
            pod.metadata.annotations = Some([annotation].into());
        };
        weighs(&mut heavy, "3");
        let slices = created(&check(
            &service,
            &[heavy.clone(), pod(2, 8080, true, false)],
            &[],
        ));
        let told = |slice: &EndpointSlice| {
            let annotations = slice.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(WEIGHTS)).cloned()
        };
        assert_eq!(told(&slices[0]).as_deref(), Some("10.244.0.2=3"));
        weighs(&mut heavy, "1");
        let actions = check(&service, &[heavy, pod(2, 8080, true, false)], &slices);
        assert!(
            matches!(&actions[..], [Action::Update { slice, .. }] if told(slice).is_none()),
            "{actions:?}"
        );
    }

    #[test]
    fn service_without_pods_has_one_empty_slice_that_gives_way_to_the_first_pod() {
        let service = service(json!({}));
        let slices = created(&check(&service, &[], &[]));
        assert_eq!(slices.iter().map(count).collect::<Vec<_>>(), [0]);
        assert_eq!(check(&service, &[], &slices), []);
        let actions = check(&service, &[pod(1, 8080, true, false)], &slices);
        assert!(
            matches!(&actions[..], [Action::Delete { .. }, Action::Create(slice)] if count(slice) == 1),
            "{actions:?}"
        );
    }
}
