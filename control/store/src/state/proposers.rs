use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Command, Outcome, ProposerId};

/// Proposers whose results are kept; the one silent for longest goes first. A live proposer could
/// only be among them after this many stores were opened within one request's time-out.
const PROPOSERS_MAX: usize = 64;

/// The results of commands that their proposers may send again. Each proposer's part is bounded by
/// what it has in flight: every command says how far the answers have arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Proposers {
    records: OrdMap<ProposerId, ProposerRecord>,
    /// Commands recorded so far: the clock by which proposers grow old.
    recorded: u64,
}

/// One proposer's part.
#[derive(Clone, Debug, Default, PartialEq)]
struct ProposerRecord {
    last_recorded: u64,
    answered_below: u64,
    outcomes: OrdMap<u64, Outcome>,
}

/// What is known of a command before it is applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// It was never seen.
    New,
    /// It was applied, with this outcome.
    Answered(Outcome),
    /// Its proposer has its answer or gave up waiting for it.
    Forgotten,
}

/// The form of [`Proposers`] in a snapshot file.
#[derive(Serialize, Deserialize)]
pub(crate) struct ProposersImage {
    recorded: u64,
    records: Vec<RecordImage>,
}

#[derive(Serialize, Deserialize)]
struct RecordImage {
    proposer: ProposerId,
    last_recorded: u64,
    answered_below: u64,
    outcomes: Vec<(u64, Outcome)>,
}

impl Proposers {
    pub(crate) fn look_up(&self, proposer: ProposerId, sequence: u64) -> Known {
        let Some(record) = self.records.get(&proposer) else {
            return Known::New;
        };
        match record.outcomes.get(&sequence) {
            Some(outcome) => Known::Answered(outcome.clone()),
            None if sequence < record.answered_below => Known::Forgotten,
            None => Known::New,
        }
    }

    pub(super) fn record(&mut self, command: &Command, outcome: Outcome) {
        self.recorded += 1;
        let mut record = self
            .records
            .get(&command.proposer)
            .cloned()
            .unwrap_or_default();
        record.last_recorded = self.recorded;
        record.answered_below = record.answered_below.max(command.answered_below);
        while let Some(&(oldest, _)) = record.outcomes.get_min()
            && oldest < record.answered_below
        {
            record.outcomes.remove(&oldest);
        }
        record.outcomes.insert(command.sequence, outcome);
        self.records.insert(command.proposer, record);
        if self.records.len() > PROPOSERS_MAX {
            let silent = self.records.iter().min_by_key(|(_, r)| r.last_recorded);
            let silent = *silent.expect("there are more than the maximum").0;
            self.records.remove(&silent);
        }
    }

    pub(crate) fn image(&self) -> ProposersImage {
        let record = |(&proposer, record): (&ProposerId, &ProposerRecord)| RecordImage {
            proposer,
            last_recorded: record.last_recorded,
            answered_below: record.answered_below,
            outcomes: record
                .outcomes
                .iter()
                .map(|(&n, o)| (n, o.clone()))
                .collect(),
        };
        ProposersImage {
            recorded: self.recorded,
            records: self.records.iter().map(record).collect(),
        }
    }

    pub(crate) fn restore(image: ProposersImage) -> Self {
        let record = |image: RecordImage| {
            let record = ProposerRecord {
                last_recorded: image.last_recorded,
                answered_below: image.answered_below,
                outcomes: image.outcomes.into_iter().collect(),
            };
            (image.proposer, record)
        };
        Self {
            recorded: image.recorded,
            records: image.records.into_iter().map(record).collect(),
        }
    }

    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let outcomes = self.records.values().map(|r| r.outcomes.len()).sum();
        (self.records.len(), outcomes)
    }
}
