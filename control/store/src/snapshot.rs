use std::{ops::Bound, sync::Arc};

use fairlead_api::Revision;
use imbl::OrdMap;

use crate::{Entry, Event, Key};

/// All objects at one revision. A clone takes constant time; later writes do not change it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    entries: OrdMap<Key, Arc<Entry>>,
    revision: Revision,
}

impl Snapshot {
    pub(crate) fn new(entries: OrdMap<Key, Arc<Entry>>, revision: Revision) -> Self {
        Self { entries, revision }
    }

    /// The last mutation it contains.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The object at a key.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key).map(|entry| &**entry)
    }

    /// The objects whose keys begin with `prefix`, in the order of keys; with `after`, only those
    /// behind that key (where the previous page ended; it need not exist).
    pub fn range<'a>(
        &'a self,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let prefix = prefix.to_owned();
        self.entries
            .range::<(Bound<&str>, Bound<&str>), str>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.as_str().starts_with(&prefix))
            .map(|(_, entry)| &**entry)
    }

    /// How many objects [`Snapshot::range`] would yield.
    pub fn count(&self, prefix: &str, after: Option<&str>) -> usize {
        self.range(prefix, after).count()
    }

    /// Every object, in the order of keys.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values().map(|entry| &**entry)
    }

    /// Goes back to before the newest mutation it contains.
    pub(crate) fn undo(&mut self, event: &Event) {
        debug_assert_eq!(event.revision, self.revision);
        match &event.previous {
            Some(previous) => {
                let key = previous.key.clone();
                self.entries.insert(key, Arc::new(previous.clone()));
            }
            None => {
                self.entries.remove(event.key());
            }
        }
        self.revision = Revision(event.revision.0 - 1);
    }
}
