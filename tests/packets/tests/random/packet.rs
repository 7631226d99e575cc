//! What a packet says, read and reckoned without any of the programs' code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;
const TAG: usize = 4;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
pub(crate) const TAGS: [u16; 2] = [0x8100, 0x88a8];

pub(crate) const ICMP: u8 = 1;
pub(crate) const IPIP: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const IP6IP: u8 = 41;
pub(crate) const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
/// IPv6: nothing follows, or nothing that could be read.
const NOTHING: u8 = 59;

pub(crate) const VXLAN: u16 = 4789;
pub(crate) const GUE: u16 = 6080;

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Later,
}

/// One IP header and what it says of what follows. Offsets count from the frame's first byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) start: usize,
    /// Behind all options and extension headers.
    pub(crate) transport: usize,
    /// By the header's own length.
    pub(crate) end: usize,
    pub(crate) protocol: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) part: Part,
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The EtherType behind all tags, and where what it announces begins.
pub(crate) fn network(frame: &[u8]) -> Option<(u16, usize)> {
    let mut start = ETHERNET;
    loop {
        let ethertype = be16(frame, start - 2)?;
        if !TAGS.contains(&ethertype) {
            return Some((ethertype, start));
        }
        start += TAG;
    }
}

/// Every IP header of a frame, the outermost first.
pub(crate) fn layers(frame: &[u8]) -> Vec<Ip> {
    let mut found = Vec::with_capacity(2);
    let mut next = network(frame).and_then(|(ethertype, start)| ip(frame, ethertype, start));
    while let Some(layer) = next {
        next = layer.inner(frame);
        found.push(layer);
    }
    found
}

/// The IP header at `start`, if it is whole and fits the frame.
pub(crate) fn ip(frame: &[u8], ethertype: u16, start: usize) -> Option<Ip> {
    match ethertype {
        IPV4 => ipv4(frame, start),
        IPV6 => ipv6(frame, start),
        _ => None,
    }
}

fn ipv4(frame: &[u8], start: usize) -> Option<Ip> {
    let header = frame.get(start..start + 20)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let end = start + usize::from(be16(header, 2)?);
    if header[0] >> 4 != 4 || length < 20 || end < start + length || end > frame.len() {
        return None;
    }
    let fragment = be16(header, 6)?;
    let part = match (fragment & 0x1fff, fragment & 0x2000 != 0) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    };
    let address = |at: usize| {
        let octets: [u8; 4] = header[at..at + 4].try_into().expect("four bytes");
        IpAddr::from(Ipv4Addr::from(octets))
    };
    Some(Ip {
        start,
        transport: start + length,
        end,
        protocol: header[9],
        source: address(12),
        destination: address(16),
        part,
    })
}

fn ipv6(frame: &[u8], start: usize) -> Option<Ip> {
    let header = frame.get(start..start + 40)?;
    let end = start + 40 + usize::from(be16(header, 4)?);
    if header[0] >> 4 != 6 || end > frame.len() {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let mut packet = Ip {
        start,
        transport: start + 40,
        end,
        protocol: header[6],
        source: address(8),
        destination: address(24),
        part: Part::Whole,
    };
    while let Some((next, length)) = packet.extension(frame) {
        packet.protocol = next;
        packet.transport += length;
        if packet.transport > end {
            packet.transport = end;
            packet.protocol = NOTHING;
        }
    }
    Some(packet)
}

impl Ip {
    /// What the extension header that is next in an IPv6 packet is followed by, and its length.
    fn extension(&mut self, frame: &[u8]) -> Option<(u8, usize)> {
        let header = &frame[self.transport..self.end];
        match self.protocol {
            _ if self.part == Part::Later => None,
            // RFC 8200 §4.3, 4.4, 4.6.
            0 | 43 | 60 => match *header {
                [next, length, ..] => Some((next, 8 + 8 * usize::from(length))),
                _ => Some((NOTHING, 0)),
            },
            FRAGMENT => {
                let Some(offset) = be16(header, 2) else {
                    return Some((NOTHING, 0));
                };
                self.part = match (offset >> 3, offset & 1) {
                    (0, 0) => Part::Whole,
                    (0, _) => Part::First,
                    _ => Part::Later,
                };
                Some((header[0], 8))
            }
            _ => None,
        }
    }

    fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Bytes from the header to the end.
    pub(crate) fn length(&self) -> usize {
        self.end - self.start
    }

    /// Source and destination port, if the packet shows them.
    pub(crate) fn ports(&self, frame: &[u8]) -> Option<(u16, u16)> {
        if self.part == Part::Later || ![TCP, UDP].contains(&self.protocol) {
            return None;
        }
        let segment = &frame[self.transport..self.end];
        Some((be16(segment, 0)?, be16(segment, 2)?))
    }

    /// Where the payload of a whole TCP or UDP packet is.
    pub(crate) fn payload<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        if self.part != Part::Whole {
            return None;
        }
        let segment = &frame[self.transport..self.end];
        let (header, least) = match self.protocol {
            TCP => (usize::from(segment.get(12)? >> 4) * 4, 20),
            UDP => (8, 8),
            _ => return None,
        };
        segment.get(header..).filter(|_| header >= least)
    }

    /// Whether it is an ICMP error.
    pub(crate) fn is_error(&self, frame: &[u8]) -> bool {
        let kind = frame[self.transport..self.end].first();
        match (self.protocol, kind) {
            (ICMP, Some(kind)) => [3, 4, 5, 11, 12].contains(kind),
            (ICMPV6, Some(kind)) => *kind < 128,
            _ => false,
        }
    }

    /// The packet that an ICMP error quotes, as far as it does: its end is where the quote ends.
    pub(crate) fn quoted(&self, frame: &[u8]) -> Option<Ip> {
        if !self.is_error(frame) {
            return None;
        }
        let start = self.transport + 8;
        // The header's own length is that of the whole packet, which the quote cuts off.
        let mut quote = frame.get(..self.end)?.to_vec();
        let room = self.end.checked_sub(start)?;
        let ethertype = if self.is_v4() { IPV4 } else { IPV6 };
        if self.is_v4() {
            quote
                .get_mut(start + 2..start + 4)?
                .copy_from_slice(&(room as u16).to_be_bytes());
        } else {
            let length = room.checked_sub(40)? as u16;
            quote
                .get_mut(start + 4..start + 6)?
                .copy_from_slice(&length.to_be_bytes());
        }
        ip(&quote, ethertype, start)
    }

    /// The header of the packet in this one, if it is a tunnel's.
    fn inner(&self, frame: &[u8]) -> Option<Ip> {
        if self.part != Part::Whole {
            return None;
        }
        let bytes = &frame[..self.end];
        match self.protocol {
            IPIP => ipv4(bytes, self.transport),
            IP6IP => ipv6(bytes, self.transport),
            UDP => match be16(bytes, self.transport + 2)? {
                VXLAN => {
                    let start = self.transport + 8 + 8 + ETHERNET;
                    ip(bytes, be16(bytes, start - 2)?, start)
                }
                GUE => {
                    let start = self.transport + 8;
                    match bytes.get(start..start + 4)? {
                        // Variant 0, of which only this much is taken off.
                        [0, IPIP, 0, 0] => ipv4(bytes, start + 4),
                        [0, IP6IP, 0, 0] => ipv6(bytes, start + 4),
                        _ => ipv4(bytes, start).or_else(|| ipv6(bytes, start)),
                    }
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it carries another packet the way that real servers take it off.
    pub(crate) fn is_server_tunnel(&self, frame: &[u8], inner: &Ip) -> bool {
        match self.protocol {
            IPIP => inner.is_v4(),
            IP6IP => !inner.is_v4(),
            UDP => self.ports(frame).is_some_and(|(_, to)| to == GUE),
            _ => false,
        }
    }

    /// Whether it carries another packet behind an Ethernet header.
    pub(crate) fn is_vxlan(&self, frame: &[u8]) -> bool {
        self.protocol == UDP && self.ports(frame).is_some_and(|(_, to)| to == VXLAN)
    }

    /// What is wrong with the checksums of this header and of what it announces.
    fn fault(&self, frame: &[u8]) -> Option<&'static str> {
        if self.is_v4()
            && sum(
                0,
                &frame[self.start..self.start + self.header_length(frame)],
            ) != 0xffff
        {
            return Some("the IP header's checksum is wrong");
        }
        if self.part != Part::Whole {
            return None;
        }
        let segment = &frame[self.transport..self.end];
        let right = match self.protocol {
            TCP if segment.len() < 20 => return Some("a TCP header is cut short"),
            TCP => sum(self.pseudo(segment.len()), segment) == 0xffff,
            UDP if be16(segment, 4) != Some(segment.len() as u16) => {
                return Some("UDP's length is not IP's");
            }
            UDP if segment.len() < 8 => return Some("a UDP header is cut short"),
            // RFC 768; over IPv6 tunnels only (RFC 6935).
            UDP if segment[6..8] == [0, 0] => {
                self.is_v4() || [Some(VXLAN), Some(GUE)].contains(&be16(segment, 2))
            }
            UDP => sum(self.pseudo(segment.len()), segment) == 0xffff,
            ICMP if self.is_v4() => sum(0, segment) == 0xffff,
            ICMPV6 if !self.is_v4() => sum(self.pseudo(segment.len()), segment) == 0xffff,
            _ => true,
        };
        (!right).then_some("the transport checksum is wrong")
    }

    /// Of IPv4, its options included.
    fn header_length(&self, frame: &[u8]) -> usize {
        usize::from(frame[self.start] & 0xf) * 4
    }

    /// RFC 9293 §3.1, RFC 8200 §8.1.
    fn pseudo(&self, length: usize) -> u64 {
        let addresses = |source: &[u8], destination: &[u8]| words(source) + words(destination);
        let addresses = match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => addresses(&from.octets(), &to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => addresses(&from.octets(), &to.octets()),
            _ => unreachable!("both are from one header"),
        };
        addresses + length as u64 + u64::from(self.protocol)
    }
}

/// Whether any UDP over IPv6 came without a checksum, which may be right or wrong by its port.
pub(crate) fn lacks_checksum(frame: &[u8], layers: &[Ip]) -> bool {
    layers.iter().any(|layer| {
        !layer.is_v4()
            && layer.protocol == UDP
            && be16(&frame[layer.transport..layer.end], 6) == Some(0)
    })
}

/// What is wrong with any checksum of the frame.
pub(crate) fn fault(frame: &[u8], layers: &[Ip]) -> Option<&'static str> {
    layers.iter().find_map(|layer| layer.fault(frame))
}

/// Makes every checksum right. That of a tunnel's UDP stays absent if it is.
pub(crate) fn mend(frame: &mut [u8]) {
    for layer in layers(frame).iter().rev() {
        let segment = layer.end - layer.transport;
        let at = match layer.protocol {
            TCP if segment >= 20 => Some(16),
            UDP if segment >= 8 => Some(6),
            ICMP | ICMPV6 if segment >= 4 => Some(2),
            _ => None,
        };
        if layer.protocol == UDP && segment >= 8 {
            frame[layer.transport + 4..layer.transport + 6]
                .copy_from_slice(&(segment as u16).to_be_bytes());
        }
        if let Some(at) = at
            && layer.part == Part::Whole
        {
            let at = layer.transport + at;
            let is_absent = layer.protocol == UDP && frame[at..at + 2] == [0, 0];
            if !is_absent {
                frame[at..at + 2].fill(0);
                let pseudo = if layer.protocol == ICMP {
                    0
                } else {
                    layer.pseudo(segment)
                };
                let check = !sum(pseudo, &frame[layer.transport..layer.end]);
                let check = if check == 0 { 0xffff } else { check };
                frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
            }
        }
        if layer.is_v4() {
            let header = layer.start..layer.start + layer.header_length(frame);
            frame[layer.start + 10..layer.start + 12].fill(0);
            let check = !sum(0, &frame[header]);
            frame[layer.start + 10..layer.start + 12].copy_from_slice(&check.to_be_bytes());
        }
    }
}

/// The ones' complement sum of RFC 1071, folded.
fn sum(begin: u64, bytes: &[u8]) -> u16 {
    let mut sum = begin + words(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn words(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let whole: u64 = pairs
        .iter()
        .map(|pair| u64::from(u16::from_be_bytes(*pair)))
        .sum();
    whole + rest.first().map_or(0, |last| u64::from(*last) << 8)
}
