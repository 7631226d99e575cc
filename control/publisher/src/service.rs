use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use fairlead_api::Generation;
use fairlead_proto::node::{
    AgentMessage, ControlMessage, JoinRequest, JoinResponse, RenewRequest, RenewResponse,
    TunnelFrame, agent_message, node_server::Node,
};
use futures::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{peer, publisher::Shared, reports::Reports};

/// Decides who may join the cluster as a node, and stay in it.
#[async_trait]
pub trait Enrollment: Send + Sync {
    /// Exchanges a join token for a certificate.
    async fn join(&self, request: JoinRequest) -> Result<JoinResponse, Status>;

    /// Certifies a key for a node that has shown a certificate of its own.
    async fn renew(&self, node: &str, request: RenewRequest) -> Result<RenewResponse, Status>;
}

/// The gRPC service that agents dial.
pub struct NodeService {
    shared: Arc<Shared>,
    enrollment: Arc<dyn Enrollment>,
}

impl NodeService {
    pub(crate) fn new(shared: Arc<Shared>, enrollment: Arc<dyn Enrollment>) -> Self {
        Self { shared, enrollment }
    }
}

type Sending<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Node for NodeService {
    type SessionStream = Sending<ControlMessage>;
    type TunnelStream = Sending<TunnelFrame>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.enrollment
            .join(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let node = peer::node_name(&request)?;
        self.enrollment
            .renew(&node, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = peer::node_name(&request)?;
        self.shared.require_lead()?;
        let mut incoming = request.into_inner();
        let hello = tokio::time::timeout(self.shared.config.idle_max, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the session's first message did not come"))??
            .and_then(|message| message.message);
        let Some(agent_message::Message::Hello(hello)) = hello else {
            return Err(Status::invalid_argument("a session begins with Hello"));
        };
        if hello.node_name != node {
            let message = format!(
                "the certificate is node {node}'s, not {}'s",
                hello.node_name
            );
            return Err(Status::permission_denied(message));
        }
        let lease_seconds = i32::try_from(self.shared.config.lease.as_secs()).unwrap_or(i32::MAX);
        let mut reports = Reports::new(
            &node,
            self.shared.writer.clone(),
            &self.shared.recorder,
            lease_seconds,
        );
        reports
            .register(&hello.node_json)
            .await
            .map_err(|cause| match &cause {
                crate::reports::Error::Decode { source, .. } => {
                    Status::invalid_argument(format!("{cause}: {source}"))
                }
                crate::reports::Error::Write { source, .. } => {
                    Status::unavailable(format!("{cause}: {source}"))
                }
            })?;
        let received = self.shared.clone().begin_session(
            node,
            Generation(hello.generation),
            incoming,
            reports,
        )?;
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let node = peer::node_name(&request)?;
        let sent = self
            .shared
            .tunnels
            .accept(&node, request.into_inner())
            .await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(sent))))
    }
}
