//! A node's state as messages: all of it, or what changed.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use fairlead_proto::node;

use crate::state::{NodeState, ObjectKey, PodKey, PublishedPod};

/// The whole state.
pub(crate) fn snapshot(state: &NodeState) -> node::Snapshot {
    let dataplane = &state.dataplane;
    node::Snapshot {
        generation: state.generation.0,
        dataplane: Some(node::DataplaneState {
            parameters: Some(dataplane.parameters.clone()),
            services: dataplane
                .services
                .values()
                .map(|one| node::Service::clone(one))
                .collect(),
            nodes: dataplane.nodes.values().cloned().collect(),
            routes: dataplane.routes.values().cloned().collect(),
            announcements: dataplane.announcements.values().cloned().collect(),
            dns_namespaces: dataplane.dns_namespaces.iter().map(dns_namespace).collect(),
            dns_names: dataplane
                .dns_names
                .values()
                .map(|one| node::DnsName::clone(one))
                .collect(),
        }),
        pods: state.workload.pods.values().map(pod).collect(),
        objects: state.workload.objects.iter().map(object).collect(),
        pod_cidrs: state.workload.pod_cidrs.clone(),
    }
}

/// What turns `previous` into `next`, but for the parameters, which never change while a member
/// leads. `None` if nothing of it concerns the node.
pub(crate) fn diff(previous: &NodeState, next: &NodeState) -> Option<node::Delta> {
    let mut delta = node::Delta {
        base_generation: previous.generation.0,
        generation: next.generation.0,
        ..node::Delta::default()
    };
    if !Arc::ptr_eq(&previous.dataplane, &next.dataplane) {
        let (old, new) = (&previous.dataplane, &next.dataplane);
        delta.services = replaced(&old.services, &new.services).collect();
        delta.removed_services = removed(&old.services, &new.services).copied().collect();
        delta.nodes = changed(&old.nodes, &new.nodes)
            .map(|(_, one)| one.clone())
            .collect();
        delta.removed_nodes = removed(&old.nodes, &new.nodes).cloned().collect();
        delta.routes = changed(&old.routes, &new.routes)
            .map(|(_, one)| one.clone())
            .collect();
        delta.removed_routes = removed(&old.routes, &new.routes)
            .map(|(vpc, prefix)| node::RouteKey {
                vpc: *vpc,
                prefix: prefix.clone(),
            })
            .collect();
        delta.announcements = changed(&old.announcements, &new.announcements)
            .map(|(_, one)| one.clone())
            .collect();
        delta.removed_announcements = removed(&old.announcements, &new.announcements)
            .cloned()
            .collect();
        let (before, now) = (&old.dns_namespaces, &new.dns_namespaces);
        delta.dns_namespaces = now.difference(before).map(dns_namespace).collect();
        delta.removed_dns_namespaces = before.difference(now).map(dns_namespace).collect();
        delta.dns_names = replaced(&old.dns_names, &new.dns_names).collect();
        delta.removed_dns_names = removed(&old.dns_names, &new.dns_names)
            .map(dns_key)
            .collect();
    }
    let (old, new) = (&previous.workload, &next.workload);
    if !Arc::ptr_eq(old, new) {
        delta.pods = changed(&old.pods, &new.pods)
            .map(|(_, one)| pod(one))
            .collect();
        delta.removed_pods = removed(&old.pods, &new.pods).map(pod_key).collect();
        delta.objects = changed(&old.objects, &new.objects).map(object).collect();
        delta.removed_objects = removed(&old.objects, &new.objects)
            .map(object_key)
            .collect();
        if old.pod_cidrs != new.pod_cidrs {
            delta.pod_cidrs.clone_from(&new.pod_cidrs);
        }
    }
    let nothing = node::Delta {
        base_generation: delta.base_generation,
        generation: delta.generation,
        ..node::Delta::default()
    };
    (delta != nothing).then_some(delta)
}

/// What is not the same any more, in copies. `Arc`s of one value are equal without a look at it only
/// for types with total equality, which messages do not claim to have.
fn replaced<'a, K: Ord, V: Clone + PartialEq>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = V> + use<'a, K, V> {
    let is_same = |(key, one): &(&K, &Arc<V>)| {
        let before = old.get(key);
        before.is_some_and(|before| Arc::ptr_eq(before, one) || before == *one)
    };
    new.iter()
        .filter(move |entry| !is_same(entry))
        .map(|(_, one)| V::clone(one))
}

fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter()
        .filter(|(key, value)| old.get(key) != Some(value))
}

fn removed<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !new.contains_key(key))
}

fn dns_namespace((vpc, name): &(u32, String)) -> node::DnsNamespace {
    node::DnsNamespace {
        vpc: *vpc,
        name: name.clone(),
    }
}

fn dns_key((vpc, namespace, name): &(u32, String, String)) -> node::DnsKey {
    node::DnsKey {
        vpc: *vpc,
        namespace: namespace.clone(),
        name: name.clone(),
    }
}

fn pod(pod: &PublishedPod) -> node::Pod {
    node::Pod {
        pod_json: pod.json.clone(),
    }
}

fn pod_key((namespace, name, uid): &PodKey) -> node::PodKey {
    node::PodKey {
        namespace: namespace.clone(),
        name: name.clone(),
        uid: uid.clone(),
    }
}

fn object(((kind, namespace, name), json): (&ObjectKey, &Bytes)) -> node::Object {
    node::Object {
        kind: kind.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        json: json.clone(),
    }
}

fn object_key((kind, namespace, name): &ObjectKey) -> node::ObjectKey {
    node::ObjectKey {
        kind: kind.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use fairlead_api::Generation;

    use super::*;
    use crate::state::{Dataplane, Workload};

    fn state(generation: u64, services: &[(u32, &str)], pods: &[(&str, &str)]) -> NodeState {
        let service = |(id, name): &(u32, &str)| {
            (
                *id,
                Arc::new(node::Service {
                    id: *id,
                    name: (*name).to_owned(),
                    ..Default::default()
                }),
            )
        };
        let pod = |(uid, json): &(&str, &str)| {
            (
                ("shop".to_owned(), "web".to_owned(), (*uid).to_owned()),
                PublishedPod {
                    wanted: Bytes::copy_from_slice(json.as_bytes()),
                    json: Bytes::copy_from_slice(json.as_bytes()),
                },
            )
        };
        NodeState {
            generation: Generation(generation),
            dataplane: Arc::new(Dataplane {
                services: services.iter().map(service).collect(),
                ..Dataplane::default()
            }),
            workload: Arc::new(Workload {
                pods: pods.iter().map(pod).collect(),
                ..Workload::default()
            }),
        }
    }

    #[test]
    fn delta_upserts_what_changed_and_removes_what_is_gone() {
        let old = state(3, &[(1, "a"), (2, "b")], &[("u1", "{}"), ("u2", "{}")]);
        let new = state(5, &[(1, "a"), (2, "c"), (4, "d")], &[("u2", "{ }")]);
        let delta = diff(&old, &new).unwrap();
        assert_eq!((delta.base_generation, delta.generation), (3, 5));
        let services: Vec<_> = delta.services.iter().map(|service| service.id).collect();
        assert_eq!((services, delta.removed_services), (vec![2, 4], vec![]));
        assert_eq!(delta.pods.len(), 1);
        assert_eq!(delta.removed_pods[0].uid, "u1");
        let back = diff(&new, &old).unwrap();
        assert_eq!(back.removed_services, [4]);
    }

    #[test]
    fn names_that_changed_are_told_whole_and_others_not() {
        let named = |generation, names: &[(&str, &str)], namespaces: &[&str]| {
            let name = |(name, target): &(&str, &str)| {
                let key = (0, "shop".to_owned(), (*name).to_owned());
                let dns_name = node::DnsName {
                    name: (*name).to_owned(),
                    external_name: (*target).to_owned(),
                    ..node::DnsName::default()
                };
                (key, Arc::new(dns_name))
            };
            let mut state = state(generation, &[], &[]);
            let dataplane = Arc::get_mut(&mut state.dataplane).unwrap();
            dataplane.dns_names = names.iter().map(name).collect();
            let namespaces = namespaces.iter().map(|name| (0, (*name).to_owned()));
            dataplane.dns_namespaces = namespaces.collect();
            state
        };
        let old = named(3, &[("a", "x"), ("b", "x"), ("c", "x")], &["shop", "old"]);
        let new = named(5, &[("a", "x"), ("b", "y"), ("d", "x")], &["shop", "new"]);
        let delta = diff(&old, &new).unwrap();
        let told: Vec<_> = delta.dns_names.iter().map(|one| &one.name[..]).collect();
        assert_eq!(told, ["b", "d"]);
        let gone = |name: &str| node::DnsKey {
            vpc: 0,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        };
        assert_eq!(delta.removed_dns_names, [gone("c")]);
        let namespace = |name: &str| node::DnsNamespace {
            vpc: 0,
            name: name.to_owned(),
        };
        assert_eq!(delta.dns_namespaces, [namespace("new")]);
        assert_eq!(delta.removed_dns_namespaces, [namespace("old")]);
        let whole = snapshot(&new).dataplane.unwrap();
        assert_eq!((whole.dns_names.len(), whole.dns_namespaces.len()), (3, 2));
    }

    #[test]
    fn same_state_at_a_later_generation_is_no_delta() {
        assert_eq!(
            diff(&state(3, &[(1, "a")], &[]), &state(9, &[(1, "a")], &[])),
            None
        );
    }

    #[test]
    fn what_a_node_reported_is_no_news_to_it_but_a_new_session_is_told() {
        let old = state(3, &[], &[("u1", "{}")]);
        let mut new = state(5, &[], &[("u1", "{}")]);
        let workload = Arc::get_mut(&mut new.workload).unwrap();
        for pod in workload.pods.values_mut() {
            pod.json = Bytes::from_static(b"{\"status\":{}}");
        }
        assert_eq!(diff(&old, &new), None);
        assert_eq!(&snapshot(&new).pods[0].pod_json[..], b"{\"status\":{}}");
    }

    #[test]
    fn snapshot_holds_everything() {
        let snapshot = snapshot(&state(3, &[(1, "a")], &[("u1", "{}")]));
        assert_eq!(snapshot.generation, 3);
        assert_eq!(snapshot.dataplane.unwrap().services.len(), 1);
        assert_eq!(snapshot.pods.len(), 1);
    }
}
