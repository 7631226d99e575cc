//! The question whether frames that are passed on as they are (dr) reach another node, and the answer to
//! it. Both have the mark of their sender as their source, as such frames have: what stands between two
//! nodes and drops frames whose source is not the port's own drops these as well.

use crate::mac;

/// The EtherType of probes: IEEE 802's first for local experiments (RFC 9542 appendix B), which means
/// nothing to a stack.
pub const ETHERTYPE: u16 = 0x88b5;

/// A probe, behind an Ethernet header. Of alignment 2, as everything on the wire.
#[repr(C, packed(2))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// [`Probe::MAGIC`], network order.
    pub magic_be: u32,
    /// [`Probe::REQUEST`] or [`Probe::ANSWER`], network order.
    pub kind_be: u16,
    /// Where the answer goes: the address of the uplink of who asks.
    pub answer_to: [u8; 6],
    /// The id of the node that sends this, network order.
    pub from_be: u32,
    /// The id of the node that this is for, network order.
    pub to_be: u32,
    /// A number that the answer repeats.
    pub nonce: u32,
}

const _: () = assert!(size_of::<Probe>() == Probe::BYTES && align_of::<Probe>() <= 2);

impl Probe {
    /// How every probe begins; the last byte is the version.
    pub const MAGIC: u32 = 0xfa1e_ad01;
    /// The node that gets this is to answer.
    pub const REQUEST: u16 = 1;
    /// The answer.
    pub const ANSWER: u16 = 2;

    /// Length on the wire.
    pub const BYTES: usize = 24;
    /// The same with the Ethernet header.
    pub const FRAME_BYTES: usize = 14 + Self::BYTES;

    /// Asks the node `to` in the name of the node `from`, whose uplink has the address `answer_to`.
    pub const fn request(from: u32, to: u32, answer_to: [u8; 6], nonce: u32) -> Self {
        Self {
            magic_be: Self::MAGIC.to_be(),
            kind_be: Self::REQUEST.to_be(),
            answer_to,
            from_be: from.to_be(),
            to_be: to.to_be(),
            nonce,
        }
    }

    /// What the node that is asked answers.
    #[inline(always)]
    pub const fn answer(self) -> Self {
        Self {
            kind_be: Self::ANSWER.to_be(),
            from_be: self.to_be,
            to_be: self.from_be,
            ..self
        }
    }

    /// The frame that carries it to the address `destination`, with its sender's mark as its source.
    pub fn frame(self, destination: [u8; 6]) -> [u8; Self::FRAME_BYTES] {
        let mut frame = [0; Self::FRAME_BYTES];
        let (magic, kind, nonce) = (self.magic_be, self.kind_be, self.nonce);
        let (from, to) = (self.from_be, self.to_be);
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&mac::of_node(u32::from_be(from)));
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[14..18].copy_from_slice(&magic.to_ne_bytes());
        frame[18..20].copy_from_slice(&kind.to_ne_bytes());
        frame[20..26].copy_from_slice(&self.answer_to);
        frame[26..30].copy_from_slice(&from.to_ne_bytes());
        frame[30..34].copy_from_slice(&to.to_ne_bytes());
        frame[34..].copy_from_slice(&nonce.to_ne_bytes());
        frame
    }
}

/// What became of the last question to a node; `probes` finds it by the node's id. The agent writes one
/// with every question, and the programs no other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProbeEntry {
    /// Of the question.
    pub nonce: u32,
    /// 1 once it has been answered.
    pub is_answered: u32,
}
map_struct!(ProbeEntry, 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_on_the_wire_as_its_fields_are_declared() {
        let frame = Probe::request(1, 0x0102_0304, [2, 0, 0, 0, 0, 0x65], u32::MAX).frame([6; 6]);
        let expected = [
            &[6; 6][..],
            &[0x02, 0xfb, 0, 0, 0, 1, 0x88, 0xb5],
            &[0xfa, 0x1e, 0xad, 1, 0, 1],
            &[2, 0, 0, 0, 0, 0x65],
            &[0, 0, 0, 1, 1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff],
        ]
        .concat();
        assert_eq!(frame[..], expected);
    }

    #[test]
    fn answer_changes_sides_and_keeps_the_number() {
        let request = Probe::request(1, 2, [2; 6], 7);
        let frame = request.answer().frame([2; 6]);
        assert_eq!(frame[6..12], mac::of_node(2));
        assert_eq!(frame[18..20], [0, 2]);
        assert_eq!(frame[26..34], [0, 0, 0, 2, 0, 0, 0, 1]);
        assert_eq!(frame[34..], 7_u32.to_ne_bytes());
    }
}
