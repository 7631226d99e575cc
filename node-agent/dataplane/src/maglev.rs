//! Weighted Maglev tables: which backend a hash value belongs to.
//!
//! The population of §3.4 of "Maglev: A Fast and Reliable Software Network Load Balancer"
//! (NSDI '16): each backend walks its own permutation of the slots and, when its turn comes, takes
//! the first slot that is still free. Weights scale the number of turns, not the permutations, so
//! shares follow the weights to within a slot and a change of one weight leaves the other backends'
//! preferences as they were.
//!
//! A table is a pure function of the set of (id, weight) pairs: every node of the cluster computes
//! the same one, whatever the order it heard of the backends in.

use fairlead_api::BackendId;

/// The sizes a table may have: primes, so that every skip is a generator of the permutation, a
/// factor of four apart. Resizing a table moves nearly every slot; few sizes make that rare, and a
/// service has to grow fourfold before it happens.
const SIZES: [u32; 5] = [251, 1_021, 4_093, 16_381, SLOTS_MAX];

/// The largest table, that of the paper's evaluation. 256 KiB.
pub const SLOTS_MAX: u32 = 65_537;

/// How many slots the lightest backend of a table should own at least: its share is then within
/// 1 % of its weight.
pub const SLOTS_PER_BACKEND_MIN: u32 = 100;

/// A backend that wants a share of the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Seeds the permutation.
    pub id: BackendId,
    /// The share it gets, relative to the others. 0 takes no slot.
    pub weight: u32,
}

/// The number of slots of a table for `candidates`: the smallest size that gives the lightest of
/// them [`SLOTS_PER_BACKEND_MIN`] slots, or [`SLOTS_MAX`] where none does. 0 if nobody wants a slot.
pub fn size(candidates: &[Candidate]) -> u32 {
    let weights = || {
        candidates
            .iter()
            .map(|c| u64::from(c.weight))
            .filter(|&weight| weight > 0)
    };
    let Some(lightest) = weights().min() else {
        return 0;
    };
    let wanted = weights().sum::<u64>() * u64::from(SLOTS_PER_BACKEND_MIN) / lightest;
    SIZES
        .into_iter()
        .find(|&size| u64::from(size) >= wanted)
        .unwrap_or(SLOTS_MAX)
}

/// Fills a table of `size` slots: the owner of each. Empty if nobody wants a slot.
///
/// `size` must be a prime; [`size`] gives one.
pub fn populate(size: u32, candidates: &[Candidate]) -> Vec<BackendId> {
    let mut candidates: Vec<Candidate> = candidates
        .iter()
        .copied()
        .filter(|c| c.weight > 0)
        .collect();
    candidates.sort_unstable();
    candidates.dedup_by_key(|c| c.id);
    let Some(heaviest) = candidates.iter().map(|c| c.weight).max() else {
        return Vec::new();
    };
    let mut walkers: Vec<Walker> = candidates.iter().map(|c| Walker::new(c, size)).collect();

    let mut table = vec![BackendId(0); size as usize];
    let mut taken = Bitmap::new(size);
    let mut free = size;
    'full: loop {
        for walker in &mut walkers {
            // One round gives the heaviest one turn, and the others their fraction of one.
            walker.credit += u64::from(walker.weight);
            if walker.credit < u64::from(heaviest) {
                continue;
            }
            walker.credit -= u64::from(heaviest);
            let slot = loop {
                let slot = walker.step(size);
                if taken.insert(slot) {
                    break slot;
                }
            };
            table[slot as usize] = walker.id;
            free -= 1;
            if free == 0 {
                break 'full;
            }
        }
    }
    table
}

/// A backend on its way through its permutation `(offset + i · skip) mod size`.
struct Walker {
    id: BackendId,
    weight: u32,
    credit: u64,
    next: u32,
    skip: u32,
}

impl Walker {
    fn new(candidate: &Candidate, size: u32) -> Self {
        let hash = mix(u64::from(candidate.id.0));
        // The halves of a well-mixed hash serve as the paper's two hash functions.
        let (high, low) = ((hash >> 32) as u32, hash as u32);
        Self {
            id: candidate.id,
            weight: candidate.weight,
            credit: 0,
            next: high % size,
            skip: low % (size - 1) + 1,
        }
    }

    fn step(&mut self, size: u32) -> u32 {
        let slot = self.next;
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
        slot
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA '14): every input bit reaches every
/// output bit. Part of the table's definition, as all nodes must agree on it.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Which slots are taken. 8 KiB for the largest table: the search for a free slot stays in the
/// first-level cache, which is where populating spends its time.
struct Bitmap(Vec<u64>);

impl Bitmap {
    fn new(bits: u32) -> Self {
        Self(vec![0; bits.div_ceil(64) as usize])
    }

    /// Whether `bit` was not set before.
    fn insert(&mut self, bit: u32) -> bool {
        let word = &mut self.0[(bit / 64) as usize];
        let mask = 1 << (bit % 64);
        let fresh = *word & mask == 0;
        *word |= mask;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn equal(count: u32) -> Vec<Candidate> {
        (1..=count)
            .map(|id| Candidate {
                id: BackendId(id),
                weight: 1,
            })
            .collect()
    }

    fn shares(table: &[BackendId]) -> HashMap<BackendId, u32> {
        let mut shares = HashMap::new();
        for owner in table {
            *shares.entry(*owner).or_default() += 1;
        }
        shares
    }

    /// The paper's pseudocode 1, literally: explicit permutations, one turn each.
    fn reference(size: u32, candidates: &[Candidate]) -> Vec<BackendId> {
        let permutations: Vec<Vec<u32>> = candidates
            .iter()
            .map(|candidate| {
                let walker = Walker::new(candidate, size);
                let (offset, skip) = (u64::from(walker.next), u64::from(walker.skip));
                (0..u64::from(size))
                    .map(|j| ((offset + j * skip) % u64::from(size)) as u32)
                    .collect()
            })
            .collect();
        let mut next = vec![0usize; candidates.len()];
        let mut entry = vec![None; size as usize];
        let mut filled = 0;
        loop {
            for (i, candidate) in candidates.iter().enumerate() {
                let mut slot = permutations[i][next[i]] as usize;
                while entry[slot].is_some() {
                    next[i] += 1;
                    slot = permutations[i][next[i]] as usize;
                }
                entry[slot] = Some(candidate.id);
                next[i] += 1;
                filled += 1;
                if filled == size {
                    return entry.into_iter().map(Option::unwrap).collect();
                }
            }
        }
    }

    #[test]
    fn equal_weights_give_the_table_of_the_paper() {
        for count in [1, 2, 3, 7, 10, 40] {
            let candidates = equal(count);
            for table_size in [251, 1_021, 4_093] {
                assert_eq!(
                    populate(table_size, &candidates),
                    reference(table_size, &candidates),
                    "{count} backends, {table_size} slots"
                );
            }
        }
    }

    #[test]
    fn shares_follow_the_weights_within_one_percent() {
        for weights in [
            [1, 2, 4, 8],
            [8, 4, 2, 1],
            [10, 20, 40, 80],
            [100, 100, 100, 1],
        ] {
            let candidates: Vec<Candidate> = weights
                .iter()
                .enumerate()
                .map(|(i, &weight)| Candidate {
                    id: BackendId(i as u32 + 1),
                    weight,
                })
                .collect();
            let table = populate(size(&candidates), &candidates);
            let shares = shares(&table);
            let sum: u32 = weights.iter().sum();
            for candidate in &candidates {
                let share = f64::from(shares[&candidate.id]) / table.len() as f64;
                let wanted = f64::from(candidate.weight) / f64::from(sum);
                assert!(
                    (share / wanted - 1.0).abs() <= 0.01,
                    "{weights:?}: backend {} has {share:.5}, wanted {wanted:.5}",
                    candidate.id
                );
            }
        }
    }

    #[test]
    fn largest_table_is_even_and_moves_few_slots_on_a_removal() {
        let candidates = equal(100);
        let before = populate(SLOTS_MAX, &candidates);
        let counts = shares(&before);
        let average = f64::from(SLOTS_MAX) / 100.0;
        let worst = f64::from(*counts.values().max().unwrap()) / average;
        assert!(worst < 1.002, "max/avg is {worst}");

        let removed = BackendId(42);
        let rest: Vec<Candidate> = candidates
            .iter()
            .copied()
            .filter(|c| c.id != removed)
            .collect();
        let after = populate(SLOTS_MAX, &rest);
        let needless = before
            .iter()
            .zip(&after)
            .filter(|(old, new)| **old != removed && old != new)
            .count();
        // The shared measurement of this M and N is 0.56 %; the paper's figure 12 is of that order.
        let share = needless as f64 / f64::from(SLOTS_MAX);
        assert!(
            share < 0.01,
            "{:.2} % of the slots moved needlessly",
            share * 100.0
        );
    }

    #[test]
    fn order_of_the_candidates_does_not_matter() {
        let mut candidates = equal(9);
        candidates[3].weight = 5;
        let table = populate(1_021, &candidates);
        candidates.reverse();
        assert_eq!(populate(1_021, &candidates), table);
    }

    #[test]
    fn weight_zero_takes_no_slot() {
        let mut candidates = equal(3);
        candidates[1].weight = 0;
        let table = populate(size(&candidates), &candidates);
        assert!(!table.contains(&BackendId(2)));
        assert!(table.contains(&BackendId(1)) && table.contains(&BackendId(3)));
    }

    #[test]
    fn nobody_to_pick_gives_an_empty_table() {
        let idle = [Candidate {
            id: BackendId(1),
            weight: 0,
        }];
        assert_eq!(size(&[]), 0);
        assert_eq!(size(&idle), 0);
        assert!(populate(251, &idle).is_empty());
    }

    #[test]
    fn sizes_are_primes_that_give_a_hundred_slots_each() {
        for prime in SIZES {
            assert!(
                (2..).take_while(|d| d * d <= prime).all(|d| prime % d != 0),
                "{prime}"
            );
        }
        for (count, wanted) in [
            (1, 251),
            (2, 251),
            (3, 1_021),
            (10, 1_021),
            (11, 4_093),
            (163, 16_381),
            (1_000, 65_537),
        ] {
            assert_eq!(size(&equal(count)), wanted, "{count} backends");
        }
    }
}
