use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use fairlead_proto::raft::{Payload, SnapshotChunk, raft_client::RaftClient};
use futures::future::{Either, select};
use openraft::{
    BasicNode, OptionalSend, RaftNetworkFactory,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    RaftSnapshot, TypeConfig, Vote,
    wire::{AddMember, LogIndex, NotChanged, NotLeader},
};
use crate::{MemberId, codec, snapshots::SnapshotFile, state::Command};

/// Largest message taken from a peer. A single object is at most 1.5 MiB; what follows bounds what
/// a transaction of several may be.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

const CHUNK_BYTES: usize = 256 << 10;
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Who this member is when it talks to others. Connections are shared by everything that talks to
/// the same peer and are made when first needed.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    cluster_id: Arc<str>,
    member: MemberId,
    tls: Option<ClientTlsConfig>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

/// A peer that can be talked to.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    cluster_id: Arc<str>,
    sender: MemberId,
    /// 0 when any member at the endpoint will do.
    target: u64,
    client: Result<RaftClient<Channel>, String>,
}

impl Network {
    pub(crate) fn new(cluster_id: &str, member: MemberId, tls: Option<ClientTlsConfig>) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            member,
            tls,
            channels: Arc::default(),
        }
    }

    /// The member with this id, at this endpoint.
    pub(crate) fn peer(&self, id: MemberId, endpoint: &str) -> Peer {
        self.peer_at(id.0, endpoint)
    }

    /// Whoever answers at this endpoint.
    pub(crate) fn anyone(&self, endpoint: &str) -> Peer {
        self.peer_at(0, endpoint)
    }

    fn peer_at(&self, target: u64, endpoint: &str) -> Peer {
        let client = self.channel(endpoint).map(|channel| {
            RaftClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        });
        Peer {
            cluster_id: Arc::clone(&self.cluster_id),
            sender: self.member,
            target,
            client,
        }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, String> {
        let mut channels = self
            .channels
            .lock()
            .expect("nobody panics with the lock held");
        if let Some(channel) = channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let channel = connect(endpoint, self.tls.clone()).map_err(|e| e.to_string())?;
        channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn connect(
    endpoint: &str,
    tls: Option<ClientTlsConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint.connect_lazy())
}

impl Peer {
    /// Asks the leader how far a linearizable read must have applied.
    pub(crate) async fn read_index(
        &self,
        within: Duration,
    ) -> Result<Result<LogIndex, NotLeader>, Status> {
        let mut client = self.client()?;
        answer(client.read_index(self.ask(&(), within)).await)
    }

    /// Hands the leader a command; the answer says which log entry it became.
    pub(crate) async fn forward(
        &self,
        command: &Command,
        within: Duration,
    ) -> Result<Result<LogIndex, NotLeader>, Status> {
        let mut client = self.client()?;
        answer(client.forward(self.ask(command, within)).await)
    }

    /// Asks to be added to the cluster.
    pub(crate) async fn add_member(
        &self,
        request: &AddMember,
        within: Duration,
    ) -> Result<Result<(), NotChanged>, Status> {
        let mut client = self.client()?;
        answer(client.add_member(self.ask(request, within)).await)
    }

    /// Asks the leader to take a member out.
    pub(crate) async fn remove_member(
        &self,
        id: MemberId,
        within: Duration,
    ) -> Result<Result<(), NotChanged>, Status> {
        let mut client = self.client()?;
        answer(client.remove_member(self.ask(&id, within)).await)
    }

    fn client(&self) -> Result<RaftClient<Channel>, Status> {
        self.client.clone().map_err(Status::invalid_argument)
    }

    fn ask(&self, body: &impl Serialize, within: Duration) -> Request<Payload> {
        let mut request = Request::new(Payload {
            cluster_id: self.cluster_id.to_string(),
            sender: self.sender.0,
            target: self.target,
            body: codec::encode(body),
        });
        request.set_timeout(within);
        request
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: RaftSnapshot,
        within: Duration,
    ) -> Result<SnapshotResponse<TypeConfig>, Status> {
        let (chunks, stream) = mpsc::channel(4);
        let header = codec::encode(&(vote, snapshot.meta));
        let mut chunk = SnapshotChunk {
            cluster_id: self.cluster_id.to_string(),
            sender: self.sender.0,
            target: self.target,
            header,
            data: Bytes::new(),
        };
        let file: SnapshotFile = snapshot.snapshot;
        // Reads ahead of the network by a few chunks; ends when the receiver goes away. A read
        // that fails cuts the file short, which the receiver notices.
        spawn_blocking(move || {
            let mut offset = 0;
            while let Ok(data) = file.read_at(offset, CHUNK_BYTES)
                && !(data.is_empty() && offset > 0)
            {
                offset += data.len() as u64;
                chunk.data = data.into();
                if chunks.blocking_send(chunk.clone()).is_err() {
                    return;
                }
                chunk.header = Bytes::new();
            }
        });
        let mut client = self.client()?;
        let mut request = Request::new(ReceiverStream::new(stream));
        request.set_timeout(within);
        answer(client.install_snapshot(request).await)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(MemberId(target), &node.addr)
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // openraft allows the time of a heartbeat, which a message full of entries may need to be
        // written to the other's disk alone.
        let within = match rpc.entries.is_empty() {
            true => option.soft_ttl(),
            false => option.soft_ttl().max(APPEND_TIMEOUT),
        };
        let mut client = self.client().map_err(rpc_error)?;
        let request = self.ask(&rpc, within);
        answer(client.append_entries(request).await).map_err(rpc_error)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client().map_err(rpc_error)?;
        let request = self.ask(&rpc, option.soft_ttl());
        answer(client.vote(request).await).map_err(rpc_error)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client().map_err(rpc_error)?;
        let request = self.ask(&rpc, option.soft_ttl());
        answer(client.pre_vote(request).await).map_err(rpc_error)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sent = pin!(self.send_snapshot(vote, snapshot, option.soft_ttl()));
        match select(sent, pin!(cancel)).await {
            Either::Left((answer, _)) => answer.map_err(|status| rpc_error(status).into()),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client().map_err(rpc_error)?;
        let request = self.ask(&rpc, option.soft_ttl());
        answer(client.transfer_leader(request).await).map_err(rpc_error)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_EVERY)))
    }
}

fn answer<T: DeserializeOwned>(answer: Result<Response<Payload>, Status>) -> Result<T, Status> {
    let body = answer?.into_inner().body;
    codec::decode(&body).map_err(|e| Status::internal(format!("unreadable answer: {e}")))
}

/// Everything but a lost race against the clock is a reason to wait before the next try.
fn rpc_error(status: Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => NetworkError::new(&status).into(),
        _ => Unreachable::new(&status).into(),
    }
}
