//! The narrow boundary to openraft: propose a command, find how far a read must wait, change the
//! membership, know the leader. Nothing above this module sees a term, a log or an openraft type.

mod membership;
mod observer;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{
    BasicNode, ReadPolicy,
    errors::{
        ClientWriteError, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
    },
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    CommitError, Leadership, Member, MemberId, Timing,
    published::Published,
    raft::{
        Raft, TypeConfig,
        network::Network,
        wire::{LogIndex, NotLeader},
    },
    state::{Command, Known, Outcome},
};

/// How long is waited after a failed try, unless another leader is seen earlier.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// One member's part in the consensus. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Consensus {
    shared: Arc<Shared>,
}

struct Shared {
    raft: Raft,
    network: Network,
    member: MemberId,
    endpoint: String,
    cluster_id: String,
    timing: Timing,
    published: Arc<Published>,
    leadership: watch::Receiver<Leadership>,
    /// Whether what peers send is accepted; never, while the disk is empty and no cluster was
    /// asked.
    takes_part: AtomicBool,
    /// One membership change at a time.
    changing: Mutex<()>,
}

/// Why a try did not succeed.
enum Failure {
    /// The next may.
    Again(String),
    /// None will: this member has stopped.
    Stopped(String),
}

/// What a [`Consensus`] is made of.
pub(crate) struct Parts {
    pub(crate) raft: Raft,
    pub(crate) network: Network,
    pub(crate) member: MemberId,
    pub(crate) endpoint: String,
    pub(crate) cluster_id: String,
    pub(crate) timing: Timing,
    pub(crate) published: Arc<Published>,
    pub(crate) takes_part: bool,
}

impl Consensus {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            raft,
            network,
            member,
            endpoint,
            cluster_id,
            timing,
            published,
            takes_part,
        } = parts;
        let leadership = observer::spawn(&raft, member);
        let shared = Shared {
            raft,
            network,
            member,
            endpoint,
            cluster_id,
            timing,
            published,
            leadership,
            takes_part: AtomicBool::new(takes_part),
            changing: Mutex::new(()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// openraft itself, for the service that its peers call.
    pub(crate) fn raft(&self) -> &Raft {
        &self.shared.raft
    }

    /// This member.
    pub(crate) fn member(&self) -> MemberId {
        self.shared.member
    }

    /// Its cluster.
    pub(crate) fn cluster_id(&self) -> &str {
        &self.shared.cluster_id
    }

    /// Who leads.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Whether what peers send is accepted.
    pub(crate) fn takes_part(&self) -> bool {
        self.shared.takes_part.load(Ordering::Acquire)
    }

    fn take_part(&self) {
        self.shared.takes_part.store(true, Ordering::Release);
    }

    /// Makes this member, if nobody ever was, the first of a new cluster, and waits until it leads.
    pub(crate) async fn initialize(&self) -> Result<(), CommitError> {
        let Shared {
            raft,
            endpoint,
            member,
            ..
        } = &*self.shared;
        let first = [(member.0, BasicNode::new(endpoint))];
        match raft.initialize(BTreeMap::from(first)).await {
            Ok(()) => {
                self.take_part();
                self.wait_read_index().await
            }
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(CommitError::Unavailable(e.to_string())),
        }
    }

    /// Has a command applied, here or by the leader; returns when this member shows the outcome.
    pub(crate) async fn propose(&self, command: &Command) -> Result<Outcome, CommitError> {
        let deadline = self.deadline();
        self.with_leader(deadline, |leader| {
            self.propose_to(leader, command, deadline)
        })
        .await
    }

    async fn propose_to(
        &self,
        leader: Member,
        command: &Command,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        if leader.id == self.shared.member {
            let proposed = self.propose_as_leader(command.clone()).await;
            return match proposed.map_err(Failure::Stopped)? {
                Ok((_, outcome)) => Ok(outcome),
                Err(NotLeader { .. }) => {
                    Err(Failure::Again("this member no longer leads".to_owned()))
                }
            };
        }
        let peer = self.shared.network.peer(leader.id, &leader.endpoint);
        let index = forwarded(peer.forward(command, remaining(deadline)).await)?;
        self.wait_applied(index).await;
        match self
            .shared
            .published
            .look_up(command.proposer, command.sequence)
        {
            Known::Answered(outcome) => Ok(outcome),
            // The leader kept the entry's place, but another's entry was committed there.
            Known::New => Err(Failure::Again(
                "the write was overtaken by an election".to_owned(),
            )),
            Known::Forgotten => Ok(Outcome::Forgotten),
        }
    }

    /// Has a command applied by this member, which must lead. `Err` when it has stopped.
    pub(crate) async fn propose_as_leader(
        &self,
        command: Command,
    ) -> Result<Result<(LogIndex, Outcome), NotLeader>, String> {
        match self.shared.raft.client_write(command).await {
            Ok(response) => Ok(Ok((response.log_id.index, response.data))),
            Err(RaftError::Fatal(e)) => Err(e.to_string()),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to),
            )) => Ok(Err(not_leader(to))),
            Err(RaftError::APIError(
                e @ (ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            )) => unreachable!("a command is no membership change and has no precondition: {e}"),
        }
    }

    /// Waits until this member shows everything that was acknowledged before the call.
    pub(crate) async fn wait_read_index(&self) -> Result<(), CommitError> {
        let deadline = self.deadline();
        self.with_leader(deadline, |leader| self.read_index_of(leader, deadline))
            .await
    }

    async fn read_index_of(&self, leader: Member, deadline: Instant) -> Result<(), Failure> {
        let index = if leader.id == self.shared.member {
            match self.read_index_as_leader().await.map_err(Failure::Again)? {
                Ok(index) => index,
                Err(NotLeader { .. }) => {
                    return Err(Failure::Again("this member no longer leads".to_owned()));
                }
            }
        } else {
            let peer = self.shared.network.peer(leader.id, &leader.endpoint);
            forwarded(peer.read_index(remaining(deadline)).await)?
        };
        self.wait_applied(index).await;
        Ok(())
    }

    /// How far a read that begins now must have applied, confirmed by a quorum. `Err` when there
    /// is none, or this member has stopped.
    pub(crate) async fn read_index_as_leader(&self) -> Result<Result<LogIndex, NotLeader>, String> {
        match self
            .shared
            .raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
        {
            Ok(linearizer) => Ok(Ok(linearizer.read_log_id().log_id().index)),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Ok(Err(not_leader(to)))
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// Stops taking part.
    pub(crate) async fn shutdown(&self) {
        if let Err(e) = self.shared.raft.shutdown().await {
            tracing::error!(error = %e, "the consensus did not stop in order");
        }
    }

    /// Tries with whoever leads until it succeeds or the deadline passes. A try is given up when
    /// another leader is seen.
    async fn with_leader<T, F>(
        &self,
        deadline: Instant,
        attempt: impl Fn(Member) -> F,
    ) -> Result<T, CommitError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut leadership = self.leadership();
        let mut reason = "no leader is known".to_owned();
        while Instant::now() < deadline {
            let leader = leadership.borrow_and_update().leader.clone();
            if let Some(leader) = leader {
                let superseded =
                    leadership.wait_for(|now| now.leader.as_ref().map(|l| l.id) != Some(leader.id));
                tokio::select! {
                    outcome = attempt(leader.clone()) => match outcome {
                        Ok(value) => return Ok(value),
                        Err(Failure::Again(why)) => reason = why,
                        Err(Failure::Stopped(why)) => return Err(CommitError::Unavailable(why)),
                    },
                    _ = superseded => {
                        reason = format!("member {} no longer leads", leader.id);
                        continue;
                    }
                    () = sleep(remaining(deadline)) => {
                        reason = format!("member {} did not answer in time", leader.id);
                        break;
                    }
                }
            }
            let pause = deadline.min(Instant::now() + RETRY_AFTER);
            if let Ok(Err(_)) = timeout_at(pause, leadership.changed()).await {
                return Err(CommitError::Unavailable(
                    "this member has stopped".to_owned(),
                ));
            }
        }
        Err(CommitError::Unavailable(reason))
    }

    async fn wait_applied(&self, index: LogIndex) {
        let mut applied = self.shared.published.applied();
        let shown = applied.wait_for(|applied| *applied >= Some(index)).await;
        shown.expect("the view lives as long as the consensus that shares it");
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.shared.timing.request
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            member, cluster_id, ..
        } = self;
        f.debug_struct("Shared")
            .field("member", member)
            .field("cluster_id", cluster_id)
            .finish_non_exhaustive()
    }
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn forwarded(
    answer: Result<Result<LogIndex, NotLeader>, tonic::Status>,
) -> Result<LogIndex, Failure> {
    match answer {
        Ok(Ok(index)) => Ok(index),
        Ok(Err(NotLeader { leader })) => Err(Failure::Again(match leader {
            Some(leader) => format!("member {} leads now", leader.id),
            None => "an election is under way".to_owned(),
        })),
        Err(status) => Err(Failure::Again(status.message().to_owned())),
    }
}

fn not_leader(to: ForwardToLeader<TypeConfig>) -> NotLeader {
    let leader = to.leader_id.zip(to.leader_node).map(|(id, node)| Member {
        id: MemberId(id),
        endpoint: node.addr,
        voter: true,
    });
    NotLeader { leader }
}
