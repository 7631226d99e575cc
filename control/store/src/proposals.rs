use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    Transaction,
    state::{Command, ProposerId},
};

/// Proposals in flight at once; more wait. Bounds the results that every member keeps for this
/// one.
const IN_FLIGHT_MAX: usize = 1024;

/// Numbers this store's proposals, so that each is applied once.
#[derive(Debug)]
pub(crate) struct Proposals {
    proposer: ProposerId,
    sequences: Mutex<Sequences>,
    slots: Semaphore,
}

#[derive(Debug, Default)]
struct Sequences {
    next: u64,
    in_flight: BTreeSet<u64>,
}

/// A proposal whose answer is awaited. Dropping it gives up the answer.
#[derive(Debug)]
pub(crate) struct Proposal<'a> {
    proposals: &'a Proposals,
    command: Command,
    _slot: SemaphorePermit<'a>,
}

impl Proposals {
    /// Of a store that was just opened.
    pub(crate) fn new() -> Self {
        Self {
            proposer: ProposerId(rand::random()),
            sequences: Mutex::default(),
            slots: Semaphore::new(IN_FLIGHT_MAX),
        }
    }

    /// Takes the next number; waits while too many are in flight.
    pub(crate) async fn begin(&self, transaction: Transaction) -> Proposal<'_> {
        let slot = self.slots.acquire().await;
        let slot = slot.expect("the semaphore is never closed");
        let mut sequences = self.sequences();
        let sequence = sequences.next;
        sequences.next += 1;
        sequences.in_flight.insert(sequence);
        let oldest = sequences.in_flight.first();
        let command = Command {
            proposer: self.proposer,
            sequence,
            answered_below: *oldest.expect("this one is in flight"),
            transaction,
        };
        drop(sequences);
        Proposal {
            proposals: self,
            command,
            _slot: slot,
        }
    }

    fn sequences(&self) -> MutexGuard<'_, Sequences> {
        self.sequences
            .lock()
            .expect("nobody panics with the lock held")
    }
}

impl Proposal<'_> {
    /// What to propose, however often.
    pub(crate) fn command(&self) -> &Command {
        &self.command
    }
}

impl Drop for Proposal<'_> {
    fn drop(&mut self) {
        let sequence = self.command.sequence;
        self.proposals.sequences().in_flight.remove(&sequence);
    }
}
