//! How a Service's packets are balanced: what its spec and its annotations ask for, as nodes are
//! told.

use std::sync::Arc;

use fairlead_api::balancing::{self, Balancing, Weights, weights_of_slice};
use fairlead_proto::node::{self, BackendState};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::EndpointSlice,
};

/// What source ranges were given by before they had a field.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// What all ports of a Service have in common. Annotations that cannot be read, which admission
/// refuses, count as absent.
pub(crate) fn settings(service: &Service) -> node::Service {
    let (asked, _) = Balancing::of_service(service.metadata.annotations.as_ref());
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    node::Service {
        scheduler: asked.scheduler.to_owned(),
        forwarding: asked.forwarding.to_owned(),
        tunnel: asked.tunnel.to_owned(),
        tracking: asked.tracking.to_owned(),
        timeouts: timeouts(asked.timeouts),
        affinity_seconds: affinity_seconds(spec),
        external_local: is_local(&spec.external_traffic_policy),
        internal_local: is_local(&spec.internal_traffic_policy),
        source_ranges: source_ranges(service),
        health_check_node_port: number(spec.health_check_node_port),
        health_check: asked.health_check.map(health_check),
        drain_seconds: asked.drain_seconds,
        ..node::Service::default()
    }
}

/// The port of every node that leads to a port of the Service, 0 if none does.
pub(crate) fn node_port(service: &Service, port: &ServicePort) -> u32 {
    let spec = service.spec.as_ref();
    match spec.and_then(|spec| spec.type_.as_deref()) {
        Some("NodePort" | "LoadBalancer") => number(port.node_port),
        _ => 0,
    }
}

/// The weights of a Service's endpoints; a slice knows its own better than the Service does.
pub(crate) fn weights(service: &Service, slices: &[&Arc<EndpointSlice>]) -> Weights {
    let annotations = service.metadata.annotations.as_ref();
    let is_given = annotations.is_some_and(|all| all.contains_key(balancing::WEIGHTS));
    let mut weights = match is_given {
        true => Balancing::of_service(annotations).0.weights,
        false => Weights::new(),
    };
    for slice in slices {
        weights.extend(weights_of_slice(slice.metadata.annotations.as_ref()).0);
    }
    weights
}

/// Who weighs nothing drains. Where nobody else is left, those that end but still serve take new
/// connections too (KEP-1669).
pub(crate) fn settle_states(backends: &mut [node::Backend]) {
    let is_any_ready = backends
        .iter()
        .any(|backend| backend.state() == BackendState::Active && backend.weight > 0);
    for backend in backends {
        if backend.weight == 0 {
            backend.set_state(BackendState::Draining);
        } else if !is_any_ready {
            backend.set_state(BackendState::Active);
        }
    }
}

fn timeouts(asked: balancing::Timeouts) -> Option<node::Timeouts> {
    (asked != balancing::Timeouts::default()).then_some(node::Timeouts {
        established_seconds: asked.established_seconds,
        fin_seconds: asked.fin_seconds,
        udp_seconds: asked.udp_seconds,
    })
}

fn health_check(asked: balancing::HealthCheck) -> node::HealthCheck {
    node::HealthCheck {
        kind: asked.kind.as_str().to_owned(),
        port: u32::from(asked.port),
        path: asked.path,
        interval_milliseconds: asked.interval_milliseconds,
        timeout_milliseconds: asked.timeout_milliseconds,
        rise: asked.rise,
        fall: asked.fall,
    }
}

fn affinity_seconds(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref();
    let client = config.and_then(|config| config.client_ip.as_ref());
    number(client.and_then(|client| client.timeout_seconds))
}

fn source_ranges(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let given = spec.and_then(|spec| spec.load_balancer_source_ranges.as_deref());
    let annotations = service.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(SOURCE_RANGES));
    let ranges: Vec<&str> = match given {
        Some(given) if !given.is_empty() => given.iter().map(String::as_str).collect(),
        _ => annotated
            .map(|text| text.split(',').collect())
            .unwrap_or_default(),
    };
    ranges
        .into_iter()
        .map(|range| range.trim().to_owned())
        .filter(|range| !range.is_empty())
        .collect()
}

fn number(given: Option<i32>) -> u32 {
    given
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(annotations: Value, spec: Value) -> Service {
        let metadata = json!({"name": "web", "namespace": "shop", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn spec_and_annotations_become_settings() {
        let annotations = json!({
            "net.fairlead.io/scheduler": "wlc",
            "net.fairlead.io/forwarding": "tun",
            "net.fairlead.io/tunnel": "gue",
            "net.fairlead.io/tracking": "always",
            "net.fairlead.io/timeouts": "established=10m",
            "net.fairlead.io/drain": "30",
            "net.fairlead.io/health-check": "http:8080/healthz interval=1s timeout=500ms rise=1 fall=2",
        });
        let spec = json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 31_000,
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
            "loadBalancerSourceRanges": [" 192.0.2.0/24", "2001:db8::/32"],
        });
        let expected = node::Service {
            scheduler: "wlc".to_owned(),
            forwarding: "tun".to_owned(),
            tunnel: "gue".to_owned(),
            tracking: "always".to_owned(),
            timeouts: Some(node::Timeouts {
                established_seconds: 600,
                ..Default::default()
            }),
            drain_seconds: 30,
            external_local: true,
            health_check_node_port: 31_000,
            affinity_seconds: 600,
            source_ranges: vec!["192.0.2.0/24".to_owned(), "2001:db8::/32".to_owned()],
            health_check: Some(node::HealthCheck {
                kind: "http".to_owned(),
                port: 8080,
                path: "/healthz".to_owned(),
                interval_milliseconds: 1_000,
                timeout_milliseconds: 500,
                rise: 1,
                fall: 2,
            }),
            ..Default::default()
        };
        assert_eq!(settings(&service(annotations, spec)), expected);
    }

    #[test]
    fn service_that_says_nothing_has_defaults() {
        let expected = node::Service {
            scheduler: "maglev".to_owned(),
            forwarding: "auto".to_owned(),
            tunnel: "ipip".to_owned(),
            tracking: "auto".to_owned(),
            ..Default::default()
        };
        assert_eq!(settings(&service(json!({}), json!({}))), expected);
    }

    #[test]
    fn old_annotation_gives_source_ranges_where_the_field_does_not() {
        let annotations = json!({SOURCE_RANGES: "192.0.2.0/24, 198.51.100.0/24"});
        for (spec, expected) in [
            (json!({}), vec!["192.0.2.0/24", "198.51.100.0/24"]),
            (
                json!({"loadBalancerSourceRanges": ["203.0.113.0/24"]}),
                vec!["203.0.113.0/24"],
            ),
        ] {
            assert_eq!(source_ranges(&service(annotations.clone(), spec)), expected);
        }
    }

    #[test]
    fn slice_overrules_its_service_about_weights() {
        let service = service(
            json!({"net.fairlead.io/weights": "192.0.2.1=3,192.0.2.2=5"}),
            json!({}),
        );
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"annotations": {"net.fairlead.io/weights": "192.0.2.2=0"}},
            "addressType": "IPv4", "endpoints": [],
        }))
        .unwrap();
        let slice = Arc::new(slice);
        let weights = weights(&service, &[&slice]);
        assert_eq!(weights.into_values().collect::<Vec<_>>(), [3, 0]);
    }

    #[test]
    fn ending_backends_serve_on_where_nobody_else_does() {
        use BackendState::{Active, Draining};
        for (given, expected) in [
            (vec![(Active, 1), (Draining, 1)], vec![Active, Draining]),
            (vec![(Draining, 1), (Draining, 2)], vec![Active, Active]),
            (vec![(Active, 0), (Active, 1)], vec![Draining, Active]),
            (vec![(Active, 0), (Draining, 1)], vec![Draining, Active]),
        ] {
            let mut backends: Vec<_> = given
                .iter()
                .map(|(state, weight)| node::Backend {
                    state: (*state).into(),
                    weight: *weight,
                    ..Default::default()
                })
                .collect();
            settle_states(&mut backends);
            let states: Vec<_> = backends.iter().map(node::Backend::state).collect();
            assert_eq!(states, expected, "{given:?}");
        }
    }
}
