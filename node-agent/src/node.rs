//! The node as the control plane sees it: the `Node` object it registers, the status it reports.

use std::path::Path;

use fairlead_api::Generation;
use serde_json::{Value, json};

use crate::config::{Config, PODS_MAX};

/// Why a node does not take pods, or that it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nothing has been applied yet.
    Starting,
    /// The last state is in the maps.
    Ready,
    /// The last state could not be applied.
    DataplaneFailed(String),
}

impl Readiness {
    /// What an agent that has just started finds: maps that hold a generation forward by it, so
    /// the node is as ready as it was.
    pub(crate) fn of_adopted(held: Generation) -> Self {
        if held == Generation::default() {
            Self::Starting
        } else {
            Self::Ready
        }
    }

    fn condition(&self, now: jiff::Timestamp) -> Value {
        let (status, reason, message) = match self {
            Self::Starting => (
                "False",
                "DataplaneNotReady",
                "no state has been applied yet".into(),
            ),
            Self::Ready => (
                "True",
                "AgentReady",
                "the dataplane holds the desired state".into(),
            ),
            Self::DataplaneFailed(error) => ("False", "DataplaneFailed", error.clone()),
        };
        json!({
            "type": "Ready",
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": seconds(now),
            "lastTransitionTime": seconds(now),
        })
    }
}

/// A v1.Node as JSON, to register with.
pub(crate) fn object(config: &Config, data_dir: &Path, readiness: &Readiness) -> Value {
    let name = config.node_name.as_str();
    let info = fairlead_pods::node_info();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": info.operating_system,
                "kubernetes.io/arch": info.architecture,
            },
        },
        "spec": {},
        "status": status(config, data_dir, readiness, jiff::Timestamp::now()),
    })
}

/// A v1.NodeStatus as JSON.
pub(crate) fn status(
    config: &Config,
    data_dir: &Path,
    readiness: &Readiness,
    now: jiff::Timestamp,
) -> Value {
    let resources = fairlead_pods::node_resources(data_dir, PODS_MAX);
    json!({
        "addresses": [
            {"type": "InternalIP", "address": config.address.to_string()},
            {"type": "Hostname", "address": config.node_name.as_str()},
        ],
        "capacity": resources,
        "allocatable": resources,
        "conditions": [readiness.condition(now)],
        "nodeInfo": fairlead_pods::node_info(),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
    })
}

fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
