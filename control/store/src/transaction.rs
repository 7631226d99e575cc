use std::sync::Arc;

use fairlead_api::{Index, Revision, RevisionedBytes};
use serde::{Deserialize, Serialize};

use crate::{Entry, Key};

/// What must be true of a key for a transaction to apply. Checked inside apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing is asked.
    Any,
    /// The key must not exist.
    Absent,
    /// The key must exist.
    Present,
    /// The key must exist, last written at this revision.
    Revision(Revision),
}

/// A mutation of one key. Each takes one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Creates or replaces.
    Put {
        /// Where.
        key: Key,
        /// The precondition.
        expect: Expect,
        /// The object.
        value: RevisionedBytes,
        /// Its selectable labels and fields.
        index: Arc<Index>,
    },
    /// Removes; `Expect::Any` makes deleting an absent key a no-op.
    Delete {
        /// Where.
        key: Key,
        /// The precondition.
        expect: Expect,
    },
}

/// A condition on a key that the transaction does not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Where.
    pub key: Key,
    /// The condition.
    pub expect: Expect,
}

/// All of `ops`, or nothing if a check or a precondition fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Conditions on keys that are not written.
    pub checks: Vec<Check>,
    /// The mutations, applied in order.
    pub ops: Vec<Op>,
}

/// A transaction that was applied by a quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The store's revision after the last op.
    pub revision: Revision,
    /// For each op: the entry it wrote, or the one it deleted (`None` if there was none).
    pub entries: Vec<Option<Entry>>,
}

/// Why a transaction was not applied.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition failed; nothing was changed.
    #[error("{key}: expected {expected:?}, found {actual:?}")]
    Conflict {
        /// The key whose condition failed.
        key: Key,
        /// What was asked.
        expected: Expect,
        /// The revision it has; `None` if it does not exist.
        actual: Option<Revision>,
    },
    /// No leader could be reached in time. The write may or may not be applied later.
    #[error("the control plane has no leader or lost it: {0}")]
    Unavailable(String),
}
