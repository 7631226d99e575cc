use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    BasicNode, ChangeMembers,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, RaftError},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::{Consensus, Failure, RETRY_AFTER, not_leader, remaining};
use crate::{
    CommitError, JoinError, Member, MemberId,
    raft::{
        TypeConfig,
        wire::{AddMember, NotChanged, NotLeader},
    },
};

/// How long a new member may take to copy the state before it must ask again.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

impl Consensus {
    /// The members, as of the last change this member has seen.
    pub(crate) fn members(&self) -> Vec<Member> {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, node)| Member {
                id: MemberId(*id),
                endpoint: node.addr.clone(),
                voter: voters.contains(id),
            })
            .collect()
    }

    /// Has the cluster that `endpoint` belongs to add this member: first as a learner that copies
    /// the state, then as a voter.
    pub(crate) async fn join(&self, endpoint: &str, pristine: bool) -> Result<(), JoinError> {
        let mut request = AddMember {
            id: self.shared.member,
            endpoint: self.shared.endpoint.clone(),
            pristine,
            only_ask: !self.takes_part(),
        };
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        let mut ask = endpoint.to_owned();
        let mut reason = String::new();
        while Instant::now() < deadline {
            let peer = self.shared.network.anyone(&ask);
            match peer.add_member(&request, remaining(deadline)).await {
                Ok(Ok(())) if request.only_ask => {
                    self.take_part();
                    request.only_ask = false;
                    continue;
                }
                Ok(Ok(())) => return Ok(()),
                Ok(Err(NotChanged::Refused(reason))) => return Err(self.refused(reason)),
                Ok(Err(NotChanged::Busy(why))) => reason = why,
                Ok(Err(NotChanged::NotLeader(NotLeader {
                    leader: Some(leader),
                }))) => {
                    reason = format!("member {} leads", leader.id);
                    ask = leader.endpoint;
                }
                Ok(Err(NotChanged::NotLeader(NotLeader { leader: None }))) => {
                    "an election is under way".clone_into(&mut reason);
                    endpoint.clone_into(&mut ask);
                }
                Err(status) if status.code() == tonic::Code::InvalidArgument => {
                    return Err(JoinError::Endpoint {
                        endpoint: ask,
                        reason: status.message().to_owned(),
                    });
                }
                Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                    return Err(self.refused(status.message().to_owned()));
                }
                Err(status) => {
                    status.message().clone_into(&mut reason);
                    endpoint.clone_into(&mut ask);
                }
            }
            sleep(RETRY_AFTER).await;
        }
        Err(JoinError::Unavailable(reason))
    }

    /// Adds a member, if this one leads. Asking again for one that is there changes nothing.
    pub(crate) async fn add_member_as_leader(&self, new: AddMember) -> Result<(), NotChanged> {
        let _alone = self.shared.changing.lock().await;
        let known = self.members().into_iter().find(|m| m.id == new.id);
        if let Some(known) = &known
            && known.voter
        {
            if new.pristine {
                return Err(NotChanged::Refused(format!(
                    "member {} votes already and its disk is empty: it must join under a new id",
                    new.id
                )));
            }
            if known.endpoint == new.endpoint {
                return Ok(());
            }
        }
        if new.only_ask {
            return match self.shared.leadership.borrow().is_leader {
                true => Ok(()),
                false => Err(NotChanged::NotLeader(self.not_leader())),
            };
        }
        let id = new.id.0;
        let node = BasicNode::new(&new.endpoint);
        if known.is_some_and(|known| known.endpoint != new.endpoint) {
            info!(member = id, endpoint = new.endpoint, "a member has moved");
            let moved = ChangeMembers::SetNodes(BTreeMap::from([(id, node.clone())]));
            self.change(moved).await?;
        }
        info!(member = id, endpoint = new.endpoint, "adding a member");
        let caught_up = self.shared.raft.add_learner(id, node, true);
        let caught_up = timeout(CATCH_UP_TIMEOUT, caught_up).await;
        caught_up
            .map_err(|_| NotChanged::Busy("it did not catch up in time".to_owned()))?
            .map_err(not_changed)?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])))
            .await
    }

    /// Has a member taken out for good. Its id must never be used again.
    pub(crate) async fn remove_member(&self, id: MemberId) -> Result<(), CommitError> {
        let deadline = self.deadline();
        self.with_leader(deadline, |leader| async move {
            let removed = if leader.id == self.shared.member {
                self.remove_member_as_leader(id).await
            } else {
                let peer = self.shared.network.peer(leader.id, &leader.endpoint);
                let removed = peer.remove_member(id, remaining(deadline)).await;
                removed.map_err(|status| Failure::Again(status.message().to_owned()))?
            };
            removed.map_err(|e| match e {
                NotChanged::Busy(reason) | NotChanged::Refused(reason) => Failure::Again(reason),
                NotChanged::NotLeader(_) => Failure::Again("the leader has changed".to_owned()),
            })
        })
        .await
    }

    /// Takes a member out, if this one leads. One that is not there is out already.
    pub(crate) async fn remove_member_as_leader(&self, id: MemberId) -> Result<(), NotChanged> {
        let _alone = self.shared.changing.lock().await;
        if !self.shared.leadership.borrow().is_leader {
            return Err(NotChanged::NotLeader(self.not_leader()));
        }
        let known = self.members().into_iter().find(|m| m.id == id);
        let gone = BTreeSet::from([id.0]);
        match known {
            None => Ok(()),
            Some(Member { voter: false, .. }) => {
                self.change(ChangeMembers::RemoveNodes(gone)).await
            }
            Some(_) => {
                info!(member = %id, "removing a member");
                let removed = ChangeMembers::RemoveVoters(gone);
                let removed = self.shared.raft.change_membership(removed, false).await;
                removed.map(|_| ()).map_err(not_changed)
            }
        }
    }

    fn not_leader(&self) -> NotLeader {
        let leader = self.shared.leadership.borrow().leader.clone();
        NotLeader { leader }
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), NotChanged> {
        let changed = self.shared.raft.change_membership(change, true).await;
        changed.map(|_| ()).map_err(not_changed)
    }

    fn refused(&self, reason: String) -> JoinError {
        JoinError::Refused {
            member: self.shared.member,
            reason,
        }
    }
}

fn not_changed(e: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> NotChanged {
    match e {
        RaftError::APIError(
            ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to),
        ) => NotChanged::NotLeader(not_leader(to)),
        e => NotChanged::Busy(e.to_string()),
    }
}
