use std::fmt;

use fairlead_api::Revision;
use serde::{Deserialize, Serialize};

use crate::{Committed, Expect, Key, Transaction};

/// One opening of one member's store. Chosen at random when the store is opened, so that a
/// restarted member never takes up the sequence of its former life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ProposerId(pub(crate) u64);

/// What the log carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Command {
    /// Who proposes.
    pub(crate) proposer: ProposerId,
    /// Which of its proposals this is; a retry keeps the number.
    pub(crate) sequence: u64,
    /// The proposer has the answers to all its proposals below this one and will not send them
    /// again: their results may be forgotten.
    pub(crate) answered_below: u64,
    /// What to do.
    pub(crate) transaction: Transaction,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            proposer,
            sequence,
            transaction,
            ..
        } = self;
        let (checks, ops) = (transaction.checks.len(), transaction.ops.len());
        write!(f, "{:x}/{sequence}: {checks} checks, {ops} ops", proposer.0)
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// All of it was done.
    Applied(Committed),
    /// Nothing was done.
    Refused(Refusal),
    /// It came again after its proposer had said that it would not; nothing was done.
    Forgotten,
    /// The log entry was no command but the consensus' own.
    NoCommand,
}

/// The condition that did not hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Of which key.
    pub(crate) key: Key,
    /// What was asked.
    pub(crate) expected: Expect,
    /// What was found.
    pub(crate) actual: Option<Revision>,
}
