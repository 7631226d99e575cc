use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{Index, Revision};
use serde::{Deserialize, Serialize};

use crate::Key;

/// One object at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it lives.
    pub key: Key,
    /// When it was last written.
    pub revision: Revision,
    /// The serialised object, stamped with `revision`.
    pub value: Bytes,
    /// What selectors may ask.
    pub index: Arc<Index>,
}

/// One mutation, in the order of revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the mutation. For a deletion it is newer than any entry's.
    pub revision: Revision,
    /// The object before; `None` when it was created.
    pub previous: Option<Entry>,
    /// The object after; `None` when it was deleted.
    pub current: Option<Entry>,
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        let entry = self.current.as_ref().or(self.previous.as_ref());
        &entry
            .expect("a mutation has an object before or after it")
            .key
    }
}
