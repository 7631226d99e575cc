//! Logs and queries: asked through a node's session, answered on a stream the agent opens.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use fairlead_proto::node::{OpenTunnel, TunnelFrame};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

/// How long an agent that is heard may take to open a tunnel it was asked for.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many frames wait for a slow reader before the agent is held up.
const FRAMES_MAX: usize = 32;

/// What comes through a tunnel: data, or at the end why it failed, for people to read.
pub(crate) type Frames = mpsc::Receiver<Result<Bytes, String>>;

/// Why a tunnel could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// This member does not lead: nodes are connected to the one that does.
    #[error("this member of the control plane does not lead")]
    NotLeading,
    /// The node's agent has no session.
    #[error("node {0} is not connected: see whether it is up, and fairlead-agent runs there")]
    NotConnected(String),
    /// The node fell silent before its agent opened it.
    #[error("node {0} has fallen silent: see whether it is up, and reaches the control plane")]
    Silent(String),
    /// The agent lives, and did not open it in time.
    #[error(
        "node {0} is heard, but its agent did not answer within {seconds} s: see what it logs, or try again",
        seconds = OPEN_TIMEOUT.as_secs()
    )]
    Deadline(String),
}

struct Asked {
    node: String,
    frames: mpsc::Sender<Result<Bytes, String>>,
    opened: oneshot::Sender<()>,
}

/// The tunnels that were asked for and not opened yet.
#[derive(Default)]
pub(crate) struct Tunnels {
    asked: Mutex<HashMap<String, Asked>>,
}

/// Takes a request back when the one who asked stops waiting.
struct Withdraw<'a> {
    tunnels: &'a Tunnels,
    id: String,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.tunnels.asked().remove(&self.id);
    }
}

impl Tunnels {
    /// Asks a node, through its session, to open a tunnel, and waits for it, until `silence` says
    /// that the node is not heard any more.
    pub(crate) async fn open(
        &self,
        node: &str,
        session: &mpsc::Sender<OpenTunnel>,
        kind: &str,
        request: &serde_json::Value,
        silence: impl Future<Output = ()>,
    ) -> Result<Frames, OpenError> {
        let id = uuid::Uuid::new_v4().to_string();
        let (frames, received) = mpsc::channel(FRAMES_MAX);
        let (opened, is_open) = oneshot::channel();
        self.asked().insert(
            id.clone(),
            Asked {
                node: node.to_owned(),
                frames,
                opened,
            },
        );
        let _withdraw = Withdraw {
            tunnels: self,
            id: id.clone(),
        };
        let message = OpenTunnel {
            tunnel_id: id,
            kind: kind.to_owned(),
            request_json: request.to_string().into(),
        };
        let ask = async {
            session
                .send(message)
                .await
                .map_err(|_| OpenError::NotConnected(node.to_owned()))?;
            // A session that ends takes with it what it was asked and has not passed on.
            tokio::select! {
                biased;
                opened = is_open => opened.ok(),
                () = session.closed() => None,
            }
            .ok_or_else(|| OpenError::NotConnected(node.to_owned()))
        };
        tokio::select! {
            biased;
            opened = ask => opened?,
            () = silence => return Err(OpenError::Silent(node.to_owned())),
            () = tokio::time::sleep(OPEN_TIMEOUT) => {
                return Err(OpenError::Deadline(node.to_owned()));
            }
        }
        Ok(received)
    }

    /// Joins the stream an agent opened with the one who asked for it. Returns the sending half of
    /// the other direction, which ends when the tunnel does.
    pub(crate) async fn accept(
        &self,
        node: &str,
        mut stream: Streaming<TunnelFrame>,
    ) -> Result<mpsc::Receiver<Result<TunnelFrame, Status>>, Status> {
        let first = tokio::time::timeout(OPEN_TIMEOUT, stream.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the tunnel's first frame did not come"))??
            .ok_or_else(|| Status::invalid_argument("the tunnel ended before its first frame"))?;
        let asked = {
            let mut asked = self.asked();
            // Another node may not even end somebody else's request.
            let is_its_own = asked
                .get(&first.tunnel_id)
                .is_some_and(|asked| asked.node == node);
            if is_its_own {
                asked.remove(&first.tunnel_id)
            } else {
                None
            }
        };
        let asked = asked.ok_or_else(|| Status::not_found("nobody asked for this tunnel"))?;
        // The one who asked may have given up meanwhile.
        asked
            .opened
            .send(())
            .map_err(|()| Status::cancelled("nobody waits for this tunnel"))?;
        let (answers, sent) = mpsc::channel(1);
        tokio::spawn(async move {
            pump(first, &mut stream, &asked.frames).await;
            drop(answers);
        });
        Ok(sent)
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes frames on until either side ends.
async fn pump(
    first: TunnelFrame,
    stream: &mut Streaming<TunnelFrame>,
    frames: &mpsc::Sender<Result<Bytes, String>>,
) {
    let mut next = Some(first);
    while let Some(frame) = next {
        let is_last = !frame.error.is_empty();
        if !frame.data.is_empty() && frames.send(Ok(frame.data)).await.is_err() {
            return;
        }
        if is_last {
            // Whoever stopped reading does not miss the reason.
            let _ = frames.send(Err(frame.error)).await;
            return;
        }
        next = tokio::select! {
            () = frames.closed() => return,
            message = stream.message() => match message {
                Ok(frame) => frame,
                Err(status) => {
                    let reason = format!("the node's connection broke: {}", status.message());
                    let _ = frames.send(Err(reason)).await;
                    return;
                }
            },
        };
    }
}
