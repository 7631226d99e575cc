use std::sync::Arc;

use fairlead_api::status::Status;
use fairlead_store::{CommitError, Member, Snapshot, Store};
use tokio_util::sync::CancellationToken;

use crate::{FrontProxy, Nodes, addresses::ServiceRanges, discovery::Documents};

/// What every request works with.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) nodes: Arc<dyn Nodes>,
    /// Where ClusterIPs come from.
    pub(crate) service_addresses: ServiceRanges,
    /// Discovery, OpenAPI and version, rendered once.
    pub(crate) documents: Documents,
    /// How to ask the leader in a client's stead.
    pub(crate) front_proxy: Option<FrontProxy>,
    /// Cancelled at shutdown: watches and followed logs end then.
    pub(crate) stopping: CancellationToken,
}

impl Api {
    /// A snapshot that contains every write acknowledged before this call, on any member.
    pub(crate) async fn latest(&self) -> Result<Snapshot, Status> {
        self.store.linearizable().await.map_err(unavailable)
    }

    /// The leader, unless this member is it or there is none.
    pub(crate) fn other_leader(&self) -> Option<Member> {
        let leadership = self.store.leadership();
        let leadership = leadership.borrow();
        leadership.leader.clone().filter(|_| !leadership.is_leader)
    }

    /// Answers 503 naming the leader unless this member is it: for what rides on the nodes'
    /// connections.
    pub(crate) fn require_leader(&self) -> Result<(), Status> {
        let leadership = self.store.leadership();
        let leadership = leadership.borrow();
        if leadership.is_leader {
            return Ok(());
        }
        let message = match &leadership.leader {
            Some(leader) => format!(
                "the nodes are connected to the leader, member {} at {}: ask it",
                leader.id, leader.endpoint
            ),
            None => "the control plane has no leader now: try again".to_owned(),
        };
        Err(Status::unavailable(message))
    }
}

/// A commit or a read that found no leader. The write may still be applied.
pub(crate) fn unavailable(error: CommitError) -> Status {
    Status::unavailable(error.to_string())
}
