//! What agents report, written to the store: nodes, leases, pods' statuses, events. An agent can
//! write only about its own node and the pods bound to it.

use fairlead_api::resource;
use fairlead_objects::{About, EventType, Grace, Object, ObjectName, Recorder, WriteError, Writer};
use fairlead_proto::node;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeStatus, Pod, PodStatus, Service},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use tracing::{info, warn};

const LEASES: &str = "kube-node-lease";

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not what it should be.
    #[error("{what} of node {node} cannot be read")]
    Decode {
        what: &'static str,
        node: String,
        #[source]
        source: serde_json::Error,
    },
    /// It could not be written.
    #[error("report of node {node} not written")]
    Write {
        node: String,
        #[source]
        source: WriteError,
    },
}

/// Takes the reports of one node's session.
pub(crate) struct Reports {
    node: String,
    writer: Writer,
    recorder: Recorder,
    lease_seconds: i32,
    /// What the node last said of itself, to say it again should it have been declared dead.
    last_status: Option<NodeStatus>,
}

impl Reports {
    pub(crate) fn new(node: &str, writer: Writer, recorder: &Recorder, lease_seconds: i32) -> Self {
        Self {
            node: node.to_owned(),
            writer,
            recorder: recorder.speaking_as("kubelet", Some(node)),
            lease_seconds,
            last_status: None,
        }
    }

    /// Creates the Node, or takes over what its agent says of it. What others keep there (the
    /// spec: taints, cordon, pod range; labels the agent does not set) stays.
    pub(crate) async fn register(&mut self, node_json: &[u8]) -> Result<(), Error> {
        let mut reported: Node = self.decode("the object", node_json)?;
        reported.metadata = ObjectMeta {
            name: Some(self.node.clone()),
            labels: reported.metadata.labels,
            annotations: reported.metadata.annotations,
            ..ObjectMeta::default()
        };
        self.last_status = reported.status.clone();
        let name = ObjectName::cluster(&self.node);
        match self.writer.create(reported.clone()).await {
            Ok(_) => {
                info!(node = self.node, "node registered");
                return self.heartbeat().await;
            }
            Err(WriteError::Exists(_)) => {}
            Err(source) => return Err(self.not_written(source)),
        }
        let change = |node: &mut Node| {
            let (labels, annotations) = (&reported.metadata.labels, &reported.metadata.annotations);
            if let Some(labels) = labels {
                node.metadata
                    .labels
                    .get_or_insert_default()
                    .extend(labels.clone());
            }
            if let Some(annotations) = annotations {
                node.metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations.clone());
            }
            if let Some(status) = &reported.status {
                set_node_status(node, status);
            }
        };
        let before = self.writer.get::<Node>(&name).ok().flatten();
        let written = self.writer.update::<Node>(&name, None, change).await;
        written.map_err(|source| self.not_written(source))?;
        self.tell_readiness(before.as_ref()).await;
        self.heartbeat().await
    }

    /// Takes over the node's status.
    pub(crate) async fn node_status(&mut self, status_json: &[u8]) -> Result<(), Error> {
        let status: NodeStatus = self.decode("the status", status_json)?;
        let name = ObjectName::cluster(&self.node);
        let change = |node: &mut Node| set_node_status(node, &status);
        let before = self.writer.get::<Node>(&name).ok().flatten();
        let written = self.writer.update::<Node>(&name, None, change).await;
        self.last_status = Some(status.clone());
        self.done(written)?;
        self.tell_readiness(before.as_ref()).await;
        Ok(())
    }

    /// Records that the node became ready, or no longer is.
    async fn tell_readiness(&self, before: Option<&Node>) {
        let (Some(before), Some(status)) = (before, &self.last_status) else {
            return;
        };
        let was_ready = before.status.as_ref().is_some_and(is_ready);
        let reason = match (was_ready, is_ready(status)) {
            (false, true) => "NodeReady",
            (true, false) => "NodeNotReady",
            _ => return,
        };
        let message = format!("Node {} status is now: {reason}", self.node);
        self.recorder
            .record(&About::object(before), EventType::Normal, reason, message)
            .await;
    }

    /// Renews the node's lease; a node that was declared dead is alive again.
    pub(crate) async fn heartbeat(&mut self) -> Result<(), Error> {
        let now = MicroTime(Timestamp::now());
        let name = ObjectName::new(LEASES, &self.node);
        let renew = |lease: &mut Lease| {
            let spec = lease.spec.get_or_insert_default();
            spec.renew_time = Some(now.clone());
            spec.holder_identity = Some(self.node.clone());
            spec.lease_duration_seconds = Some(self.lease_seconds);
        };
        match self.writer.update::<Lease>(&name, None, renew).await {
            Err(WriteError::Missing(_)) => {
                let created = self.writer.create(self.lease(now.clone())).await;
                created.map_err(|source| self.not_written(source))?;
            }
            other => {
                other.map_err(|source| self.not_written(source))?;
            }
        }
        let Some(status) = self.last_status.clone() else {
            return Ok(());
        };
        let written = self
            .writer
            .update::<Node>(&ObjectName::cluster(&self.node), None, |node| {
                if is_declared_dead(node) {
                    set_node_status(node, &status);
                }
            })
            .await;
        self.done(written)
    }

    /// Takes over a pod's status. Conditions the node does not report are other writers'.
    pub(crate) async fn pod_status(&self, report: &node::PodStatus) -> Result<(), Error> {
        let status: PodStatus = self.decode("a pod's status", &report.status_json)?;
        let name = ObjectName::new(&report.namespace, &report.name);
        let change = |pod: &mut Pod| {
            if self.is_ours(pod) {
                let old = pod.status.take().unwrap_or_default();
                pod.status = Some(merged(old, status.clone()));
            }
        };
        self.done(
            self.writer
                .update::<Pod>(&name, Some(&report.uid), change)
                .await,
        )
    }

    /// Nothing is left of a pod on its node: if it was to go, it goes now.
    pub(crate) async fn pod_gone(&self, report: &node::PodGone) -> Result<(), Error> {
        let name = ObjectName::new(&report.namespace, &report.name);
        let pod = self
            .writer
            .get::<Pod>(&name)
            .map_err(|source| self.not_written(source))?;
        let Some(pod) = pod.filter(|pod| pod.uid() == report.uid && self.is_ours(pod)) else {
            return Ok(());
        };
        if !pod.is_terminating() {
            warn!(node = self.node, pod = %name, "reported gone, but nobody asked for that");
            return Ok(());
        }
        let deleted = self
            .writer
            .delete(&resource::POD, &name, Some(&report.uid), Grace::Immediate)
            .await;
        self.done(deleted)
    }

    /// Records an event about the node, one of its pods, or a Service.
    pub(crate) async fn event(&self, event: &node::Event) -> Result<(), Error> {
        let mut uid = event.uid.clone();
        let name = match event.kind.as_str() {
            "Node" if event.name == self.node => ObjectName::cluster(&event.name),
            "Pod" => {
                let name = ObjectName::new(&event.namespace, &event.name);
                let pod = self
                    .writer
                    .get::<Pod>(&name)
                    .map_err(|source| self.not_written(source))?;
                if !pod.is_some_and(|pod| self.is_ours(&pod)) {
                    return Ok(());
                }
                name
            }
            // Agents look after servers outside the cluster and after ports of Services.
            "Service" => {
                let name = ObjectName::new(&event.namespace, &event.name);
                let service = self
                    .writer
                    .get::<Service>(&name)
                    .map_err(|source| self.not_written(source))?;
                let Some(found) = service.and_then(|service| service.metadata.uid) else {
                    return Ok(());
                };
                uid = found;
                name
            }
            kind => {
                warn!(
                    node = self.node,
                    kind,
                    name = event.name,
                    "event about something not the node's"
                );
                return Ok(());
            }
        };
        let about = About {
            api_version: "v1".to_owned(),
            kind: event.kind.clone(),
            name,
            uid,
        };
        let event_type = if event.r#type == "Warning" {
            EventType::Warning
        } else {
            EventType::Normal
        };
        self.recorder
            .record(&about, event_type, &event.reason, event.message.clone())
            .await;
        Ok(())
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&self.node)
    }

    fn lease(&self, now: MicroTime) -> Lease {
        let name = ObjectName::cluster(&self.node);
        // The lease goes with its node.
        let node = self.writer.get::<Node>(&name).ok().flatten();
        let owner = node.map(|node| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid: node.uid().to_owned(),
            ..OwnerReference::default()
        });
        Lease {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                namespace: Some(LEASES.to_owned()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.node.clone()),
                lease_duration_seconds: Some(self.lease_seconds),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    fn decode<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        json: &[u8],
    ) -> Result<T, Error> {
        serde_json::from_slice(json).map_err(|source| Error::Decode {
            what,
            node: self.node.clone(),
            source,
        })
    }

    /// A report about what is gone is late, not wrong.
    fn done<T>(&self, written: Result<T, WriteError>) -> Result<(), Error> {
        match written {
            Ok(_) | Err(WriteError::Missing(_)) => Ok(()),
            Err(source) => Err(self.not_written(source)),
        }
    }

    fn not_written(&self, source: WriteError) -> Error {
        Error::Write {
            node: self.node.clone(),
            source,
        }
    }
}

fn set_node_status(node: &mut Node, status: &NodeStatus) {
    let old = node.status.take().unwrap_or_default();
    let mut new = status.clone();
    keep_transitions(old.conditions.as_deref(), new.conditions.as_deref_mut());
    node.status = Some(new);
}

/// A condition that did not change keeps the time of its last change.
fn keep_transitions(
    old: Option<&[k8s_openapi::api::core::v1::NodeCondition]>,
    new: Option<&mut [k8s_openapi::api::core::v1::NodeCondition]>,
) {
    for condition in new.into_iter().flatten() {
        let same = old
            .into_iter()
            .flatten()
            .find(|old| old.type_ == condition.type_ && old.status == condition.status);
        if let Some(same) = same {
            condition.last_transition_time = same.last_transition_time.clone();
        }
    }
}

fn is_ready(status: &NodeStatus) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the node's Lease ran out: nobody has spoken for it since.
pub(crate) fn is_declared_dead(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

fn merged(old: PodStatus, mut new: PodStatus) -> PodStatus {
    let mut conditions = new.conditions.take().unwrap_or_default();
    for condition in old.conditions.into_iter().flatten() {
        match conditions
            .iter_mut()
            .find(|reported| reported.type_ == condition.type_)
        {
            Some(reported) if reported.status == condition.status => {
                reported.last_transition_time = condition.last_transition_time;
            }
            Some(_) => {}
            None => conditions.push(condition),
        }
    }
    new.conditions = Some(conditions).filter(|conditions| !conditions.is_empty());
    new.qos_class = new.qos_class.or(old.qos_class);
    new.start_time = old.start_time.or(new.start_time);
    new
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reported_status_keeps_conditions_and_times_of_others() {
        let old = serde_json::from_value(json!({
            "qosClass": "Burstable",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
            ],
        }))
        .unwrap();
        let new = serde_json::from_value(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:09:00Z"}],
        }))
        .unwrap();
        let merged = serde_json::to_value(merged(old, new)).unwrap();
        assert_eq!(merged["phase"], "Running");
        assert_eq!(merged["qosClass"], "Burstable");
        assert_eq!(
            merged["conditions"][0]["lastTransitionTime"],
            "2026-01-01T00:00:05Z"
        );
        assert_eq!(merged["conditions"][1]["type"], "PodScheduled");
    }
}
