//! Which elements of an array map are used, and which slots are free.

use std::collections::BTreeMap;

use crate::lut::{Allocator, Range};

/// The used elements of an array map, and which slots are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMap<V> {
    used: BTreeMap<u32, V>,
    free: Allocator,
}

impl<V> SlotMap<V> {
    /// An array of `capacity` elements, none used. Slot 0 is never given out: each array keeps it
    /// for a meaning of its own.
    pub fn new(capacity: u32) -> Self {
        let mut free = Allocator::new(capacity);
        free.allocate(1);
        Self {
            used: BTreeMap::new(),
            free,
        }
    }

    /// The element at `slot`, if it is used.
    pub fn get(&self, slot: u32) -> Option<&V> {
        self.used.get(&slot)
    }

    /// Uses a slot, or changes what it holds; what it held.
    pub fn insert(&mut self, slot: u32, value: V) -> Option<V> {
        let previous = self.used.insert(slot, value);
        if previous.is_none() {
            // Slot 0 is not free, and still may be found used by whoever wrote it.
            let _ = self.free.reserve(one(slot));
        }
        previous
    }

    /// Frees a slot; what it held.
    pub fn remove(&mut self, slot: u32) -> Option<V> {
        let previous = self.used.remove(&slot)?;
        if slot != 0 {
            self.free.release(one(slot));
        }
        Some(previous)
    }

    /// Used slots and what they hold, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        self.used.iter().map(|(slot, value)| (*slot, value))
    }

    /// What the used slots hold.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.used.values()
    }

    /// Slots that can be given out, the lowest first.
    pub fn free(&self) -> impl Iterator<Item = u32> {
        self.free.free_ranges().flat_map(|range| {
            let Range { offset, len } = range;
            offset..offset + len
        })
    }

    /// How many are used.
    pub fn count(&self) -> usize {
        self.used.len()
    }
}

fn one(slot: u32) -> Range {
    Range {
        offset: slot,
        len: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_slot_that_is_not_used_is_free_first() {
        let mut slots = SlotMap::new(6);
        for slot in [1, 2, 4] {
            slots.insert(slot, 'x');
        }
        assert_eq!(slots.free().collect::<Vec<_>>(), [3, 5]);
        assert_eq!(slots.remove(1), Some('x'));
        assert_eq!(slots.remove(1), None);
        assert_eq!(slots.free().collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(slots.insert(4, 'y'), Some('x'));
        assert_eq!(slots.count(), 2);
    }

    #[test]
    fn slot_zero_is_never_given_out() {
        let mut slots = SlotMap::new(2);
        slots.insert(0, ());
        slots.remove(0);
        assert_eq!(slots.free().collect::<Vec<_>>(), [1]);
    }
}
