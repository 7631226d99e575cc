//! Which ranges of the flat lookup table belong to whom.
//!
//! All services' Maglev tables live in one array of `u32`; a service entry names its range. A new
//! table is written to a range nobody reads, then the service entry flips to it, then the old
//! range is freed: a packet sees one table or the other. This module only keeps account of the
//! ranges; it writes nothing.

use std::collections::BTreeMap;
use std::fmt;

/// A range of slots `[offset, offset + len)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// The first slot.
    pub offset: u32,
    /// How many slots. 0 only for a service with nobody to pick.
    pub len: u32,
}

impl Range {
    /// The range of a service that has nobody to pick.
    pub const EMPTY: Self = Self { offset: 0, len: 0 };

    fn end(self) -> u32 {
        self.offset + self.len
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.offset, self.offset + self.len)
    }
}

/// A range that cannot be marked as used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("range {range} is beyond the table or in use already")]
pub struct Conflict {
    /// The range asked for.
    pub range: Range,
}

/// First fit over a list of free ranges that coalesce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocator {
    capacity: u32,
    /// Offset → length. No two neighbours touch.
    free: BTreeMap<u32, u32>,
    /// The sum of all lengths.
    free_slots: u32,
}

impl Allocator {
    /// All of `capacity` slots free.
    pub fn new(capacity: u32) -> Self {
        let free = if capacity == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([(0, capacity)])
        };
        Self {
            capacity,
            free,
            free_slots: capacity,
        }
    }

    /// How many slots there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many slots are free, in ranges of any length.
    pub fn free_slots(&self) -> u32 {
        self.free_slots
    }

    /// The free ranges, by offset.
    pub fn free_ranges(&self) -> impl Iterator<Item = Range> {
        self.free
            .iter()
            .map(|(&offset, &len)| Range { offset, len })
    }

    /// Marks a range as used that is: how the ranges found in the maps are taken over.
    pub fn reserve(&mut self, range: Range) -> Result<(), Conflict> {
        if range.len == 0 {
            return Ok(());
        }
        let conflict = Conflict { range };
        let Some(end) = range.offset.checked_add(range.len) else {
            return Err(conflict);
        };
        let holder = self
            .free
            .range(..=range.offset)
            .next_back()
            .map(|(&o, &l)| (o, l));
        match holder {
            Some((offset, len)) if offset + len >= end => {
                self.free.remove(&offset);
                self.insert(offset, range.offset);
                self.insert(end, offset + len);
                self.free_slots -= range.len;
                Ok(())
            }
            _ => Err(conflict),
        }
    }

    /// Takes the first free range of `len` slots; `None` if none is long enough.
    pub fn allocate(&mut self, len: u32) -> Option<Range> {
        if len == 0 {
            return Some(Range::EMPTY);
        }
        let (offset, available) = self
            .free
            .iter()
            .find(|(_, available)| **available >= len)
            .map(|(&o, &l)| (o, l))?;
        self.free.remove(&offset);
        self.insert(offset + len, offset + available);
        self.free_slots -= len;
        Some(Range { offset, len })
    }

    /// Gives a range back.
    ///
    /// # Panics
    /// If a part of it is free already: two services would have shared it.
    pub fn release(&mut self, range: Range) {
        if range.len == 0 {
            return;
        }
        let (mut offset, mut end) = (range.offset, range.end());
        assert!(end <= self.capacity, "range {range} is beyond the table");
        if let Some((&before, &len)) = self.free.range(..=offset).next_back() {
            assert!(before + len <= offset, "range {range} is free already");
            if before + len == offset {
                self.free.remove(&before);
                offset = before;
            }
        }
        if let Some((&after, &len)) = self.free.range(range.offset..).next() {
            assert!(after >= end, "range {range} is free already");
            if after == end {
                self.free.remove(&after);
                end = after + len;
            }
        }
        self.insert(offset, end);
        self.free_slots += range.len;
    }

    fn insert(&mut self, offset: u32, end: u32) {
        if offset < end {
            self.free.insert(offset, end - offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_range_that_fits_is_taken() {
        let mut lut = Allocator::new(100);
        let ranges: Vec<Range> = (0..4).map(|_| lut.allocate(20).unwrap()).collect();
        lut.release(ranges[0]);
        lut.release(ranges[2]);
        assert_eq!(
            lut.allocate(21),
            None,
            "two separate gaps of 20 and a tail of 20"
        );
        assert_eq!(lut.allocate(20), Some(ranges[0]));
        assert_eq!(
            lut.allocate(10),
            Some(Range {
                offset: 40,
                len: 10
            })
        );
        assert_eq!(lut.free_slots(), 30);
    }

    #[test]
    fn released_neighbours_become_one_range() {
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2]] {
            let mut lut = Allocator::new(60);
            let ranges: Vec<Range> = (0..3).map(|_| lut.allocate(20).unwrap()).collect();
            for index in order {
                lut.release(ranges[index]);
            }
            assert_eq!(lut, Allocator::new(60), "{order:?}");
        }
    }

    #[test]
    fn reserved_ranges_are_not_given_out() {
        let mut lut = Allocator::new(100);
        lut.reserve(Range {
            offset: 10,
            len: 20,
        })
        .unwrap();
        lut.reserve(Range {
            offset: 80,
            len: 20,
        })
        .unwrap();
        assert_eq!(
            lut.allocate(30),
            Some(Range {
                offset: 30,
                len: 30
            })
        );
        assert_eq!(lut.allocate(10), Some(Range { offset: 0, len: 10 }));
        assert_eq!(lut.free_slots(), 20);
    }

    #[test]
    fn overlapping_or_outlying_reservation_is_refused() {
        let mut lut = Allocator::new(100);
        lut.reserve(Range {
            offset: 10,
            len: 20,
        })
        .unwrap();
        for (offset, len) in [(10, 1), (5, 10), (29, 5), (90, 11), (u32::MAX, 2)] {
            let range = Range { offset, len };
            assert_eq!(lut.reserve(range), Err(Conflict { range }));
        }
        assert_eq!(lut.free_slots(), 80);
    }

    #[test]
    #[should_panic(expected = "free already")]
    fn double_release_panics() {
        let mut lut = Allocator::new(10);
        let range = lut.allocate(5).unwrap();
        lut.release(range);
        lut.release(range);
    }

    #[test]
    fn thousand_random_steps_agree_with_a_bitmap() {
        let mut lut = Allocator::new(1_000);
        let mut used = vec![false; 1_000];
        let mut held: Vec<Range> = Vec::new();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for step in 0..1_000 {
            // Xorshift64: a fixed sequence, so that a failure replays.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state.is_multiple_of(3) && !held.is_empty() {
                let range = held.swap_remove((state >> 8) as usize % held.len());
                lut.release(range);
                used[range.offset as usize..range.end() as usize].fill(false);
            } else if let Some(range) = lut.allocate((state >> 8) as u32 % 50 + 1) {
                let slots = &mut used[range.offset as usize..range.end() as usize];
                assert!(
                    slots.iter().all(|used| !used),
                    "step {step}: {range} was in use"
                );
                slots.fill(true);
                held.push(range);
            }
            let free = used.iter().filter(|used| !**used).count() as u32;
            assert_eq!(lut.free_slots(), free, "step {step}");
        }
    }
}
