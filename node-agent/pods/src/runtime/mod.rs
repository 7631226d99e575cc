//! What the agent needs of a container runtime, in the shape of the CRI.
//!
//! The pod's worker decides and calls this; whether a shim of our own or a daemon holds the
//! containers is not its business.

mod connection;
mod embedded;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::image::{Image, Missing};
use crate::shim::protocol::{ContainerRecord, ContainerState, Executed, Sandbox};

pub(crate) use embedded::EmbeddedRuntime;

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct RuntimeError {
    operation: String,
    message: String,
}

impl RuntimeError {
    pub(crate) fn new(operation: impl Into<String>, message: impl ToString) -> Self {
        Self {
            operation: operation.into(),
            message: message.to_string(),
        }
    }
}

/// What holds a pod's containers, and what they do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodState {
    /// Whether the sandbox lives. Containers of a dead one have all exited.
    pub(crate) alive: bool,
    pub(crate) containers: Vec<ContainerState>,
}

/// A container runtime. Every call is idempotent.
#[async_trait]
pub(crate) trait Runtime: Send + Sync {
    /// Finds an image that may be run (ImageStatus and PullImage).
    async fn image(&self, name: &str) -> Result<Image, Missing>;

    /// Signals that [`Self::image`] may answer differently.
    fn image_changes(&self) -> watch::Receiver<u64>;

    /// Makes what the pod's containers share and keeps it (RunPodSandbox).
    async fn run_sandbox(&self, sandbox: &Sandbox) -> Result<(), RuntimeError>;

    /// The pod's state and its changes (ListContainers, GetContainerEvents). A sandbox that died
    /// is cleaned up first: its containers are killed and have an exit.
    async fn watch(&self, uid: &str) -> Result<watch::Receiver<PodState>, RuntimeError>;

    /// Creates and starts a container (CreateContainer, StartContainer). Why it could not start
    /// is found in its state. `spec` is an OCI runtime spec.
    async fn start_container(
        &self,
        uid: &str,
        record: &ContainerRecord,
        spec: &serde_json::Value,
    ) -> Result<(), RuntimeError>;

    /// Asks a container to end and makes it when the grace is over (StopContainer). Returns at
    /// once.
    async fn stop_container(&self, uid: &str, id: &str, grace_ms: u64) -> Result<(), RuntimeError>;

    /// Forgets an ended container (RemoveContainer).
    async fn remove_container(&self, uid: &str, id: &str) -> Result<(), RuntimeError>;

    /// Runs a command in a container (ExecSync).
    async fn exec(
        &self,
        uid: &str,
        id: &str,
        argv: &[String],
        timeout_ms: u64,
    ) -> Result<Executed, RuntimeError>;

    /// Ends the sandbox and what runs in it; its exits stay known (StopPodSandbox).
    async fn stop_sandbox(&self, uid: &str) -> Result<(), RuntimeError>;

    /// Removes what is left of a stopped sandbox (RemovePodSandbox).
    async fn remove_sandbox(&self, uid: &str) -> Result<(), RuntimeError>;

    /// Every sandbox there is, stopped ones too (ListPodSandbox).
    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError>;
}
