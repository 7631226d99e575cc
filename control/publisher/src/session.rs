//! One agent's session: its state out, its reports in.

use std::{sync::Arc, time::Duration};

use fairlead_api::Generation;
use fairlead_proto::node::{
    AgentMessage, ControlMessage, OpenTunnel, agent_message, control_message,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::{
    delta,
    departures::Departures,
    liveness::Liveness,
    loads::{Loads, TELL_PERIOD, Told},
    progress::Progress,
    reports::Reports,
    state::{Compiled, NodeState},
};

/// How many messages wait for a slow agent. While it is full no delta is made: the next one leads
/// from what was sent last to what is newest then.
pub(crate) const QUEUE: usize = 4;

/// How many reports of an agent wait to be written. Its heartbeats do not wait.
const REPORTS_MAX: usize = 64;

/// How often an agent whose reports wait is noted as alive.
const HEARD_PERIOD: Duration = Duration::from_millis(250);

/// How long an agent that refused a state is left alone before it gets the whole state again.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

pub(crate) type Outgoing = mpsc::Sender<Result<ControlMessage, Status>>;

/// What a session works with.
pub(crate) struct Session {
    pub(crate) node: String,
    pub(crate) outgoing: Outgoing,
    /// The newest state; `None` once this member no longer leads.
    pub(crate) states: watch::Receiver<Option<Arc<Compiled>>>,
    pub(crate) tunnels: mpsc::Receiver<OpenTunnel>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) departures: Arc<Departures>,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) loads: Arc<Loads>,
    pub(crate) idle_max: Duration,
    pub(crate) lease_renewal: Duration,
}

impl Session {
    /// Runs until either side ends it; whether the agent did.
    pub(crate) async fn run(
        self,
        incoming: Streaming<AgentMessage>,
        reports: Reports,
        not_leading: impl Fn() -> Status,
    ) -> bool {
        let (refused, refusals) = mpsc::channel(1);
        let (queue, reported) = mpsc::channel(REPORTS_MAX);
        let node = self.node.as_str();
        let sending = send(
            node,
            &self.outgoing,
            self.states,
            self.tunnels,
            refusals,
            &self.progress,
            &self.departures,
        );
        let telling = tell(node, &self.outgoing, &self.loads);
        let receiving = receive(
            node,
            incoming,
            queue,
            &self.liveness,
            &self.loads,
            self.idle_max,
        );
        let taking = take(
            node,
            reported,
            reports,
            &self.progress,
            refused,
            self.lease_renewal,
        );
        tokio::pin!(receiving, taking);
        let reason = tokio::select! {
            reason = sending => reason,
            reason = telling => reason,
            () = &mut taking => End::Gone,
            reason = &mut receiving => {
                // What it said before it went away still counts.
                taking.await;
                reason
            }
        };
        info!(node, reason = reason.as_str(), "session ended");
        let status = match reason {
            End::NotLeading => not_leading(),
            End::Replaced => Status::aborted("the node opened another session"),
            End::Silent => Status::deadline_exceeded("the agent was silent for too long"),
            End::Gone => return true,
        };
        // An agent that does not read learns it from the closed connection.
        let _ = self.outgoing.try_send(Err(status));
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotLeading,
    Replaced,
    Silent,
    Gone,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotLeading => "this member no longer leads",
            Self::Replaced => "the node opened another",
            Self::Silent => "the agent was silent",
            Self::Gone => "the agent went away",
        }
    }
}

async fn send(
    node: &str,
    outgoing: &Outgoing,
    mut states: watch::Receiver<Option<Arc<Compiled>>>,
    mut tunnels: mpsc::Receiver<OpenTunnel>,
    mut refusals: mpsc::Receiver<()>,
    progress: &Progress,
    departures: &Departures,
) -> End {
    let mut sent: Option<NodeState> = None;
    let mut departed = departures.subscribe();
    states.mark_changed();
    loop {
        let mut is_whole = sent.is_none();
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return End::NotLeading },
            // The sender lives as long as `departures`.
            _ = departed.changed() => {}
            tunnel = tunnels.recv() => {
                let Some(tunnel) = tunnel else { return End::Replaced };
                let message = control_message::Message::OpenTunnel(tunnel);
                if outgoing.send(Ok(ControlMessage { message: Some(message) })).await.is_err() {
                    return End::Gone;
                }
                continue;
            }
            refused = refusals.recv() => match refused {
                Some(()) => is_whole = true,
                None => return End::Gone,
            },
        }
        let Ok(permit) = outgoing.reserve().await else {
            return End::Gone;
        };
        // Looked at only now that there is room: whatever came meanwhile is in it.
        departed.mark_unchanged();
        let next = match &*states.borrow_and_update() {
            Some(compiled) => match compiled.of_node(node) {
                Some(next) => NodeState {
                    workload: departures.hold_back(&next.workload),
                    ..next
                },
                // A state without the node itself would be refused; one with it follows as soon
                // as its registration is compiled.
                None => continue,
            },
            // Before the first state there is nothing to say; the lead's loss ends the session
            // from the registry.
            None if sent.is_none() => continue,
            None => return End::NotLeading,
        };
        let message = match &sent {
            Some(previous) if !is_whole => {
                delta::diff(previous, &next).map(control_message::Message::Delta)
            }
            Some(_) | None => Some(control_message::Message::Snapshot(delta::snapshot(&next))),
        };
        match message {
            Some(message) => {
                progress.sent(node, next.generation);
                permit.send(Ok(ControlMessage {
                    message: Some(message),
                }));
                sent = Some(next);
            }
            None => progress.compared(node, next.generation),
        }
    }
}

/// Tells the node how many connections backends have elsewhere, whenever that changed.
async fn tell(node: &str, outgoing: &Outgoing, loads: &Loads) -> End {
    let mut changes = loads.subscribe();
    let mut told = Told::default();
    loop {
        for message in told.update(node, loads) {
            let message = Some(control_message::Message::Loads(message));
            if outgoing.send(Ok(ControlMessage { message })).await.is_err() {
                return End::Gone;
            }
        }
        tokio::time::sleep(TELL_PERIOD).await;
        // The sender lives as long as `loads`.
        let _ = changes.changed().await;
    }
}

/// Reads what the agent says. That it speaks at all is noted at once, however long its reports take
/// to be written.
async fn receive(
    node: &str,
    mut incoming: Streaming<AgentMessage>,
    queue: mpsc::Sender<agent_message::Message>,
    liveness: &Liveness,
    loads: &Loads,
    idle_max: Duration,
) -> End {
    loop {
        let message = match tokio::time::timeout(idle_max, incoming.message()).await {
            Err(_) => return End::Silent,
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None) | Err(_)) => return End::Gone,
        };
        liveness.heard_of(node);
        match message.message {
            Some(agent_message::Message::Loads(changed)) => loads.report(node, &changed),
            // Those that wait already do for this one too.
            Some(heartbeat @ agent_message::Message::Heartbeat(_)) => {
                let _ = queue.try_send(heartbeat);
            }
            Some(agent_message::Message::Hello(_)) | None => {}
            Some(report) => {
                let mut alive = tokio::time::interval(HEARD_PERIOD);
                let sending = queue.send(report);
                tokio::pin!(sending);
                loop {
                    tokio::select! {
                        sent = &mut sending => match sent {
                            Ok(()) => break,
                            Err(_) => return End::Gone,
                        },
                        // It has said more than could be written yet: it lives.
                        _ = alive.tick() => liveness.heard_of(node),
                    }
                }
            }
        }
    }
}

/// Writes what the agent reports, in its order; ends when no more comes, or a write fails.
async fn take(
    node: &str,
    mut reported: mpsc::Receiver<agent_message::Message>,
    mut reports: Reports,
    progress: &Progress,
    refused: mpsc::Sender<()>,
    lease_renewal: Duration,
) {
    // Registration has renewed it.
    let mut renewed = Instant::now();
    while let Some(message) = reported.recv().await {
        let taken = match message {
            agent_message::Message::Acknowledgement(ack) => {
                if ack.failed_generation != 0 {
                    warn!(
                        node,
                        generation = ack.failed_generation,
                        error = ack.error,
                        "state refused"
                    );
                    let refused = refused.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(REFUSED_WAIT).await;
                        // One that waits already does for this one too.
                        let _ = refused.try_send(());
                    });
                }
                progress.acknowledged(node, Generation(ack.generation), ack.error);
                Ok(())
            }
            agent_message::Message::Heartbeat(_) if renewed.elapsed() < lease_renewal => Ok(()),
            agent_message::Message::Heartbeat(_) => {
                renewed = Instant::now();
                reports.heartbeat().await
            }
            agent_message::Message::NodeStatus(status) => {
                reports.node_status(&status.status_json).await
            }
            agent_message::Message::PodStatus(status) => reports.pod_status(&status).await,
            agent_message::Message::PodGone(gone) => reports.pod_gone(&gone).await,
            agent_message::Message::Event(event) => reports.event(&event).await,
            agent_message::Message::Hello(_) | agent_message::Message::Loads(_) => Ok(()),
        };
        if let Err(cause) = taken {
            // The agent cannot tell whether it was taken: it says it again in a new session.
            warn!(
                node,
                error = &cause as &dyn std::error::Error,
                "report not taken"
            );
            if matches!(cause, crate::reports::Error::Write { .. }) {
                return;
            }
        }
    }
}
