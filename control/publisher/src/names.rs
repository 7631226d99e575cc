//! From Services to the names by which pods find them.

use std::net::IpAddr;

use bytes::Bytes;
use fairlead_objects::Object;
use fairlead_proto::node;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{EndpointPort, EndpointSlice},
};

use crate::compile::octets;

/// What the name of a Service stands for; `None` while it has neither addresses nor another name,
/// and is not meant to be without either.
pub(crate) fn of_service(
    vpc: u32,
    service: &Service,
    slices: &[&EndpointSlice],
) -> Option<node::DnsName> {
    let object = service.object_name();
    let spec = service.spec.as_ref()?;
    let mut name = node::DnsName {
        vpc,
        namespace: object.namespace,
        name: object.name,
        ..node::DnsName::default()
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        name.external_name = spec.external_name.clone().filter(|name| !name.is_empty())?;
        return Some(name);
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        let publishes_all = spec.publish_not_ready_addresses == Some(true);
        let groups = slices.iter().map(|slice| endpoints(slice, publishes_all));
        name.endpoints = groups.filter(|group| !group.endpoints.is_empty()).collect();
        return Some(name);
    }
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    // The older field repeats the first.
    let first = spec.cluster_ip.iter().filter(|_| listed.is_empty());
    name.addresses = listed.iter().chain(first).filter_map(address).collect();
    let ports = spec.ports.as_deref().unwrap_or_default();
    name.ports = ports.iter().filter_map(of_service_port).collect();
    (!name.addresses.is_empty()).then_some(name)
}

/// Those that are ready, or all where the Service asks for that.
fn endpoints(slice: &EndpointSlice, publishes_all: bool) -> node::DnsEndpoints {
    let endpoints = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        publishes_all || conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    let endpoints = endpoints.flat_map(|endpoint| {
        let hostname = endpoint.hostname.clone().unwrap_or_default();
        let addresses = endpoint.addresses.iter().filter_map(address);
        addresses.map(move |address| node::DnsEndpoint {
            address,
            hostname: hostname.clone(),
        })
    });
    let ports = slice.ports.iter().flatten();
    node::DnsEndpoints {
        endpoints: endpoints.collect(),
        ports: ports.filter_map(of_slice_port).collect(),
    }
}

fn of_service_port(port: &ServicePort) -> Option<node::DnsPort> {
    of_port(port.name.as_ref(), port.protocol.as_ref(), port.port)
}

fn of_slice_port(port: &EndpointPort) -> Option<node::DnsPort> {
    of_port(port.name.as_ref(), port.protocol.as_ref(), port.port?)
}

fn of_port(name: Option<&String>, protocol: Option<&String>, number: i32) -> Option<node::DnsPort> {
    let protocol = match protocol.map_or("TCP", String::as_str) {
        "TCP" => node::Protocol::Tcp,
        "UDP" => node::Protocol::Udp,
        "SCTP" => node::Protocol::Sctp,
        _ => return None,
    };
    Some(node::DnsPort {
        name: name.cloned().unwrap_or_default(),
        protocol: protocol.into(),
        number: u32::try_from(number).ok()?,
    })
}

fn address(text: impl AsRef<str>) -> Option<Bytes> {
    text.as_ref().parse::<IpAddr>().ok().map(octets)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn compiled(spec: Value, slices: Vec<Value>) -> Option<node::DnsName> {
        let service = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        let service: Service = serde_json::from_value(service).unwrap();
        let slices: Vec<EndpointSlice> = slices
            .into_iter()
            .map(|slice| serde_json::from_value(slice).unwrap())
            .collect();
        of_service(0, &service, &slices.iter().collect::<Vec<_>>())
    }

    fn port(name: &str, protocol: node::Protocol, number: u32) -> node::DnsPort {
        node::DnsPort {
            name: name.to_owned(),
            protocol: protocol.into(),
            number,
        }
    }

    #[test]
    fn name_stands_for_cluster_ips_with_their_ports() {
        let name = compiled(
            json!({
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "2001:db8:b::7"],
                "ports": [{"name": "http", "port": 80}, {"port": 53, "protocol": "UDP"}],
            }),
            vec![],
        );
        let name = name.unwrap();
        let lengths: Vec<_> = name.addresses.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [4, 16]);
        let expected = [
            port("http", node::Protocol::Tcp, 80),
            port("", node::Protocol::Udp, 53),
        ];
        assert_eq!(name.ports, expected);
        assert_eq!(
            (name.namespace.as_str(), name.name.as_str()),
            ("shop", "web")
        );
        assert!(name.endpoints.is_empty() && name.external_name.is_empty());
    }

    #[test]
    fn headless_name_stands_for_ready_endpoints_or_all_if_asked() {
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "shop"}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.0.2"], "hostname": "a", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.3"], "conditions": {"ready": false}},
                {"addresses": ["10.244.0.4"], "conditions": {}},
            ],
        });
        for (publishes, expected) in [
            (false, vec![("a", 2), ("", 4)]),
            (true, vec![("a", 2), ("", 3), ("", 4)]),
        ] {
            let spec = json!({"clusterIP": "None", "publishNotReadyAddresses": publishes});
            let name = compiled(spec, vec![slice.clone()]).unwrap();
            let group = &name.endpoints[0];
            let found: Vec<_> = group
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.hostname.as_str(), endpoint.address[3]))
                .collect();
            assert_eq!(found, expected);
            assert_eq!(group.ports, [port("http", node::Protocol::Tcp, 8080)]);
        }
    }

    #[test]
    fn headless_name_without_endpoints_is_a_name() {
        let name = compiled(json!({"clusterIP": "None"}), vec![]).unwrap();
        assert!(name.endpoints.is_empty() && name.addresses.is_empty());
    }

    #[test]
    fn external_name_has_nothing_else() {
        let spec =
            json!({"type": "ExternalName", "externalName": "www.example", "ports": [{"port": 80}]});
        let name = compiled(spec, vec![]).unwrap();
        assert_eq!(name.external_name, "www.example");
        assert!(name.ports.is_empty());
    }

    #[test]
    fn service_that_waits_for_its_address_has_no_name_yet() {
        assert_eq!(compiled(json!({"ports": [{"port": 80}]}), vec![]), None);
    }
}
