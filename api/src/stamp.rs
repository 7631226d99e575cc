use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Revision;

/// A serialised object with a hole where the revision's decimal digits belong
/// (`"resourceVersion":"` … `"`), so that the store can stamp it without knowing the format and
/// no reader ever has to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionedBytes {
    /// All before the hole.
    pub head: Bytes,
    /// All after it.
    pub tail: Bytes,
}

impl RevisionedBytes {
    /// The object as it is kept and served.
    pub fn stamp(&self, revision: Revision) -> Bytes {
        let digits = revision.0.to_string();
        let mut out = Vec::with_capacity(self.head.len() + digits.len() + self.tail.len());
        out.extend_from_slice(&self.head);
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(&self.tail);
        out.into()
    }
}
