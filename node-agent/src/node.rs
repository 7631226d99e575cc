//! The node as the control plane sees it: the `Node` object it registers, the status it reports.

use fairlead_pods::NodeResources;
use serde_json::{Value, json};

use crate::config::Config;

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
pub(crate) fn object(config: &Config, resources: &NodeResources, readiness: &Readiness) -> Value {
    let name = config.node_name.as_str();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture(),
            },
        },
        "spec": {},
        "status": status(config, resources, readiness, jiff::Timestamp::now()),
    })
}

/// A v1.NodeStatus as JSON.
pub(crate) fn status(
    config: &Config,
    resources: &NodeResources,
    readiness: &Readiness,
    now: jiff::Timestamp,
) -> Value {
    let amounts = json!({
        "cpu": format!("{}m", resources.cpu_millis),
        "memory": format!("{}Ki", resources.memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", resources.ephemeral_storage_bytes / 1024),
        "pods": resources.pods.to_string(),
    });
    json!({
        "addresses": [
            {"type": "InternalIP", "address": config.address.to_string()},
            {"type": "Hostname", "address": config.node_name.as_str()},
        ],
        "capacity": amounts,
        "allocatable": amounts,
        "conditions": [readiness.condition(now)],
        "nodeInfo": {
            "architecture": architecture(),
            "bootID": resources.boot_id,
            "containerRuntimeVersion": format!("fairlead://{}", env!("CARGO_PKG_VERSION")),
            "kernelVersion": resources.kernel_version,
            "kubeProxyVersion": "",
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-fairlead"),
            "machineID": resources.machine_id,
            "operatingSystem": "linux",
            "osImage": resources.os_image,
            "systemUUID": resources.machine_id,
        },
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
    })
}

/// Go's name of this machine's architecture, which Kubernetes uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
