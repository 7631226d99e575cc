//! Frames of either family, by the addresses they are made from.

use std::net::SocketAddr;

use fairlead_dataplane_common::checksum;

use crate::frame::NETWORK;
use crate::{frame, frame_v6};

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fragmentation needed, packet too big.
    TooBig,
    /// Unreachable.
    Unreachable,
    /// Time exceeded.
    TimeExceeded,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 3] = [Self::TooBig, Self::Unreachable, Self::TimeExceeded];
}

/// A TCP packet with these flags.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let (from, to) = ((*from.ip(), from.port()), (*to.ip(), to.port()));
            frame::tcp(from, to, flags, payload)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let (from, to) = ((*from.ip(), from.port()), (*to.ip(), to.port()));
            frame_v6::tcp(from, to, flags, payload)
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// The same without data, whose header has these options, whole words of them.
pub fn tcp_with_options(from: SocketAddr, to: SocketAddr, flags: u8, options: &[u8]) -> Vec<u8> {
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let (from, to) = ((*from.ip(), from.port()), (*to.ip(), to.port()));
            frame::tcp_with_options(from, to, flags, options)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let (from, to) = ((*from.ip(), from.port()), (*to.ip(), to.port()));
            frame_v6::tcp_with_options(from, to, flags, options)
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// A UDP datagram.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let (from, to) = ((*from.ip(), from.port()), (*to.ip(), to.port()));
            frame::udp(from, to, payload)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let (from, to) = ((*from.ip(), from.port()), (*to.ip(), to.port()));
            frame_v6::udp(from, to, payload)
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// An ICMP error about the packet in `about`. The ports of its ends mean nothing.
pub fn error(kind: Kind, from: SocketAddr, to: SocketAddr, about: &[u8]) -> Vec<u8> {
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let kind = match kind {
                Kind::TooBig => (3, 4),
                Kind::Unreachable => (3, 3),
                Kind::TimeExceeded => (11, 0),
            };
            frame::icmp_error(kind, *from.ip(), *to.ip(), about, 28)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let (kind, code) = match kind {
                Kind::TooBig => (2, 0),
                Kind::Unreachable => (1, 4),
                Kind::TimeExceeded => (3, 0),
            };
            let body = [&[0, 0, 0x05, 0x78], &about[NETWORK..]].concat();
            frame_v6::icmp(kind, code, *from.ip(), *to.ip(), &body)
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// Whether a frame is of IPv4.
fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0]
}

/// Who a packet is from and for, with its ports.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    if is_v4(frame) {
        let (from, to) = frame::ends(frame);
        (from.into(), to.into())
    } else {
        let (from, to) = frame_v6::ends(frame);
        (from.into(), to.into())
    }
}

/// Who the packet is from and for that an ICMP error quotes.
pub fn quoted_ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    if is_v4(frame) {
        let quoted = &frame[42..62];
        assert_eq!(checksum::sum(quoted), 0xffff, "the quoted header");
        let (from, to) = frame::ends(&frame[28..]);
        (from.into(), to.into())
    } else {
        let (from, to) = frame_v6::ends(&frame[48..]);
        (from.into(), to.into())
    }
}

/// How many hops a packet may still go.
pub fn hops(frame: &[u8]) -> u8 {
    frame[NETWORK + if is_v4(frame) { 8 } else { 7 }]
}

/// Lets a packet go so many hops.
pub fn set_hops(frame: &mut [u8], hops: u8) {
    if is_v4(frame) {
        frame[NETWORK + 8] = hops;
        frame::mend_ip(frame);
    } else {
        frame[NETWORK + 7] = hops;
    }
}

/// Panics unless every checksum of the frame is right; those that may be absent may be.
pub fn assert_checksums(frame: &[u8]) {
    if is_v4(frame) {
        frame::assert_checksums(frame);
    } else {
        frame_v6::assert_checksums(frame);
    }
}
