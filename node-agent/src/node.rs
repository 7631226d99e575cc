//! The node as the control plane sees it: the `Node` object it registers, the status it reports.

use std::path::Path;

use fairlead_api::Generation;
use fairlead_pods::Pressure;
use fairlead_proto::node::Event;
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
        condition("Ready", status, reason, &message, now)
    }
}

/// Whether the machine withholds capabilities from every container. Pods run all the same, with
/// what there is; a workload that misses one finds the reason here.
fn capabilities_condition(missing: &[&str], now: jiff::Timestamp) -> Value {
    let (status, reason, message) = match missing {
        [] => (
            "False",
            "MachineGrantsAll",
            "containers can have every capability".to_owned(),
        ),
        names => (
            "True",
            "MachineWithholds",
            format!("containers cannot have {}", names.join(", ")),
        ),
    };
    condition("CapabilitiesLimited", status, reason, &message, now)
}

/// What the machine runs short of, in kubelet's words.
fn pressure_conditions(pressure: Pressure, now: jiff::Timestamp) -> [Value; 3] {
    [
        (
            "MemoryPressure",
            pressure.memory,
            (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
        ),
        (
            "DiskPressure",
            pressure.disk,
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ),
        (
            "PIDPressure",
            pressure.processes,
            (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
            (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
        ),
    ]
    .map(|(type_, is_short, plenty, short)| {
        let (status, (reason, message)) = if is_short {
            ("True", short)
        } else {
            ("False", plenty)
        };
        condition(type_, status, reason, message, now)
    })
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: jiff::Timestamp,
) -> Value {
    json!({
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": seconds(now),
        "lastTransitionTime": seconds(now),
    })
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
    let internal = config
        .addresses()
        .map(|address| json!({"type": "InternalIP", "address": address}));
    let name = json!({"type": "Hostname", "address": config.node_name.as_str()});
    let mut conditions = pressure_conditions(Pressure::probe(data_dir), now).to_vec();
    conditions.push(capabilities_condition(
        &fairlead_pods::missing_capabilities(),
        now,
    ));
    conditions.push(readiness.condition(now));
    json!({
        "addresses": internal.chain([name]).collect::<Vec<_>>(),
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions,
        "nodeInfo": fairlead_pods::node_info(),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
    })
}

/// The news that this process has begun.
pub(crate) fn starting(config: &Config) -> Event {
    let name = config.node_name.as_str();
    Event {
        kind: "Node".to_owned(),
        name: name.to_owned(),
        // As kubelet's: a node knows itself by its name.
        uid: name.to_owned(),
        r#type: "Normal".to_owned(),
        reason: "Starting".to_owned(),
        message: "Starting fairlead-agent.".to_owned(),
        ..Event::default()
    }
}

fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_is_a_condition_of_its_own() {
        let pressure = Pressure {
            disk: true,
            ..Pressure::default()
        };
        let conditions = pressure_conditions(pressure, jiff::Timestamp::UNIX_EPOCH);
        let told = conditions.each_ref().map(|condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default();
            (text("type"), text("status"), text("reason"))
        });
        assert_eq!(
            told,
            [
                ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                ("DiskPressure", "True", "KubeletHasDiskPressure"),
                ("PIDPressure", "False", "KubeletHasSufficientPID"),
            ]
        );
    }

    #[test]
    fn capabilities_the_machine_withholds_are_named_in_a_condition() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let limited = capabilities_condition(&["CAP_SYS_RESOURCE", "CAP_BPF"], now);
        assert_eq!(limited["type"], "CapabilitiesLimited");
        assert_eq!(limited["status"], "True");
        assert_eq!(
            limited["message"],
            "containers cannot have CAP_SYS_RESOURCE, CAP_BPF"
        );
        assert_eq!(capabilities_condition(&[], now)["status"], "False");
    }
}
