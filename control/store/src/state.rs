//! The replicated state: a pure function of the commands applied to it, in their order. No clock,
//! no randomness, nothing of this member: what differs between members would make them diverge.

mod command;
mod proposers;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fairlead_api::Revision;
use imbl::OrdMap;

pub(crate) use command::{Command, Outcome, ProposerId, Refusal};
pub(crate) use proposers::{Known, Proposers, ProposersImage};

use crate::{Check, Committed, Entry, Event, Expect, Key, Op, Snapshot, Transaction};

/// Objects, the revision counter and the results owed to proposers. Persistent trees: a clone
/// takes constant time and shares everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    entries: OrdMap<Key, Arc<Entry>>,
    revision: Revision,
    proposers: Proposers,
}

impl State {
    /// A state read back from a snapshot.
    pub(crate) fn restore(
        entries: impl IntoIterator<Item = Entry>,
        revision: Revision,
        proposers: Proposers,
    ) -> Self {
        let entries = entries
            .into_iter()
            .map(|entry| (entry.key.clone(), Arc::new(entry)))
            .collect();
        Self {
            entries,
            revision,
            proposers,
        }
    }

    /// What readers see of it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.entries.clone(), self.revision)
    }

    /// The results owed to proposers.
    pub(crate) fn proposers(&self) -> &Proposers {
        &self.proposers
    }

    /// Applies a command once; a second time it returns the first outcome and changes nothing.
    pub(crate) fn apply(&mut self, command: &Command) -> (Outcome, Vec<Event>) {
        match self.proposers.look_up(command.proposer, command.sequence) {
            Known::Answered(outcome) => return (outcome, Vec::new()),
            Known::Forgotten => return (Outcome::Forgotten, Vec::new()),
            Known::New => {}
        }
        let (outcome, events) = match self.transact(&command.transaction) {
            Ok((committed, events)) => (Outcome::Applied(committed), events),
            Err(refusal) => (Outcome::Refused(refusal), Vec::new()),
        };
        self.proposers.record(command, outcome.clone());
        (outcome, events)
    }

    /// All of the transaction, or nothing: the work is done on a copy that shares the trees.
    fn transact(&mut self, transaction: &Transaction) -> Result<(Committed, Vec<Event>), Refusal> {
        for Check { key, expect } in &transaction.checks {
            check(&self.entries, key, *expect)?;
        }
        let mut entries = self.entries.clone();
        let mut revision = self.revision;
        let mut touched = Vec::with_capacity(transaction.ops.len());
        let mut events = Vec::with_capacity(transaction.ops.len());
        for op in &transaction.ops {
            match op {
                Op::Put {
                    key,
                    expect,
                    value,
                    index,
                } => {
                    check(&entries, key, *expect)?;
                    revision = Revision(revision.0 + 1);
                    let entry = Entry {
                        key: key.clone(),
                        revision,
                        value: value.stamp(revision),
                        index: index.clone(),
                    };
                    let previous = entries.insert(key.clone(), Arc::new(entry.clone()));
                    events.push(Event {
                        revision,
                        previous: previous.map(unshare),
                        current: Some(entry.clone()),
                    });
                    touched.push(Some(entry));
                }
                Op::Delete { key, expect } => {
                    check(&entries, key, *expect)?;
                    let previous = entries.remove(key).map(unshare);
                    if previous.is_some() {
                        revision = Revision(revision.0 + 1);
                        events.push(Event {
                            revision,
                            previous: previous.clone(),
                            current: None,
                        });
                    }
                    touched.push(previous);
                }
            }
        }
        self.entries = entries;
        self.revision = revision;
        let committed = Committed {
            revision,
            entries: touched,
        };
        Ok((committed, events))
    }
}

/// Takes an entry out of the tree; its bytes stay shared.
fn unshare(entry: Arc<Entry>) -> Entry {
    Arc::unwrap_or_clone(entry)
}

fn check(entries: &OrdMap<Key, Arc<Entry>>, key: &Key, expect: Expect) -> Result<(), Refusal> {
    let actual = entries.get(key).map(|entry| entry.revision);
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => actual.is_none(),
        Expect::Present => actual.is_some(),
        Expect::Revision(wanted) => actual == Some(wanted),
    };
    if holds {
        return Ok(());
    }
    Err(Refusal {
        key: key.clone(),
        expected: expect,
        actual,
    })
}
