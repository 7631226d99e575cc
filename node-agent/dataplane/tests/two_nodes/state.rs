//! What both nodes are told.

use std::net::IpAddr;

use fairlead_proto::node::{
    Backend, BackendState, DataplaneState, Frontend, FrontendScope, NodeAddress, Parameters,
    Protocol, Route, RouteKey, Service,
};

use crate::family::{Family, V4, V6, address, octets};

/// A service of two pods for each family and protocol, over nodes that reach each other by `underlay`.
pub(crate) fn state(underlay: Family) -> DataplaneState {
    let frontend = |address: IpAddr, scope: FrontendScope| Frontend {
        address: octets(address).into(),
        port: 80,
        scope: scope.into(),
        prefix_length: 0,
    };
    let service = |(id, protocol, family): (u32, Protocol, Family)| Service {
        id,
        namespace: "demo".to_owned(),
        name: "hello".to_owned(),
        port_name: "http".to_owned(),
        protocol: protocol.into(),
        vpc: 0,
        frontends: vec![
            frontend(family.vip(), FrontendScope::External),
            frontend(
                address(family.pick("10.96.0.1", "2001:db8:b::1")),
                FrontendScope::Cluster,
            ),
        ],
        backends: (1..=2)
            .map(|node| Backend {
                id: 10 * id + u32::from(node),
                address: octets(family.pod(node)).into(),
                port: 8080,
                node: format!("node-{node}"),
                weight: 1,
                state: BackendState::Active.into(),
                name: format!("pod-{node}"),
            })
            .collect(),
        scheduler: "maglev".to_owned(),
        forwarding: "auto".to_owned(),
        ..Service::default()
    };
    let node = |number: u8| NodeAddress {
        name: format!("node-{number}"),
        id: number.into(),
        address: octets(underlay.host(100 + number)).into(),
        other_address: octets(underlay.pick(V6, V4).host(100 + number)).into(),
        silent: false,
    };
    let routes = (1..=2).flat_map(|number| {
        Family::BOTH.map(|family| Route {
            key: Some(RouteKey {
                vpc: 0,
                prefix: family.pod_range(number),
            }),
            node: format!("node-{number}"),
        })
    });
    DataplaneState {
        parameters: Some(Parameters {
            hash_seed: (0..16).collect(),
            cluster_cidrs: vec!["10.244.0.0/16".to_owned(), "2001:db8:a::/48".to_owned()],
            vxlan_port: 4789,
            dns: None,
        }),
        services: vec![
            service((1, Protocol::Tcp, V4)),
            service((2, Protocol::Tcp, V6)),
            service((3, Protocol::Udp, V4)),
            service((4, Protocol::Udp, V6)),
        ],
        nodes: (1..=2).map(node).collect(),
        routes: routes.collect(),
        ..DataplaneState::default()
    }
}
