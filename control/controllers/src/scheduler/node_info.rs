use std::{collections::HashMap, sync::Arc};

use fairlead_objects::Object;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::requests::{self, Amounts};
use crate::replica_set::claim;

/// A host port: protocol, address ("0.0.0.0" is every one), number.
pub(super) type HostPort = (String, String, i32);

/// What the scheduler remembers of a pod on a node.
#[derive(Clone, Debug)]
pub(super) struct Resident {
    pub(super) requests: Amounts,
    pub(super) scored: Amounts,
    pub(super) ports: Vec<HostPort>,
    /// The uid of its controller.
    pub(super) owner: Option<String>,
}

impl Resident {
    pub(super) fn new(pod: &Pod) -> Self {
        Self {
            requests: requests::of_pod(pod),
            scored: requests::of_pod_for_scores(pod),
            ports: host_ports(pod),
            owner: claim::any_controller(pod).map(|owner| owner.uid.clone()),
        }
    }
}

/// A node and what is on it.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeInfo {
    /// `None` while only its pods are known.
    pub(super) node: Option<Arc<Node>>,
    pub(super) allocatable: Amounts,
    pub(super) requested: Amounts,
    pub(super) scored: Amounts,
    residents: HashMap<String, Resident>,
}

impl NodeInfo {
    pub(super) fn set_node(&mut self, node: Option<Arc<Node>>) {
        let status = node.as_ref().and_then(|node| node.status.as_ref());
        self.allocatable = requests::amounts(
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref())),
        );
        self.node = node;
    }

    pub(super) fn name(&self) -> String {
        self.node
            .as_ref()
            .map(|node| node.object_name().name)
            .unwrap_or_default()
    }

    pub(super) fn insert(&mut self, uid: &str, resident: Resident) {
        self.remove(uid);
        requests::add(&mut self.requested, &resident.requests);
        requests::add(&mut self.scored, &resident.scored);
        self.residents.insert(uid.to_owned(), resident);
    }

    pub(super) fn remove(&mut self, uid: &str) {
        if let Some(resident) = self.residents.remove(uid) {
            requests::subtract(&mut self.requested, &resident.requests);
            requests::subtract(&mut self.scored, &resident.scored);
        }
    }

    pub(super) fn residents(&self) -> impl Iterator<Item = &Resident> {
        self.residents.values()
    }

    pub(super) fn count(&self) -> usize {
        self.residents.len()
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let is_host = spec.host_network.unwrap_or(false);
    spec.containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.or(is_host.then_some(port.container_port))?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port.host_ip.clone().filter(|address| !address.is_empty());
            let address = address.unwrap_or_else(|| "0.0.0.0".to_owned());
            (number > 0).then_some((protocol, address, number))
        })
        .collect()
}
