//! Who had the slots of a table between its base and now.
//!
//! A balancing node needs none of this: what began then is noted. It is for a node that takes over from
//! one that died, and lacks its notes: it guesses, and whoever was guessed passes on what it does not
//! know to those who may.

use fairlead_dataplane_common::{FORMERS_PER_SLOT, LUT_EMPTY};

use super::{Seconds, overlap};

const PER_SLOT: usize = FORMERS_PER_SLOT as usize;

/// The newest former owners of each slot, in the length that the table had when the last of them lost
/// one.
#[derive(Clone, Debug, Default)]
pub(super) struct Formers {
    /// Backend slots, [`PER_SLOT`] for each slot, the newest first; [`LUT_EMPTY`] for nobody.
    owners: Vec<u32>,
    /// When each of them lost the slot.
    since: Vec<Seconds>,
}

impl PartialEq for Formers {
    fn eq(&self, other: &Self) -> bool {
        self.owners == other.owners
    }
}

impl Formers {
    /// What is found in the maps: nobody knows since when.
    pub(super) fn found(owners: Vec<u32>, now: Seconds) -> Self {
        Self {
            since: vec![now; owners.len()],
            owners,
        }
    }

    pub(super) fn owners(&self) -> &[u32] {
        &self.owners
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Whether any has been a former one for `window`.
    pub(super) fn is_due(&self, now: Seconds, window: Seconds) -> bool {
        let mut all = self.owners.iter().zip(&self.since);
        all.any(|(owner, since)| *owner != LUT_EMPTY && is_over(*since, now, window))
    }

    /// Forgets those who have been former ones for `window`: what they have left is noted, or not
    /// there any more.
    pub(super) fn pass_time(&mut self, now: Seconds, window: Seconds) {
        self.retain(|_, _, since| !is_over(since, now, window));
    }

    /// Forgets who is gone, and who has all of `table` that its slot is part of.
    pub(super) fn follow(&mut self, table: &[u32], lives: impl Fn(u32) -> bool) {
        let length = self.length();
        self.retain(|index, owner, _| lives(owner) && has_left(index, length, owner, table));
    }

    /// Adds who had the slots of a table before it became `table`, and when each lost its own:
    /// [`LUT_EMPTY`] for who is not to be remembered.
    pub(super) fn add(&mut self, before: &[u32], table: &[u32], since: impl Fn(usize) -> Seconds) {
        let length = before.len() as u32;
        let is_former = |index: usize| {
            before[index] != LUT_EMPTY && has_left(index as u32, length, before[index], table)
        };
        if !(0..before.len()).any(is_former) {
            return;
        }
        let held = std::mem::take(self);
        let held_length = held.length();
        let mut of_slot: Vec<(u32, Seconds)> = Vec::new();
        for (index, owner) in before.iter().enumerate() {
            of_slot.clear();
            if is_former(index) {
                of_slot.push((*owner, since(index)));
            }
            for slot in overlap(index as u32, length, held_length) {
                for (owner, since) in held.of(slot) {
                    if owner != LUT_EMPTY && of_slot.iter().all(|(known, _)| *known != owner) {
                        of_slot.push((owner, since));
                    }
                }
            }
            of_slot.sort_by_key(|(_, since)| std::cmp::Reverse(*since));
            of_slot.resize(PER_SLOT, (LUT_EMPTY, 0));
            self.owners.extend(of_slot.iter().map(|(owner, _)| *owner));
            self.since.extend(of_slot.iter().map(|(_, since)| *since));
        }
    }

    /// How many slots they are of.
    fn length(&self) -> u32 {
        (self.owners.len() / PER_SLOT) as u32
    }

    /// Those of one slot.
    fn of(&self, slot: u32) -> impl Iterator<Item = (u32, Seconds)> {
        let first = slot as usize * PER_SLOT;
        let range = first..first + PER_SLOT;
        let since = self.since[range.clone()].iter().copied();
        self.owners[range].iter().copied().zip(since)
    }

    /// Keeps those of whom `is_kept` by their slot, who they are, and since when.
    fn retain(&mut self, is_kept: impl Fn(u32, u32, Seconds) -> bool) {
        let mut is_empty = true;
        for (index, (owner, since)) in self.owners.iter_mut().zip(&self.since).enumerate() {
            if *owner == LUT_EMPTY {
                continue;
            }
            if is_kept((index / PER_SLOT) as u32, *owner, *since) {
                is_empty = false;
            } else {
                *owner = LUT_EMPTY;
            }
        }
        if is_empty {
            *self = Self::default();
        }
    }
}

/// Whether some hash that points at slot `index` of `length` points at another owner's slot of `table`.
fn has_left(index: u32, length: u32, owner: u32, table: &[u32]) -> bool {
    let mut now = overlap(index, length, table.len() as u32);
    now.any(|slot| table[slot as usize] != owner)
}

fn is_over(since: Seconds, now: Seconds, window: Seconds) -> bool {
    now.saturating_sub(since) >= window
}
