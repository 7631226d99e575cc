//! From the file to the state of the dataplane, the same message that a control plane would send.

use std::{collections::BTreeMap, net::IpAddr};

use bytes::Bytes;
use fairlead_dataplane::desired::single;
use fairlead_proto::node as proto;

use super::{
    field::{Seconds, Seed},
    file::{Backend, File, Forwarding, Health, Protocol, Scheduler, Service, Tracking, Tunnel},
    ids,
};

/// What the services of a file are called in, as those of a cluster are in their namespaces.
pub(crate) const NAMESPACE: &str = "standalone";

/// RFC 7348. Other nodes are not spoken to; the number has to be one all the same.
const VXLAN_PORT: u32 = 4789;

/// The state that a file, which was checked, asks for.
pub(crate) fn compile(file: &File, seed: Seed) -> proto::DataplaneState {
    let node = &file.node.value;
    let ports: Vec<Port<'_>> = file.services.iter().flat_map(Port::all).collect();
    let names: Vec<String> = ports.iter().map(Port::key).collect();
    let backend_names: Vec<String> = ports
        .iter()
        .flat_map(|port| {
            port.service
                .backends
                .iter()
                .map(|backend| port.backend_key(backend))
        })
        .collect();
    let services = ids::assign(names.iter().map(String::as_str));
    let backends = ids::assign(backend_names.iter().map(String::as_str));
    proto::DataplaneState {
        parameters: Some(proto::Parameters {
            hash_seed: seed.0.to_vec().into(),
            cluster_cidrs: Vec::new(),
            vxlan_port: VXLAN_PORT,
            dns: None,
        }),
        services: ports
            .iter()
            .map(|port| port.compile(services[&*port.key()], &backends))
            .collect(),
        nodes: vec![proto::NodeAddress {
            name: node.name.clone(),
            id: ids::assign([&*node.name])[&*node.name],
            address: octets(node.address),
            other_address: node.other_address.map(octets).unwrap_or_default(),
            silent: false,
        }],
        announcements: announcements(file),
        ..proto::DataplaneState::default()
    }
}

/// One port of a service of the file: what the dataplane calls a service.
struct Port<'a> {
    service: &'a Service,
    number: u16,
}

impl<'a> Port<'a> {
    fn all(service: &'a Service) -> impl Iterator<Item = Self> {
        let numbers = service.ports.value.iter();
        numbers.map(move |port| Self {
            service,
            number: port.value,
        })
    }

    /// What its id is made of.
    fn key(&self) -> String {
        format!(
            "{}/{}/{:?}",
            self.service.name.value, self.number, self.service.protocol
        )
    }

    fn backend_key(&self, backend: &Backend) -> String {
        let port = self.port_of(backend);
        format!("{}/{}/{port}", self.key(), backend.address.value)
    }

    fn port_of(&self, backend: &Backend) -> u16 {
        backend.port.as_ref().map_or(self.number, |port| port.value)
    }

    fn compile(&self, id: u32, backends: &BTreeMap<&str, u32>) -> proto::Service {
        let service = self.service;
        proto::Service {
            id,
            namespace: NAMESPACE.to_owned(),
            name: service.name.value.clone(),
            port_name: self.number.to_string(),
            protocol: match service.protocol {
                Protocol::Tcp => proto::Protocol::Tcp,
                Protocol::Udp => proto::Protocol::Udp,
            }
            .into(),
            frontends: service
                .vips
                .value
                .iter()
                .map(|vip| proto::Frontend {
                    address: octets(vip.value.ip()),
                    port: self.number.into(),
                    scope: proto::FrontendScope::External.into(),
                    prefix_length: match single(vip.value) {
                        Some(_) => 0,
                        None => vip.value.prefix().into(),
                    },
                })
                .collect(),
            backends: service
                .backends
                .iter()
                .map(|backend| self.backend(backends[&*self.backend_key(backend)], backend))
                .collect(),
            scheduler: scheduler(service.scheduler).to_owned(),
            forwarding: match service.forwarding {
                Forwarding::Auto => "auto",
                Forwarding::Dr => "dr",
                Forwarding::Tun => "tun",
                Forwarding::Nat => "nat",
            }
            .to_owned(),
            tunnel: match service.tunnel {
                Tunnel::Ipip => "ipip",
                Tunnel::Gue => "gue",
            }
            .to_owned(),
            tracking: match service.tracking {
                Tracking::Auto => "auto",
                Tracking::Always => "always",
            }
            .to_owned(),
            timeouts: Some(proto::Timeouts {
                established_seconds: seconds(service.timeouts.established),
                fin_seconds: seconds(service.timeouts.fin),
                udp_seconds: seconds(service.timeouts.udp),
            }),
            affinity_seconds: seconds(service.affinity),
            source_ranges: service
                .source_ranges
                .iter()
                .map(|range| range.value.to_string())
                .collect(),
            health_check: service
                .health
                .as_ref()
                .map(|health| health_check(&health.value)),
            drain_seconds: seconds(service.drain),
            ..proto::Service::default()
        }
    }

    fn backend(&self, id: u32, backend: &Backend) -> proto::Backend {
        let address = backend.address.value;
        let state = match backend.weight {
            0 => proto::BackendState::Draining,
            _ => proto::BackendState::Active,
        };
        proto::Backend {
            id,
            address: octets(address),
            port: self.port_of(backend).into(),
            node: String::new(),
            weight: backend.weight.into(),
            state: state.into(),
            name: address.to_string(),
        }
    }
}

/// The VIPs that some service wants this node to answer for.
fn announcements(file: &File) -> Vec<proto::Announcement> {
    let announced = |service: &&Service| service.announce.as_ref().is_some_and(|one| one.value);
    let vips: std::collections::BTreeSet<IpAddr> = file
        .services
        .iter()
        .filter(announced)
        .flat_map(|service| service.vips.value.iter().map(|vip| vip.value.ip()))
        .collect();
    vips.into_iter()
        .map(|vip| proto::Announcement {
            address: octets(vip),
            node: file.node.value.name.clone(),
        })
        .collect()
}

fn health_check(health: &Health) -> proto::HealthCheck {
    let asked = health.asked();
    proto::HealthCheck {
        kind: asked.kind.as_str().to_owned(),
        port: asked.port.into(),
        path: asked.path,
        interval_milliseconds: asked.interval_milliseconds,
        timeout_milliseconds: asked.timeout_milliseconds,
        rise: asked.rise,
        fall: asked.fall,
    }
}

fn scheduler(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Maglev => "maglev",
        Scheduler::Rr => "rr",
        Scheduler::Wrr => "wrr",
        Scheduler::Lc => "lc",
        Scheduler::Wlc => "wlc",
        Scheduler::Sh => "sh",
        Scheduler::Dh => "dh",
        Scheduler::Sed => "sed",
        Scheduler::Nq => "nq",
    }
}

fn seconds(duration: Option<Seconds>) -> u32 {
    duration.map_or(0, |duration| duration.0)
}

fn octets(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec().into(),
        IpAddr::V6(v6) => v6.octets().to_vec().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fairlead_api::NodeName;
    use fairlead_dataplane::{Changes, desired::Desired};

    use super::*;
    use crate::standalone::check::check;

    fn state(text: &str) -> proto::DataplaneState {
        let path = Path::new("services.yaml");
        let file = File::parse(path, text).unwrap();
        check(path, &file).unwrap();
        compile(&file, Seed([7; 16]))
    }

    const EXAMPLE: &str = include_str!("../../../deploy/examples/standalone.yaml");

    #[test]
    fn the_example_is_a_state_that_the_dataplane_takes() {
        let state = state(EXAMPLE);
        let own = NodeName::new(&state.nodes[0].name);
        let changes = Changes::whole(state.clone());
        let (desired, _) = Desired::default().advance(&changes, &own).unwrap();
        assert_eq!(desired.services.len(), state.services.len());
        assert!(!state.announcements.is_empty());
    }

    #[test]
    fn each_port_is_a_service_of_its_own_with_all_servers() {
        let state = state(
            "node: {name: lb, address: 192.0.2.11, uplinks: [eth0]}\n\
             services:\n\
             - name: web\n  vips: [203.0.113.1, \"2001:db8::1\"]\n  ports: [80, 443]\n  \
             scheduler: wlc\n  announce: true\n  \
             backends: [{address: 192.0.2.21}, {address: 192.0.2.22, weight: 0}]\n",
        );
        assert_eq!(state.services.len(), 2);
        let [http, https] = &state.services[..] else {
            unreachable!("there are two")
        };
        assert_eq!((&*http.port_name, &*https.port_name), ("80", "443"));
        assert_ne!(http.id, https.id);
        assert_eq!(http.frontends.len(), 2);
        assert_eq!((http.backends[0].port, https.backends[0].port), (80, 443));
        assert_ne!(http.backends[0].id, https.backends[0].id);
        assert_eq!(http.backends[1].state(), proto::BackendState::Draining);
        assert_eq!((&*http.scheduler, &*http.forwarding), ("wlc", "auto"));
        let announced: Vec<usize> = state
            .announcements
            .iter()
            .map(|one| one.address.len())
            .collect();
        assert_eq!(announced, [4, 16]);
    }

    #[test]
    fn prefix_is_a_vip_as_a_whole() {
        let state = state(
            "node: {name: lb, address: 192.0.2.11, uplinks: [eth0]}\n\
             services:\n\
             - {name: web, vips: [203.0.113.0/28, 203.0.113.17/32, \"2001:db8:1::/64\"], \
             ports: [80], backends: [{address: 192.0.2.21}]}\n",
        );
        let frontends = state.services[0].frontends.iter();
        let lengths: Vec<u32> = frontends.map(|one| one.prefix_length).collect();
        assert_eq!(lengths, [28, 0, 64]);
        let own = NodeName::new("lb");
        let changes = Changes::whole(state);
        let (desired, _) = Desired::default().advance(&changes, &own).unwrap();
        assert_eq!((desired.vips.len(), desired.vip_prefixes.len()), (1, 2));
    }

    #[test]
    fn servers_may_listen_at_a_port_of_their_own() {
        let state = state(
            "node: {name: lb, address: 192.0.2.11, uplinks: [eth0]}\n\
             services:\n\
             - {name: web, vips: [203.0.113.1], ports: [80], backends: [{address: 192.0.2.21, port: \
             8080}]}\n",
        );
        let service = &state.services[0];
        assert_eq!(
            (service.frontends[0].port, service.backends[0].port),
            (80, 8080)
        );
    }
}
