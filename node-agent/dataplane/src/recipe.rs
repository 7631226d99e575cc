//! What the tables of one service are made of, and how.

use fairlead_dataplane_common::LEAST_LOAD_BACKENDS_MAX;

use crate::desired::Scheduler;
use crate::maglev::{self, Candidate};

/// Elements of a table whose backends take turns, at most: weights that ask for more are rounded.
pub const TURNS_MAX: u32 = 4_096;

/// What a service's tables are made from: the same recipe always gives the same tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// How.
    pub form: Form,
    /// What stands behind the table.
    pub local: LocalList,
    /// For whom, in the order of their ids.
    pub shares: Vec<Share>,
    /// Who stands behind the table where none of those is on this node: its own backends that end but
    /// still serve.
    pub stand_ins: Vec<Share>,
}

/// How a table is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A hash points into it: a Maglev table.
    Hashed,
    /// It is gone through from one end to the other: each backend as often as its weight says.
    InTurn,
    /// It is looked at as a whole: each backend once.
    Each,
}

/// What stands behind a service's table: this node's own backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalList {
    /// Nothing.
    Absent,
    /// Each of them once: for the exception that something has to be answered here.
    Each,
    /// A table like the first: all packets from outside pick from it.
    Full,
}

/// A backend's claim on a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Who, and how much of it.
    pub candidate: Candidate,
    /// The backend slot that stands in the table for it.
    pub slot: u32,
    /// Whether it is on this node.
    pub is_here: bool,
    /// Whether it may be dead: another takes its place, if there is one.
    pub is_silent: bool,
}

/// The tables of a service: backend slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// For all of its backends.
    pub all: Vec<u32>,
    /// For those of this node.
    pub local: Vec<u32>,
}

impl Form {
    /// What a scheduler wants.
    pub fn of(scheduler: Scheduler) -> Self {
        match scheduler {
            Scheduler::Maglev | Scheduler::SourceHash | Scheduler::DestinationHash => Self::Hashed,
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => Self::InTurn,
            Scheduler::LeastConnections
            | Scheduler::WeightedLeastConnections
            | Scheduler::ShortestExpectedDelay
            | Scheduler::NeverQueue => Self::Each,
        }
    }

    fn table(self, shares: &[Share]) -> Vec<u32> {
        let heard: Vec<Share> = shares
            .iter()
            .filter(|one| !one.is_silent)
            .copied()
            .collect();
        // Where nobody is heard of, that says more of who listens than of who is silent.
        let heard = if heard.is_empty() { shares } else { &heard };
        match self {
            Self::Hashed => hashed(shares, heard),
            Self::InTurn => in_turn(heard),
            Self::Each => least_load(heard),
        }
    }
}

impl Recipe {
    /// The tables.
    pub fn tables(&self) -> Tables {
        let mut here: Vec<Share> = match self.local {
            LocalList::Absent => Vec::new(),
            LocalList::Each | LocalList::Full => {
                let here = self.shares.iter().filter(|share| share.is_here);
                here.copied().collect()
            }
        };
        if here.is_empty() && self.local != LocalList::Absent {
            here.clone_from(&self.stand_ins);
        }
        Tables {
            all: self.form.table(&self.shares),
            local: match self.local {
                LocalList::Absent | LocalList::Each => {
                    here.iter().map(|share| share.slot).collect()
                }
                LocalList::Full => self.form.table(&here),
            },
        }
    }

    /// The table that packets from outside pick from.
    pub fn packet_table(&self) -> Vec<u32> {
        match self.local {
            LocalList::Absent | LocalList::Each => self.form.table(&self.shares),
            LocalList::Full => self.tables().local,
        }
    }
}

/// A Maglev table of `shares`, in which those that are not among `heard` are covered for: no slot of
/// anybody else's changes hands for it, and none when they are back.
fn hashed(shares: &[Share], heard: &[Share]) -> Vec<u32> {
    let candidates = |shares: &[Share]| -> Vec<Candidate> {
        shares.iter().map(|share| share.candidate).collect()
    };
    let all = candidates(shares);
    let size = maglev::size(&all);
    let mut owners = maglev::populate(size, &all);
    if heard.len() < shares.len() {
        let covers = maglev::populate(size, &candidates(heard));
        for (owner, cover) in owners.iter_mut().zip(covers) {
            let is_heard = heard.binary_search_by_key(owner, |share| share.candidate.id);
            if is_heard.is_err() {
                *owner = cover;
            }
        }
    }
    // Ten million elements in a first state: the shares are in the order of their ids, and few.
    let slot_of = |id| {
        let index = shares.binary_search_by_key(id, |share| share.candidate.id);
        shares[index.expect("a table names its candidates only")].slot
    };
    owners.iter().map(slot_of).collect()
}

/// Smooth weighted round robin (as in nginx): each turn goes to who is owed most, so that a heavy
/// backend's turns are spread over the round.
fn in_turn(shares: &[Share]) -> Vec<u32> {
    let weights = rounded(shares);
    let round: i64 = weights.iter().sum();
    let mut owed = vec![0_i64; shares.len()];
    let mut table = Vec::with_capacity(round as usize);
    for _ in 0..round {
        for (owed, weight) in owed.iter_mut().zip(&weights) {
            *owed += weight;
        }
        // Of several that are owed the same, the first.
        let most = (0..shares.len()).rev().max_by_key(|&index| owed[index]);
        let most = most.expect("a round has turns only if there are shares");
        owed[most] -= round;
        table.push(shares[most].slot);
    }
    table
}

/// Weights without their common divisor, and scaled down to [`TURNS_MAX`] turns if they ask for more:
/// nobody to less than one.
fn rounded(shares: &[Share]) -> Vec<i64> {
    let weights = || shares.iter().map(|share| u64::from(share.candidate.weight));
    let divisor = weights().fold(0, greatest_common_divisor).max(1);
    let turns = weights().sum::<u64>() / divisor;
    let most = u64::from(TURNS_MAX).max(shares.len() as u64);
    let scaled = |weight: u64| {
        if turns <= most {
            weight / divisor
        } else {
            (weight * most / (turns * divisor)).max(1)
        }
    };
    weights().map(|weight| scaled(weight) as i64).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// Every backend once; of more than [`LEAST_LOAD_BACKENDS_MAX`] those that a hash of their ids puts
/// first, which are the same ones on every node.
fn least_load(shares: &[Share]) -> Vec<u32> {
    let most = LEAST_LOAD_BACKENDS_MAX as usize;
    if shares.len() <= most {
        return shares.iter().map(|share| share.slot).collect();
    }
    let mut ranked: Vec<&Share> = shares.iter().collect();
    ranked.sort_unstable_by_key(|share| {
        let id = share.candidate.id;
        (maglev::mix(id.0.into()), id)
    });
    ranked[..most].iter().map(|share| share.slot).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fairlead_api::BackendId;

    use super::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        (1..)
            .zip(weights)
            .map(|(id, &weight)| Share {
                candidate: Candidate {
                    id: BackendId(id),
                    weight,
                },
                slot: 100 + id,
                is_here: id % 2 == 1,
                is_silent: false,
            })
            .collect()
    }

    fn count(table: &[u32]) -> BTreeMap<u32, usize> {
        let mut count = BTreeMap::new();
        for slot in table {
            *count.entry(*slot).or_default() += 1;
        }
        count
    }

    #[test]
    fn heavy_backends_turns_are_spread_over_the_round() {
        let table = Form::InTurn.table(&shares(&[50, 10, 10]));
        assert_eq!(table, [101, 101, 102, 101, 103, 101, 101]);
    }

    #[test]
    fn equal_weights_take_one_turn_each() {
        assert_eq!(Form::InTurn.table(&shares(&[7, 7, 7])), [101, 102, 103]);
        assert!(Form::InTurn.table(&[]).is_empty());
    }

    #[test]
    fn round_that_is_too_long_is_scaled_and_leaves_nobody_out() {
        let table = Form::InTurn.table(&shares(&[1_000_003, 1, 500_000]));
        assert!(table.len() <= TURNS_MAX as usize + 3, "{}", table.len());
        let count = count(&table);
        assert_eq!(count[&102], 1);
        let ratio = count[&101] as f64 / count[&103] as f64;
        assert!((1.99..2.01).contains(&ratio), "{count:?}");
    }

    #[test]
    fn least_load_looks_at_no_more_than_it_may() {
        let few = Form::Each.table(&shares(&[1, 5, 2]));
        assert_eq!(few, [101, 102, 103]);
        let all = shares(&[1; 300]);
        let many = Form::Each.table(&all);
        assert_eq!(count(&many).len(), LEAST_LOAD_BACKENDS_MAX as usize);
        // Those that were chosen stay when another goes.
        let fewer = count(&Form::Each.table(&all[..299]));
        let stayed = count(&many)
            .keys()
            .filter(|slot| fewer.contains_key(slot))
            .count();
        assert!(stayed >= LEAST_LOAD_BACKENDS_MAX as usize - 1, "{stayed}");
    }

    #[test]
    fn silent_backends_slots_go_to_others_and_nobody_elses_do() {
        let heard = shares(&[1, 2, 1, 4]);
        let mut silent = heard.clone();
        silent[1].is_silent = true;
        let (before, after) = (Form::Hashed.table(&heard), Form::Hashed.table(&silent));
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == 102, "{before} to {after}");
        }
        // The others share them by their weights.
        let taken = |slot| count(&after)[&slot] - count(&before)[&slot];
        assert!(!count(&after).contains_key(&102));
        let ratio = taken(104) as f64 / (taken(101) + taken(103)) as f64;
        assert!((1.6..2.4).contains(&ratio), "{ratio}");

        assert_eq!(
            Form::InTurn.table(&silent),
            Form::InTurn.table(&[heard[0], heard[2], heard[3]])
        );
        assert_eq!(Form::Each.table(&silent), [101, 103, 104]);
    }

    #[test]
    fn silence_of_everybody_changes_nothing() {
        let heard = shares(&[1, 2, 1]);
        let silent = heard.iter().map(|share| Share {
            is_silent: true,
            ..*share
        });
        let silent: Vec<Share> = silent.collect();
        for form in [Form::Hashed, Form::InTurn, Form::Each] {
            assert_eq!(form.table(&silent), form.table(&heard), "{form:?}");
        }
    }

    #[test]
    fn local_list_has_this_nodes_backends_alone() {
        let mut recipe = Recipe {
            form: Form::Hashed,
            local: LocalList::Each,
            shares: shares(&[1, 1, 3]),
            stand_ins: Vec::new(),
        };
        assert_eq!(recipe.tables().local, [101, 103]);
        assert_eq!(recipe.packet_table(), recipe.tables().all);
        recipe.local = LocalList::Full;
        let local = recipe.packet_table();
        assert_eq!(local, recipe.tables().local);
        let count = count(&local);
        let share = count[&103] as f64 / local.len() as f64;
        assert!((0.74..0.76).contains(&share), "{count:?}");
        recipe.local = LocalList::Absent;
        assert!(recipe.tables().local.is_empty());
    }
}
