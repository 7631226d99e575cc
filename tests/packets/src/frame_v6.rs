//! The same as [`crate::frame`] for IPv6.

use std::net::Ipv6Addr;

use fairlead_dataplane_common::{checksum, protocol};

use crate::frame::{NETWORK, OWN_MAC, ROUTER_MAC};

/// Offset of the transport header.
pub const TRANSPORT: usize = 54;

/// ICMPv6's echo request.
pub const ECHO_REQUEST: u8 = 128;
/// ICMPv6's echo reply.
pub const ECHO_REPLY: u8 = 129;

/// One end of a flow.
pub type Peer = (Ipv6Addr, u16);

/// A TCP packet with these flags.
pub fn tcp(source: Peer, destination: Peer, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, flags]);
    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    transport(source.0, destination.0, protocol::TCP, segment, 16)
}

/// A TCP packet without data whose header has these options, whole words of them.
pub fn tcp_with_options(source: Peer, destination: Peer, flags: u8, options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "options are padded");
    let mut segment = ports(source, destination);
    let words = 5 + options.len() as u8 / 4;
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, words << 4, flags]);
    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    transport(source.0, destination.0, protocol::TCP, segment, 16)
}

/// A UDP datagram.
pub fn udp(source: Peer, destination: Peer, payload: &[u8]) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend((8 + payload.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    transport(source.0, destination.0, protocol::UDP, segment, 6)
}

/// An ICMPv6 message of this type and code, whose body follows the checksum.
pub fn icmp(kind: u8, code: u8, source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(body);
    transport(source, destination, protocol::ICMPV6, message, 2)
}

/// An echo request or reply.
pub fn echo(kind: u8, source: Ipv6Addr, destination: Ipv6Addr, identifier: u16) -> Vec<u8> {
    let mut body = identifier.to_be_bytes().to_vec();
    body.extend([0, 1]);
    body.extend(b"echoed");
    icmp(kind, 0, source, destination, &body)
}

/// An IPv6 packet in an Ethernet frame from the router.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(TRANSPORT + payload.len());
    frame.extend(OWN_MAC);
    frame.extend(ROUTER_MAC);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next_header, 63]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
    frame
}

/// A frame inside VXLAN over IPv6, as another node would send it.
pub fn vxlan(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    vni: u32,
    inner_destination: [u8; 6],
    inner: &[u8],
) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(inner);
    payload[8..14].copy_from_slice(&inner_destination);
    udp(
        (source, 50_000),
        (destination, protocol::VXLAN_PORT),
        &payload,
    )
}

/// Who a packet is from and for, with its ports.
pub fn ends(frame: &[u8]) -> (Peer, Peer) {
    let address = |at: usize| {
        let bytes: [u8; 16] = frame[at..at + 16].try_into().expect("sixteen bytes");
        Ipv6Addr::from(bytes)
    };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (
        (address(NETWORK + 8), port(TRANSPORT)),
        (address(NETWORK + 24), port(TRANSPORT + 2)),
    )
}

/// Panics unless the transport checksum of the frame is right; that of a tunnel's UDP may be absent
/// (RFC 6935).
pub fn assert_checksums(frame: &[u8]) {
    let payload = usize::from(u16::from_be_bytes([frame[NETWORK + 4], frame[NETWORK + 5]]));
    let segment = &frame[TRANSPORT..TRANSPORT + payload];
    let next_header = frame[NETWORK + 6];
    if next_header == protocol::UDP && segment[6..8] == [0, 0] {
        return;
    }
    let covered = pseudo(&frame[NETWORK + 8..TRANSPORT], next_header, segment);
    assert_eq!(
        checksum::sum(&covered),
        0xffff,
        "checksum of protocol {next_header}"
    );
}

fn ports(source: Peer, destination: Peer) -> Vec<u8> {
    [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat()
}

fn transport(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    mut segment: Vec<u8>,
    at: usize,
) -> Vec<u8> {
    let addresses = [source.octets(), destination.octets()].concat();
    let check = !checksum::sum(&pseudo(&addresses, protocol, &segment));
    segment[at..at + 2].copy_from_slice(&check.to_ne_bytes());
    ipv6(source, destination, protocol, &segment)
}

/// What a transport checksum covers: the pseudo header (RFC 8200 §8.1) and the segment.
fn pseudo(addresses: &[u8], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut bytes = addresses.to_vec();
    bytes.extend((segment.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(segment);
    bytes
}
