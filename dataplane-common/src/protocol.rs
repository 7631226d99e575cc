//! Protocol numbers and flags of the headers, as far as both sides name them.

/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_IPIP: IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_IPV6: IPv6 in IP (RFC 2473, RFC 4213).
pub const IPV6: u8 = 41;
/// IPPROTO_ICMPV6.
pub const ICMPV6: u8 = 58;
/// IPPROTO_SCTP.
pub const SCTP: u8 = 132;

/// IPv6 hop-by-hop options (RFC 8200 §4.3).
pub const HOP_BY_HOP: u8 = 0;
/// IPv6 routing header (RFC 8200 §4.4).
pub const ROUTING: u8 = 43;
/// IPv6 fragment header (RFC 8200 §4.5).
pub const FRAGMENT: u8 = 44;
/// IPv6 destination options (RFC 8200 §4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// UDP port of VXLAN (RFC 7348 §4.1).
pub const VXLAN_PORT: u16 = 4789;
/// UDP port of GUE (draft-ietf-intarea-gue §9).
pub const GUE_PORT: u16 = 6080;
/// Bytes that encapsulation in VXLAN over IPv4 adds: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const VXLAN_OVERHEAD_V4: u32 = 50;
/// The same over IPv6, whose header has 40.
pub const VXLAN_OVERHEAD_V6: u32 = 70;
