use async_trait::async_trait;
use bytes::Bytes;
use fairlead_api::{NodeName, status::Status};
use serde_json::Value;
use tokio::sync::mpsc;

/// The nodes' connections, which end at the leader: what logs and views of a node ride on.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Opens a stream at a node's agent. `kind` is `logs` or `query`. An `Err` item is the last
    /// one and says why the node could not go on.
    ///
    /// # Errors
    /// When the node is not connected to this member.
    async fn open(
        &self,
        node: &NodeName,
        kind: &str,
        request: Value,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, Status>;

    /// Every node's desired and acknowledged generation, connection and lag, as a JSON array.
    async fn status(&self) -> Value;
}
