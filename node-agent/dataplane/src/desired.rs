//! The state a node's maps should be in, checked: what the control plane sent, turned into types
//! that cannot be wrong. A message with one bad field is refused whole, and the error names it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_api::{BackendId, NodeName, ServiceId, VpcId};
use fairlead_proto::node::{self as proto, BackendState, DataplaneState, FrontendScope, Protocol};
use ipnetwork::IpNetwork;

/// A field of the message that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The way to it, "services[2].frontends[0].port".
    pub field: String,
    /// What is wrong with it, for people.
    pub problem: String,
}

/// All that a node's programs are to know, but for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Keys the flow hash.
    pub seed: [u64; 2],
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// The ranges of all pods: never masqueraded.
    pub cluster_ranges: BTreeSet<IpNetwork>,
    /// This node's own id.
    pub node_id: u32,
    /// The other nodes by id.
    pub nodes: BTreeMap<u32, Node>,
    /// Service ports.
    pub services: BTreeMap<ServiceId, Service>,
    /// Pods' ranges on other nodes, by VPC; the node's id.
    pub routes: BTreeMap<(VpcId, IpNetwork), u32>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Where it is reached.
    pub address: IpAddr,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// "namespace/name" and the port's name if it has one, "namespace/name:port".
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The network of its clients and backends.
    pub vpc: VpcId,
    /// Where it answers.
    pub frontends: Vec<Frontend>,
    /// Who answers.
    pub backends: BTreeMap<BackendId, Backend>,
    /// As the control plane put it.
    pub scheduler: String,
    /// How its packets reach backends on other nodes.
    pub forwarding: Forwarding,
}

pub use crate::forwarding::Forwarding;

/// An address and port a service answers at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Whether packets from outside may ask for it (a VIP), or sockets of the cluster only.
    pub external: bool,
}

/// One that answers for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Where it runs.
    pub place: Place,
    /// Its share of new connections, relative to the others of the service.
    pub weight: u32,
    /// Gets no new connections.
    pub draining: bool,
    /// What people call it.
    pub name: String,
}

/// Where a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node.
    Here,
    /// On the node with this id.
    Node(u32),
    /// Outside the cluster, or on a node whose address is not known: reached by routing only.
    Elsewhere,
}

impl Desired {
    /// Checks what the control plane sent to the node called `own`.
    pub fn check(state: &DataplaneState, own: &NodeName) -> Result<Self, Invalid> {
        let mut desired = Self::default();
        let parameters = state
            .parameters
            .as_ref()
            .ok_or_else(|| invalid("parameters", "is missing"))?;
        desired.set_parameters(parameters)?;
        let ids = desired.add_nodes(&state.nodes, own)?;
        let mut seen = Seen::default();
        for (index, service) in state.services.iter().enumerate() {
            let at = format!("services[{index}]");
            let id = ServiceId(nonzero(&at, "id", service.id)?);
            let checked = check_service(&at, service, own, &ids, &mut seen)?;
            if desired.services.insert(id, checked).is_some() {
                return Err(invalid(&format!("{at}.id"), format!("{id} is given twice")));
            }
        }
        for (index, route) in state.routes.iter().enumerate() {
            desired.add_route(&format!("routes[{index}]"), route, own, &ids)?;
        }
        Ok(desired)
    }

    fn set_parameters(&mut self, parameters: &proto::Parameters) -> Result<(), Invalid> {
        let seed: &[u8; 16] = parameters.hash_seed[..].try_into().map_err(|_| {
            let length = parameters.hash_seed.len();
            invalid(
                "parameters.hash_seed",
                format!("has {length} bytes instead of 16"),
            )
        })?;
        let word = u128::from_be_bytes(*seed);
        self.seed = [(word >> 64) as u64, word as u64];
        self.vxlan_port = port("parameters", "vxlan_port", parameters.vxlan_port)?;
        for (index, text) in parameters.cluster_cidrs.iter().enumerate() {
            let range = network(&format!("parameters.cluster_cidrs[{index}]"), text)?;
            self.cluster_ranges.insert(range);
        }
        Ok(())
    }

    /// Gives the ids of all nodes by their name.
    fn add_nodes<'a>(
        &mut self,
        nodes: &'a [proto::NodeAddress],
        own: &NodeName,
    ) -> Result<BTreeMap<&'a str, u32>, Invalid> {
        let mut ids = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for (index, node) in nodes.iter().enumerate() {
            let at = format!("nodes[{index}]");
            let id = nonzero(&at, "id", node.id)?;
            let address = address(&at, &node.address)?;
            if ids.values().any(|taken| *taken == id) {
                return Err(invalid(&format!("{at}.id"), format!("{id} is given twice")));
            }
            if !addresses.insert(address) {
                return Err(invalid(
                    &format!("{at}.address"),
                    format!("{address} is given twice"),
                ));
            }
            if ids.insert(node.name.as_str(), id).is_some() {
                return Err(invalid(
                    &format!("{at}.name"),
                    format!("{} is given twice", node.name),
                ));
            }
            if node.name == own.as_str() {
                self.node_id = id;
            } else {
                self.nodes.insert(
                    id,
                    Node {
                        name: NodeName::new(&node.name),
                        address,
                    },
                );
            }
        }
        if self.node_id == 0 {
            return Err(invalid(
                "nodes",
                format!("this node, {own}, is not among them"),
            ));
        }
        Ok(ids)
    }

    fn add_route(
        &mut self,
        at: &str,
        route: &proto::Route,
        own: &NodeName,
        ids: &BTreeMap<&str, u32>,
    ) -> Result<(), Invalid> {
        let key = route
            .key
            .as_ref()
            .ok_or_else(|| invalid(&format!("{at}.key"), "is missing"))?;
        let prefix = network(&format!("{at}.key.prefix"), &key.prefix)?;
        if route.node == own.as_str() {
            return Ok(());
        }
        // A node that has a range and no address yet cannot be routed to: its pods are
        // unreachable, as the rest of the cluster's ranges is.
        let Some(&node) = ids.get(route.node.as_str()) else {
            return Ok(());
        };
        if self
            .routes
            .insert((vpc(at, key.vpc)?, prefix), node)
            .is_some()
        {
            return Err(invalid(
                &format!("{at}.key"),
                format!("{prefix} is given twice"),
            ));
        }
        Ok(())
    }
}

/// What must be unique across services.
#[derive(Default)]
struct Seen {
    backends: BTreeSet<BackendId>,
    frontends: BTreeSet<(VpcId, IpAddr, u8, u16)>,
}

fn check_service(
    at: &str,
    service: &proto::Service,
    own: &NodeName,
    ids: &BTreeMap<&str, u32>,
    seen: &mut Seen,
) -> Result<Service, Invalid> {
    let protocol = match Protocol::try_from(service.protocol) {
        Ok(Protocol::Unspecified) | Err(_) => {
            let problem = format!("{} is no protocol of a service", service.protocol);
            return Err(invalid(&format!("{at}.protocol"), problem));
        }
        Ok(known) => known as u8,
    };
    let mut checked = Service {
        name: match service.port_name.as_str() {
            "" => format!("{}/{}", service.namespace, service.name),
            port => format!("{}/{}:{port}", service.namespace, service.name),
        },
        protocol,
        vpc: vpc(at, service.vpc)?,
        frontends: Vec::with_capacity(service.frontends.len()),
        backends: BTreeMap::new(),
        scheduler: service.scheduler.clone(),
        forwarding: Forwarding::of(&service.forwarding),
    };
    for (index, frontend) in service.frontends.iter().enumerate() {
        let at = format!("{at}.frontends[{index}]");
        let frontend = check_frontend(&at, frontend)?;
        let Frontend { address, port, .. } = frontend;
        if !seen
            .frontends
            .insert((checked.vpc, address, protocol, port))
        {
            return Err(invalid(
                &at,
                format!("{address} port {port} is given twice"),
            ));
        }
        checked.frontends.push(frontend);
    }
    for (index, backend) in service.backends.iter().enumerate() {
        let at = format!("{at}.backends[{index}]");
        let id = BackendId(nonzero(&at, "id", backend.id)?);
        if !seen.backends.insert(id) {
            return Err(invalid(&format!("{at}.id"), format!("{id} is given twice")));
        }
        let place = match backend.node.as_str() {
            node if node == own.as_str() => Place::Here,
            node => ids
                .get(node)
                .map_or(Place::Elsewhere, |id| Place::Node(*id)),
        };
        checked
            .backends
            .insert(id, check_backend(&at, backend, place)?);
    }
    Ok(checked)
}

fn check_frontend(at: &str, frontend: &proto::Frontend) -> Result<Frontend, Invalid> {
    let external = match FrontendScope::try_from(frontend.scope) {
        Ok(FrontendScope::External) => true,
        Ok(FrontendScope::Cluster) => false,
        Ok(FrontendScope::Unspecified) | Err(_) => {
            let problem = format!("{} is no scope", frontend.scope);
            return Err(invalid(&format!("{at}.scope"), problem));
        }
    };
    Ok(Frontend {
        address: address(at, &frontend.address)?,
        port: port(at, "port", frontend.port)?,
        external,
    })
}

fn check_backend(at: &str, backend: &proto::Backend, place: Place) -> Result<Backend, Invalid> {
    let draining = match BackendState::try_from(backend.state) {
        Ok(BackendState::Active) => false,
        Ok(BackendState::Draining) => true,
        Ok(BackendState::Unspecified) | Err(_) => {
            let problem = format!("{} is no state of a backend", backend.state);
            return Err(invalid(&format!("{at}.state"), problem));
        }
    };
    Ok(Backend {
        address: address(at, &backend.address)?,
        port: port(at, "port", backend.port)?,
        place,
        weight: backend.weight,
        draining,
        name: backend.name.clone(),
    })
}

fn invalid(field: &str, problem: impl Into<String>) -> Invalid {
    Invalid {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

fn nonzero(at: &str, name: &str, value: u32) -> Result<u32, Invalid> {
    if value == 0 {
        Err(invalid(&format!("{at}.{name}"), "is 0"))
    } else {
        Ok(value)
    }
}

fn port(at: &str, name: &str, value: u32) -> Result<u16, Invalid> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| invalid(&format!("{at}.{name}"), format!("{value} is no port")))
}

fn vpc(at: &str, value: u32) -> Result<VpcId, Invalid> {
    if value < 1 << 24 {
        Ok(VpcId(value))
    } else {
        Err(invalid(
            &format!("{at}.vpc"),
            format!("{value} does not fit the 24 bits of a VNI"),
        ))
    }
}

fn address(at: &str, bytes: &[u8]) -> Result<IpAddr, Invalid> {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok(),
        16 => <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok(),
        _ => None,
    };
    let field = || format!("{at}.address");
    let address = address
        .ok_or_else(|| {
            invalid(
                &field(),
                format!("has {} bytes instead of 4 or 16", bytes.len()),
            )
        })?
        .to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        return Err(invalid(&field(), format!("{address} is nobody's address")));
    }
    Ok(address)
}

fn network(field: &str, text: &str) -> Result<IpNetwork, Invalid> {
    let range: IpNetwork = text
        .parse()
        .map_err(|_| invalid(field, format!("\"{text}\" is no address range")))?;
    if range.network() != range.ip() {
        return Err(invalid(field, format!("\"{text}\" has host bits set")));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{own, state};

    #[test]
    fn whole_state_is_converted() {
        let desired = Desired::check(&state(), &own()).unwrap();
        assert_eq!(desired.node_id, 1);
        assert_eq!(desired.nodes.keys().copied().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(desired.routes.len(), 2, "the node's own range is left out");
        let service = &desired.services[&ServiceId(1)];
        assert_eq!(service.name, "demo/hello:http");
        assert_eq!(service.protocol, 6);
        assert!(service.frontends[0].external && !service.frontends[1].external);
        let places: Vec<Place> = service.backends.values().map(|b| b.place).collect();
        assert_eq!(places, [Place::Here, Place::Node(2), Place::Node(3)]);
        assert_eq!(desired.seed, [0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]);
    }

    #[test]
    fn backend_of_an_unknown_node_is_elsewhere() {
        let mut state = state();
        state.services[0].backends[1].node = "node-9".to_owned();
        let desired = Desired::check(&state, &own()).unwrap();
        assert_eq!(
            desired.services[&ServiceId(1)].backends[&BackendId(12)].place,
            Place::Elsewhere
        );
    }

    #[test]
    fn bad_field_is_named() {
        type Spoil = fn(&mut DataplaneState);
        let cases: &[(&str, Spoil)] = &[
            ("parameters", |s| s.parameters = None),
            ("parameters.hash_seed", |s| {
                parameters(s).hash_seed.truncate(15)
            }),
            ("parameters.vxlan_port", |s| {
                parameters(s).vxlan_port = 65_536
            }),
            ("parameters.cluster_cidrs[0]", |s| {
                parameters(s).cluster_cidrs[0] = "10.244.1.0/16".to_owned();
            }),
            ("nodes", |s| s.nodes[0].name = "somebody".to_owned()),
            ("nodes[1].id", |s| s.nodes[1].id = 0),
            ("nodes[1].id", |s| s.nodes[1].id = 1),
            ("nodes[1].name", |s| s.nodes[1].name = "node-1".to_owned()),
            ("nodes[1].address", |s| {
                s.nodes[1].address = vec![1, 2, 3].into()
            }),
            ("nodes[1].address", |s| {
                s.nodes[1].address = s.nodes[0].address.clone()
            }),
            ("services[0].id", |s| s.services[0].id = 0),
            ("services[1].id", |s| s.services[1].id = 1),
            ("services[0].protocol", |s| s.services[0].protocol = 1),
            ("services[0].vpc", |s| s.services[0].vpc = 1 << 24),
            ("services[0].frontends[0].port", |s| {
                s.services[0].frontends[0].port = 0
            }),
            ("services[0].frontends[0].scope", |s| {
                s.services[0].frontends[0].scope = 0
            }),
            ("services[0].frontends[0].address", |s| {
                s.services[0].frontends[0].address = vec![0; 4].into();
            }),
            ("services[0].frontends[1]", |s| {
                s.services[0].frontends[1] = s.services[0].frontends[0].clone();
            }),
            ("services[0].backends[2].id", |s| {
                s.services[0].backends[2].id = 11
            }),
            ("services[0].backends[0].state", |s| {
                s.services[0].backends[0].state = 9
            }),
            ("services[0].backends[0].port", |s| {
                s.services[0].backends[0].port = 70_000
            }),
            ("routes[0].key", |s| s.routes[0].key = None),
            ("routes[1].key.prefix", |s| {
                s.routes[1].key.as_mut().unwrap().prefix = "10.244.2.0/33".to_owned();
            }),
            ("routes[2].key", |s| {
                s.routes[2].key = s.routes[1].key.clone()
            }),
        ];
        fn parameters(state: &mut DataplaneState) -> &mut proto::Parameters {
            state.parameters.as_mut().unwrap()
        }
        for (field, spoil) in cases {
            let mut state = state();
            spoil(&mut state);
            let refused = Desired::check(&state, &own()).expect_err(field);
            assert_eq!(refused.field, *field, "{refused}");
        }
    }
}
