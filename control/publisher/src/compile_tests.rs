use serde_json::{Value, json};

use super::*;

fn set<K: Object>(table: &mut fairlead_objects::Table<K>, value: Value) {
    let object: K = serde_json::from_value(value).unwrap();
    table.set(object.object_name(), Some(Arc::new(object)));
}

fn node(name: &str, address: &str, range: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }))
    .unwrap()
}

fn pod(name: &str, node: &str, more: Value) -> Pod {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "7"},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {"phase": "Running"},
    });
    for (key, field) in more.as_object().unwrap() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn cluster() -> Cache {
    let volumes = json!({"volumes": [{"name": "v", "configMap": {"name": "settings"}}]});
    let mut cache = Cache::with(
        [
            node("n1", "198.18.0.101", "10.244.0.0/24"),
            node("n2", "198.18.0.102", "10.244.1.0/24"),
        ],
        [pod("a", "n1", volumes), pod("b", "n2", json!({}))],
    );
    set::<Service>(
        &mut cache.services,
        json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "externalIPs": ["203.0.113.9"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "198.18.100.1"}]}},
        }),
    );
    set::<Service>(
        &mut cache.services,
        json!({
            "metadata": {"name": "headless", "namespace": "shop"},
            "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
        }),
    );
    let endpoint =
        |address: &str, node: &str, pod: &str, ready: bool, serving: bool, terminating: bool| {
            json!({
                "addresses": [address], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "targetRef": {"kind": "Pod", "name": pod},
            })
        };
    set::<EndpointSlice>(
        &mut cache.endpoint_slices,
        json!({
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {SERVICE_LABEL: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                endpoint("10.244.0.2", "n1", "a", true, true, false),
                endpoint("10.244.1.2", "n2", "b", false, true, true),
                endpoint("10.244.1.3", "n2", "c", false, false, false),
            ],
        }),
    );
    cache
}

fn compiled(cache: &Cache) -> Compiled {
    compiled_with(cache, &mut Memory::default())
}

fn compiled_with(cache: &Cache, memory: &mut Memory) -> Compiled {
    let identities = Identities::default().assign(&wanted(cache));
    let input = Input {
        cache,
        identities: &identities,
        parameters: &node::Parameters {
            vxlan_port: 4789,
            ..Default::default()
        },
        object: &|(kind, _, name)| (kind == "ConfigMap" && name == "settings").then(|| "{}".into()),
    };
    compile(&input, memory)
}

#[test]
fn service_port_becomes_frontends_by_scope_and_backends_by_state() {
    let compiled = compiled(&cluster());
    let services: Vec<_> = compiled.dataplane.services.values().collect();
    let names: Vec<_> = services
        .iter()
        .map(|service| service.port_name.as_str())
        .collect();
    assert_eq!(
        names,
        ["dns", "http"],
        "a headless service is not forwarded"
    );
    let http = &services[1];
    let frontends: Vec<_> = http
        .frontends
        .iter()
        .map(|frontend| (frontend.address.to_vec(), frontend.port, frontend.scope()))
        .collect();
    assert_eq!(
        frontends,
        [
            (vec![10, 96, 0, 7], 80, node::FrontendScope::Cluster),
            (vec![198, 18, 100, 1], 80, node::FrontendScope::External),
            (vec![203, 0, 113, 9], 80, node::FrontendScope::External),
        ]
    );
    let backends: Vec<_> = http
        .backends
        .iter()
        .map(|backend| {
            (
                backend.name.as_str(),
                backend.node.as_str(),
                backend.port,
                backend.state(),
            )
        })
        .collect();
    assert_eq!(
        backends,
        [
            ("a", "n1", 8080, node::BackendState::Active),
            ("b", "n2", 8080, node::BackendState::Draining),
        ]
    );
    assert_eq!(services[0].backends, [], "no slice has the port dns");
}

#[test]
fn nodes_and_routes_come_from_addresses_and_ranges() {
    let compiled = compiled(&cluster());
    let nodes: Vec<_> = compiled
        .dataplane
        .nodes
        .values()
        .map(|node| (node.name.as_str(), node.id))
        .collect();
    assert_eq!(nodes, [("n1", 1), ("n2", 2)]);
    let routes: Vec<_> = compiled
        .dataplane
        .routes
        .iter()
        .map(|((_, prefix), route)| (prefix.as_str(), route.node.as_str()))
        .collect();
    assert_eq!(routes, [("10.244.0.0/24", "n1"), ("10.244.1.0/24", "n2")]);
}

#[test]
fn node_gets_its_own_pods_and_what_they_refer_to() {
    let compiled = compiled(&cluster());
    let workload = &compiled.workloads["n1"];
    let pods: Vec<_> = workload
        .pods
        .keys()
        .map(|(_, name, _)| name.as_str())
        .collect();
    assert_eq!(pods, ["a"]);
    let objects: Vec<_> = workload
        .objects
        .keys()
        .map(|(kind, _, name)| (kind.as_str(), name.as_str()))
        .collect();
    assert_eq!(objects, [("ConfigMap", "settings")]);
    assert_eq!(workload.pod_cidrs, ["10.244.0.0/24"]);
    assert_eq!(compiled.of_node("unknown"), None);
}

#[test]
fn status_report_of_a_pod_changes_nothing_for_its_node() {
    let before = compiled(&cluster());
    let mut cache = cluster();
    let name = ObjectName::new("shop", "a");
    let mut pod = Pod::clone(cache.pods.get(&name).unwrap());
    pod.metadata.resource_version = Some("8".to_owned());
    pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    cache.pods.set(name, Some(Arc::new(pod)));
    assert_eq!(compiled(&cache).workloads, before.workloads);
}

#[test]
fn pod_departs_when_it_is_asked_to_go_and_not_when_that_is_old_news() {
    let name = ObjectName::new("shop", "a");
    let asked = |cache: &mut Cache, uid: &str| {
        let mut pod = Pod::clone(cache.pods.get(&name).unwrap());
        pod.metadata.uid = Some(uid.to_owned());
        pod.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        pod.status.as_mut().unwrap().pod_ip = Some("10.244.0.2".to_owned());
        cache.pods.set(name.clone(), Some(Arc::new(pod)));
    };
    for (uid, expected) in [("a", 1), ("another", 0)] {
        let (mut cache, mut memory) = (cluster(), Memory::default());
        assert!(compiled_with(&cache, &mut memory).departures.is_empty());
        asked(&mut cache, uid);
        let departures = compiled_with(&cache, &mut memory).departures;
        assert_eq!(departures.len(), expected, "{uid}");
        for (pod, addresses) in departures {
            let key = ("shop".to_owned(), "a".to_owned(), "a".to_owned());
            assert_eq!(pod, key);
            assert!(addresses.into_iter().eq([octets([10, 244, 0, 2].into())]));
        }
        assert!(compiled_with(&cache, &mut memory).departures.is_empty());
        // Who begins to lead now knows nothing of how it was.
        assert!(compiled(&cache).departures.is_empty());
    }
}

#[test]
fn only_what_changed_is_compiled_anew() {
    let mut cache = cluster();
    let mut memory = Memory::default();
    let before = compiled_with(&cache, &mut memory);
    let same = compiled_with(&cache, &mut memory);
    for (id, service) in &same.dataplane.services {
        assert!(Arc::ptr_eq(service, &before.dataplane.services[id]));
    }
    let names: Vec<_> = same
        .dataplane
        .dns_names
        .keys()
        .map(|(.., name)| name)
        .collect();
    assert_eq!(names, ["headless", "web"]);
    for (key, name) in &same.dataplane.dns_names {
        assert!(Arc::ptr_eq(name, &before.dataplane.dns_names[key]));
    }
    let name = ObjectName::new("shop", "web-x");
    let mut slice = EndpointSlice::clone(cache.endpoint_slices.get(&name).unwrap());
    slice.endpoints.as_mut().unwrap().pop();
    slice.endpoints.as_mut().unwrap().pop();
    cache.endpoint_slices.set(name, Some(Arc::new(slice)));
    let pod_name = ObjectName::new("shop", "b");
    cache.pods.set(pod_name, None);
    let changed = compiled_with(&cache, &mut memory);
    assert_eq!(
        changed,
        compiled(&cache),
        "as if compiled for the first time"
    );
    assert_ne!(changed.dataplane, before.dataplane);
    assert_eq!(memory.pods.len(), 1, "what is gone is forgotten");
}

#[test]
fn each_family_of_a_dual_stack_service_has_its_own_backends() {
    let mut cache = cluster();
    set::<Service>(
        &mut cache.services,
        json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7",
                "clusterIPs": ["10.96.0.7", "2001:db8:b::7"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "198.18.100.1"}, {"ip": "2001:db8:100::1"}]}},
        }),
    );
    set::<EndpointSlice>(
        &mut cache.endpoint_slices,
        json!({
            "metadata": {"name": "web-6", "namespace": "shop", "labels": {SERVICE_LABEL: "web"}},
            "addressType": "IPv6",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["2001:db8:a::2"], "nodeName": "n1"}],
        }),
    );
    let compiled = compiled(&cache);
    let found: Vec<_> = compiled
        .dataplane
        .services
        .values()
        .map(|service| {
            let frontends = service.frontends.iter().map(|at| at.address.len());
            let backends = service.backends.iter().map(|at| at.address.len());
            (frontends.collect::<Vec<_>>(), backends.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(
        found,
        [(vec![4, 4], vec![4, 4]), (vec![16, 16], vec![16])],
        "bytes of the addresses of frontends and backends"
    );
}

#[test]
fn machines_of_the_other_family_answer_only_where_there_are_none_of_the_same() {
    let mut cache = Cache::default();
    set::<Service>(
        &mut cache.services,
        json!({
            "metadata": {"name": "lvs", "namespace": "shop"},
            "spec": {
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "2001:db8:b::7"],
                "ports": [{"port": 80, "protocol": "TCP"}],
            },
        }),
    );
    let slice = |name: &str, family: &str, address: &str| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {SERVICE_LABEL: "lvs"}},
            "addressType": family,
            "ports": [{"port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address]}],
        })
    };
    let backends = |cache: &Cache| -> Vec<Vec<String>> {
        let services = compiled(cache).dataplane.services.clone();
        let names = |service: &Arc<node::Service>| {
            let backends = service.backends.iter();
            backends.map(|backend| backend.name.clone()).collect()
        };
        services.values().map(names).collect()
    };
    set::<EndpointSlice>(
        &mut cache.endpoint_slices,
        slice("lvs-4", "IPv4", "192.0.2.7"),
    );
    assert_eq!(backends(&cache), [["192.0.2.7"], ["192.0.2.7"]]);
    set::<EndpointSlice>(
        &mut cache.endpoint_slices,
        slice("lvs-6", "IPv6", "2001:db8::7"),
    );
    assert_eq!(backends(&cache), [["192.0.2.7"], ["2001:db8::7"]]);
}

#[test]
fn node_of_two_addresses_is_encapsulated_for_at_the_first() {
    let mut cache = Cache::default();
    set::<Node>(
        &mut cache.nodes,
        json!({
            "metadata": {"name": "n1"},
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "2001:db8:a::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "2001:db8::101"},
                {"type": "InternalIP", "address": "198.18.0.101"},
            ]},
        }),
    );
    let compiled = compiled(&cache);
    let node = &compiled.dataplane.nodes["n1"];
    assert_eq!((node.address.len(), node.other_address.len()), (16, 4));
    let prefixes: Vec<_> = compiled
        .dataplane
        .routes
        .keys()
        .map(|(_, prefix)| prefix)
        .collect();
    assert_eq!(prefixes, ["10.244.0.0/24", "2001:db8:a::/64"]);
    let ranges = &compiled.workloads["n1"].pod_cidrs;
    assert_eq!(ranges[..], ["10.244.0.0/24", "2001:db8:a::/64"]);
}
