//! A small cluster's names, for tests.

use fairlead_proto::node::{
    ClusterDns, DnsEndpoint, DnsEndpoints, DnsName, DnsNamespace, DnsPort, Parameters, Protocol,
};

use crate::{Changes, Zones};

pub(crate) fn parameters() -> Parameters {
    Parameters {
        cluster_cidrs: vec!["10.244.0.0/16".to_owned(), "2001:db8:a::/56".to_owned()],
        dns: Some(ClusterDns {
            domain: "cluster.local".to_owned(),
            addresses: vec![octets("10.96.0.10"), octets("2001:db8:b::a")],
            service_cidrs: vec!["10.96.0.0/12".to_owned(), "2001:db8:b::/112".to_owned()],
        }),
        ..Parameters::default()
    }
}

pub(crate) fn octets(address: &str) -> bytes::Bytes {
    match address.parse().unwrap() {
        std::net::IpAddr::V4(address) => address.octets().to_vec().into(),
        std::net::IpAddr::V6(address) => address.octets().to_vec().into(),
    }
}

pub(crate) fn port(name: &str, protocol: Protocol, number: u32) -> DnsPort {
    DnsPort {
        name: name.to_owned(),
        protocol: protocol.into(),
        number,
    }
}

pub(crate) fn cluster_ip(name: &str, addresses: &[&str], ports: Vec<DnsPort>) -> DnsName {
    DnsName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        addresses: addresses.iter().map(|address| octets(address)).collect(),
        ports,
        ..DnsName::default()
    }
}

pub(crate) fn external(name: &str, target: &str) -> DnsName {
    DnsName {
        external_name: target.to_owned(),
        ..cluster_ip(name, &[], vec![])
    }
}

/// Endpoints are addresses with a host name, or an empty one.
pub(crate) fn headless(name: &str, groups: &[&[(&str, &str)]]) -> DnsName {
    let groups = groups.iter().map(|group| DnsEndpoints {
        ports: vec![port("http", Protocol::Tcp, 8080)],
        endpoints: group
            .iter()
            .map(|(address, hostname)| DnsEndpoint {
                address: octets(address),
                hostname: (*hostname).to_owned(),
            })
            .collect(),
    });
    DnsName {
        endpoints: groups.collect(),
        ..cluster_ip(name, &[], vec![])
    }
}

pub(crate) fn names() -> Vec<DnsName> {
    let web_ports = vec![
        port("http", Protocol::Tcp, 80),
        port("", Protocol::Tcp, 81),
        port("dns", Protocol::Udp, 53),
    ];
    let v4: &[_] = &[("10.244.0.7", "a"), ("10.244.1.7", "")];
    let v6: &[_] = &[("2001:db8:a::7", "a")];
    vec![
        cluster_ip("web", &["10.96.0.7", "2001:db8:b::7"], web_ports),
        cluster_ip("only-v4", &["10.96.0.8"], vec![]),
        headless("db", &[v4, v6]),
        headless("empty", &[]),
        external("outside", "www.example.org"),
        external("inside", "web.shop.svc.cluster.local"),
        external("self", "self.shop.svc.cluster.local"),
        external("astray", "none.shop.svc.cluster.local."),
    ]
}

/// All of it.
pub(crate) fn changes() -> Changes {
    let mut changes = Changes {
        is_whole: true,
        parameters: Some(parameters()),
        ..Changes::default()
    };
    for name in ["shop", "bare"] {
        let name = name.to_owned();
        changes.put_namespaces(vec![DnsNamespace { vpc: 0, name }], true);
    }
    changes.put_names(names());
    changes
}

pub(crate) fn zones() -> Zones {
    let mut zones = Zones::default();
    zones.apply(&changes()).unwrap();
    zones
}
