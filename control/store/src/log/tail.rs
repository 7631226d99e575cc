use std::{collections::BTreeMap, ops::RangeBounds};

use openraft::EntryPayload;

use super::Record;
use crate::{
    Op,
    raft::{LogEntry, LogId, Vote},
};

/// What the log says, in memory: the outcome of all its records.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    entries: BTreeMap<u64, LogEntry>,
}

impl Tail {
    /// Takes in the next record.
    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(committed) => self.committed = *committed,
            Record::Entry(entry) => {
                self.entries.insert(entry.log_id.index, entry.clone());
            }
            Record::TruncateAfter(last) => {
                let first_gone = last.map_or(0, |last| last.index + 1);
                self.entries.split_off(&first_gone);
            }
            Record::Purge(last) => {
                self.purged = self.purged.max(Some(*last));
                self.entries = self.entries.split_off(&(last.index + 1));
            }
        }
    }

    /// The last entry, or the last that was purged.
    pub(super) fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map(|(_, entry)| entry.log_id).or(self.purged)
    }

    /// The entries in a range.
    pub(super) fn range(&self, range: impl RangeBounds<u64>) -> Vec<LogEntry> {
        self.entries.range(range).map(|(_, e)| e.clone()).collect()
    }

    /// The first entries of `start..end` that fit `bytes`, at least one.
    pub(super) fn range_up_to(&self, start: u64, end: u64, bytes: usize) -> Vec<LogEntry> {
        let mut room = bytes;
        let mut taken = Vec::new();
        for (_, entry) in self.entries.range(start..end) {
            let size = size(entry);
            if size > room && !taken.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            taken.push(entry.clone());
        }
        taken
    }

    /// The first index that is missing between the purged and the last entry.
    pub(super) fn gap(&self) -> Option<u64> {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        let expected = first..;
        let found = self.entries.keys();
        expected
            .zip(found)
            .find(|(expected, found)| expected != *found)
            .map(|(expected, _)| expected)
    }
}

/// About how many bytes a record takes in a frame.
pub(super) fn record_size(record: &Record) -> usize {
    match record {
        Record::Entry(entry) => size(entry),
        Record::Vote(_) | Record::Committed(_) | Record::TruncateAfter(_) | Record::Purge(_) => 0,
    }
}

/// About how many bytes an entry takes in a message.
fn size(entry: &LogEntry) -> usize {
    const OVERHEAD_BYTES: usize = 128;
    let ops = match &entry.payload {
        EntryPayload::Normal(command) => &command.transaction.ops[..],
        EntryPayload::Blank | EntryPayload::Membership(_) => &[],
    };
    let op = |op: &Op| match op {
        Op::Put { key, value, .. } => {
            OVERHEAD_BYTES + key.as_str().len() + value.head.len() + value.tail.len()
        }
        Op::Delete { key, .. } => OVERHEAD_BYTES + key.as_str().len(),
    };
    OVERHEAD_BYTES + ops.iter().map(op).sum::<usize>()
}
