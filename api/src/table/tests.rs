use serde_json::json;

use super::*;
use crate::resource::{
    CONFIG_MAP, DEPLOYMENT, ENDPOINT_SLICE, ENDPOINTS, EVENT, LEASE, NAMESPACE, NODE, POD,
    REPLICA_SET, SECRET, SERVICE,
};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("an instant")
}

/// Expects these cells of an object that was created five minutes ago.
fn check(resource: &Resource, mut object: Value, cells: Value) {
    object["metadata"]["name"] = "x".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:55:00Z".into();
    let row = row(resource, &object, now(), IncludeObject::None);
    assert_eq!(row["cells"], cells, "{resource:?}");
}

#[test]
fn cells_read_as_upstream() {
    check(
        &DEPLOYMENT,
        json!({
            "spec": {
                "replicas": 3,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "spec": { "containers": [
                    { "name": "a", "image": "i:1" }, { "name": "b", "image": "j:2" },
                ] } },
            },
            "status": { "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2 },
        }),
        json!(["x", "2/3", 3, 2, "5m", "a,b", "i:1,j:2", "app=web"]),
    );
    check(
        &REPLICA_SET,
        json!({ "spec": { "replicas": 2 }, "status": { "replicas": 1 } }),
        json!(["x", 2, 1, 0, "5m", "", "", "<none>"]),
    );
    check(
        &NODE,
        json!({
            "metadata": { "labels": { "node-role.kubernetes.io/worker": "" } },
            "spec": { "unschedulable": true },
            "status": {
                "conditions": [{ "type": "Ready", "status": "Unknown" }],
                "addresses": [{ "type": "InternalIP", "address": "198.18.0.101" }],
                "nodeInfo": { "kubeletVersion": "v1.37.0", "osImage": "Debian" },
            },
        }),
        json!([
            "x",
            "NotReady,SchedulingDisabled",
            "worker",
            "5m",
            "v1.37.0",
            "198.18.0.101",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>",
        ]),
    );
    check(
        &POD,
        json!({ "spec": { "containers": [{}] }, "status": { "phase": "Pending" } }),
        json!([
            "x", "0/1", "Pending", "0", "5m", "<none>", "<none>", "<none>", "<none>"
        ]),
    );
    check(
        &NAMESPACE,
        json!({ "status": { "phase": "Active" } }),
        json!(["x", "Active", "5m"]),
    );
    check(
        &CONFIG_MAP,
        json!({ "data": { "a": "" }, "binaryData": { "b": "" } }),
        json!(["x", 2, "5m"]),
    );
    check(
        &SECRET,
        json!({ "type": "Opaque" }),
        json!(["x", "Opaque", 0, "5m"]),
    );
    check(
        &LEASE,
        json!({ "spec": { "holderIdentity": "node-1" } }),
        json!(["x", "node-1", "5m"]),
    );
}

#[test]
fn a_service_shows_where_it_is_reached() {
    let ports = json!([{ "port": 80, "protocol": "TCP" }, { "port": 53, "nodePort": 30053, "protocol": "UDP" }]);
    let of = |kind: &str, address: &str| json!({ "spec": { "type": kind, "clusterIP": address, "ports": ports, "selector": { "b": "2", "a": "1" } } });
    let shown = |kind, address, external| {
        json!([
            "x",
            kind,
            address,
            external,
            "80/TCP,53:30053/UDP",
            "5m",
            "a=1,b=2"
        ])
    };
    check(
        &SERVICE,
        of("ClusterIP", "10.96.0.1"),
        shown("ClusterIP", "10.96.0.1", "<none>"),
    );
    check(
        &SERVICE,
        of("ClusterIP", "None"),
        shown("ClusterIP", "None", "<none>"),
    );
    check(
        &SERVICE,
        of("LoadBalancer", "10.96.0.1"),
        shown("LoadBalancer", "10.96.0.1", "<pending>"),
    );
    let mut balanced = of("LoadBalancer", "10.96.0.1");
    balanced["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "198.18.100.1" }] } });
    check(
        &SERVICE,
        balanced,
        shown("LoadBalancer", "10.96.0.1", "198.18.100.1"),
    );
}

#[test]
fn long_lists_of_endpoints_are_cut_after_three() {
    let addresses: Vec<Value> = (1..=5)
        .map(|n| json!({ "ip": format!("10.0.0.{n}") }))
        .collect();
    check(
        &ENDPOINTS,
        json!({ "subsets": [{ "addresses": addresses, "ports": [{ "port": 80 }] }] }),
        json!(["x", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...", "5m"]),
    );
    check(
        &ENDPOINT_SLICE,
        json!({ "addressType": "IPv4", "ports": [{ "port": 80 }], "endpoints": [] }),
        json!(["x", "IPv4", "80", "<unset>", "5m"]),
    );
}

#[test]
fn an_event_is_as_old_as_its_last_sight() {
    check(
        &EVENT,
        json!({
            "type": "Warning", "reason": "Failed", "message": "no \n", "count": 4,
            "involvedObject": { "kind": "Pod", "name": "p" },
            "source": { "component": "agent", "host": "node-1" },
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:59:30Z",
        }),
        json!([
            "30s",
            "Warning",
            "Failed",
            "pod/p",
            "",
            "agent, node-1",
            "no",
            "60m",
            4,
            "x",
        ]),
    );
}

#[test]
fn rows_carry_as_much_of_the_object_as_was_asked_for() {
    let object = json!({ "metadata": { "name": "x" }, "status": { "phase": "Active" } });
    let of = |include| {
        render(
            &NAMESPACE,
            std::slice::from_ref(&object),
            now(),
            include,
            json!({ "resourceVersion": "7" }),
        )
    };
    let table = of(IncludeObject::Metadata);
    assert_eq!(table["metadata"]["resourceVersion"], "7");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    assert_eq!(of(IncludeObject::Object)["rows"][0]["object"], object);
    assert_eq!(of(IncludeObject::None)["rows"][0].get("object"), None);
}

#[test]
fn only_the_first_event_of_a_watch_names_the_columns() {
    let object = json!({ "metadata": { "name": "x", "resourceVersion": "9" } });
    let event = |first| render_event(&NAMESPACE, &object, now(), IncludeObject::None, first);
    assert!(event(true)["columnDefinitions"].is_array());
    assert!(event(false)["columnDefinitions"].is_null());
    assert_eq!(event(false)["metadata"]["resourceVersion"], "9");
}
