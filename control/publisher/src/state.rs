use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use bytes::Bytes;
use fairlead_api::Generation;
use fairlead_proto::node;

use crate::announcements::Vip;

/// What all nodes forward by. Every node gets the same, so that every node picks the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Dataplane {
    pub(crate) parameters: node::Parameters,
    /// By id. One that did not change is the same as in the state before.
    pub(crate) services: BTreeMap<u32, Arc<node::Service>>,
    /// By name.
    pub(crate) nodes: BTreeMap<String, node::NodeAddress>,
    /// By VPC and prefix.
    pub(crate) routes: BTreeMap<(u32, String), node::Route>,
    /// By address, as octets.
    pub(crate) announcements: BTreeMap<Bytes, node::Announcement>,
    /// By VPC and name.
    pub(crate) dns_namespaces: BTreeSet<(u32, String)>,
    /// By VPC, namespace and name. One that did not change is the same as in the state before.
    pub(crate) dns_names: BTreeMap<(u32, String, String), Arc<node::DnsName>>,
}

/// Namespace, name, uid.
pub(crate) type PodKey = (String, String, String);
/// Kind, namespace, name.
pub(crate) type ObjectKey = (String, String, String);

/// A pod as its node gets it. Two are equal if the node should do the same about them: what a node
/// itself reported must not come back to it as news, but a new session of its agent is told.
#[derive(Clone, Debug)]
pub(crate) struct PublishedPod {
    /// The pod without its status, as JSON.
    pub(crate) wanted: Bytes,
    /// With it.
    pub(crate) json: Bytes,
}

impl PartialEq for PublishedPod {
    fn eq(&self, other: &Self) -> bool {
        self.wanted == other.wanted
    }
}

/// What one node should run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Workload {
    /// The pods bound to it.
    pub(crate) pods: BTreeMap<PodKey, PublishedPod>,
    /// The ConfigMaps and Secrets they refer to, as JSON.
    pub(crate) objects: BTreeMap<ObjectKey, Bytes>,
    /// The ranges it gives addresses from, one a family; empty until allocated.
    pub(crate) pod_cidrs: Vec<String>,
}

/// The desired state of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeState {
    pub(crate) generation: Generation,
    pub(crate) dataplane: Arc<Dataplane>,
    pub(crate) workload: Arc<Workload>,
}

/// The desired state of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) generation: Generation,
    pub(crate) dataplane: Arc<Dataplane>,
    /// By node.
    pub(crate) workloads: BTreeMap<String, Arc<Workload>>,
    /// The addresses that one node answers for.
    pub(crate) vips: BTreeMap<IpAddr, Vip>,
    /// The nodes that may.
    pub(crate) announcers: BTreeSet<String>,
    /// Pods that were asked to go since the state before, and their addresses.
    pub(crate) departures: BTreeMap<PodKey, BTreeSet<Bytes>>,
}

impl Compiled {
    /// The part of one node; `None` while no other node could reach it, because it is not
    /// registered, has no address yet, or was removed.
    pub(crate) fn of_node(&self, name: &str) -> Option<NodeState> {
        self.dataplane.nodes.contains_key(name).then(|| NodeState {
            generation: self.generation,
            dataplane: self.dataplane.clone(),
            workload: self.workloads.get(name).cloned().unwrap_or_default(),
        })
    }
}
