//! Linearizable reads share their question to the leader: while one is being asked, those that
//! arrive wait for the next, and are answered by it together.

use tokio::sync::{mpsc, oneshot};

use crate::{CommitError, consensus::Consensus};

/// Hands out places in the next question.
#[derive(Clone, Debug)]
pub(crate) struct ReadIndex {
    waiting: mpsc::UnboundedSender<oneshot::Sender<Result<(), String>>>,
}

impl ReadIndex {
    /// Asks until the last clone is gone.
    pub(crate) fn spawn(consensus: Consensus) -> Self {
        let (waiting, mut arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut batch: Vec<oneshot::Sender<Result<(), String>>> = Vec::new();
            while arrivals.recv_many(&mut batch, usize::MAX).await > 0 {
                let answer = consensus.wait_read_index().await;
                let answer = answer.map_err(|e| match e {
                    CommitError::Unavailable(reason) => reason,
                    e @ CommitError::Conflict { .. } => e.to_string(),
                });
                for reader in batch.drain(..) {
                    // A reader that has gone needs no answer.
                    let _ = reader.send(answer.clone());
                }
            }
        });
        Self { waiting }
    }

    /// Waits until this member shows everything that was acknowledged before the call.
    pub(crate) async fn wait(&self) -> Result<(), CommitError> {
        let stopped = || CommitError::Unavailable("this member has stopped".to_owned());
        let (reader, answer) = oneshot::channel();
        self.waiting.send(reader).map_err(|_| stopped())?;
        let answer = answer.await.map_err(|_| stopped())?;
        answer.map_err(CommitError::Unavailable)
    }
}
