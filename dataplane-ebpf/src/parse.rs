//! What a packet is, as far as the ways through need to know.

use fairlead_dataplane_common::{Address, DropReason, FlowKey, protocol};

use crate::frame::Frame;
use crate::header::{
    ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, Ethernet, Fragment, Icmp, Ipv4, Ipv6, NETWORK,
    TRANSPORT_V4, TRANSPORT_V6, Tcp, Udp,
};

/// Bytes of the headers that are read at most: those of an ICMPv6 error, and of the packet it quotes.
pub const HEADERS: u32 = (Family::V6.quoted_transport() + size_of::<Udp>()) as u32;

/// Which IP. A constant wherever it is used: the ways through are compiled once for each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family that an EtherType announces.
    #[inline(always)]
    pub fn of(ethertype_be: u16) -> Option<Self> {
        match ethertype_be {
            ETHERTYPE_IPV4_BE => Some(Self::V4),
            ETHERTYPE_IPV6_BE => Some(Self::V6),
            _ => None,
        }
    }

    /// Its EtherType.
    #[inline(always)]
    pub const fn ethertype_be(self) -> u16 {
        match self {
            Self::V4 => ETHERTYPE_IPV4_BE,
            Self::V6 => ETHERTYPE_IPV6_BE,
        }
    }

    /// Offset of the transport header in a frame of a shape that has one.
    #[inline(always)]
    pub const fn transport(self) -> usize {
        match self {
            Self::V4 => TRANSPORT_V4,
            Self::V6 => TRANSPORT_V6,
        }
    }

    /// Offset of the transport header that an ICMP error quotes.
    #[inline(always)]
    pub const fn quoted_transport(self) -> usize {
        self.transport() + size_of::<Icmp>() + self.transport() - NETWORK
    }

    /// The same flow, which is of this family and no VPC's: of IPv4, what maps an address is a constant
    /// then, and all that compares or hashes it is half as long.
    #[inline(always)]
    pub fn narrowed(self, flow: &FlowKey) -> FlowKey {
        let narrowed = match self {
            Self::V4 => FlowKey {
                source: Address::from_v4_word(flow.source.v4_word()),
                destination: Address::from_v4_word(flow.destination.v4_word()),
                ..*flow
            },
            Self::V6 => *flow,
        };
        FlowKey {
            vpc: 0,
            padding: [0; 3],
            ..narrowed
        }
    }

    /// Whether `address` is of this family.
    #[inline(always)]
    pub const fn has(self, address: &Address) -> bool {
        matches!(self, Self::V4) == address.is_v4()
    }
}

/// How much of a packet could be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// TCP or UDP: the ports are known.
    Ports,
    /// An echo request; its identifier stands for both ports.
    EchoRequest,
    /// An echo reply; its identifier stands for both ports.
    EchoReply,
    /// An ICMP error, which quotes the packet it is about: see [`quoted`].
    Error,
    /// Neighbour discovery of IPv6, which belongs to a link and is nobody else's business.
    Discovery,
    /// A whole packet of something else.
    Other,
    /// The first part of a packet: see [`fragment`](crate::fragment) for its ports.
    FirstFragment,
    /// A later part of a packet, which shows no ports.
    LaterFragment,
    /// IPv4 options or IPv6 extension headers stand before the transport header.
    Options,
}

/// An IP packet.
pub struct Packet {
    /// Which IP.
    pub family: Family,
    /// Its flow; ports are zero unless the shape gives them.
    pub flow: FlowKey,
    /// How much of it could be read.
    pub shape: Shape,
    /// DSCP and ECN.
    pub dscp_ecn: u8,
    /// Bytes from the IP header on, without Ethernet's padding.
    pub length: u32,
    /// Whether it is a TCP packet that begins a connection.
    pub opens: bool,
    /// The flags of its TCP header, 0 if it shows none.
    pub tcp_flags: u8,
}

/// Reads the packet behind the frame's Ethernet header, whichever IP it is of: for functions that are
/// not compiled once for each.
#[inline(always)]
pub fn of<F: Frame>(frame: &F, vpc: u32) -> Result<Packet, DropReason> {
    let ethernet: *mut Ethernet = frame.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    match Family::of(unsafe { (*ethernet).ethertype_be }) {
        Some(Family::V4) => ipv4(frame, vpc),
        Some(Family::V6) => ipv6(frame, vpc),
        None => Err(DropReason::Malformed),
    }
}

/// Reads the IPv4 packet behind the frame's Ethernet header, which belongs to network `vpc`.
#[inline(always)]
pub fn ipv4<F: Frame>(frame: &F, vpc: u32) -> Result<Packet, DropReason> {
    const HEADER: u32 = size_of::<Ipv4>() as u32;
    let ip: *mut Ipv4 = frame.header(NETWORK)?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are an `Ipv4`.
    let ((source, destination), ip) = unsafe { (Ipv4::addresses(ip), *ip) };
    let length = u32::from(u16::from_be(ip.total_length_be));
    if NETWORK as u32 + length > frame.length() {
        return Err(DropReason::Malformed);
    }
    let mut packet = Packet {
        family: Family::V4,
        flow: FlowKey {
            source: Address::from_v4_word(source),
            destination: Address::from_v4_word(destination),
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
        tcp_flags: 0,
    };
    if ip.version_and_length != Ipv4::PLAIN {
        let words = u32::from(ip.version_and_length & 0xf);
        if ip.version_and_length >> 4 != 4 || words < 5 || length < 4 * words {
            return Err(DropReason::Malformed);
        }
        packet.shape = Shape::Options;
        return Ok(packet);
    }
    if ip.fragment_be & Ipv4::FRAGMENT_BE != 0 {
        if length < HEADER {
            return Err(DropReason::Malformed);
        }
        packet.shape = if ip.fragment_be & Ipv4::FRAGMENT_OFFSET_BE == 0 {
            Shape::FirstFragment
        } else {
            Shape::LaterFragment
        };
        return Ok(packet);
    }
    match ip.protocol {
        protocol::TCP | protocol::UDP => ports(frame, &mut packet, HEADER)?,
        protocol::ICMP => icmp(frame, &mut packet)?,
        _ if length < HEADER => return Err(DropReason::Malformed),
        _ => {}
    }
    Ok(packet)
}

/// Reads the IPv6 packet behind the frame's Ethernet header, which belongs to network `vpc`.
#[inline(always)]
pub fn ipv6<F: Frame>(frame: &F, vpc: u32) -> Result<Packet, DropReason> {
    const HEADER: u32 = size_of::<Ipv6>() as u32;
    let ip: *mut Ipv6 = frame.header(NETWORK)?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are an `Ipv6`.
    let ((source, destination), ip) = unsafe { (Ipv6::addresses(ip), *ip) };
    let first_word = u32::from_be(ip.version_class_label_be);
    let length = HEADER + u32::from(u16::from_be(ip.payload_length_be));
    if first_word >> 28 != 6 || NETWORK as u32 + length > frame.length() {
        return Err(DropReason::Malformed);
    }
    let mut packet = Packet {
        family: Family::V6,
        flow: FlowKey {
            source: Address { words: source },
            destination: Address { words: destination },
            vpc,
            source_port_be: 0,
            destination_port_be: 0,
            protocol: ip.next_header,
            padding: [0; 3],
        },
        shape: Shape::Other,
        dscp_ecn: (first_word >> 20) as u8,
        length,
        opens: false,
        tcp_flags: 0,
    };
    match ip.next_header {
        protocol::TCP | protocol::UDP => ports(frame, &mut packet, HEADER)?,
        protocol::ICMPV6 => icmp(frame, &mut packet)?,
        protocol::FRAGMENT => fragment(frame, &mut packet)?,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
            packet.shape = Shape::Options;
        }
        _ => {}
    }
    Ok(packet)
}

/// Reads an IPv6 fragment header: what was fragmented, and whether this is its beginning.
#[inline(always)]
fn fragment<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), DropReason> {
    let header: *mut Fragment = frame.header(TRANSPORT_V6)?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are a `Fragment`.
    let header = unsafe { *header };
    if packet.length < (size_of::<Ipv6>() + size_of::<Fragment>()) as u32 {
        return Err(DropReason::Malformed);
    }
    packet.flow.protocol = header.next_header;
    packet.shape = if header.offset_be & Fragment::OFFSET_BE == 0 {
        Shape::FirstFragment
    } else {
        Shape::LaterFragment
    };
    Ok(())
}

/// Reads the ports of TCP or UDP behind an IP header of `header` bytes.
#[inline(always)]
fn ports<F: Frame>(frame: &F, packet: &mut Packet, header: u32) -> Result<(), DropReason> {
    let transport = packet.family.transport();
    if packet.flow.protocol == protocol::TCP {
        let tcp: *mut Tcp = frame.header(transport)?;
        // SAFETY: in bounds, as `header` has checked, and any bytes are a `Tcp`.
        let tcp = unsafe { *tcp };
        if packet.length < header + size_of::<Tcp>() as u32 {
            return Err(DropReason::Malformed);
        }
        packet.flow.source_port_be = tcp.source_be;
        packet.flow.destination_port_be = tcp.destination_be;
        packet.tcp_flags = tcp.flags;
        packet.opens = tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN;
    } else {
        let udp: *mut Udp = frame.header(transport)?;
        // SAFETY: as above.
        let udp = unsafe { *udp };
        if packet.length < header + size_of::<Udp>() as u32 {
            return Err(DropReason::Malformed);
        }
        packet.flow.source_port_be = udp.source_be;
        packet.flow.destination_port_be = udp.destination_be;
    }
    packet.shape = Shape::Ports;
    Ok(())
}

/// Tells echoes and neighbour discovery from the rest of ICMP.
#[inline(always)]
fn icmp<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), DropReason> {
    let icmp: *mut Icmp = frame.header(packet.family.transport())?;
    // SAFETY: in bounds, as `header` has checked, and any bytes are an `Icmp`.
    let icmp = unsafe { *icmp };
    // What is in the frame beyond the packet is Ethernet's padding.
    if packet.length < (packet.family.transport() - NETWORK + size_of::<Icmp>()) as u32 {
        return Err(DropReason::Malformed);
    }
    packet.shape = match (packet.family, icmp.kind, icmp.code) {
        (Family::V4, Icmp::ECHO_REQUEST, 0) | (Family::V6, Icmp::V6_ECHO_REQUEST, 0) => {
            Shape::EchoRequest
        }
        (Family::V4, Icmp::ECHO_REPLY, 0) | (Family::V6, Icmp::V6_ECHO_REPLY, 0) => {
            Shape::EchoReply
        }
        (Family::V6, kind, 0) if Icmp::V6_DISCOVERY.contains(&kind) => {
            packet.shape = Shape::Discovery;
            return Ok(());
        }
        (Family::V4, Icmp::UNREACHABLE | Icmp::TIME_EXCEEDED | Icmp::PARAMETER_PROBLEM, _)
        | (Family::V6, Icmp::V6_UNREACHABLE..=Icmp::V6_PARAMETER_PROBLEM, _) => {
            packet.shape = Shape::Error;
            return Ok(());
        }
        _ => return Ok(()),
    };
    packet.flow.source_port_be = icmp.identifier;
    packet.flow.destination_port_be = icmp.identifier;
    Ok(())
}

/// The flow that answers the packet an ICMP error quotes: what the error's receiver sent, turned
/// round, is the direction that the error itself travels in. Nothing if it quotes no TCP or UDP.
#[inline(always)]
pub fn quoted<F: Frame>(frame: &F, packet: &Packet) -> Result<Option<FlowKey>, DropReason> {
    let network = packet.family.transport() + size_of::<Icmp>();
    // RFC 792, RFC 4443 §2.4: the quoted header and eight bytes behind it at least.
    let end = packet.family.quoted_transport() + size_of::<Udp>();
    if packet.length < (end - NETWORK) as u32 {
        return Err(DropReason::Malformed);
    }
    let (source, destination, protocol) = match packet.family {
        Family::V4 => {
            let ip: *mut Ipv4 = frame.header(network)?;
            // SAFETY: in bounds, as `header` has checked, and any bytes are an `Ipv4`.
            let ((source, destination), ip) = unsafe { (Ipv4::addresses(ip), *ip) };
            let later = ip.fragment_be & Ipv4::FRAGMENT_OFFSET_BE != 0;
            if ip.version_and_length != Ipv4::PLAIN || later {
                return Ok(None);
            }
            (
                Address::from_v4_word(source),
                Address::from_v4_word(destination),
                ip.protocol,
            )
        }
        Family::V6 => {
            let ip: *mut Ipv6 = frame.header(network)?;
            // SAFETY: as above.
            let ((source, destination), ip) = unsafe { (Ipv6::addresses(ip), *ip) };
            if u32::from_be(ip.version_class_label_be) >> 28 != 6 {
                return Ok(None);
            }
            (
                Address { words: source },
                Address { words: destination },
                ip.next_header,
            )
        }
    };
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return Ok(None);
    }
    // The ports of TCP are where those of UDP are.
    let ports: *mut Udp = frame.header(packet.family.quoted_transport())?;
    // SAFETY: as above.
    let ports = unsafe { *ports };
    Ok(Some(FlowKey {
        source: destination,
        destination: source,
        vpc: packet.flow.vpc,
        source_port_be: ports.destination_be,
        destination_port_be: ports.source_be,
        protocol,
        padding: [0; 3],
    }))
}
