//! What this crate's tests share: a cluster of three nodes, this one first, with two services; and
//! a way to see whether packets flow.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use fairlead_api::NodeName;
use fairlead_proto::node::{
    Backend, BackendState, DataplaneState, Frontend, FrontendScope, HealthCheck, NodeAddress,
    Parameters, Protocol, Route, RouteKey, Service,
};

pub(crate) fn own() -> NodeName {
    NodeName::new("node-1")
}

pub(crate) fn state() -> DataplaneState {
    DataplaneState {
        parameters: Some(Parameters {
            hash_seed: (0..16).collect(),
            cluster_cidrs: vec!["10.244.0.0/16".to_owned()],
            vxlan_port: 4789,
            dns: None,
        }),
        services: vec![
            service(1, "hello", [10, 96, 0, 1], Some([198, 18, 100, 1])),
            service(2, "dns", [10, 96, 0, 2], None),
        ],
        nodes: (1..=3)
            .map(|id| NodeAddress {
                name: format!("node-{id}"),
                id,
                address: vec![198, 18, 0, 100 + id as u8].into(),
                ..NodeAddress::default()
            })
            .collect(),
        routes: (1..=3)
            .map(|id| Route {
                key: Some(RouteKey {
                    vpc: 0,
                    prefix: format!("10.244.{id}.0/24"),
                }),
                node: format!("node-{id}"),
            })
            .collect(),
        ..DataplaneState::default()
    }
}

/// Service `id` with a backend on each node, whose ids are `10 * id` and the node's.
pub(crate) fn service(id: u32, name: &str, cluster_ip: [u8; 4], vip: Option<[u8; 4]>) -> Service {
    let frontend = |address: [u8; 4], scope: FrontendScope| Frontend {
        address: address.to_vec().into(),
        port: 80,
        scope: scope.into(),
        prefix_length: 0,
    };
    Service {
        id,
        namespace: "demo".to_owned(),
        name: name.to_owned(),
        port_name: "http".to_owned(),
        protocol: Protocol::Tcp.into(),
        vpc: 0,
        frontends: vip
            .map(|vip| frontend(vip, FrontendScope::External))
            .into_iter()
            .chain([frontend(cluster_ip, FrontendScope::Cluster)])
            .collect(),
        backends: (1..=3).map(|node| backend(id, node)).collect(),
        scheduler: "maglev".to_owned(),
        forwarding: "auto".to_owned(),
        ..Service::default()
    }
}

pub(crate) fn backend(service: u32, node: u32) -> Backend {
    Backend {
        id: 10 * service + node,
        address: vec![10, 244, node as u8, service as u8].into(),
        port: 8080,
        node: format!("node-{node}"),
        weight: 1,
        state: BackendState::Active.into(),
        name: format!("pod-{service}-{node}"),
    }
}

/// A connection every two seconds.
pub(crate) fn health_check() -> HealthCheck {
    HealthCheck {
        kind: "tcp".to_owned(),
        interval_milliseconds: 2_000,
        timeout_milliseconds: 500,
        rise: 2,
        fall: 3,
        ..HealthCheck::default()
    }
}

/// Whether packets go from a namespace to an address and back: a port where nobody listens refuses
/// a connection, and only the host that was meant can do that.
pub(crate) fn reaches(from: &testbed::NetNsHandle, to: &str) -> bool {
    let address: IpAddr = to.parse().unwrap();
    let refused = from.run(|| {
        // The discard port (RFC 863); no test listens there.
        let connected = TcpStream::connect_timeout(&(address, 9).into(), Duration::from_secs(5));
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    refused.unwrap()
}
