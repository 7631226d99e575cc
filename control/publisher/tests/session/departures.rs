//! Pods that are to go, and the nodes that may still send them new connections.

use std::time::Duration;

use fairlead_api::{
    k8s_openapi::api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    resource,
};
use fairlead_objects::{Grace, Object};
use fairlead_proto::node::{BackendState, Delta, control_message::Message as ToAgent};
use serde_json::{Value, json};

use crate::fixture::Control;

fn has_backend(delta: &Delta, state: BackendState) -> bool {
    let mut backends = delta.services.iter().flat_map(|service| &service.backends);
    backends.any(|backend| backend.state() == state)
}

fn is_asked_to_go(delta: &Delta) -> bool {
    delta.pods.iter().any(|pod| {
        let pod: Value = serde_json::from_slice(&pod.pod_json).unwrap();
        !pod["metadata"]["deletionTimestamp"].is_null()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_is_asked_to_go_when_no_node_sends_it_new_connections() {
    let control = Control::start().await;
    let pod: Pod = control
        .create(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}]},
        }))
        .await;
    control
        .create::<Service>(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "ports": [{"port": 80, "protocol": "TCP"}],
            },
        }))
        .await;
    let slice = |address: &str, ready: bool| {
        json!({
            "metadata": {
                "name": format!("web-{}", address.replace('.', "-")),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"port": 8080, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": [address], "nodeName": "n1",
                "conditions": {"ready": ready, "serving": true, "terminating": !ready},
            }],
        })
    };
    let (mut own, mut other) = (control.agent("n1").await, control.agent("n2").await);
    let mut held = own.snapshot().await.generation;
    other.snapshot().await;
    control
        .create::<EndpointSlice>(slice("10.244.0.9", true))
        .await;
    let leaving: EndpointSlice = control.create(slice("10.244.0.2", true)).await;
    let both = |delta: &Delta| {
        delta
            .services
            .iter()
            .any(|service| service.backends.len() == 2)
    };
    own.delta(&mut held, both).await;
    other.delta(&mut 0, both).await;

    let name = pod.object_name();
    let deleted = control
        .writer
        .delete(&resource::POD, &name, None, Grace::Pod);
    deleted.await.unwrap();
    let ended: EndpointSlice = serde_json::from_value(slice("10.244.0.2", false)).unwrap();
    control
        .writer
        .update::<EndpointSlice>(&leaving.object_name(), None, |slice| {
            slice.endpoints.clone_from(&ended.endpoints);
        })
        .await
        .unwrap();

    let drains = |delta: &Delta| has_backend(delta, BackendState::Draining);
    let told = own.delta(&mut held, drains).await;
    assert!(!is_asked_to_go(&told));
    // The other node has been told, and has not written it to its maps yet.
    let waiting = loop {
        if let ToAgent::Delta(delta) = other.next().await
            && drains(&delta)
        {
            break delta.generation;
        }
    };
    let early = tokio::time::timeout(Duration::from_millis(300), own.incoming.message()).await;
    assert!(early.is_err(), "told too early: {early:?}");
    other.acknowledge(waiting).await;
    let ToAgent::Delta(delta) = own.next().await else {
        panic!("no delta")
    };
    assert!(is_asked_to_go(&delta), "{delta:?}");
    assert_eq!(
        (delta.base_generation, &delta.services[..]),
        (held, &[][..])
    );
}
