//! Proves that frames which are passed on as they are (dr) reach other nodes of the segment.
//!
//! That a node is the next hop says that frames for its address arrive, not that frames with a foreign
//! source do: switches with port security and hypervisors drop them, and nobody is told. Therefore each
//! node of the segment is asked by a small frame with the same mark as its source
//! ([`fairlead_dataplane_common::probe`]), which XDP there answers with a mark of its own. dr is for nodes
//! that have answered; packets for others are encapsulated. Whom to ask when, and what follows from
//! answers, is decided in [`Proofs`], which does no I/O.

mod proofs;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::dataplane::with_state;
use crate::netlink::Mac;
use crate::packet_socket::PacketSocket;
use crate::state::State;
pub(crate) use proofs::Proofs;

/// From a round that failed to the next one.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Where frames for a node go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The uplink.
    pub(crate) interface: u32,
    /// The node's own address there.
    pub(crate) mac: Mac,
}

/// What is known of frames that are passed on to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// They would come to a router.
    Routed,
    /// The node is on the segment of an interface that is no uplink.
    NoUplink,
    /// The node's Ethernet address is not known.
    Unresolved,
    /// Nothing yet.
    Unasked,
    /// They do not arrive, or what they are answered with does not.
    Unanswered,
    /// They arrive; as of so many seconds ago, if it was this agent that asked.
    Answered(Option<u64>),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routed => "the node is behind a router",
            Self::NoUplink => "the node is not reached by an uplink",
            Self::Unresolved => "the node's Ethernet address is not known",
            Self::Unasked => "no probe has been answered yet",
            Self::Unanswered => {
                "no probe has been answered: something between drops frames that are passed on"
            }
            Self::Answered(Some(seconds)) => {
                return write!(f, "a probe was answered {seconds} s ago");
            }
            Self::Answered(None) => "a probe was answered to the agent before this one",
        })
    }
}

/// What is to be done now.
pub(crate) struct Round {
    /// Frames to send, each by the interface of this index.
    pub(crate) questions: Vec<(u32, Vec<u8>)>,
    /// How long nothing is to be done then.
    pub(crate) pause: Duration,
}

/// Asks and looks for answers, for ever. `woken` says that there may be somebody new to ask.
pub(crate) async fn keep_proving(
    state: Arc<Mutex<State>>,
    socket: PacketSocket,
    woken: Arc<Notify>,
) {
    loop {
        let round = with_state(Arc::clone(&state), |state| state.probe(Instant::now()));
        let pause = match round.await {
            Ok(round) => {
                send(&socket, &round.questions);
                round.pause
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "probing other nodes failed");
                AFTER_FAILURE
            }
        };
        // That it is woken before the pause is over is as good as the pause.
        let _ = tokio::time::timeout(pause, woken.notified()).await;
    }
}

fn send(socket: &PacketSocket, questions: &[(u32, Vec<u8>)]) {
    for (interface, frame) in questions {
        if let Err(error) = socket.send(*interface, frame) {
            // As good as a question that was lost.
            tracing::debug!(interface, %error, "a probe could not be sent");
        }
    }
}
