use crate::hash;
use crate::maps::SERVICES_MAX;

/// The bits of a `lut` element that are the backend slot. The others are the state of the table
/// slot (0: stable, the only one there is yet).
pub const LUT_SLOT_MASK: u32 = 0x00ff_ffff;
/// The backend slot that never holds a backend, and so what a table slot that was never written
/// points at. A service without backends has a table of length 0 instead.
pub const LUT_EMPTY: u32 = 0;

/// Frames for backends on this segment go by their MAC address alone, as they are; others are
/// encapsulated.
pub const SERVICE_DR: u32 = 1;

/// One service port. `services` is an array of these, indexed by [`Self::index`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceEntry {
    /// First slot of its table in `lut`.
    pub lut_offset: u32,
    /// Slots of its table, 0 if it has no backend. A prime for Maglev.
    pub lut_length: u32,
    /// Elements of a list right behind, of this node's own backends alone; 0 if there is none.
    /// It is there for [`SERVICE_DR`] only: another node has picked one of ours by a table that is
    /// older or newer.
    pub local_length: u32,
    /// `ServiceId`; 0 marks a free slot.
    pub id: u32,
    /// [`SERVICE_DR`].
    pub flags: u32,
    /// Zero.
    pub padding: u32,
}
map_struct!(ServiceEntry, 24);

impl ServiceEntry {
    /// The index in `services` of service slot `slot` in `bank`.
    #[inline(always)]
    pub const fn index(bank: u32, slot: u32) -> u32 {
        (bank & 1) * SERVICES_MAX + slot
    }

    /// The index in `lut` that a flow's hash points at, or nothing if there is no backend.
    #[inline(always)]
    pub const fn lut_index(&self, hash: u32) -> Option<u32> {
        if self.lut_length == 0 {
            return None;
        }
        Some(self.lut_offset + hash::reduce(hash, self.lut_length))
    }

    /// The same among this node's own backends.
    #[inline(always)]
    pub const fn local_index(&self, hash: u32) -> Option<u32> {
        if self.local_length == 0 {
            return None;
        }
        Some(self.lut_offset + self.lut_length + hash::reduce(hash, self.local_length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_points_into_the_table() {
        let service = ServiceEntry {
            lut_offset: 5000,
            lut_length: 1009,
            local_length: 101,
            id: 1,
            ..ServiceEntry::default()
        };
        for hash in [0, 1, u32::MAX / 2, u32::MAX - 1, u32::MAX] {
            let index = service.lut_index(hash).unwrap();
            assert!((5000..6009).contains(&index), "{index}");
            let index = service.local_index(hash).unwrap();
            assert!((6009..6110).contains(&index), "{index}");
        }
    }

    #[test]
    fn service_without_backends_has_no_pick() {
        assert_eq!(ServiceEntry::default().lut_index(7), None);
        assert_eq!(ServiceEntry::default().local_index(7), None);
    }
}
