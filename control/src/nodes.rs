//! What the API server asks of nodes, answered by the publisher's sessions.

use async_trait::async_trait;
use bytes::Bytes;
use fairlead_api::{NodeName, status::Status};
use fairlead_apiserver::Nodes;
use fairlead_publisher::Publisher;
use serde_json::Value;
use tokio::sync::mpsc;

/// The agents' connections, as the API server sees them.
pub(crate) struct ConnectedNodes(pub(crate) Publisher);

#[async_trait]
impl Nodes for ConnectedNodes {
    async fn open(
        &self,
        node: &NodeName,
        kind: &str,
        request: Value,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, Status> {
        self.0
            .open(node, kind, request)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn status(&self) -> Value {
        serde_json::to_value(self.0.status()).unwrap_or_default()
    }
}
