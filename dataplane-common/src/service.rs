use crate::hash;
use crate::maps::SERVICES_MAX;

/// The bits of a `lut` element that are the backend slot. The others are the state of the table
/// slot: [`LUT_STABLE`], [`LUT_MOVING`] or [`LUT_SETTLING`].
pub const LUT_SLOT_MASK: u32 = 0x00ff_ffff;
/// The backend slot that never holds a backend, and so what a table slot that was never written
/// points at. A service without backends has a table of length 0 instead.
pub const LUT_EMPTY: u32 = 0;
/// The bits of a `lut` element that are the state of the table slot.
pub const LUT_STATE_MASK: u32 = 0xff00_0000;
/// Every connection of this table slot belongs to the backend it names: nothing to look up.
pub const LUT_STABLE: u32 = 0;
/// The table slot has changed hands. New connections go to the backend it names and are noted in
/// `flows`; what is in `flows` follows that; the rest belongs to who had it before, see
/// [`ServiceEntry::base_index`].
pub const LUT_MOVING: u32 = 1 << 24;
/// What is in `flows` still follows that, and the rest belongs to the backend it names.
pub const LUT_SETTLING: u32 = 2 << 24;

/// Frames for backends on this segment go by their MAC address alone, as they are; others are
/// encapsulated.
pub const SERVICE_DR: u32 = 1;
/// Every flow is noted in `flows`, whatever its table slot's state: UDP, schedulers whose pick is no
/// function of the packet, session affinity, and services that ask for it.
pub const SERVICE_TRACK: u32 = 1 << 1;
/// Both addresses are translated here, and answers come back this way.
pub const SERVICE_NAT: u32 = 1 << 2;
/// The pick depends on the client's address alone (IPVS' `sh`).
pub const SERVICE_SOURCE_HASH: u32 = 1 << 3;
/// The pick depends on the service's address alone (IPVS' `dh`).
pub const SERVICE_DESTINATION_HASH: u32 = 1 << 4;
/// New connections of a client go to the backend it had last, see `affinity`.
pub const SERVICE_AFFINITY: u32 = 1 << 5;
/// Only clients in `source_ranges` may use its VIPs.
pub const SERVICE_SOURCE_RANGES: u32 = 1 << 6;
/// Packets from outside are for the backends of this node alone (externalTrafficPolicy: Local). They
/// pick from the list behind the table, whose elements have states as those of a table do; the base
/// is then that list as it was.
pub const SERVICE_EXTERNAL_LOCAL: u32 = 1 << 7;
/// Sockets of this node are for the backends of this node alone (internalTrafficPolicy: Local).
pub const SERVICE_INTERNAL_LOCAL: u32 = 1 << 8;
/// Packets for real servers outside the cluster are encapsulated in GUE (UDP port
/// [`GUE_PORT`](crate::protocol::GUE_PORT), variant 1) instead of IP in IP.
pub const SERVICE_GUE: u32 = 1 << 9;
/// New connections take the table's elements in turn (IPVS' `rr`; `wrr` by a table in which
/// a backend stands as often as its weight says).
pub const SERVICE_IN_TURN: u32 = 1 << 10;
/// New connections go to the backend with the least load by [`ServiceEntry::scheduler`], which
/// looks at each element of the table: each backend stands there once.
pub const SERVICE_LEAST_LOAD: u32 = 1 << 11;
/// Some of its backends are real servers. What asks for it at a node port is noted, and translated if
/// it goes to one of them, whatever the service's forwarding: it is addressed to the node itself.
pub const SERVICE_SERVERS: u32 = 1 << 12;
/// What a packet of a service with any of these has to be looked at for, beside a table slot that
/// is stable. All others are done with after one read of the table.
pub const SERVICE_SLOW: u32 = SERVICE_TRACK
    | SERVICE_NAT
    | SERVICE_SOURCE_HASH
    | SERVICE_DESTINATION_HASH
    | SERVICE_AFFINITY
    | SERVICE_SOURCE_RANGES
    | SERVICE_EXTERNAL_LOCAL
    | SERVICE_IN_TURN
    | SERVICE_LEAST_LOAD;

/// What a socket that asks for a service with any of these has to be looked at for.
pub const SERVICE_SLOW_FOR_SOCKETS: u32 = SERVICE_SOURCE_HASH
    | SERVICE_DESTINATION_HASH
    | SERVICE_AFFINITY
    | SERVICE_INTERNAL_LOCAL
    | SERVICE_IN_TURN
    | SERVICE_LEAST_LOAD;
/// A service with any of these has every flow noted, whatever its table slot's state: its pick is no
/// function of the packet and the table alone.
pub const SERVICE_NOTED: u32 =
    SERVICE_TRACK | SERVICE_NAT | SERVICE_AFFINITY | SERVICE_IN_TURN | SERVICE_LEAST_LOAD;

/// Where the kind of [`SERVICE_LEAST_LOAD`] stands in the flags.
pub const SERVICE_SCHEDULER_SHIFT: u32 = 28;
/// IPVS' `lc`: fewest connections.
pub const SCHEDULER_LEAST_CONNECTIONS: u32 = 0;
/// IPVS' `wlc`: fewest connections for its weight.
pub const SCHEDULER_WEIGHTED_LEAST_CONNECTIONS: u32 = 1;
/// IPVS' `sed`: shortest expected delay, (connections + 1) / weight.
pub const SCHEDULER_SHORTEST_EXPECTED_DELAY: u32 = 2;
/// IPVS' `nq`: an idle one if there is one, else as `sed`.
pub const SCHEDULER_NEVER_QUEUE: u32 = 3;
/// Former owners that are remembered of a table slot, beside the one that the base names. A third would
/// tell of connections whose slot moves three times while it moves at all; each costs a table that moves
/// as many slots as it has.
pub const FORMERS_PER_SLOT: u32 = 2;

/// Elements that a table of [`SERVICE_LEAST_LOAD`] has at most.
pub const LEAST_LOAD_BACKENDS_MAX: u32 = 256;

/// One service port. `services` is an array of these, indexed by [`Self::index`].
///
/// Its tables stand in `lut` one behind the other: the table, this node's own list, the base, and the
/// former owners.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceEntry {
    /// First slot of its table in `lut`.
    pub lut_offset: u32,
    /// Slots of its table, 0 if it has no backend. A prime for Maglev.
    pub lut_length: u32,
    /// Elements of a list right behind, of this node's own backends alone; 0 if there is none.
    /// It is there for what has to be answered here: packets that another node passed on after it
    /// had picked one of ours by a table that is older or newer, and the `LOCAL` flags.
    pub local_length: u32,
    /// `ServiceId`; 0 marks a free slot.
    pub id: u32,
    /// `SERVICE_*`.
    pub flags: u32,
    /// Slots of the base: the table as it was before slots began to move; with
    /// [`SERVICE_EXTERNAL_LOCAL`] the list of this node's own backends as it was. 0 while no slot is
    /// moving.
    pub base_length: u32,
    /// Slots of the lists of former owners: who had a slot after the base and before the table, the
    /// newest first. Each has [`FORMERS_PER_SLOT`] elements, [`LUT_EMPTY`] where there was nobody. 0 if
    /// there are none.
    pub former_length: u32,
    /// Seconds for which a client keeps its backend, with [`SERVICE_AFFINITY`].
    pub affinity_seconds: u32,
}
map_struct!(ServiceEntry, 32);

impl ServiceEntry {
    /// The index in `services` of service slot `slot` in `bank`.
    #[inline(always)]
    pub const fn index(bank: u32, slot: u32) -> u32 {
        (bank & 1) * SERVICES_MAX + slot
    }

    /// The service slot of an index in `services`, in either bank.
    #[inline(always)]
    pub const fn slot(index: u32) -> u32 {
        index % SERVICES_MAX
    }

    /// The index in `lut` that a flow's hash points at, or nothing if there is no backend.
    #[inline(always)]
    pub const fn lut_index(&self, hash: u32) -> Option<u32> {
        if self.lut_length == 0 {
            return None;
        }
        Some(self.lut_offset + hash::reduce(hash, self.lut_length))
    }

    /// The index in `lut` of who had the flow before slots began to move, if any did.
    #[inline(always)]
    pub const fn base_index(&self, hash: u32) -> Option<u32> {
        if self.base_length == 0 {
            return None;
        }
        Some(self.base_offset() + hash::reduce(hash, self.base_length))
    }

    /// The first slot in `lut` of the base.
    #[inline(always)]
    pub const fn base_offset(&self) -> u32 {
        self.lut_offset + self.lut_length + self.local_length
    }

    /// The index in `lut` of who had the flow in between: the newest for `rank` 0, and so on to
    /// [`FORMERS_PER_SLOT`]. Nothing if nobody is remembered.
    #[inline(always)]
    pub const fn former_index(&self, hash: u32, rank: u32) -> Option<u32> {
        if self.former_length == 0 {
            return None;
        }
        let slot = hash::reduce(hash, self.former_length);
        Some(self.base_offset() + self.base_length + slot * FORMERS_PER_SLOT + rank)
    }

    /// How [`SERVICE_LEAST_LOAD`] compares backends.
    #[inline(always)]
    pub const fn scheduler(&self) -> u32 {
        self.flags >> SERVICE_SCHEDULER_SHIFT
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
            base_length: 251,
            former_length: 251,
            id: 1,
            ..ServiceEntry::default()
        };
        for hash in [0, 1, u32::MAX / 2, u32::MAX - 1, u32::MAX] {
            let index = service.lut_index(hash).unwrap();
            assert!((5000..6009).contains(&index), "{index}");
            let index = service.local_index(hash).unwrap();
            assert!((6009..6110).contains(&index), "{index}");
            let index = service.base_index(hash).unwrap();
            assert!((6110..6361).contains(&index), "{index}");
            for rank in 0..FORMERS_PER_SLOT {
                let index = service.former_index(hash, rank).unwrap();
                assert!((6361..6863).contains(&index), "{index}");
            }
        }
    }

    #[test]
    fn service_without_backends_has_no_pick() {
        assert_eq!(ServiceEntry::default().lut_index(7), None);
        assert_eq!(ServiceEntry::default().local_index(7), None);
        assert_eq!(ServiceEntry::default().base_index(7), None);
        assert_eq!(ServiceEntry::default().former_index(7, 0), None);
    }
}
