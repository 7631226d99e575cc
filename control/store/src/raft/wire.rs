//! What members say to each other beside the consensus' own messages.

use serde::{Deserialize, Serialize};

use crate::{Member, MemberId};

/// The index of a log entry.
pub(crate) type LogIndex = u64;

/// Who was asked is not the leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NotLeader {
    /// Who is, as far as it knows.
    pub(crate) leader: Option<Member>,
}

/// A member asks to be added, or first whether it may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AddMember {
    /// Its identity.
    pub(crate) id: MemberId,
    /// How its peers reach it.
    pub(crate) endpoint: String,
    /// Whether its disk is empty.
    pub(crate) pristine: bool,
    /// Only asks. A voter whose disk is empty has forgotten its promises and must not come back
    /// under the same identity; so a member with an empty disk takes no part, not even by
    /// receiving entries, before it has been told that it may.
    pub(crate) only_ask: bool,
}

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum NotChanged {
    /// Another member must be asked.
    NotLeader(NotLeader),
    /// It is no use asking again.
    Refused(String),
    /// Asking again may help.
    Busy(String),
}
