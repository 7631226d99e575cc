//! The state a node's maps should be in, checked: what the control plane sent, turned into types
//! that cannot be wrong. A message with one bad field is refused whole, and the error names it.

mod field;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{BackendId, NodeName, ServiceId, VpcId};
use fairlead_dataplane_common::maps;
use fairlead_proto::node as proto;
use imbl::OrdMap;
use ipnetwork::IpNetwork;

use crate::changes::Changes;
pub use crate::forwarding::Forwarding;
pub use field::Invalid;
use field::{address, invalid, network, nonzero, port, vpc};
pub use service::{
    Backend, Frontend, HealthCheck, HealthCheckKind, Scheduler, Service, Timeouts, Tunnel,
};

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
    /// The same of whole prefixes.
    pub vip_prefixes: OrdMap<(VpcId, IpNetwork), u32>,
    /// Whose the node ports are, at this node's addresses and all others'.
    pub node_ports: OrdMap<NodePortAt, ServiceId>,
    /// Whose the backends of all services are.
    pub backends: OrdMap<BackendId, ServiceId>,
    /// Machines outside the cluster that are backends, and of how many services' ports.
    pub servers: OrdMap<IpAddr, u32>,
    /// Which node answers for a VIP on its segment.
    pub announcements: OrdMap<IpAddr, NodeName>,
    /// How many services and routes each network has.
    pub networks: OrdMap<VpcId, u32>,
    node_names: OrdMap<u32, NodeName>,
}

/// The network of the nodes themselves, and of all that has no other.
pub const DEFAULT_NETWORK: VpcId = VpcId(0);

/// A frontend's place: network, address or prefix, IP protocol, port. An address is a prefix in which
/// every bit counts.
pub type FrontendAt = (VpcId, IpNetwork, u8, u16);

/// The one address in `range`, unless it is a prefix that has more.
pub fn single(range: IpNetwork) -> Option<IpAddr> {
    let all = if range.is_ipv4() { 32 } else { 128 };
    (range.prefix() == all).then(|| range.ip())
}

/// The [`depth`] of VIPs that programs follow.
pub const DEPTH_MAX: usize = maps::VIP_PREFIXES_NESTED_MAX as usize;

/// In how many of these prefixes, which come in their order, an address is at most.
pub fn depth<'a>(prefixes: impl IntoIterator<Item = &'a (VpcId, IpNetwork)>) -> usize {
    let mut around: Vec<&(VpcId, IpNetwork)> = Vec::new();
    let mut most = 0;
    // One comes before those that are in it.
    for prefix in prefixes {
        around.retain(|(vpc, wider)| *vpc == prefix.0 && wider.contains(prefix.1.ip()));
        around.push(prefix);
        most = most.max(around.len());
    }
    most
}

/// `range` as people write it: an address without a length.
pub fn range_text(range: IpNetwork) -> String {
    single(range).map_or_else(|| range.to_string(), |address| address.to_string())
}

/// A node port's place: whether at IPv4 addresses, IP protocol, port.
pub type NodePortAt = (bool, u8, u16);

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
    /// Their node ports before and after.
    pub node_ports: BTreeSet<NodePortAt>,
    /// The machines outside the cluster that are their backends, before and after.
    pub servers: BTreeSet<IpAddr>,
    /// VIPs whose announcements changed, or that may be none any more.
    pub addresses: BTreeSet<(VpcId, IpNetwork)>,
}

impl Touched {
    fn add(&mut self, id: ServiceId, service: &Service) {
        self.services.insert(id);
        self.backends.extend(service.backends.keys());
        self.frontends.extend(service.places());
        self.node_ports.extend(service.node_port_places());
        self.servers.extend(service.servers());
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Never 0.
    pub id: u32,
    /// Where it is reached.
    pub address: IpAddr,
    /// Its address of the other family, if it has one. No packet is encapsulated for it.
    pub other_address: Option<IpAddr>,
    /// The control plane has not heard of it for too long.
    pub silent: bool,
}

impl Node {
    /// All addresses it has.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.address), self.other_address]
            .into_iter()
            .flatten()
    }
}

/// Where a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// On this node.
    Here,
    /// On another node.
    Node(&'a Node),
    /// A machine outside the cluster, at this address.
    Server(IpAddr),
    /// On a node whose address is not known, or outside in a network of a tenant's: not reached.
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
        let mut touched = next.change_services(&changes.services)?;
        touched.addresses = next.change_announcements(&changes.announcements)?;
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

    /// What concerns these services as they are, and nothing beside.
    pub fn touching(&self, services: impl IntoIterator<Item = ServiceId>) -> Touched {
        let mut touched = Touched::default();
        for id in services {
            if let Some(service) = self.services.get(&id) {
                touched.add(id, service);
            }
        }
        touched
    }

    /// Where a backend runs.
    pub fn place(&self, backend: &Backend) -> Place<'_> {
        match self.nodes.get(&backend.node) {
            Some(node) if node.id == self.node_id => Place::Here,
            Some(node) => Place::Node(node),
            None if backend.is_outside() => Place::Server(backend.address),
            None => Place::Elsewhere,
        }
    }

    /// Whether a backend may be dead, because its node has not been heard of. This node knows better
    /// of itself.
    pub fn is_silent(&self, backend: &Backend) -> bool {
        matches!(self.place(backend), Place::Node(node) if node.silent)
    }

    /// All nodes but this one.
    pub fn other_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.id != self.node_id)
    }

    /// The VIPs that this node answers for on its segment.
    pub fn announced(&self) -> BTreeSet<IpAddr> {
        let vips = self.announcements.keys().copied();
        vips.filter(|vip| self.announces(*vip) && self.vips.contains_key(&(DEFAULT_NETWORK, *vip)))
            .collect()
    }

    /// The state in which nobody is known to answer for `vips`, and where it differs: somebody else
    /// was heard to, and the control plane, which knows who should, is out of reach.
    pub fn without_announcements(&self, vips: &BTreeSet<IpAddr>) -> (Self, Scope) {
        let mut next = self.clone();
        for vip in vips {
            next.announcements.remove(vip);
        }
        let touched = Touched {
            addresses: vips
                .iter()
                .map(|vip| (DEFAULT_NETWORK, (*vip).into()))
                .collect(),
            ..Touched::default()
        };
        (next, Scope::Services(touched))
    }

    /// Whether this node answers for a VIP on its segment.
    pub fn announces(&self, vip: IpAddr) -> bool {
        let holder = self.announcements.get(&vip);
        holder.is_some_and(|name| self.node_names.get(&self.node_id) == Some(name))
    }

    /// This node's own addresses, at which node ports answer.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes
            .values()
            .filter(|node| node.id == self.node_id)
            .flat_map(Node::addresses)
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
                        other_address: other_address(&at, node)?,
                        silent: node.silent,
                    };
                    self.nodes.insert(NodeName::new(name), node);
                }
                None => drop(self.nodes.remove(&NodeName::new(name))),
            }
        }
        self.node_names.clear();
        let mut addresses = BTreeSet::new();
        for (name, node) in &self.nodes {
            let Node { id, .. } = node;
            if self.node_names.insert(*id, name.clone()).is_some() {
                let field = format!("nodes[{name}].id");
                return Err(invalid(&field, format!("{id} is given twice")));
            }
            for address in node.addresses() {
                if !addresses.insert(address) {
                    let field = format!("nodes[{name}].address");
                    return Err(invalid(&field, format!("{address} is given twice")));
                }
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

    /// The VIPs whose announcements are others than before.
    fn change_announcements(
        &mut self,
        changes: &BTreeMap<Bytes, Option<proto::Announcement>>,
    ) -> Result<BTreeSet<(VpcId, IpNetwork)>, Invalid> {
        let mut touched = BTreeSet::new();
        for (bytes, announcement) in changes {
            let vip = address("announcements[]", bytes)?;
            let holder = announcement.as_ref().map(|one| NodeName::new(&one.node));
            if holder.as_ref().is_some_and(|node| node.as_str().is_empty()) {
                return Err(invalid(&format!("announcements[{vip}].node"), "is missing"));
            }
            if self.announcements.get(&vip) == holder.as_ref() {
                continue;
            }
            match holder {
                Some(node) => drop(self.announcements.insert(vip, node)),
                None => drop(self.announcements.remove(&vip)),
            }
            touched.insert((DEFAULT_NETWORK, vip.into()));
        }
        Ok(touched)
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
                Some(service) => Some(Service::check(&at, service)?),
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
                let address = range_text(*address);
                return Err(invalid(
                    &format!("{at}.frontends[{index}]"),
                    format!("{address} port {port} is given twice"),
                ));
            }
            if frontend.external {
                match single(frontend.address) {
                    Some(address) => count_up(&mut self.vips, (service.vpc, address)),
                    None => count_up(&mut self.vip_prefixes, (service.vpc, frontend.address)),
                }
            }
        }
        for place in service.node_port_places() {
            if let Some(other) = self.node_ports.insert(place, id) {
                return Err(invalid(
                    &format!("{at}.node_port"),
                    format!("{} is service {other}'s as well", place.2),
                ));
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
        for server in service.servers() {
            count_up(&mut self.servers, server);
        }
        Ok(())
    }

    fn release(&mut self, service: &Service) {
        count_down(&mut self.networks, service.vpc);
        for (place, frontend) in service.places().zip(&service.frontends) {
            self.frontends.remove(&place);
            if frontend.external {
                match single(frontend.address) {
                    Some(address) => count_down(&mut self.vips, (service.vpc, address)),
                    None => count_down(&mut self.vip_prefixes, (service.vpc, frontend.address)),
                }
            }
        }
        for place in service.node_port_places() {
            self.node_ports.remove(&place);
        }
        for backend in service.backends.keys() {
            self.backends.remove(backend);
        }
        for server in service.servers() {
            count_down(&mut self.servers, server);
        }
    }
}

/// A node's second address, which is of the other family than its first.
fn other_address(at: &str, node: &proto::NodeAddress) -> Result<Option<IpAddr>, Invalid> {
    if node.other_address.is_empty() {
        return Ok(None);
    }
    let field = format!("{at}.other_address");
    let other = address(at, &node.other_address).map_err(|wrong| Invalid {
        field: field.clone(),
        ..wrong
    })?;
    if node.other_address.len() == node.address.len() {
        let problem = format!("{other} is of the same family as its address");
        return Err(invalid(&field, problem));
    }
    Ok(Some(other))
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

#[cfg(test)]
mod tests;
