//! The headers on the wire, all of alignment 2: a frame begins at an even address (drivers leave an
//! even headroom, and nothing here moves a frame's start by an odd number), and bytes one by one would
//! cost twice the instructions. A field in network order says so by `_be`; a
//! checksum, an address word or an opaque number is carried as loaded and never swapped.

use fairlead_dataplane_common::{checksum, mac, probe};

use crate::frame::{OnWire, word};

/// EtherType of IPv4, network order.
pub const ETHERTYPE_IPV4_BE: u16 = 0x0800_u16.to_be();
/// EtherType of IPv6, network order.
pub const ETHERTYPE_IPV6_BE: u16 = 0x86dd_u16.to_be();
/// EtherType of ARP, network order.
pub const ETHERTYPE_ARP_BE: u16 = 0x0806_u16.to_be();

/// EtherType of what nodes ask each other, network order.
pub const ETHERTYPE_PROBE_BE: u16 = probe::ETHERTYPE.to_be();

/// EtherType of a VLAN tag (IEEE 802.1Q), network order.
pub const ETHERTYPE_VLAN_BE: u16 = 0x8100_u16.to_be();
/// EtherType of a service VLAN tag (IEEE 802.1ad), network order.
pub const ETHERTYPE_SERVICE_VLAN_BE: u16 = 0x88a8_u16.to_be();

/// Offset of the network header.
pub const NETWORK: usize = 14;
/// Offset of the transport header behind an IPv4 header without options.
pub const TRANSPORT_V4: usize = NETWORK + 20;
/// Offset of the transport header behind an IPv6 header without extensions.
pub const TRANSPORT_V6: usize = NETWORK + 40;

macro_rules! header {
    ($name:ty, $size:expr) => {
        const _: () = assert!(size_of::<$name>() == $size && align_of::<$name>() <= 2);
        // SAFETY: packed to alignment 2 (just asserted), integers only.
        unsafe impl OnWire for $name {}
    };
}

/// Ethernet II.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub ethertype_be: u16,
}
header!(Ethernet, 14);

impl Ethernet {
    /// Puts other addresses into a header.
    ///
    /// # Safety
    /// `this` points at a header that may be written.
    #[inline(always)]
    pub unsafe fn readdress(this: *mut Self, destination: [u8; 6], source: [u8; 6]) {
        // SAFETY: the caller's promise; both fields are at even offsets of what has alignment 2.
        unsafe {
            *(&raw mut (*this).destination).cast() = mac::words(destination);
            *(&raw mut (*this).source).cast() = mac::words(source);
        }
    }

    /// Turns a header round: to whom the frame came from.
    ///
    /// # Safety
    /// As of [`Self::readdress`].
    #[inline(always)]
    pub unsafe fn turn_round(this: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { Self::readdress(this, (*this).source, (*this).destination) }
    }
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Arp {
    pub hardware_be: u16,
    pub protocol_be: u16,
    /// Of a hardware and of a protocol address, in bytes.
    pub lengths: [u8; 2],
    pub operation_be: u16,
    pub sender_mac: [u8; 6],
    pub sender: u32,
    pub target_mac: [u8; 6],
    pub target: u32,
}
header!(Arp, 28);

impl Arp {
    /// Ethernet.
    pub const HARDWARE_BE: u16 = 1_u16.to_be();
    /// Of Ethernet and of IPv4.
    pub const LENGTHS: [u8; 2] = [6, 4];
    pub const REQUEST_BE: u16 = 1_u16.to_be();
    pub const REPLY_BE: u16 = 2_u16.to_be();
}

/// IPv4 without options (RFC 791 §3.1).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    pub version_and_length: u8,
    pub dscp_ecn: u8,
    pub total_length_be: u16,
    pub identification: u16,
    pub fragment_be: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}
header!(Ipv4, 20);

impl Ipv4 {
    /// Version 4, five words.
    pub const PLAIN: u8 = 0x45;
    /// "Don't fragment", network order.
    pub const DONT_FRAGMENT_BE: u16 = 0x4000_u16.to_be();
    /// "More fragments" and the fragment's offset: zero in a packet that is whole. Network order.
    pub const FRAGMENT_BE: u16 = 0x3fff_u16.to_be();
    /// The fragment's offset alone: zero in a whole packet and in a first fragment. Network order.
    pub const FRAGMENT_OFFSET_BE: u16 = 0x1fff_u16.to_be();
    /// Hops that a packet of our own may take.
    pub const TTL: u8 = 64;

    /// The header of a packet of our own, checksum included: `length` bytes from it on, not to be
    /// fragmented (so that it needs no identification, RFC 6864 §4.1).
    #[inline(always)]
    pub const fn plain(protocol: u8, length: u16, source: u32, destination: u32) -> Self {
        let first = u16::from_ne_bytes([Self::PLAIN, 0]);
        let third = u16::from_ne_bytes([Self::TTL, protocol]);
        let sum = first as u64
            + length.to_be() as u64
            + Self::DONT_FRAGMENT_BE as u64
            + third as u64
            + source as u64
            + destination as u64;
        Self {
            version_and_length: Self::PLAIN,
            dscp_ecn: 0,
            total_length_be: length.to_be(),
            identification: 0,
            fragment_be: Self::DONT_FRAGMENT_BE,
            ttl: Self::TTL,
            protocol,
            checksum: !checksum::fold(sum),
            source,
            destination,
        }
    }

    /// The same header in front of no options, for a packet of `length` bytes from it on.
    #[inline(always)]
    pub fn without_options(self, length: u16) -> Self {
        let mut plain = Self {
            version_and_length: Self::PLAIN,
            total_length_be: length.to_be(),
            checksum: 0,
            ..self
        };
        let sum = u64::from(u16::from_ne_bytes([
            plain.version_and_length,
            plain.dscp_ecn,
        ])) + u64::from(plain.total_length_be)
            + u64::from(plain.identification)
            + u64::from(plain.fragment_be)
            + u64::from(u16::from_ne_bytes([plain.ttl, plain.protocol]))
            + u64::from(plain.source)
            + u64::from(plain.destination);
        plain.checksum = !checksum::fold(sum);
        plain
    }

    /// Where a packet comes from and goes to.
    ///
    /// # Safety
    /// `this` points into a packet, in bounds.
    #[inline(always)]
    pub unsafe fn addresses(this: *const Self) -> (u32, u32) {
        // SAFETY: the caller's promise.
        unsafe { (word::<12, _>(this), word::<16, _>(this)) }
    }

    /// Offset of the TTL in the frame.
    pub const TTL_OFFSET: usize = NETWORK + 8;
    /// Offset of the checksum in the frame.
    pub const CHECKSUM: usize = NETWORK + 10;
    /// Offset of the source address in the frame.
    pub const SOURCE: usize = NETWORK + 12;
    /// Offset of the destination address in the frame.
    pub const DESTINATION: usize = NETWORK + 16;
}

/// IPv6 (RFC 8200 §3).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    /// Version, traffic class and flow label.
    pub version_class_label_be: u32,
    pub payload_length_be: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}
header!(Ipv6, 40);

impl Ipv6 {
    /// Where a packet comes from and goes to.
    ///
    /// # Safety
    /// `this` points into a packet, in bounds.
    #[inline(always)]
    pub unsafe fn addresses(this: *const Self) -> ([u32; 4], [u32; 4]) {
        // SAFETY: the caller's promise.
        unsafe {
            (
                [
                    word::<8, _>(this),
                    word::<12, _>(this),
                    word::<16, _>(this),
                    word::<20, _>(this),
                ],
                [
                    word::<24, _>(this),
                    word::<28, _>(this),
                    word::<32, _>(this),
                    word::<36, _>(this),
                ],
            )
        }
    }

    /// Offset of the hop limit in the frame.
    pub const HOP_LIMIT: usize = NETWORK + 7;
    /// Offset of the source address in the frame.
    pub const SOURCE: usize = NETWORK + 8;
    /// Offset of the destination address in the frame.
    pub const DESTINATION: usize = NETWORK + 24;
}

/// The fragment header of IPv6 (RFC 8200 §4.5).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Fragment {
    pub next_header: u8,
    pub reserved: u8,
    /// In units of eight bytes, above three bits that are no part of it.
    pub offset_be: u16,
    pub identification: u32,
}
header!(Fragment, 8);

impl Fragment {
    /// The offset: zero in a first fragment. Network order.
    pub const OFFSET_BE: u16 = 0xfff8_u16.to_be();
}

/// TCP without options (RFC 9293 §3.1).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Tcp {
    pub source_be: u16,
    pub destination_be: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub data_offset: u8,
    pub flags: u8,
    pub window: u16,
    pub checksum: u16,
    pub urgent: u16,
}
header!(Tcp, 20);

impl Tcp {
    /// Closes the sender's direction.
    pub const FIN: u8 = 0x01;
    /// Opens a connection, unless with [`Self::ACK`].
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
    /// Offset of the checksum in the header.
    pub const CHECKSUM: usize = 16;

    /// Bytes of the header with its options.
    #[inline(always)]
    pub const fn header_length(&self) -> u32 {
        (self.data_offset >> 4) as u32 * 4
    }
}

/// UDP (RFC 768).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Udp {
    pub source_be: u16,
    pub destination_be: u16,
    pub length_be: u16,
    pub checksum: u16,
}
header!(Udp, 8);

impl Udp {
    /// Offset of the checksum in the header.
    pub const CHECKSUM: usize = 6;
}

/// ICMP echo (RFC 792), ICMPv6 echo (RFC 4443 §4).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub identifier: u16,
    pub sequence: u16,
}
header!(Icmp, 8);

impl Icmp {
    pub const ECHO_REPLY: u8 = 0;
    pub const ECHO_REQUEST: u8 = 8;
    pub const UNREACHABLE: u8 = 3;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Code of [`Self::UNREACHABLE`]: fragmentation needed, and "don't fragment" set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    pub const V6_UNREACHABLE: u8 = 1;
    pub const V6_PACKET_TOO_BIG: u8 = 2;
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    pub const V6_ECHO_REQUEST: u8 = 128;
    pub const V6_ECHO_REPLY: u8 = 129;
    /// First and last of neighbour discovery's kinds (RFC 4861 §4).
    pub const V6_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
    /// Offset of the checksum in the header.
    pub const CHECKSUM: usize = 2;
    /// Offset of the identifier in the header.
    pub const IDENTIFIER: usize = 4;
}

/// What neighbour solicitations and advertisements begin with (RFC 4861 §4.3, §4.4).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Neighbour {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    /// [`Self::SOLICITED`] and [`Self::OVERRIDE`] in an advertisement.
    pub flags: u8,
    pub reserved: [u8; 3],
    pub target: [u32; 4],
}
header!(Neighbour, 24);

impl Neighbour {
    /// Kind of a solicitation.
    pub const SOLICITATION: u8 = 135;
    /// Kind of an advertisement.
    pub const ADVERTISEMENT: u8 = 136;
    /// It answers a solicitation.
    pub const SOLICITED: u8 = 0x40;
    /// It holds against what caches have.
    pub const OVERRIDE: u8 = 0x20;

    /// The address it is about.
    ///
    /// # Safety
    /// `this` points into a packet, in bounds.
    #[inline(always)]
    pub unsafe fn target(this: *const Self) -> [u32; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                word::<8, _>(this),
                word::<12, _>(this),
                word::<16, _>(this),
                word::<20, _>(this),
            ]
        }
    }
}

/// An option of neighbour discovery that holds a link-layer address of Ethernet (RFC 4861 §4.6.1).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct LinkAddress {
    pub kind: u8,
    /// In units of eight bytes.
    pub length: u8,
    pub mac: [u8; 6],
}
header!(LinkAddress, 8);

impl LinkAddress {
    /// Of who sends a solicitation.
    pub const SOURCE: u8 = 1;
    /// Of whom an advertisement is about.
    pub const TARGET: u8 = 2;
}

/// VXLAN (RFC 7348 §5).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Vxlan {
    pub flags_be: u32,
    /// The network in the upper 24 bits.
    pub vni_be: u32,
}
header!(Vxlan, 8);

impl Vxlan {
    /// The VNI is valid; every other bit is reserved.
    pub const VNI_VALID_BE: u32 = 0x0800_0000_u32.to_be();

    /// The network.
    #[inline(always)]
    pub fn vni(&self) -> u32 {
        u32::from_be(self.vni_be) >> 8
    }
}

/// What encapsulation puts between the outer IP header and the inner one.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Tunnel {
    pub udp: Udp,
    pub vxlan: Vxlan,
    pub inner: Ethernet,
}
header!(Tunnel, 30);

/// What encapsulation over IPv4 puts between the outer Ethernet header and the inner IP header.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct OuterV4 {
    pub ip: Ipv4,
    pub tunnel: Tunnel,
}
header!(OuterV4, 50);

/// The same over IPv6.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct OuterV6 {
    pub ip: Ipv6,
    pub tunnel: Tunnel,
}
header!(OuterV6, 70);
