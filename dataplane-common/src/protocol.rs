//! Protocol numbers and flags of the headers, as far as both sides name them.

/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_ICMPV6.
pub const ICMPV6: u8 = 58;
/// IPPROTO_SCTP.
pub const SCTP: u8 = 132;

/// UDP port of VXLAN (RFC 7348 §4.1).
pub const VXLAN_PORT: u16 = 4789;
/// Bytes that encapsulation in VXLAN over IPv4 adds: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const VXLAN_OVERHEAD_V4: u32 = 50;
