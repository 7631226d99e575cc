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

#[test]
fn restarted_agent_lets_slots_move_for_a_whole_window() {
    let before = Moving::stable(vec![1, 1]).replace(&[1, 2], any, 100);
    let found = Moving::found(before.elements().to_vec(), before.base().to_vec(), 7);
    assert_eq!(found, before);
    assert!(!found.is_due(7 + WINDOW - 1, WINDOW));
    assert!(found.is_due(7 + WINDOW, WINDOW));
    let moved = found.pass_time(7 + WINDOW, WINDOW);
    assert_eq!(moved.elements(), [1, 2 | S]);
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
}

/// A service, its connections, and what is noted of them.
struct Model {
    table: Moving,
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
        let backends = &self.backends;
        self.connections
            .retain(|one| backends.contains_key(&one.backend));
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
            for (count, state) in states
                .iter_mut()
                .zip([LUT_STABLE, LUT_MOVING, LUT_SETTLING])
            {
                *count += model.table.count(state);
            }
        }
    }
    assert!(states.iter().all(|count| *count > 10_000), "{states:?}");
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
