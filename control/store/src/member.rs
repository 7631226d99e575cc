use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifies a member of the control plane for ever: a member that lost its data comes back under
/// a new one, because its old identity has made promises that the new disk does not remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its identity.
    pub id: MemberId,
    /// How its peers reach it, `https://IP:6445`.
    pub endpoint: String,
    /// Whether it counts towards the quorum; a learner is still catching up.
    pub voter: bool,
}

/// Who leads, as far as this member knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Whether this member leads and has applied everything its predecessors committed, so that
    /// its own snapshot is a safe base for decisions.
    pub is_leader: bool,
    /// The leader; `None` during an election.
    pub leader: Option<Member>,
    /// Grows with every election.
    pub term: u64,
}
