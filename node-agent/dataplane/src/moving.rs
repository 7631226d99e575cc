//! How a service's table changes while its connections stay where they are.
//!
//! A pick is a pure function of a packet and the table, so a connection needs no note of its own as
//! long as its slot belongs to the backend it began with. When slots change hands, two things are
//! remembered: in the table, the state of each slot ([`LUT_STABLE`], [`LUT_MOVING`],
//! [`LUT_SETTLING`]); beside it the *base*, who has the connections of which nothing was noted, in
//! the length that the table had when slots began to move. What a program makes of it:
//!
//! | slot | connection | goes to |
//! |---|---|---|
//! | any but stable | noted | whom the note names |
//! | moving | new | the table's backend, and is noted |
//! | moving | old, not noted | the base's backend, and is noted |
//! | settling | other | the table's backend |
//! | stable | any | the table's backend |
//!
//! One thing holds throughout, and is what the tests of this module look for: *a connection of which
//! nothing was noted, and whose backend lives, belongs to the base's backend if its slot is moving,
//! and to the table's if it is not.* So
//! - a slot moves as long as any hash that points at it has another backend in the base that lives;
//! - a slot that goes back to its base, while connections may be noted, settles;
//! - a slot whose backend is gone leaves nothing behind: its next backend has it at once;
//! - a slot that has been moving for as long as connections live without a packet settles: all that
//!   are alive have been noted by then, and the base becomes what the table is;
//! - a settling slot is stable again when no note of it is left.
//!
//! A third thing is remembered for nodes that take over from one that died, whose notes they lack: the
//! [former owners](formers) of slots that have moved more than once, as a connection of theirs is in the
//! table and the base of nobody. They are forgotten when they have had as long as slots have to move.
//! Beside table and base there are [`FORMERS_PER_SLOT`] of a slot: the newest.
//!
//! Pure: times are given, and what lives and what is noted are asked for.

mod formers;

use std::ops::RangeInclusive;

#[cfg(doc)]
use fairlead_dataplane_common::FORMERS_PER_SLOT;
use fairlead_dataplane_common::{
    LUT_EMPTY, LUT_MOVING, LUT_SETTLING, LUT_SLOT_MASK, LUT_STABLE, LUT_STATE_MASK, hash,
};

use self::formers::Formers;

/// Seconds of a clock that never goes back.
pub type Seconds = u32;

/// A table with the states of its slots, and who had them before.
#[derive(Clone, Debug, Default)]
pub struct Moving {
    /// Backend slots, with the states of the table slots above them: what `lut` holds.
    elements: Vec<u32>,
    /// Backend slots by the slots that the table had before; [`LUT_EMPTY`] for who is gone. Empty
    /// while no slot is moving.
    base: Vec<u32>,
    /// When each slot was given to the backend that it is moving to. Empty while no slot is moving.
    since: Vec<Seconds>,
    /// Who had slots in between.
    formers: Formers,
    /// When states and base came to be what they are.
    written: Seconds,
}

impl PartialEq for Moving {
    /// Whether both are the same to a program.
    fn eq(&self, other: &Self) -> bool {
        (&self.elements, &self.base, &self.formers)
            == (&other.elements, &other.base, &other.formers)
    }
}

impl Moving {
    /// A table whose slots have always belonged to these backends.
    pub fn stable(table: Vec<u32>) -> Self {
        Self {
            elements: table,
            ..Self::default()
        }
    }

    /// What an agent before this one left: what has been moving begins to do so again, as nobody
    /// knows since when it is.
    pub fn found(elements: Vec<u32>, base: Vec<u32>, formers: Vec<u32>, now: Seconds) -> Self {
        let mut found = Self {
            since: vec![now; elements.len()],
            elements,
            base,
            formers: Formers::found(formers, now),
            written: now,
        };
        found.drop_idle_base();
        found
    }

    /// What `lut` is to hold of the table: backend slots and states.
    pub fn elements(&self) -> &[u32] {
        &self.elements
    }

    /// What it is to hold of the table before.
    pub fn base(&self) -> &[u32] {
        &self.base
    }

    /// What it is to hold of those in between.
    pub fn formers(&self) -> &[u32] {
        self.formers.owners()
    }

    /// When it came to be.
    pub fn written(&self) -> Seconds {
        self.written
    }

    /// Backend slots alone.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.elements.iter().map(|element| slot_of(*element))
    }

    /// How many table slots are in `state`.
    pub fn count(&self, state: u32) -> usize {
        let states = self.elements.iter().map(|element| state_of(*element));
        states.filter(|held| *held == state).count()
    }

    /// Whether no connection has to be looked for.
    pub fn is_stable(&self) -> bool {
        self.count(LUT_STABLE) == self.elements.len()
    }

    /// Whether nothing but the table itself is to be remembered.
    pub fn is_at_rest(&self) -> bool {
        self.is_stable() && self.formers.is_empty()
    }

    /// Whether connections that end their wait at a window's end would find it due at `now`.
    pub fn is_due(&self, now: Seconds, window: Seconds) -> bool {
        let is_expired = |(element, since): (&u32, &Seconds)| {
            state_of(*element) == LUT_MOVING && now.saturating_sub(*since) >= window
        };
        self.elements.iter().zip(&self.since).any(is_expired) || self.formers.is_due(now, window)
    }

    /// Whether the service has owners of connections, by `lives` of their slots: in the table, or
    /// before it.
    pub fn has_owner(&self, lives: impl Fn(u32) -> bool) -> bool {
        let before = self.base.iter().chain(self.formers());
        let mut owners = self.slots().chain(before.copied());
        owners.any(|owner| owner != LUT_EMPTY && lives(owner))
    }

    /// The same table at a service all of whose connections were noted until now, and are not from
    /// now on.
    #[must_use]
    pub fn with_all_noted(mut self) -> Self {
        for element in &mut self.elements {
            if state_of(*element) == LUT_STABLE {
                *element = slot_of(*element) | LUT_SETTLING;
            }
        }
        self
    }

    /// The same at a service that no packet has met here. There is nothing to look for; but others may
    /// have balanced it, and their connections are asked for here when they die.
    #[must_use]
    pub fn without_states(mut self) -> Self {
        let table: Vec<u32> = self.slots().collect();
        let is_aligned = self.base.len() == table.len();
        let (written, since) = (self.written, &self.since);
        let lost = |index: usize| if is_aligned { since[index] } else { written };
        self.formers.add(&self.base, &table, lost);
        Self {
            formers: self.formers,
            written,
            ..Self::stable(table)
        }
    }

    /// The state after the table has become `table` (backend slots), of whose backends and those
    /// before `lives` knows which are left.
    #[must_use]
    pub fn replace(&self, table: &[u32], lives: impl Fn(u32) -> bool, now: Seconds) -> Self {
        let mut owners: Vec<u32> = if self.base.is_empty() {
            self.slots().collect()
        } else {
            self.base.clone()
        };
        for owner in &mut owners {
            if !lives(*owner) {
                *owner = LUT_EMPTY;
            }
        }
        let length = table.len() as u32;
        // Slot by slot the base can follow the table. Where their lengths differ, a slot of one is
        // parts of several of the other, and it stays as it is until nothing moves.
        let is_aligned = owners.len() == table.len();
        let mut next = Self {
            elements: Vec::with_capacity(table.len()),
            base: Vec::new(),
            since: vec![now; table.len()],
            formers: Formers::default(),
            written: now,
        };
        for (index, &backend) in (0..length).zip(table) {
            let mut is_moving = false;
            for owner in overlap(index, length, owners.len() as u32) {
                let owner = &mut owners[owner as usize];
                if *owner == LUT_EMPTY && is_aligned {
                    *owner = backend;
                }
                is_moving |= *owner != backend;
            }
            let mut held = overlap(index, length, self.elements.len() as u32);
            let state = if is_moving {
                LUT_MOVING
            } else if held.any(|slot| state_of(self.elements[slot as usize]) != LUT_STABLE) {
                LUT_SETTLING
            } else {
                LUT_STABLE
            };
            let index = index as usize;
            if is_moving
                && self.elements.len() == table.len()
                && self.elements[index] == backend | LUT_MOVING
            {
                next.since[index] = self.since[index];
            }
            next.elements.push(backend | state);
        }
        next.base = owners;
        next.drop_idle_base();
        next.formers = self.formers_before(&next, table, lives);
        if next == *self {
            next.written = self.written;
        }
        next
    }

    /// The former owners once the table has become `table`, and its base what `next` has.
    fn formers_before(&self, next: &Self, table: &[u32], lives: impl Fn(u32) -> bool) -> Formers {
        let mut before: Vec<u32> = self.slots().collect();
        let is_aligned = next.base.len() == before.len();
        for (index, owner) in before.iter_mut().enumerate() {
            if !lives(*owner) || is_aligned && next.base[index] == *owner {
                *owner = LUT_EMPTY;
            }
        }
        let mut formers = self.formers.clone();
        formers.follow(table, lives);
        formers.add(&before, table, |_| next.written);
        formers
    }

    /// Ends the wait of slots that have been moving for `window`.
    #[must_use]
    pub fn pass_time(mut self, now: Seconds, window: Seconds) -> Self {
        let is_moving = |element: u32| state_of(element) == LUT_MOVING;
        let is_expired = |since: Seconds| now.saturating_sub(since) >= window;
        let is_aligned = self.base.len() == self.elements.len();
        let all_expired = || {
            let mut slots = self.elements.iter().zip(&self.since);
            slots.all(|(element, since)| !is_moving(*element) || is_expired(*since))
        };
        let waits = self.base.is_empty() || !is_aligned && !all_expired();
        self.formers.pass_time(now, window);
        if waits {
            return self;
        }
        for (index, element) in self.elements.iter_mut().enumerate() {
            if is_moving(*element) && is_expired(self.since[index]) {
                *element = slot_of(*element) | LUT_SETTLING;
                if is_aligned {
                    self.base[index] = slot_of(*element);
                }
                self.written = now;
            }
        }
        self.drop_idle_base();
        self
    }

    /// Makes those of the settling slots stable that `is_noted` knows no note of.
    #[must_use]
    pub fn settle(mut self, is_noted: impl Fn(u32) -> bool) -> Self {
        for (index, element) in (0..).zip(&mut self.elements) {
            if state_of(*element) == LUT_SETTLING && !is_noted(index) {
                *element = slot_of(*element) | LUT_STABLE;
            }
        }
        self
    }

    /// The same without former owners, where there is no room for them.
    #[must_use]
    pub fn without_formers(mut self) -> Self {
        self.formers = Formers::default();
        self
    }

    /// The same without a base, where there is no room for one: connections that were not noted
    /// follow the table from now on.
    #[must_use]
    pub fn without_base(mut self) -> Self {
        for element in &mut self.elements {
            if state_of(*element) == LUT_MOVING {
                *element = slot_of(*element) | LUT_SETTLING;
            }
        }
        self.drop_idle_base();
        self
    }

    fn drop_idle_base(&mut self) {
        if self.count(LUT_MOVING) == 0 {
            self.base = Vec::new();
            self.since = Vec::new();
        }
    }
}

/// The backend slot of an element of `lut`.
pub fn slot_of(element: u32) -> u32 {
    element & LUT_SLOT_MASK
}

/// The state of the table slot that an element of `lut` is.
pub fn state_of(element: u32) -> u32 {
    element & LUT_STATE_MASK
}

/// The slots of a table of `other` slots that some hash points at which points at slot `index` of a
/// table of `length`. None if there are none.
fn overlap(index: u32, length: u32, other: u32) -> RangeInclusive<u32> {
    if length == other {
        return index..=index;
    }
    if other == 0 {
        #[expect(
            clippy::reversed_empty_ranges,
            reason = "a table without slots has none"
        )]
        return 1..=0;
    }
    // Hash h points at (h · length) >> 32: the first that points at a slot is the slot's share of
    // 2³², rounded up.
    let first = |index: u32| (u64::from(index) << 32).div_ceil(u64::from(length));
    let last = first(index + 1) - 1;
    hash::reduce(first(index) as u32, other)..=hash::reduce(last as u32, other)
}

#[cfg(test)]
mod tests;
