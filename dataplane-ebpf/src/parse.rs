//! What a packet is, as far as the ways through need to know.

use fairlead_dataplane_common::{Address, DropReason, FlowKey, protocol};

use crate::frame::Frame;
use crate::header::{Icmp, Ipv4, NETWORK, TRANSPORT, Tcp, Udp};

/// How much of an IPv4 packet could be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// TCP or UDP: the ports are known.
    Ports,
    /// An ICMP echo request; its identifier stands for both ports.
    EchoRequest,
    /// An ICMP echo reply; its identifier stands for both ports.
    EchoReply,
    /// A whole packet of something else.
    Other,
    /// The first or a later part of a packet.
    Fragment,
    /// IP options stand before the transport header.
    Options,
}

/// An IPv4 packet.
pub struct Packet {
    /// Its flow; ports are zero unless the shape gives them.
    pub flow: FlowKey,
    /// How much of it could be read.
    pub shape: Shape,
    /// DSCP and ECN.
    pub dscp_ecn: u8,
    /// Bytes from the IP header on, without Ethernet's padding.
    pub length: u16,
    /// Whether it is a TCP packet that begins a connection.
    pub opens: bool,
}

/// Reads the IPv4 packet behind the frame's Ethernet header, which belongs to network `vpc`.
#[inline(always)]
pub fn ipv4<F: Frame>(frame: &F, vpc: u32) -> Result<Packet, DropReason> {
    let ip: *mut Ipv4 = frame.header(NETWORK)?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are an `Ipv4`.
    let ip = unsafe { *ip };
    let length = u16::from_be(ip.total_length_be);
    if NETWORK as u32 + u32::from(length) > frame.length() {
        return Err(DropReason::Malformed);
    }
    let mut packet = Packet {
        flow: FlowKey {
            source: Address::from_v4_word(ip.source),
            destination: Address::from_v4_word(ip.destination),
            vpc,
            source_port_be: 0,
            destination_port_be: 0,
            protocol: ip.protocol,
            padding: [0; 3],
        },
        shape: Shape::Other,
        dscp_ecn: ip.dscp_ecn,
        length,
        opens: false,
    };
    if ip.version_and_length != Ipv4::PLAIN {
        if ip.version_and_length >> 4 != 4 || ip.version_and_length & 0xf < 5 {
            return Err(DropReason::Malformed);
        }
        packet.shape = Shape::Options;
        return Ok(packet);
    }
    if ip.fragment_be & Ipv4::FRAGMENT_BE != 0 {
        packet.shape = Shape::Fragment;
        return Ok(packet);
    }
    match ip.protocol {
        protocol::TCP => {
            let tcp: *mut Tcp = frame.header(TRANSPORT)?;
            // SAFETY: as above.
            let tcp = unsafe { *tcp };
            if length < 40 {
                return Err(DropReason::Malformed);
            }
            packet.flow.source_port_be = tcp.source_be;
            packet.flow.destination_port_be = tcp.destination_be;
            packet.opens = tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN;
            packet.shape = Shape::Ports;
        }
        protocol::UDP => {
            let udp: *mut Udp = frame.header(TRANSPORT)?;
            // SAFETY: as above.
            let udp = unsafe { *udp };
            if length < 28 {
                return Err(DropReason::Malformed);
            }
            packet.flow.source_port_be = udp.source_be;
            packet.flow.destination_port_be = udp.destination_be;
            packet.shape = Shape::Ports;
        }
        protocol::ICMP => {
            let icmp: *mut Icmp = frame.header(TRANSPORT)?;
            // SAFETY: as above.
            let icmp = unsafe { *icmp };
            packet.shape = match (icmp.kind, icmp.code) {
                (Icmp::ECHO_REQUEST, 0) => Shape::EchoRequest,
                (Icmp::ECHO_REPLY, 0) => Shape::EchoReply,
                (_, _) => return Ok(packet),
            };
            packet.flow.source_port_be = icmp.identifier;
            packet.flow.destination_port_be = icmp.identifier;
        }
        _ => {}
    }
    Ok(packet)
}
