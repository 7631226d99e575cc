//! Frames made from what they say, and taken apart again.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::{checksum, protocol};

use crate::transport;

/// The address of whoever is at the other end of the uplink.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The uplink's own address.
pub const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x65];

/// Offset of the IPv4 header.
pub const NETWORK: usize = 14;
/// Offset of the transport header.
pub const TRANSPORT: usize = 34;
/// Largest packet that the uplinks take.
pub const NODE_MTU: u16 = 1500;
/// Bytes that encapsulation adds.
pub const OVERHEAD: usize = 50;

/// TCP's SYN.
pub const SYN: u8 = 0x02;
/// TCP's FIN.
pub const FIN: u8 = 0x01;
/// TCP's RST.
pub const RST: u8 = 0x04;
/// TCP's ACK.
pub const ACK: u8 = 0x10;

/// One end of a flow.
pub type Peer = (Ipv4Addr, u16);

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

/// A UDP datagram with its checksum.
pub fn udp(source: Peer, destination: Peer, payload: &[u8]) -> Vec<u8> {
    let segment = transport::udp((source.1, destination.1), payload);
    carrying(source.0, destination.0, protocol::UDP, segment)
}

/// An ICMP echo request (8) or reply (0).
pub fn echo(kind: u8, source: Ipv4Addr, destination: Ipv4Addr, identifier: u16) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend([0, 1]);
    message.extend(b"echoed");
    carrying(source, destination, protocol::ICMP, message)
}

/// An ICMP error of this type and code about the packet in `about`, of which it quotes `quoted` bytes.
pub fn icmp_error(
    (kind, code): (u8, u8),
    source: Ipv4Addr,
    destination: Ipv4Addr,
    about: &[u8],
    quoted: usize,
) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0x78];
    message.extend(&about[NETWORK..NETWORK + quoted]);
    carrying(source, destination, protocol::ICMP, message)
}

/// An ARP packet (RFC 826) of this operation: who has `target`, asks `sender` at `mac`.
pub fn arp(operation: u8, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    // Ethernet's shortest frame.
    frame.resize(60, 0);
    frame
}

/// An IPv4 packet in an Ethernet frame from the router.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(TRANSPORT + payload.len());
    frame.extend(OWN_MAC);
    frame.extend(ROUTER_MAC);
    frame.extend([0x08, 0x00]);
    frame.extend([0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0, 63, protocol, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
    mend_ip(&mut frame);
    frame
}

/// A frame inside VXLAN, as another node would send it.
pub fn vxlan(
    source: Ipv4Addr,
    destination: Ipv4Addr,
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

/// Makes the IPv4 header's checksum right after a test has changed the header.
pub fn mend_ip(frame: &mut [u8]) {
    frame[NETWORK + 10..NETWORK + 12].fill(0);
    let check = !checksum::sum(&frame[NETWORK..TRANSPORT]);
    frame[NETWORK + 10..NETWORK + 12].copy_from_slice(&check.to_ne_bytes());
}

/// Who a packet is from and for, with its ports.
pub fn ends(frame: &[u8]) -> (Peer, Peer) {
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (
        (address(NETWORK + 12), port(TRANSPORT)),
        (address(NETWORK + 16), port(TRANSPORT + 2)),
    )
}

/// Panics unless every checksum of the frame is right; that of UDP may be absent.
pub fn assert_checksums(frame: &[u8]) {
    assert_eq!(
        checksum::sum(&frame[NETWORK..TRANSPORT]),
        0xffff,
        "checksum of the IP header"
    );
    let total = usize::from(u16::from_be_bytes([frame[NETWORK + 2], frame[NETWORK + 3]]));
    let ((source, _), (destination, _)) = ends(frame);
    let segment = &frame[TRANSPORT..NETWORK + total];
    transport::assert_checksum(
        [source.into(), destination.into()],
        frame[NETWORK + 9],
        segment,
    );
}

fn carrying(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    mut segment: Vec<u8>,
) -> Vec<u8> {
    let ends = [source.into(), destination.into()];
    transport::fill_checksum(ends, protocol, &mut segment);
    ipv4(source, destination, protocol, &segment)
}
