//! The inner Ethernet addresses of what nodes send each other encapsulated. They are never on a
//! wire of their own: the destination names the backend the first node picked, the source the node
//! that sent it; so does the source of a frame that was passed on as it is (dr). Both have the
//! locally-administered bit set (IEEE 802, clause 8).

use crate::service::FORMERS_PER_SLOT;

/// First bytes of an inner destination that names a backend.
pub const BACKEND_PREFIX: u16 = 0x02fa;
/// First bytes of an inner address that names a node.
pub const NODE_PREFIX: u16 = 0x02fb;

/// First bytes of an inner source that names a node too, and says that it did not know the packet's
/// connection. Whoever gets it keeps it. The next prefixes, [`SECOND_CHANCES_MAX`] in all, say so of a
/// packet that may be passed on once more, twice more, and so on.
pub const SECOND_CHANCE_PREFIX: u16 = 0x02fc;

/// How often a packet is passed on from one backend that does not know its connection to another, at
/// most: there are the table's backend, the base's, and those in between.
pub const SECOND_CHANCES_MAX: u32 = 1 + FORMERS_PER_SLOT;

/// `02:fa` and the `BackendId`, big-endian.
#[inline(always)]
pub const fn of_backend(id: u32) -> [u8; 6] {
    with_prefix(BACKEND_PREFIX, id)
}

/// `02:fb` and the node's id, big-endian.
#[inline(always)]
pub const fn of_node(id: u32) -> [u8; 6] {
    with_prefix(NODE_PREFIX, id)
}

/// `02:fc` and the node's id, big-endian, for a packet that is not to be passed on again; `02:fd` and
/// `02:fe` for one that may be, once or twice. `chances_left` is below [`SECOND_CHANCES_MAX`].
#[inline(always)]
pub const fn of_second_chance(id: u32, chances_left: u32) -> [u8; 6] {
    with_prefix(SECOND_CHANCE_PREFIX + chances_left as u16, id)
}

/// The `BackendId` that an inner destination names, if it names one.
#[inline(always)]
pub const fn backend_of(mac: [u8; 6]) -> Option<u32> {
    if u16::from_be_bytes([mac[0], mac[1]]) == BACKEND_PREFIX {
        Some(u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]))
    } else {
        None
    }
}

/// Whether a node of the cluster has put `mac` in as the sender of a frame.
#[inline(always)]
pub const fn is_node(mac: [u8; 6]) -> bool {
    u16::from_be_bytes([mac[0], mac[1]]) == NODE_PREFIX
}

/// How often a packet may still be passed on, if a node has put `mac` in as the sender of one whose
/// connection it did not know.
#[inline(always)]
pub const fn chances_left(mac: [u8; 6]) -> Option<u32> {
    let prefix = u16::from_be_bytes([mac[0], mac[1]]);
    let left = prefix.wrapping_sub(SECOND_CHANCE_PREFIX) as u32;
    if left < SECOND_CHANCES_MAX {
        Some(left)
    } else {
        None
    }
}

/// An address as the words it is in memory. In the programs one that is copied byte by byte, from a map
/// to a packet, becomes a loop that is called.
#[inline(always)]
pub const fn words(mac: [u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = mac;
    [
        u16::from_ne_bytes([a, b]),
        u16::from_ne_bytes([c, d]),
        u16::from_ne_bytes([e, f]),
    ]
}

#[inline(always)]
const fn with_prefix(prefix: u16, id: u32) -> [u8; 6] {
    let ([a, b], [c, d, e, f]) = (prefix.to_be_bytes(), id.to_be_bytes());
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_comes_back_and_a_node_names_none() {
        assert_eq!(of_backend(0x0102_0304), [0x02, 0xfa, 1, 2, 3, 4]);
        assert_eq!(backend_of(of_backend(77)), Some(77));
        assert_eq!(backend_of(of_node(77)), None);
        assert!(is_node(of_node(77)) && !is_node(of_backend(77)));
    }

    #[test]
    fn mark_says_how_often_a_packet_may_be_passed_on() {
        assert_eq!(of_second_chance(0x0102_0304, 0), [0x02, 0xfc, 1, 2, 3, 4]);
        for left in 0..SECOND_CHANCES_MAX {
            assert_eq!(chances_left(of_second_chance(77, left)), Some(left));
            assert!(!is_node(of_second_chance(77, left)));
        }
        for other in [of_node(77), of_backend(77), [0x02, 0xff, 0, 0, 0, 77]] {
            assert_eq!(chances_left(other), None);
        }
    }
}
