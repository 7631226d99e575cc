//! What the control plane asks of a node besides its state: logs, and looks into the maps. Each
//! answer travels on a stream of its own, opened by the agent.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_pods::LogRequest;
use fairlead_proto::node::{OpenTunnel, TunnelFrame, node_client::NodeClient};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::work::Node;

/// What `netctl` asks for.
#[derive(Deserialize)]
struct Query {
    view: String,
    #[serde(default)]
    params: Value,
}

/// Answers one request and ends.
pub(crate) async fn serve(node: Arc<Node>, channel: Channel, open: OpenTunnel) {
    let (sender, receiver) = mpsc::channel(16);
    let first = TunnelFrame {
        tunnel_id: open.tunnel_id.clone(),
        ..TunnelFrame::default()
    };
    if sender.send(first).await.is_err() {
        return;
    }
    let tunnel = open.tunnel_id.clone();
    let answer = tokio::spawn(async move {
        if let Err(error) = answer(&node, &open, &sender).await {
            let frame = TunnelFrame {
                error,
                ..TunnelFrame::default()
            };
            // Nobody is left to be told when the other side has hung up.
            let _hung_up = sender.send(frame).await;
        }
    });
    match NodeClient::new(channel)
        .tunnel(ReceiverStream::new(receiver))
        .await
    {
        // The asker has nothing to say in these kinds of tunnel; its end is the tunnel's end.
        Ok(response) => {
            let mut asker = response.into_inner();
            while let Ok(Some(_frame)) = asker.message().await {}
        }
        Err(status) => tracing::warn!(tunnel, error = status.message(), "a tunnel broke"),
    }
    answer.abort();
}

async fn answer(
    node: &Node,
    open: &OpenTunnel,
    sender: &mpsc::Sender<TunnelFrame>,
) -> Result<(), String> {
    let malformed = |error: serde_json::Error| format!("malformed {} request: {error}", open.kind);
    match open.kind.as_str() {
        "logs" => {
            let request: LogRequest =
                serde_json::from_slice(&open.request_json).map_err(malformed)?;
            let mut lines = node.pods.logs(request).await?;
            while let Some(data) = lines.recv().await {
                if send(sender, data?).await.is_err() {
                    break;
                }
            }
            Ok(())
        }
        "query" => {
            let query: Query = serde_json::from_slice(&open.request_json).map_err(malformed)?;
            let view = node.views().of(query.view, query.params).await?;
            // An error means that the asker is gone.
            let _asker_gone = send(sender, Bytes::from(view.to_string())).await;
            Ok(())
        }
        other => Err(format!(
            "the agent knows no {other:?}: it is older than the control plane"
        )),
    }
}

async fn send(
    sender: &mpsc::Sender<TunnelFrame>,
    data: Bytes,
) -> Result<(), mpsc::error::SendError<TunnelFrame>> {
    sender
        .send(TunnelFrame {
            data,
            ..TunnelFrame::default()
        })
        .await
}
