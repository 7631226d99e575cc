use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use fairlead_proto::raft::{Payload, SnapshotChunk, raft_server};
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status, Streaming};

use super::{RaftSnapshot, SnapshotMeta, Vote};
use crate::{
    codec,
    consensus::Consensus,
    snapshots::{self, SnapshotFile, Snapshots},
};

/// What peers call; mounted by the program on its peer port, behind mutual TLS. Refuses callers of
/// another cluster and messages meant for another member.
#[derive(Clone, Debug)]
pub struct Service {
    consensus: Consensus,
    snapshots: Arc<Snapshots>,
}

impl Service {
    pub(crate) fn new(consensus: Consensus, snapshots: Arc<Snapshots>) -> Self {
        Self {
            consensus,
            snapshots,
        }
    }

    /// Reads a request that is meant for this member.
    fn open<T: DeserializeOwned>(&self, request: Request<Payload>) -> Result<T, Status> {
        let Payload {
            cluster_id,
            sender,
            target,
            body,
        } = request.into_inner();
        self.admit(&cluster_id, sender, target)?;
        let unreadable = |e| Status::invalid_argument(format!("unreadable request: {e}"));
        codec::decode(&body).map_err(unreadable)
    }

    fn admit(&self, cluster_id: &str, sender: u64, target: u64) -> Result<(), Status> {
        let (own, ours) = (self.consensus.member().0, self.consensus.cluster_id());
        if cluster_id != ours {
            return Err(Status::failed_precondition(format!(
                "this is cluster {ours}, the caller belongs to {cluster_id}"
            )));
        }
        if target != own && target != 0 {
            return Err(Status::failed_precondition(format!(
                "this is member {own}, the caller wants {target}"
            )));
        }
        if !self.consensus.takes_part() {
            return Err(Status::unavailable(format!("member {own} has not joined")));
        }
        if sender == own {
            return Err(Status::failed_precondition(format!(
                "the caller claims to be member {own}, which is this one"
            )));
        }
        Ok(())
    }

    fn answer(&self, body: &impl Serialize) -> Response<Payload> {
        Response::new(Payload {
            cluster_id: self.consensus.cluster_id().to_owned(),
            sender: self.consensus.member().0,
            target: 0,
            body: codec::encode(body),
        })
    }

    async fn receive_snapshot(
        &self,
        mut stream: Streaming<SnapshotChunk>,
        path: &Path,
    ) -> Result<(Vote, SnapshotMeta), Status> {
        let mut head = None;
        let mut file = None;
        while let Some(chunk) = stream.message().await? {
            self.admit(&chunk.cluster_id, chunk.sender, chunk.target)?;
            if head.is_none() {
                let unreadable = |e| Status::invalid_argument(format!("unreadable header: {e}"));
                head = Some(codec::decode(&chunk.header).map_err(unreadable)?);
            }
            let mut open = match file.take() {
                Some(open) => open,
                None => File::create_new(path)?,
            };
            let write = spawn_blocking(move || open.write_all(&chunk.data).map(|()| open));
            file = Some(write.await.map_err(io::Error::other)??);
        }
        let (Some(head), Some(file)) = (head, file) else {
            return Err(Status::invalid_argument("the snapshot is empty"));
        };
        let sync = spawn_blocking(move || file.sync_all());
        sync.await.map_err(io::Error::other)??;
        Ok(head)
    }
}

#[tonic::async_trait]
impl raft_server::Raft for Service {
    async fn append_entries(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let append = self.open(request)?;
        let answer = self.consensus.raft().append_entries(append).await;
        Ok(self.answer(&answer.map_err(stopped)?))
    }

    async fn vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let vote = self.open(request)?;
        let answer = self.consensus.raft().vote(vote).await;
        Ok(self.answer(&answer.map_err(stopped)?))
    }

    async fn pre_vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let vote = self.open(request)?;
        let answer = self.consensus.raft().pre_vote(vote).await;
        Ok(self.answer(&answer.map_err(stopped)?))
    }

    async fn transfer_leader(
        &self,
        request: Request<Payload>,
    ) -> Result<Response<Payload>, Status> {
        let transfer = self.open(request)?;
        let answer = self.consensus.raft().handle_transfer_leader(transfer).await;
        Ok(self.answer(&answer.map_err(stopped)?))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<Payload>, Status> {
        let received = Unfinished(self.snapshots.unfinished());
        let stream = request.into_inner();
        let (vote, meta) = self.receive_snapshot(stream, &received.0).await?;
        // A file that was damaged on the way is the sender's to send again; handed to the
        // consensus it would stop this member.
        let path = received.0.clone();
        let check = spawn_blocking(move || {
            let file = SnapshotFile::open(&path)?;
            snapshots::read(&file).map(|contents| (contents.meta, file))
        });
        let (found, snapshot) = check
            .await
            .map_err(io::Error::other)?
            .map_err(|e| Status::data_loss(format!("the snapshot arrived damaged: {e}")))?;
        if found != meta {
            return Err(Status::invalid_argument(
                "the snapshot is not what its header says",
            ));
        }
        let snapshot = RaftSnapshot { meta, snapshot };
        let answer = self.consensus.raft().install_full_snapshot(vote, snapshot);
        Ok(self.answer(&answer.await.map_err(stopped)?))
    }

    async fn read_index(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let () = self.open(request)?;
        let answer = self.consensus.read_index_as_leader().await;
        Ok(self.answer(&answer.map_err(Status::unavailable)?))
    }

    async fn forward(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let command = self.open(request)?;
        let answer = self.consensus.propose_as_leader(command).await;
        let answer = answer.map_err(Status::unavailable)?;
        Ok(self.answer(&answer.map(|(index, _)| index)))
    }

    async fn add_member(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let member = self.open(request)?;
        Ok(self.answer(&self.consensus.add_member_as_leader(member).await))
    }

    async fn remove_member(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let id = self.open(request)?;
        Ok(self.answer(&self.consensus.remove_member_as_leader(id).await))
    }
}

/// A file that is removed unless it has been moved to its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already when it was installed; what a crash leaves is removed on opening.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn stopped(e: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this member has stopped: {e}"))
}
