//! Building and changing the exact-match table of frontends that the programs read.
//!
//! Where a key may be and how a bucket is searched is `dataplane-common`'s; here is how entries get
//! there: a bucketised cuckoo hash (Pagh and Rodler, "Cuckoo hashing", 2004; Erlingsson, Manasse,
//! McSherry 2006 for the buckets). When both buckets of a key are full, a breadth-first search
//! finds the shortest chain of entries that can each move to their other bucket.
//!
//! Each change is an ordered list of bucket writes after each of which every entry is found: a
//! chain moves from its far end, an entry is written to its new bucket before its old place is
//! reused. What this order cannot give, a writer to the table being read would still break: a
//! reader between its two probes, or half-way through a bucket. Therefore the programs read one
//! bank while the other is changed, and the flip is one byte (see `dataplane-common`).
//!
//! The size is fixed ([`FRONTEND_BUCKETS`]) and the hash has no seed: an insertion that finds no
//! chain is refused, before anything is written. Far above [`maps::FRONTENDS_MAX`] entries, the
//! limit the plan keeps, this does not happen.
//!
//! [`maps::FRONTENDS_MAX`]: fairlead_dataplane_common::maps::FRONTENDS_MAX

use std::collections::VecDeque;

use fairlead_dataplane_common::maps::FRONTEND_BUCKETS;
use fairlead_dataplane_common::{
    BUCKET_ENTRIES, FRONTEND_USED, FrontendBucket, FrontendEntry, FrontendKey,
};
use imbl::Vector;

/// Buckets that a search for a chain visits at most: with two entries a bucket some 11 moves deep.
const SEARCH_MAX: usize = 4_096;

/// A bucket as it is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its index in its bank.
    pub bucket: u32,
    /// All its entries.
    pub content: FrontendBucket,
}

/// No chain of moves makes room for an entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("frontend table has no room beside its {entries} entries")]
pub struct Full {
    /// How many entries it holds.
    pub entries: usize,
}

/// What one bank of `frontends` holds. Cloning takes constant time, so that a plan can try its
/// changes on a copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    buckets: Vector<FrontendBucket>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            buckets: std::iter::repeat_n(FrontendBucket::default(), FRONTEND_BUCKETS as usize)
                .collect(),
        }
    }
}

impl Table {
    /// The table whose buckets were read from a map.
    ///
    /// # Panics
    /// If they are not exactly [`FRONTEND_BUCKETS`].
    pub fn from_buckets(buckets: Vec<FrontendBucket>) -> Self {
        assert_eq!(
            buckets.len(),
            FRONTEND_BUCKETS as usize,
            "one bank is read whole"
        );
        Self {
            buckets: buckets.into(),
        }
    }

    /// Every entry. After a writer died half-way through a move, one may come twice.
    pub fn iter(&self) -> impl Iterator<Item = &FrontendEntry> {
        self.buckets
            .iter()
            .flat_map(|bucket| &bucket.entries)
            .filter(|entry| is_used(entry))
    }

    /// The entry of `key`, found as the programs find it.
    pub fn get(&self, key: &FrontendKey) -> Option<&FrontendEntry> {
        let [first, second] = key.buckets();
        self.bucket(first)
            .find(key)
            .or_else(|| self.bucket(second).find(key))
    }

    /// Adds an entry, or replaces the one of the same key: the writes to be made, in this order.
    pub fn insert(&mut self, entry: FrontendEntry) -> Result<Vec<Write>, Full> {
        if let Some(writes) = self.rewrite(&entry.key, entry) {
            return Ok(writes);
        }
        let chain = self.search(entry.key.buckets()).ok_or_else(|| Full {
            entries: self.iter().count(),
        })?;
        // From the free place backwards: each entry is in its new bucket before its old place is
        // given to the one before it.
        let mut writes = Vec::with_capacity(chain.len());
        for (step, place) in chain.iter().enumerate().rev() {
            let moved = match step.checked_sub(1) {
                Some(before) => *self.entry(chain[before]),
                None => entry,
            };
            writes.push(self.put(*place, moved));
        }
        Ok(writes)
    }

    /// Removes the entry of `key`, wherever it is.
    pub fn remove(&mut self, key: &FrontendKey) -> Vec<Write> {
        self.rewrite(key, FrontendEntry::default())
            .unwrap_or_default()
    }

    /// Notes a write that was made.
    pub fn record(&mut self, write: &Write) {
        self.buckets[write.bucket as usize] = write.content;
    }

    /// A bucket by its index in its bank.
    pub fn bucket(&self, bucket: u32) -> &FrontendBucket {
        &self.buckets[bucket as usize]
    }

    fn entry(&self, place: Place) -> &FrontendEntry {
        &self.buckets[place.bucket as usize].entries[place.index]
    }

    fn put(&mut self, place: Place, entry: FrontendEntry) -> Write {
        let content = &mut self.buckets[place.bucket as usize];
        content.entries[place.index] = entry;
        Write {
            bucket: place.bucket,
            content: *content,
        }
    }

    /// Puts `entry` in every place that holds `key`: the writes that takes, `None` if no place does.
    fn rewrite(&mut self, key: &FrontendKey, entry: FrontendEntry) -> Option<Vec<Write>> {
        let mut writes = None;
        for bucket in key.buckets() {
            for index in 0..BUCKET_ENTRIES {
                let place = Place { bucket, index };
                let found = self.entry(place);
                if !is_used(found) || found.key != *key {
                    continue;
                }
                let changes = *found != entry;
                let writes = writes.get_or_insert_with(Vec::new);
                if changes {
                    writes.push(self.put(place, entry));
                }
            }
        }
        writes
    }

    /// The places of the shortest chain: the first for the new entry, each next one for what the
    /// place before it held, the last one free.
    fn search(&self, starts: [u32; 2]) -> Option<Vec<Place>> {
        /// A visited bucket, and the visited place whose entry would move into it.
        struct Visit {
            bucket: u32,
            from: Option<(usize, usize)>,
        }
        let mut visits: Vec<Visit> = starts
            .into_iter()
            .map(|bucket| Visit { bucket, from: None })
            .collect();
        let mut queue: VecDeque<usize> = (0..visits.len()).collect();
        while let Some(visit) = queue.pop_front() {
            let bucket = visits[visit].bucket;
            let entries = &self.bucket(bucket).entries;
            if let Some(free) = entries.iter().position(|entry| !is_used(entry)) {
                let mut chain = vec![Place {
                    bucket,
                    index: free,
                }];
                let mut step = visits[visit].from;
                while let Some((visit, index)) = step {
                    chain.push(Place {
                        bucket: visits[visit].bucket,
                        index,
                    });
                    step = visits[visit].from;
                }
                chain.reverse();
                return Some(chain);
            }
            for (index, entry) in entries.iter().enumerate() {
                let [first, second] = entry.key.buckets();
                let other = if first == bucket { second } else { first };
                // A bucket that was visited has a chain that is no longer; going round in circles
                // would move an entry twice.
                if visits.len() < SEARCH_MAX && visits.iter().all(|visit| visit.bucket != other) {
                    visits.push(Visit {
                        bucket: other,
                        from: Some((visit, index)),
                    });
                    queue.push_back(visits.len() - 1);
                }
            }
        }
        None
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    bucket: u32,
    index: usize,
}

fn is_used(entry: &FrontendEntry) -> bool {
    entry.flags & FRONTEND_USED != 0
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use fairlead_dataplane_common::maps::FRONTENDS_MAX;

    use super::*;

    fn entry(number: u32, service: u32) -> FrontendEntry {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number);
        FrontendEntry {
            key: FrontendKey::new(0, address.into(), 6, 80_u16.to_be()),
            service,
            flags: FRONTEND_USED,
        }
    }

    /// What a reader sees: buckets changed by the writes only.
    struct Reader(Vec<FrontendBucket>);

    impl Reader {
        fn find(&self, key: &FrontendKey) -> Option<FrontendEntry> {
            key.buckets()
                .iter()
                .find_map(|b| self.0[*b as usize].find(key))
                .copied()
        }
    }

    #[test]
    fn reader_finds_every_entry_after_each_single_write() {
        let mut table = Table::default();
        let mut reader = Reader(table.buckets.iter().copied().collect());
        let mut model: HashMap<FrontendKey, FrontendEntry> = HashMap::new();
        let mut longest = 0;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            // Xorshift64: a fixed sequence, so that a failure replays.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        // Filled well beyond the limit first, so that chains are long; then churned.
        for step in 0..160_000_u32 {
            let number = if step < 110_000 {
                step
            } else {
                random() as u32 % 110_000
            };
            let changed = entry(number, random() as u32);
            let removes = step >= 110_000 && random() % 3 == 0;
            let writes = if removes {
                model.remove(&changed.key);
                table.remove(&changed.key)
            } else {
                table
                    .insert(changed)
                    .expect("84 % of the places are used at most")
            };
            longest = longest.max(writes.len());
            for write in &writes {
                // Every entry that this write takes from its bucket is still found afterwards.
                let before = reader.0[write.bucket as usize];
                reader.0[write.bucket as usize] = write.content;
                for moved in before.entries.iter().filter(|e| is_used(e)) {
                    if moved.key != changed.key {
                        assert_eq!(reader.find(&moved.key), Some(*moved), "step {step}");
                    }
                }
            }
            if !removes {
                model.insert(changed.key, changed);
            }
            assert_eq!(
                reader.find(&changed.key),
                model.get(&changed.key).copied(),
                "step {step}"
            );
        }
        assert!(
            longest >= 3,
            "the longest chain had {longest} writes: chains were not exercised"
        );
        for (key, entry) in &model {
            assert_eq!(table.get(key), Some(entry));
            assert_eq!(reader.find(key), Some(*entry));
        }
        assert_eq!(table.iter().count(), model.len());
        assert!(table.buckets.iter().eq(&reader.0));
    }

    #[test]
    fn limit_of_frontends_fits_with_room_to_spare() {
        let mut table = Table::default();
        for number in 0..FRONTENDS_MAX {
            table.insert(entry(number, 1)).unwrap();
        }
        assert_eq!(table.iter().count(), FRONTENDS_MAX as usize);
    }

    #[test]
    fn full_table_refuses_and_is_unchanged() {
        let mut table = Table::default();
        let mut number = 0;
        let refused = loop {
            let before = table.clone();
            match table.insert(entry(number, 1)) {
                Ok(_) => number += 1,
                Err(full) => {
                    assert!(table == before, "a refused insertion changed the table");
                    break full;
                }
            }
            // Cloning each time would take minutes; skip ahead to where it gets tight.
            while number < 112_000 {
                table.insert(entry(number, 1)).unwrap();
                number += 1;
            }
        };
        assert!(refused.entries > FRONTENDS_MAX as usize);
    }

    #[test]
    fn entry_left_in_both_buckets_is_changed_and_removed_in_both() {
        let mut table = Table::default();
        let twice = (0..).map(|n| entry(n, 7)).find(|e| {
            let [first, second] = e.key.buckets();
            first != second
        });
        let twice = twice.unwrap();
        for bucket in twice.key.buckets() {
            table.put(Place { bucket, index: 1 }, twice);
        }
        let changed = FrontendEntry {
            service: 8,
            ..twice
        };
        assert_eq!(table.insert(changed).unwrap().len(), 2);
        assert_eq!(table.iter().map(|e| e.service).collect::<Vec<_>>(), [8, 8]);
        assert_eq!(table.remove(&twice.key).len(), 2);
        assert_eq!(table.iter().count(), 0);
    }
}
