//! The state a node's maps should be in, checked: what the control plane sent, turned into types
//! that cannot be wrong. A message with one bad field is refused whole, and the error names it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_api::{BackendId, NodeName, ServiceId, VpcId};
use fairlead_proto::node::{self as proto, BackendState, FrontendScope, Protocol};
use imbl::OrdMap;
use ipnetwork::IpNetwork;

use crate::changes::Changes;
pub use crate::forwarding::Forwarding;

/// A field of the message that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The way to it, "services[7].frontends[0].port": services by id, nodes by name, routes by
    /// prefix.
    pub field: String,
    /// What is wrong with it, for people.
    pub problem: String,
}

/// All that a node's programs are to know, but for its pods. Cloning takes constant time: the next
/// state shares with the one before what did not change.
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
    /// All nodes, this one too.
    pub nodes: OrdMap<NodeName, Node>,
    /// Service ports.
    pub services: OrdMap<ServiceId, Arc<Service>>,
    /// Pods' ranges, by VPC; the nodes that hold them.
    pub routes: OrdMap<(VpcId, IpNetwork), NodeName>,
    /// Whose the frontends of all services are.
    pub frontends: OrdMap<FrontendAt, Answer>,
    /// Addresses that packets from outside may ask for, and how many frontends each has.
    pub vips: OrdMap<(VpcId, IpAddr), u32>,
    /// Whose the backends of all services are.
    pub backends: OrdMap<BackendId, ServiceId>,
    /// How many services and routes each network has.
    pub networks: OrdMap<VpcId, u32>,
    node_names: OrdMap<u32, NodeName>,
}

/// A frontend's place: network, address, IP protocol, port.
pub type FrontendAt = (VpcId, IpAddr, u8, u16);

/// Who answers at a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The service.
    pub service: ServiceId,
    /// As [`Frontend::external`].
    pub external: bool,
}

/// What a change concerns: where the maps may differ from the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Anything.
    Everything,
    /// Some services, with what they have and had.
    Services(Touched),
}

/// Services that changed, came or went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// They.
    pub services: BTreeSet<ServiceId>,
    /// Their backends before and after.
    pub backends: BTreeSet<BackendId>,
    /// Their frontends before and after.
    pub frontends: BTreeSet<FrontendAt>,
}

impl Touched {
    fn add(&mut self, id: ServiceId, service: &Service) {
        self.services.insert(id);
        self.backends.extend(service.backends.keys());
        self.frontends.extend(service.places());
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Never 0.
    pub id: u32,
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

impl Service {
    fn places(&self) -> impl Iterator<Item = FrontendAt> {
        self.frontends
            .iter()
            .map(|at| (self.vpc, at.address, self.protocol, at.port))
    }
}

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
    /// Where it runs; empty if outside the cluster.
    pub node: NodeName,
    /// Its share of new connections, relative to the others of the service.
    pub weight: u32,
    /// Gets no new connections.
    pub draining: bool,
    /// What people call it.
    pub name: String,
}

/// Where a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// On this node.
    Here,
    /// On another node.
    Node(&'a Node),
    /// Outside the cluster, or on a node whose address is not known: reached by routing only.
    Elsewhere,
}

impl Desired {
    /// The state after `changes`, as sent to the node called `own`, and where it differs.
    pub fn advance(&self, changes: &Changes, own: &NodeName) -> Result<(Self, Scope), Invalid> {
        let mut next = if changes.is_whole {
            Self::default()
        } else {
            self.clone()
        };
        match &changes.parameters {
            Some(parameters) => next.set_parameters(parameters)?,
            None if changes.is_whole => return Err(invalid("parameters", "is missing")),
            None => {}
        }
        if changes.is_whole || !changes.nodes.is_empty() {
            next.change_nodes(&changes.nodes, own)?;
        }
        for ((vpc, prefix), route) in &changes.routes {
            next.change_route(*vpc, prefix, route.as_ref())?;
        }
        let touched = next.change_services(&changes.services)?;
        let is_local = !changes.is_whole
            && changes.parameters.is_none()
            && changes.nodes.is_empty()
            && changes.routes.is_empty();
        let scope = if is_local {
            Scope::Services(touched)
        } else {
            Scope::Everything
        };
        Ok((next, scope))
    }

    /// Where a backend runs.
    pub fn place(&self, backend: &Backend) -> Place<'_> {
        match self.nodes.get(&backend.node) {
            Some(node) if node.id == self.node_id => Place::Here,
            Some(node) => Place::Node(node),
            None => Place::Elsewhere,
        }
    }

    /// All nodes but this one.
    pub fn other_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.id != self.node_id)
    }

    /// The name of the node with this id.
    pub fn node_name(&self, id: u32) -> Option<&NodeName> {
        self.node_names.get(&id)
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
        self.cluster_ranges.clear();
        for (index, text) in parameters.cluster_cidrs.iter().enumerate() {
            let range = network(&format!("parameters.cluster_cidrs[{index}]"), text)?;
            self.cluster_ranges.insert(range);
        }
        Ok(())
    }

    fn change_nodes(
        &mut self,
        changes: &BTreeMap<String, Option<proto::NodeAddress>>,
        own: &NodeName,
    ) -> Result<(), Invalid> {
        for (name, node) in changes {
            match node {
                Some(node) => {
                    let at = format!("nodes[{name}]");
                    let node = Node {
                        id: nonzero(&at, "id", node.id)?,
                        address: address(&at, &node.address)?,
                    };
                    self.nodes.insert(NodeName::new(name), node);
                }
                None => drop(self.nodes.remove(&NodeName::new(name))),
            }
        }
        self.node_names.clear();
        let mut addresses = BTreeSet::new();
        for (name, Node { id, address }) in &self.nodes {
            if self.node_names.insert(*id, name.clone()).is_some() {
                let field = format!("nodes[{name}].id");
                return Err(invalid(&field, format!("{id} is given twice")));
            }
            if !addresses.insert(*address) {
                let field = format!("nodes[{name}].address");
                return Err(invalid(&field, format!("{address} is given twice")));
            }
        }
        let node = self
            .nodes
            .get(own)
            .ok_or_else(|| invalid("nodes", format!("this node, {own}, is not among them")))?;
        self.node_id = node.id;
        Ok(())
    }

    fn change_route(
        &mut self,
        vpc_number: u32,
        prefix: &str,
        route: Option<&proto::Route>,
    ) -> Result<(), Invalid> {
        let at = format!("routes[{prefix}]");
        let key = (
            vpc(&at, vpc_number)?,
            network(&format!("{at}.prefix"), prefix)?,
        );
        let previous = match route {
            Some(route) => self.routes.insert(key, NodeName::new(&route.node)),
            None => self.routes.remove(&key),
        };
        match (previous, route) {
            (None, Some(_)) => count_up(&mut self.networks, key.0),
            (Some(_), None) => count_down(&mut self.networks, key.0),
            (Some(_), Some(_)) | (None, None) => {}
        }
        Ok(())
    }

    fn change_services(
        &mut self,
        changes: &BTreeMap<u32, Option<proto::Service>>,
    ) -> Result<Touched, Invalid> {
        let mut touched = Touched::default();
        let mut changed = Vec::new();
        for (&number, service) in changes {
            let at = format!("services[{number}]");
            let id = ServiceId(nonzero(&at, "id", number)?);
            let checked = match service {
                Some(service) => Some(check_service(&at, service)?),
                None => None,
            };
            if self.services.get(&id).map(|held| &**held) == checked.as_ref() {
                continue;
            }
            // All that goes makes room before anything comes: a frontend may change hands.
            if let Some(before) = self.services.remove(&id) {
                touched.add(id, &before);
                self.release(&before);
            }
            changed.extend(checked.map(|checked| (at, id, checked)));
        }
        for (at, id, service) in changed {
            touched.add(id, &service);
            self.claim(&at, id, &service)?;
            self.services.insert(id, Arc::new(service));
        }
        Ok(touched)
    }

    /// Enters what only one service may have, and refuses what another has.
    fn claim(&mut self, at: &str, id: ServiceId, service: &Service) -> Result<(), Invalid> {
        count_up(&mut self.networks, service.vpc);
        for (index, (place, frontend)) in service.places().zip(&service.frontends).enumerate() {
            let answer = Answer {
                service: id,
                external: frontend.external,
            };
            if self.frontends.insert(place, answer).is_some() {
                let Frontend { address, port, .. } = frontend;
                return Err(invalid(
                    &format!("{at}.frontends[{index}]"),
                    format!("{address} port {port} is given twice"),
                ));
            }
            if frontend.external {
                count_up(&mut self.vips, (service.vpc, frontend.address));
            }
        }
        for backend in service.backends.keys() {
            if let Some(other) = self.backends.insert(*backend, id) {
                return Err(invalid(
                    &format!("{at}.backends"),
                    format!("id {backend} is service {other}'s as well"),
                ));
            }
        }
        Ok(())
    }

    fn release(&mut self, service: &Service) {
        count_down(&mut self.networks, service.vpc);
        for (place, frontend) in service.places().zip(&service.frontends) {
            self.frontends.remove(&place);
            if frontend.external {
                count_down(&mut self.vips, (service.vpc, frontend.address));
            }
        }
        for backend in service.backends.keys() {
            self.backends.remove(backend);
        }
    }
}

fn count_up<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: K) {
    *counts.entry(key).or_insert(0) += 1;
}

fn count_down<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: K) {
    let left = counts.get(&key).map_or(0, |count| count - 1);
    if left == 0 {
        counts.remove(&key);
    } else {
        counts.insert(key, left);
    }
}

fn check_service(at: &str, service: &proto::Service) -> Result<Service, Invalid> {
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
        let frontend = check_frontend(&format!("{at}.frontends[{index}]"), frontend)?;
        checked.frontends.push(frontend);
    }
    for (index, backend) in service.backends.iter().enumerate() {
        let at = format!("{at}.backends[{index}]");
        let id = BackendId(nonzero(&at, "id", backend.id)?);
        let backend = check_backend(&at, backend)?;
        if checked.backends.insert(id, backend).is_some() {
            return Err(invalid(&format!("{at}.id"), format!("{id} is given twice")));
        }
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

fn check_backend(at: &str, backend: &proto::Backend) -> Result<Backend, Invalid> {
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
        node: NodeName::new(&backend.node),
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
mod tests;
