//! What IP carries, the same in both families: TCP, UDP, and what VXLAN puts around a frame.

use std::net::IpAddr;

use fairlead_dataplane_common::{checksum, protocol};

/// Source and destination port.
pub(crate) type Ports = (u16, u16);

/// A TCP segment whose checksum is still to be filled in; `options` are whole words.
pub(crate) fn tcp((from, to): Ports, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "options are padded");
    let words = 5 + options.len() as u8 / 4;
    let mut segment = Vec::with_capacity(20 + options.len() + payload.len());
    segment.extend([from.to_be_bytes(), to.to_be_bytes()].as_flattened());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, words << 4, flags]);
    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

/// A UDP datagram whose checksum is still to be filled in.
pub(crate) fn udp((from, to): Ports, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut segment = Vec::with_capacity(length.into());
    segment.extend([from.to_be_bytes(), to.to_be_bytes()].as_flattened());
    segment.extend(length.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    segment
}

/// A frame behind a VXLAN header (RFC 7348 §5), for another inner destination.
pub(crate) fn vxlan(vni: u32, inner_destination: [u8; 6], inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(inner_destination);
    payload.extend(&inner[6..]);
    payload
}

/// Puts the checksum of `segment`, between these addresses, where its protocol has it.
pub(crate) fn fill_checksum(ends: [IpAddr; 2], protocol: u8, segment: &mut [u8]) {
    let at = match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    };
    let check = !checksum::sum(&covered(ends, protocol, segment));
    segment[at..at + 2].copy_from_slice(&check.to_ne_bytes());
}

/// Panics unless the checksum of `segment`, between these addresses, is right; that of UDP may be
/// absent, over IPv6 in tunnels only (RFC 6935).
pub(crate) fn assert_checksum(ends: [IpAddr; 2], protocol: u8, segment: &[u8]) {
    if protocol == protocol::UDP && segment[6..8] == [0, 0] {
        return;
    }
    let sum = checksum::sum(&covered(ends, protocol, segment));
    assert_eq!(sum, 0xffff, "checksum of protocol {protocol}");
}

/// What the checksum of a segment covers: a pseudo header (RFC 8200 §8.1) and itself; of ICMP itself
/// alone. The sum of IPv4's pseudo header (RFC 9293 §3.1) is that of the same fields in this order.
fn covered(ends: [IpAddr; 2], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40 + segment.len());
    if protocol != protocol::ICMP {
        for end in ends {
            match end {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        bytes.extend((segment.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
    }
    bytes.extend(segment);
    bytes
}
