use openraft::{RaftMetrics, ServerState, async_runtime::WatchReceiver};
use tokio::sync::watch;
use tracing::info;

use crate::{
    Leadership, Member, MemberId,
    raft::{Raft, TypeConfig},
};

/// Follows who leads, until the consensus stops; then nobody does, and the channel is closed.
pub(super) fn spawn(raft: &Raft, own: MemberId) -> watch::Receiver<Leadership> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(observe(&metrics.borrow_watched(), own));
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            let (now, running) = {
                let metrics = metrics.borrow_watched();
                (observe(&metrics, own), metrics.running_state.is_ok())
            };
            sender.send_if_modified(|seen| {
                let changed = *seen != now;
                if changed {
                    let leader = now.leader.as_ref().map(|leader| leader.id.0);
                    info!(member = %own, leader, term = now.term, leads = now.is_leader, "leadership");
                    *seen = now;
                }
                changed
            });
            if !running {
                break;
            }
        }
        sender.send_replace(Leadership::default());
    });
    receiver
}

fn observe(metrics: &RaftMetrics<TypeConfig>, own: MemberId) -> Leadership {
    let leader = metrics.current_leader.and_then(|id| {
        let node = metrics.membership_config.get_node(&id)?;
        Some(Member {
            id: MemberId(id),
            endpoint: node.addr.clone(),
            voter: true,
        })
    });
    // A leader that has applied an entry of its own term has applied all before it.
    let applied = metrics.last_applied.map(|last| last.leader_id);
    let caught_up =
        applied.is_some_and(|of| of.term == metrics.current_term && of.node_id == own.0);
    Leadership {
        is_leader: metrics.state == ServerState::Leader && caught_up,
        leader,
        term: metrics.current_term,
    }
}
