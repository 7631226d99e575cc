//! Tables by hand, and a model: programs that do as the table of rules in the module's
//! documentation says, connections that outlive whatever happens to the backends, and random
//! histories of these.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_api::BackendId;

use super::*;
use crate::maglev::{self, Candidate};

const M: u32 = LUT_MOVING;
const S: u32 = LUT_SETTLING;
const WINDOW: Seconds = 900;

fn any(_: u32) -> bool {
    true
}

fn without(gone: u32) -> impl Fn(u32) -> bool {
    move |slot| slot != gone
}

/// A table, what follows, and the elements and the base that this makes.
type Case = (
    &'static str,
    fn(Moving) -> Moving,
    &'static [u32],
    &'static [u32],
);

#[test]
fn slots_move_settle_and_come_to_rest() {
    let cases: &[Case] = &[
        (
            "nothing changes",
            |t| t.replace(&[1, 1, 2, 2], any, 0),
            &[1, 1, 2, 2],
            &[],
        ),
        (
            "a slot moves",
            |t| t.replace(&[1, 3, 2, 2], any, 0),
            &[1, 3 | M, 2, 2],
            &[1, 1, 2, 2],
        ),
        (
            "it moves on, and keeps its base",
            |t| {
                t.replace(&[1, 3, 2, 2], any, 0)
                    .replace(&[1, 2, 2, 2], any, 9)
            },
            &[1, 2 | M, 2, 2],
            &[1, 1, 2, 2],
        ),
        (
            "it moves back, and may have been noted",
            |t| {
                t.replace(&[1, 3, 2, 2], any, 0)
                    .replace(&[1, 1, 2, 2], any, 9)
            },
            &[1, 1 | S, 2, 2],
            &[],
        ),
        (
            "a backend that is gone leaves nothing behind",
            |t| t.replace(&[1, 1, 1, 1], without(2), 0),
            &[1, 1, 1, 1],
            &[],
        ),
        (
            "nor does one that is gone while its slots move",
            |t| {
                t.replace(&[1, 1, 3, 3], any, 0)
                    .replace(&[1, 1, 3, 3], without(2), 9)
            },
            &[1, 1, 3 | S, 3 | S],
            &[],
        ),
        (
            "what a gone one left stays with its heir",
            |t| {
                let t = t.replace(&[1, 1, 3, 2], any, 0);
                t.replace(&[1, 1, 3, 1], without(2), 9)
                    .replace(&[1, 1, 1, 3], any, 10)
            },
            // The third was noted while it moved; connections of both since belong to the heirs.
            &[1, 1, 1 | M, 3 | M],
            &[1, 1, 3, 1],
        ),
        (
            "the window ends",
            |t| t.replace(&[1, 3, 2, 2], any, 0).pass_time(WINDOW, WINDOW),
            &[1, 3 | S, 2, 2],
            &[],
        ),
        (
            "it ends for those that moved first",
            |t| {
                t.replace(&[1, 3, 2, 2], any, 0)
                    .replace(&[1, 3, 2, 1], any, 500)
                    .pass_time(WINDOW, WINDOW)
            },
            &[1, 3 | S, 2, 1 | M],
            &[1, 3, 2, 2],
        ),
        (
            "a slot that has settled moves again, from where it was",
            |t| {
                t.replace(&[1, 3, 2, 2], any, 0)
                    .pass_time(WINDOW, WINDOW)
                    .replace(&[1, 1, 2, 2], any, 1_000)
            },
            &[1, 1 | M, 2, 2],
            &[1, 3, 2, 2],
        ),
        (
            "notes are left of one of two",
            |t| {
                t.replace(&[3, 3, 2, 2], any, 0)
                    .pass_time(WINDOW, WINDOW)
                    .settle(|slot| slot == 1)
            },
            &[3, 3 | S, 2, 2],
            &[],
        ),
        (
            "no room for a base",
            |t| t.replace(&[1, 3, 2, 2], any, 0).without_base(),
            &[1, 3 | S, 2, 2],
            &[],
        ),
        (
            "all was noted before",
            |t| t.with_all_noted().replace(&[1, 3, 2, 2], any, 0),
            &[1 | S, 3 | M, 2 | S, 2 | S],
            &[1, 1, 2, 2],
        ),
        (
            "a longer table",
            |t| t.replace(&[1, 1, 1, 1, 2, 2, 3, 2], any, 0),
            &[1, 1, 1, 1, 2, 2, 3 | M, 2],
            &[1, 1, 2, 2],
        ),
        (
            "a shorter one, whose slots are parts of several",
            |t| t.replace(&[1, 1, 2], any, 0),
            &[1, 1 | M, 2],
            &[1, 1, 2, 2],
        ),
        (
            "a longer one waits until all of it may settle",
            |t| {
                t.replace(&[1, 1, 1, 1, 2, 2, 3, 2], any, 0)
                    .replace(&[1, 1, 1, 3, 2, 2, 3, 2], any, 10)
                    .pass_time(WINDOW, WINDOW)
            },
            &[1, 1, 1, 3 | M, 2, 2, 3 | M, 2],
            &[1, 1, 2, 2],
        ),
        (
            "nobody takes new connections",
            |t| t.replace(&[0, 0, 0, 0], without(1), 0),
            &[0, 0, M, M],
            &[0, 0, 2, 2],
        ),
    ];
    for (name, follows, elements, base) in cases {
        let moved = follows(Moving::stable(vec![1, 1, 2, 2]));
        assert_eq!(
            (moved.elements(), moved.base()),
            (*elements, *base),
            "{name}"
        );
        assert_eq!(
            moved.is_stable(),
            elements.iter().all(|e| state_of(*e) == 0),
            "{name}"
        );
    }
}

/// A table, what follows, and the former owners of each slot that this makes.
type FormersCase = (&'static str, fn(Moving) -> Moving, &'static [[u32; 2]]);

#[test]
fn slots_remember_who_had_them_since_the_base() {
    let cases: &[FormersCase] = &[
        ("a slot moves", |t| t.replace(&[3, 2], any, 0), &[]),
        (
            "it moves on",
            |t| t.replace(&[3, 2], any, 0).replace(&[4, 2], any, 9),
            &[[3, 0], [0, 0]],
        ),
        (
            "and on: the newest are first",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[4, 2], any, 9);
                t.replace(&[5, 2], any, 10)
            },
            &[[4, 3], [0, 0]],
        ),
        (
            "and on: the oldest is forgotten",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[4, 2], any, 9);
                t.replace(&[5, 2], any, 10).replace(&[6, 2], any, 11)
            },
            &[[5, 4], [0, 0]],
        ),
        (
            "it moves back",
            |t| t.replace(&[3, 2], any, 0).replace(&[1, 2], any, 9),
            &[[3, 0], [0, 0]],
        ),
        (
            "and forth: who has it is no former owner",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[1, 2], any, 9);
                t.replace(&[3, 2], any, 10)
            },
            &[],
        ),
        (
            "who is gone is forgotten",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[4, 2], any, 9);
                t.replace(&[4, 2], without(3), 10)
            },
            &[],
        ),
        (
            "who is gone with the change is not remembered",
            |t| t.replace(&[3, 2], any, 0).replace(&[4, 2], without(3), 9),
            &[],
        ),
        (
            "the window has not ended",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[4, 2], any, 9);
                t.pass_time(8 + WINDOW, WINDOW)
            },
            &[[3, 0], [0, 0]],
        ),
        (
            "it ends",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[4, 2], any, 9);
                t.pass_time(9 + WINDOW, WINDOW)
            },
            &[],
        ),
        (
            "it ends though nothing moves",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[1, 2], any, 9);
                t.pass_time(9 + WINDOW, WINDOW)
            },
            &[],
        ),
        (
            "the table has grown, and the base is as long as the table before",
            |t| t.replace(&[3, 2], any, 0).replace(&[4, 4, 2, 2], any, 9),
            &[[3, 0], [0, 0]],
        ),
        (
            "it moves on after that",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[4, 4, 2, 2], any, 9);
                t.replace(&[5, 4, 2, 2], any, 10)
            },
            &[[4, 3], [3, 0], [0, 0], [0, 0]],
        ),
        (
            "no packet has met it: the base is a former owner",
            |t| t.replace(&[3, 2], any, 0).without_states(),
            &[[1, 0], [0, 0]],
        ),
        (
            "and again",
            |t| {
                let t = t.replace(&[3, 2], any, 0).without_states();
                t.replace(&[4, 2], any, 9).without_states()
            },
            &[[3, 1], [0, 0]],
        ),
        (
            "no room",
            |t| {
                let t = t.replace(&[3, 2], any, 0).replace(&[4, 2], any, 9);
                t.without_formers()
            },
            &[],
        ),
    ];
    for (name, follows, formers) in cases {
        let moved = follows(Moving::stable(vec![1, 2]));
        assert_eq!(moved.formers(), formers.as_flattened(), "{name}");
        assert_eq!(
            moved.is_at_rest(),
            moved.is_stable() && formers.is_empty(),
            "{name}"
        );
    }
}

#[test]
fn table_that_no_packet_has_met_has_no_slot_that_moves() {
    let moved = Moving::stable(vec![1, 2]).replace(&[3, 2], any, 0);
    let at_rest = moved.without_states();
    assert_eq!((at_rest.elements(), at_rest.base()), (&[3, 2][..], &[][..]));
    assert!(at_rest.is_stable() && !at_rest.is_at_rest());
    assert!(!at_rest.is_due(WINDOW - 1, WINDOW) && at_rest.is_due(WINDOW, WINDOW));
}

#[test]
fn restarted_agent_lets_slots_move_for_a_whole_window() {
    let before = Moving::stable(vec![1, 1]).replace(&[1, 2], any, 100);
    let found = Moving::found(
        before.elements().to_vec(),
        before.base().to_vec(),
        vec![],
        7,
    );
    assert_eq!(found, before);
    assert!(!found.is_due(7 + WINDOW - 1, WINDOW));
    assert!(found.is_due(7 + WINDOW, WINDOW));
    let moved = found.pass_time(7 + WINDOW, WINDOW);
    assert_eq!(moved.elements(), [1, 2 | S]);
    assert!(moved.formers().is_empty());
}

#[test]
fn overlapping_slots_are_those_that_one_hash_points_at() {
    for (length, other) in [(5, 3), (3, 5), (251, 1_021), (1_021, 251), (4, 4), (1, 7)] {
        // All hashes at which either table begins a new slot, and those before.
        let edges = [length, other].map(|length| {
            (0..=length).map(move |index| (u64::from(index) << 32).div_ceil(length.into()))
        });
        let hashes = edges
            .into_iter()
            .flatten()
            .flat_map(|edge| [edge, edge.max(1) - 1]);
        let seen: BTreeSet<(u32, u32)> = hashes
            .filter_map(|hash| u32::try_from(hash).ok())
            .map(|hash| (hash::reduce(hash, length), hash::reduce(hash, other)))
            .collect();
        for index in 0..length {
            for slot in overlap(index, length, other) {
                assert!(
                    seen.contains(&(index, slot)),
                    "{index} of {length}, {slot} of {other}"
                );
            }
        }
        let pairs: usize = (0..length)
            .map(|index| overlap(index, length, other).count())
            .sum();
        assert_eq!(pairs, seen.len(), "{length}, {other}");
    }
    assert_eq!(overlap(0, 3, 0).count(), 0);
}

struct Backend {
    slot: u32,
    weight: u32,
    draining: bool,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    hash: u32,
    backend: u32,
    last_packet: Seconds,
    /// The table that it began with, in the past.
    began: usize,
}

/// A table by its owners, and since when it is in force.
struct Past {
    since: Seconds,
    /// The backends of its slots.
    owners: Vec<Option<u32>>,
}

impl Past {
    fn owner(&self, hash: u32) -> Option<u32> {
        let length = self.owners.len() as u32;
        *self.owners.get(hash::reduce(hash, length) as usize)?
    }
}

/// A service, its connections, and what is noted of them.
struct Model {
    table: Moving,
    /// All tables there have been.
    past: Vec<Past>,
    backends: BTreeMap<u32, Backend>,
    connections: Vec<Connection>,
    /// By the connection's hash: here each hash has one connection at most. Backend and slot.
    notes: BTreeMap<u32, (u32, u32)>,
    now: Seconds,
    random: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            table: Moving::default(),
            past: Vec::new(),
            backends: BTreeMap::new(),
            connections: Vec::new(),
            notes: BTreeMap::new(),
            now: 0,
            random: seed,
        }
    }

    fn next(&mut self, below: u32) -> u32 {
        // SplitMix64: a fixed sequence for a seed, so that a failure replays.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 16) as u32 % below
    }

    fn backend_in(&self, slot: u32) -> Option<u32> {
        let mut backends = self.backends.iter();
        backends
            .find(|(_, one)| one.slot == slot)
            .map(|(id, _)| *id)
    }

    /// Changes the backends as a control plane would, and the table after them.
    fn change(&mut self) {
        // A slot changes its owner only after the change that has freed it.
        let held: BTreeMap<u32, u32> = self
            .backends
            .iter()
            .map(|(id, backend)| (*id, backend.slot))
            .collect();
        let is_held = |slot: &u32| held.values().any(|held| held == slot);
        for _ in 0..=self.next(3) {
            let id = 1 + self.next(14);
            match self.next(4) {
                0 => drop(self.backends.remove(&id)),
                1 => {
                    if let Some(backend) = self.backends.get_mut(&id) {
                        backend.draining = !backend.draining;
                    }
                }
                _ => {
                    let weight = 1 + self.next(2);
                    let is_free = |slot: &u32| !is_held(slot) && self.backend_in(*slot).is_none();
                    // The lowest slot that is free, as the agent does: slots change owners.
                    let lowest = || (1..).find(is_free).expect("there are enough slots");
                    let slot = held.get(&id).copied().unwrap_or_else(lowest);
                    let added = self.backends.entry(id).or_insert(Backend {
                        slot,
                        weight,
                        draining: false,
                    });
                    added.weight = weight;
                    added.draining = false;
                }
            }
        }
        let candidates: Vec<Candidate> = self
            .backends
            .iter()
            .filter(|(_, backend)| !backend.draining)
            .map(|(id, backend)| Candidate {
                id: BackendId(*id),
                weight: backend.weight,
            })
            .collect();
        let owners = maglev::populate(maglev::size(&candidates), &candidates);
        let mut table: Vec<u32> = owners.iter().map(|id| self.backends[&id.0].slot).collect();
        if table.is_empty() {
            table.resize(self.table.elements().len(), LUT_EMPTY);
        }
        let lives: BTreeSet<u32> = self.backends.values().map(|backend| backend.slot).collect();
        self.table = self
            .table
            .replace(&table, |slot| lives.contains(&slot), self.now);
        let owners = self.table.slots().map(|slot| self.backend_in(slot));
        let owners = owners.collect();
        self.past.push(Past {
            since: self.now,
            owners,
        });
        let backends = &self.backends;
        self.connections
            .retain(|one| backends.contains_key(&one.backend));
    }

    /// The backends that may have a connection, in the order in which a node that knows nothing of it
    /// asks them.
    fn candidates(&self, hash: u32) -> Vec<u32> {
        let at = |table: &[u32]| {
            let length = table.len() as u32;
            table.get(hash::reduce(hash, length) as usize).copied()
        };
        let element = at(self.table.elements()).unwrap_or(LUT_EMPTY);
        let base = at(self.table.base()).filter(|_| state_of(element) != LUT_STABLE);
        let mut slots = vec![Some(slot_of(element)), base];
        if state_of(element) == LUT_MOVING {
            slots.reverse();
        }
        let formers: Vec<&[u32]> = self.table.formers().chunks(2).collect();
        let slot = hash::reduce(hash, formers.len() as u32) as usize;
        let formers = formers.get(slot).copied().unwrap_or_default();
        slots.extend(formers.iter().copied().map(Some));
        let mut candidates = Vec::new();
        for slot in slots.into_iter().flatten() {
            let backend = self.backend_in(slot);
            candidates.extend(backend.filter(|backend| !candidates.contains(backend)));
        }
        candidates
    }

    /// Whether a connection is one that a node which knows nothing of it finds for certain: its backend
    /// has the slot, or lost it less than a window ago and to two others at most who have lost it since.
    /// Where the table's length has changed, a slot's former owners are those of several.
    fn is_findable(&self, one: &Connection) -> bool {
        let past = &self.past[one.began..];
        let length = past[0].owners.len();
        if past.iter().any(|table| table.owners.len() != length) {
            return false;
        }
        let owned = |table: &Past| table.owner(one.hash) == Some(one.backend);
        let last = past.iter().rposition(owned).expect("it had one at first");
        let since = past[last + 1..].iter();
        let mut others: BTreeSet<u32> = since.filter_map(|table| table.owner(one.hash)).collect();
        if let Some(current) = past[past.len() - 1].owner(one.hash) {
            others.remove(&current);
        }
        match past.get(last + 1) {
            Some(lost) => self.now - lost.since < WINDOW && others.len() < 2,
            None => true,
        }
    }

    /// A node that has no notes takes over: how many connections it finds that are neither with the
    /// table's backend nor with the base's.
    fn take_over(&self, at: &str) -> usize {
        let mut in_between = 0;
        for one in &self.connections {
            let candidates = self.candidates(one.hash);
            assert!(candidates.len() <= 4, "{at}: {candidates:?}");
            let place = candidates.iter().position(|id| *id == one.backend);
            assert!(
                place.is_some() || !self.is_findable(one),
                "{at}: {one:?} is not among {candidates:?}"
            );
            in_between += usize::from(place.is_some_and(|place| place > 1));
        }
        in_between
    }

    /// What a program makes of a packet: whom it goes to. Nobody if there is no backend.
    fn packet(&mut self, hash: u32, is_first: bool) -> Option<u32> {
        let length = self.table.elements().len() as u32;
        if length == 0 {
            return None;
        }
        let element = self.table.elements()[hash::reduce(hash, length) as usize];
        let current = slot_of(element);
        let state = state_of(element);
        if state == LUT_STABLE {
            return self.backend_in(current);
        }
        if let Some(&(backend, slot)) = self.notes.get(&hash) {
            if self.backend_in(slot) == Some(backend) {
                return Some(backend);
            }
            self.notes.remove(&hash);
        }
        if state != LUT_MOVING {
            return self.backend_in(current);
        }
        let base = self.table.base();
        let base = base[hash::reduce(hash, base.len() as u32) as usize];
        let owner = self.backend_in(base).filter(|_| !is_first);
        let slot = if owner.is_some() { base } else { current };
        let backend = self.backend_in(slot)?;
        self.notes.insert(hash, (backend, slot));
        Some(backend)
    }

    fn begin_connections(&mut self) {
        for _ in 0..self.next(40) {
            let hash = self.next(u32::MAX);
            let is_used = self.connections.iter().any(|one| one.hash == hash);
            if let Some(backend) = self.packet(hash, true).filter(|_| !is_used) {
                self.connections.push(Connection {
                    hash,
                    backend,
                    last_packet: self.now,
                    began: self.past.len() - 1,
                });
            }
        }
    }

    /// Some connections send, and those that have been silent for long do.
    fn use_connections(&mut self, at: &str) {
        for index in 0..self.connections.len() {
            let one = self.connections[index];
            if self.now - one.last_packet < WINDOW / 2 && self.next(3) > 0 {
                continue;
            }
            let went_to = self.packet(one.hash, false);
            assert_eq!(
                went_to,
                Some(one.backend),
                "{at}: {one:?} at {} went elsewhere",
                self.now
            );
            self.connections[index].last_packet = self.now;
        }
    }

    /// Some connections end, and the notes of those that have ended are swept away.
    fn end_connections(&mut self) {
        for index in (0..self.connections.len()).rev() {
            if self.next(20) == 0 {
                self.connections.swap_remove(index);
            }
        }
        let live: BTreeSet<u32> = self.connections.iter().map(|one| one.hash).collect();
        self.notes.retain(|hash, _| live.contains(hash));
    }

    fn pass_time(&mut self) {
        self.now += self.next(WINDOW / 3);
        let table = std::mem::take(&mut self.table).pass_time(self.now, WINDOW);
        let length = table.elements().len() as u32;
        let noted: BTreeSet<u32> = self
            .notes
            .keys()
            .map(|hash| hash::reduce(*hash, length.max(1)))
            .collect();
        self.table = table.settle(|slot| noted.contains(&slot));
    }
}

#[test]
fn connection_keeps_its_backend_through_any_history() {
    let first_seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut states = [0_usize; 3];
    let mut in_between = 0;
    for seed in first_seed.map_or(1..40, |seed: u64| seed..seed + 1) {
        let mut model = Model::new(seed);
        for step in 0..150 {
            let at = format!("seed {seed}, step {step} (SEED={seed} replays it)");
            match model.next(5) {
                0 => model.change(),
                1 => model.begin_connections(),
                2 => model.end_connections(),
                _ => model.pass_time(),
            }
            model.use_connections(&at);
            if step % 10 == 9 {
                in_between += model.take_over(&at);
            }
            for (count, state) in states
                .iter_mut()
                .zip([LUT_STABLE, LUT_MOVING, LUT_SETTLING])
            {
                *count += model.table.count(state);
            }
        }
    }
    assert!(states.iter().all(|count| *count > 10_000), "{states:?}");
    assert!(in_between > 1_000, "{in_between}");
}

#[test]
fn table_that_nothing_happens_to_comes_to_rest() {
    let mut model = Model::new(7);
    for _ in 0..20 {
        model.change();
        model.begin_connections();
        model.pass_time();
    }
    assert!(!model.table.is_stable());
    model.connections.clear();
    model.notes.clear();
    for _ in 0..20 {
        model.pass_time();
    }
    assert!(model.table.is_stable() && model.table.base().is_empty());
}
