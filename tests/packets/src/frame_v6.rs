//! The same as [`crate::frame`] for IPv6.

use std::net::Ipv6Addr;

use fairlead_dataplane_common::protocol;

use crate::frame::{NETWORK, OWN_MAC, ROUTER_MAC};
use crate::transport;

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
    let segment = transport::tcp((source.1, destination.1), flags, &[], payload);
    carrying(source.0, destination.0, protocol::TCP, segment)
}

/// A TCP packet without data whose header has these options, whole words of them.
pub fn tcp_with_options(source: Peer, destination: Peer, flags: u8, options: &[u8]) -> Vec<u8> {
    let segment = transport::tcp((source.1, destination.1), flags, options, &[]);
    carrying(source.0, destination.0, protocol::TCP, segment)
}

/// A UDP datagram.
pub fn udp(source: Peer, destination: Peer, payload: &[u8]) -> Vec<u8> {
    let segment = transport::udp((source.1, destination.1), payload);
    carrying(source.0, destination.0, protocol::UDP, segment)
}

/// An ICMPv6 message of this type and code, whose body follows the checksum.
pub fn icmp(kind: u8, code: u8, source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, code, 0, 0], body].concat();
    carrying(source, destination, protocol::ICMPV6, message)
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
    let payload = transport::vxlan(vni, inner_destination, inner);
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
    let ((source, _), (destination, _)) = ends(frame);
    let segment = &frame[TRANSPORT..TRANSPORT + payload];
    transport::assert_checksum(
        [source.into(), destination.into()],
        frame[NETWORK + 6],
        segment,
    );
}

fn carrying(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    mut segment: Vec<u8>,
) -> Vec<u8> {
    let ends = [source.into(), destination.into()];
    transport::fill_checksum(ends, protocol, &mut segment);
    ipv6(source, destination, protocol, &segment)
}
