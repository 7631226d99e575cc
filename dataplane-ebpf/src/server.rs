//! Real servers outside the cluster: as it is to one of this segment (dr), or encapsulated by what a
//! server's own kernel can take off: IP in IP (RFC 2003, RFC 2473, RFC 4213), or GUE of variant 1,
//! which is IP behind UDP (draft-ietf-intarea-gue §4). The packet keeps the VIP as its destination;
//! the server has that address and answers the client itself.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    bpf_redir_neigh, xdp_md,
};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_xdp_adjust_head};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::{mem, ptr};
use fairlead_dataplane_common::{
    Address, Config, DropReason, NODE_ADJACENT, NodeEntry, SERVICE_DR, SERVICE_GUE, checksum,
    protocol,
};

use crate::encap::set_ethertype;
use crate::forward::SENT_ON;
use crate::frame::{Frame, OnWire, is_segmented_later};
use crate::header::{Ethernet, Ipv4, Ipv6, NETWORK, Udp};
use crate::parse::{Family, Packet};
use crate::verdict::{Pack, Packed};
use crate::{lookup, parse, vlan};

/// Hops that an outer header has left.
const TTL: u8 = 64;
/// `AF_INET` and `AF_INET6` of linux/socket.h.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Added to an MTU in what [`send_xdp`] and [`send_skb`] return instead of an action: the packet does not
/// fit, and its sender is to be told that this would have.
pub const TOO_BIG: u32 = 1 << 24;

/// The outer header's payload: the packet itself.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Plain<Ip> {
    ip: Ip,
}

/// The outer header's payload: UDP, and then the packet.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Gue<Ip> {
    ip: Ip,
    udp: Udp,
}

/// What is put before a packet, and Ethernet's header before that.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Framed<T> {
    ethernet: Ethernet,
    outer: T,
}

// SAFETY: packed to alignment 2, made of headers only.
unsafe impl<Ip: OnWire> OnWire for Plain<Ip> {}
// SAFETY: as above.
unsafe impl<Ip: OnWire> OnWire for Gue<Ip> {}
// SAFETY: as above.
unsafe impl<T: OnWire> OnWire for Framed<T> {}

/// A way of encapsulating.
#[derive(Clone, Copy)]
struct Way {
    /// IP of the outer header.
    outer: Family,
    /// GUE, else IP in IP.
    is_gue: bool,
}

impl Way {
    #[inline(always)]
    fn to(node: &NodeEntry, flags: u32) -> Self {
        Self {
            outer: if node.address.is_v4() {
                Family::V4
            } else {
                Family::V6
            },
            is_gue: flags & SERVICE_GUE != 0,
        }
    }

    /// Bytes that it adds.
    #[inline(always)]
    fn overhead(self) -> u32 {
        let ip = match self.outer {
            Family::V4 => mem::size_of::<Ipv4>(),
            Family::V6 => mem::size_of::<Ipv6>(),
        };
        let udp = if self.is_gue {
            mem::size_of::<Udp>()
        } else {
            0
        };
        (ip + udp) as u32
    }

    /// Whether `packet` does not fit the way to `node` with what is added.
    #[inline(always)]
    fn is_too_long(self, node: &NodeEntry, packet: &Packet) -> bool {
        node.mtu > self.overhead() && node.mtu < packet.length + self.overhead()
    }
}

/// Sends a frame to the real server in `node_slot`, of a service with these `flags`, whose neighbour is
/// resolved.
#[inline(never)]
#[unsafe(export_name = "server_send_xdp")]
pub extern "C" fn send_xdp(ctx: *mut xdp_md, node_slot: u32, flags: u32, hash: u32) -> Packed {
    let ctx = &XdpContext::new(ctx);
    parse::of(ctx, 0)
        .and_then(|packet| try_send_xdp(ctx, &packet, node_slot, flags, hash))
        .pack()
}

#[inline(always)]
fn try_send_xdp(
    ctx: &XdpContext,
    packet: &Packet,
    node_slot: u32,
    flags: u32,
    hash: u32,
) -> Result<u32, DropReason> {
    let node = lookup::node(node_slot).ok_or(DropReason::NoBackend)?;
    let ethernet: *mut Ethernet = ctx.header(0)?;
    if flags & SERVICE_DR != 0 && node.takes_frames() {
        // SAFETY: in bounds, as `header` has checked.
        unsafe { Ethernet::readdress(ethernet, node.mac, (*ethernet).destination) };
        return Ok(SENT_ON);
    }
    let way = Way::to(node, flags);
    if way.is_too_long(node, packet) {
        return Ok(TOO_BIG + node.mtu - way.overhead());
    }
    let config = lookup::config()?;
    // SAFETY: as above.
    let own_mac = unsafe { (*ethernet).destination };
    let ethernet = Ethernet {
        destination: node.mac,
        source: own_mac,
        ethertype_be: way.outer.ethertype_be(),
    };
    match (way.outer, way.is_gue) {
        (Family::V4, false) => push(ctx, ethernet, plain_v4(config, node, packet)?),
        (Family::V4, true) => push(ctx, ethernet, gue_v4(config, node, packet, hash)?),
        (Family::V6, false) => push(ctx, ethernet, plain_v6(config, node, packet)?),
        (Family::V6, true) => push(ctx, ethernet, gue_v6(config, node, packet, hash)?),
    }
}

/// Puts headers before a frame, over its Ethernet header's place.
#[inline(always)]
fn push<T: OnWire>(ctx: &XdpContext, ethernet: Ethernet, outer: T) -> Result<u32, DropReason> {
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(mem::size_of::<T>() as i32)) } != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    let frame: *mut Framed<T> = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *frame = Framed { ethernet, outer } };
    Ok(SENT_ON)
}

/// Sends an skb to the real server in `node_slot`; the stack resolves neighbours.
#[inline(never)]
#[unsafe(export_name = "server_send_skb")]
pub extern "C" fn send_skb(skb: *mut __sk_buff, node_slot: u32, flags: u32, hash: u32) -> Packed {
    let ctx = &TcContext::new(skb);
    parse::of(ctx, 0)
        .and_then(|packet| try_send_skb(ctx, &packet, node_slot, flags, hash))
        .pack()
}

#[inline(always)]
fn try_send_skb(
    ctx: &TcContext,
    packet: &Packet,
    node_slot: u32,
    flags: u32,
    hash: u32,
) -> Result<i32, DropReason> {
    let node = lookup::node(node_slot).ok_or(DropReason::NoBackend)?;
    let config = lookup::config()?;
    if flags & SERVICE_DR != 0 && node.flags & NODE_ADJACENT != 0 {
        vlan::discard(ctx)?;
        return Ok(to_neighbour(uplink(config, node), &node.address));
    }
    let way = Way::to(node, flags);
    if !is_segmented_later(ctx) && way.is_too_long(node, packet) {
        return Ok((TOO_BIG + node.mtu - way.overhead()) as i32);
    }
    vlan::discard(ctx)?;
    match (way.outer, way.is_gue) {
        (Family::V4, false) => make_room(ctx, way, plain_v4(config, node, packet)?)?,
        (Family::V4, true) => make_room(ctx, way, gue_v4(config, node, packet, hash)?)?,
        (Family::V6, false) => make_room(ctx, way, plain_v6(config, node, packet)?)?,
        (Family::V6, true) => make_room(ctx, way, gue_v6(config, node, packet, hash)?)?,
    }
    set_ethertype(ctx, packet.family, way.outer)?;
    // SAFETY: no parameters: the stack routes by the outer header just written.
    Ok(unsafe { bpf_redirect_neigh(uplink(config, node), ptr::null_mut(), 0, 0) } as i32)
}

/// Sends a packet as it is to the neighbour with this address.
#[inline(always)]
fn to_neighbour(ifindex: u32, address: &Address) -> i32 {
    // SAFETY: integers only; what is not written stays zero.
    let mut next_hop: bpf_redir_neigh = unsafe { mem::zeroed() };
    if address.is_v4() {
        next_hop.nh_family = AF_INET;
        next_hop.__bindgen_anon_1.ipv4_nh = address.v4_word();
    } else {
        next_hop.nh_family = AF_INET6;
        next_hop.__bindgen_anon_1.ipv6_nh = address.words;
    }
    let size = mem::size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters are of the size that is said.
    unsafe { bpf_redirect_neigh(ifindex, &mut next_hop, size, 0) as i32 }
}

/// The interface that the server is reached by.
#[inline(always)]
pub fn uplink(config: &Config, node: &NodeEntry) -> u32 {
    if node.ifindex == 0 {
        config.uplink_ifindex
    } else {
        node.ifindex
    }
}

/// Puts `outer` between an skb's Ethernet header and its IP header.
#[inline(always)]
fn make_room<T: OnWire>(ctx: &TcContext, way: Way, outer: T) -> Result<(), DropReason> {
    let ip = match way.outer {
        Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    };
    let udp = if way.is_gue {
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP
    } else {
        0
    };
    let flags = u64::from(ip) | u64::from(udp) | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    ctx.adjust_room(mem::size_of::<T>() as i32, BPF_ADJ_ROOM_MAC, flags)
        .map_err(|_| DropReason::EncapsulationFailed)?;
    let room: *mut T = ctx.header(NETWORK)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *room = outer };
    Ok(())
}

#[inline(always)]
fn plain_v4(config: &Config, node: &NodeEntry, packet: &Packet) -> Result<Plain<Ipv4>, DropReason> {
    let ip = outer_v4(config, node, packet, inner_protocol(packet), 0)?;
    Ok(Plain { ip })
}

#[inline(always)]
fn gue_v4(
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    hash: u32,
) -> Result<Gue<Ipv4>, DropReason> {
    let ip = outer_v4(config, node, packet, protocol::UDP, mem::size_of::<Udp>())?;
    let udp = udp(packet, hash);
    Ok(Gue { ip, udp })
}

#[inline(always)]
fn plain_v6(config: &Config, node: &NodeEntry, packet: &Packet) -> Result<Plain<Ipv6>, DropReason> {
    let ip = outer_v6(config, node, packet, inner_protocol(packet), 0)?;
    Ok(Plain { ip })
}

#[inline(always)]
fn gue_v6(
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    hash: u32,
) -> Result<Gue<Ipv6>, DropReason> {
    let ip = outer_v6(config, node, packet, protocol::UDP, mem::size_of::<Udp>())?;
    let udp = udp(packet, hash);
    Ok(Gue { ip, udp })
}

/// What an outer header announces.
#[inline(always)]
fn inner_protocol(packet: &Packet) -> u8 {
    match packet.family {
        Family::V4 => protocol::IPIP,
        Family::V6 => protocol::IPV6,
    }
}

/// An outer IPv4 header with `behind` bytes between it and the packet.
#[inline(always)]
fn outer_v4(
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    protocol: u8,
    behind: usize,
) -> Result<Ipv4, DropReason> {
    let source = own_address(config, Family::V4)?.v4_word();
    let length = packet.length + (mem::size_of::<Ipv4>() + behind) as u32;
    let mut ip = Ipv4 {
        version_and_length: Ipv4::PLAIN,
        dscp_ecn: packet.dscp_ecn,
        total_length_be: (length as u16).to_be(),
        identification: 0,
        fragment_be: Ipv4::DONT_FRAGMENT_BE,
        ttl: TTL,
        protocol,
        checksum: 0,
        source,
        destination: node.address.v4_word(),
    };
    let sum = u64::from(u16::from_ne_bytes([ip.version_and_length, ip.dscp_ecn]))
        + u64::from(ip.total_length_be)
        + u64::from(ip.fragment_be)
        + u64::from(u16::from_ne_bytes([ip.ttl, ip.protocol]))
        + u64::from(ip.source)
        + u64::from(ip.destination);
    ip.checksum = !checksum::fold(sum);
    Ok(ip)
}

#[inline(always)]
fn outer_v6(
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    protocol: u8,
    behind: usize,
) -> Result<Ipv6, DropReason> {
    Ok(Ipv6 {
        version_class_label_be: (6 << 28 | u32::from(packet.dscp_ecn) << 20).to_be(),
        payload_length_be: ((packet.length + behind as u32) as u16).to_be(),
        next_header: protocol,
        hop_limit: TTL,
        source: own_address(config, Family::V6)?.words,
        destination: node.address.words,
    })
}

#[inline(always)]
fn udp(packet: &Packet, hash: u32) -> Udp {
    Udp {
        // A hash of the flow, in the dynamic range, spreads flows over paths.
        source_be: (0xc000 | hash as u16 & 0x3fff).to_be(),
        destination_be: protocol::GUE_PORT.to_be(),
        length_be: ((packet.length + mem::size_of::<Udp>() as u32) as u16).to_be(),
        // RFC 768, and RFC 6935 §5 over IPv6: a tunnel may go without, the inner packet has its own.
        checksum: 0,
    }
}

/// The node's address of that family.
#[inline(always)]
pub fn own_address(config: &Config, family: Family) -> Result<&Address, DropReason> {
    if family.has(&config.node_address) {
        Ok(&config.node_address)
    } else if family.has(&config.other_address) {
        Ok(&config.other_address)
    } else {
        Err(DropReason::FamilyMismatch)
    }
}
