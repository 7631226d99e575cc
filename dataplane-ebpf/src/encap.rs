//! VXLAN (RFC 7348) over IPv4 or IPv6, as this node sends it to others.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_xdp_adjust_head};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem;
use core::ptr;
use fairlead_dataplane_common::{Config, DropReason, NodeEntry, checksum, mac, protocol};

use crate::frame::{Frame, OnWire, is_segmented_later};
use crate::header::{
    ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, Ethernet, Ipv4, Ipv6, NETWORK, OuterV4, OuterV6, Tunnel,
    Udp, Vxlan,
};
use crate::parse::{Family, Packet};
use crate::verdict::{Pack, Packed, Unpack};

/// Bytes that encapsulation over IPv4 adds.
pub const OVERHEAD_V4: usize = protocol::VXLAN_OVERHEAD_V4 as usize;
const _: () = assert!(mem::size_of::<OuterV4>() == OVERHEAD_V4);
/// Bytes that encapsulation over IPv6 adds.
pub const OVERHEAD_V6: usize = protocol::VXLAN_OVERHEAD_V6 as usize;
const _: () = assert!(mem::size_of::<OuterV6>() == OVERHEAD_V6);

/// Hops that an outer header has left.
const TTL: u8 = 64;

/// Bytes that encapsulation over `family` adds.
#[inline(always)]
pub const fn overhead(family: Family) -> usize {
    match family {
        Family::V4 => OVERHEAD_V4,
        Family::V6 => OVERHEAD_V6,
    }
}

/// The largest packet that fits the way to `node` with the outer headers, if one of `length` does not.
#[inline(always)]
pub fn would_fit(node: &NodeEntry, length: u32) -> Option<u32> {
    let overhead = overhead_to(node);
    if node.mtu < length + overhead && node.mtu > overhead {
        Some(node.mtu - overhead)
    } else {
        None
    }
}

/// Bytes that encapsulation for `node` adds.
#[inline(always)]
pub fn overhead_to(node: &NodeEntry) -> u32 {
    if node.is_v4() {
        protocol::VXLAN_OVERHEAD_V4
    } else {
        protocol::VXLAN_OVERHEAD_V6
    }
}

/// What the inner Ethernet addresses say, see [`mac`].
#[derive(Clone, Copy)]
pub struct Label {
    destination: [u8; 6],
    source: [u8; 6],
}

impl Label {
    /// For the backend that this node picked.
    #[inline(always)]
    pub fn backend(config: &Config, id: u32) -> Self {
        Self {
            destination: mac::of_backend(id),
            source: mac::of_node(config.node_id),
        }
    }

    /// For the backend that may know a connection which is unknown here; if it does not, it may pass the
    /// packet on `chances_left` times.
    #[inline(always)]
    pub fn second_chance(config: &Config, id: u32, chances_left: u32) -> Self {
        Self {
            destination: mac::of_backend(id),
            source: mac::of_second_chance(config.node_id, chances_left),
        }
    }

    /// For a node, which knows what to do by the packet's own addresses.
    #[inline(always)]
    pub fn node(config: &Config, id: u32) -> Self {
        Self {
            destination: mac::of_node(id),
            source: mac::of_node(config.node_id),
        }
    }
}

/// What the outer headers say of the packet that they are put before.
struct Inner {
    label: Label,
    hash: u32,
    vpc: u32,
    length: u32,
    dscp_ecn: u8,
    family: Family,
}

impl Inner {
    #[inline(always)]
    fn new(packet: &Packet, hash: u32, label: Label) -> Self {
        Self {
            label,
            hash,
            vpc: packet.flow.vpc,
            length: packet.length,
            dscp_ecn: packet.dscp_ecn,
            family: packet.family,
        }
    }
}

/// A whole frame's headers: what XDP writes, Ethernet being its own work too.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Outer<T> {
    ethernet: Ethernet,
    outer: T,
}

// SAFETY: packed to alignment 2, made of headers only.
unsafe impl<T: OnWire> OnWire for Outer<T> {}

/// Encapsulates a frame in XDP for a node whose neighbour is resolved. The frame leaves as it came:
/// from the address it was sent to.
#[inline(always)]
pub fn push_xdp(
    ctx: &XdpContext,
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    hash: u32,
    label: Label,
) -> Result<(), DropReason> {
    let inner = &Inner::new(packet, hash, label);
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    let own_mac = unsafe { (*ethernet).destination };
    let ethernet = |ethertype_be| Ethernet {
        destination: node.mac,
        source: own_mac,
        ethertype_be,
    };
    if node.is_v4() {
        let outer = outer_v4(config, node, inner);
        write(
            ctx,
            Outer {
                ethernet: ethernet(ETHERTYPE_IPV4_BE),
                outer,
            },
        )
    } else {
        let outer = outer_v6(config, node, inner);
        write(
            ctx,
            Outer {
                ethernet: ethernet(ETHERTYPE_IPV6_BE),
                outer,
            },
        )
    }
}

/// Puts headers before a frame, over its Ethernet header's place.
#[inline(always)]
fn write<T: OnWire>(ctx: &XdpContext, headers: Outer<T>) -> Result<(), DropReason> {
    let added = mem::size_of::<T>() as i32;
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -added) } != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    let frame: *mut Outer<T> = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *frame = headers };
    Ok(())
}

/// Encapsulates an skb and sends it by the uplink towards the node; the stack resolves neighbours.
///
/// A packet the stack has not segmented yet stays so: each segment gets the outer headers. Any other
/// has to fit with them: nothing behind this place would fragment it, or tell.
#[inline(always)]
pub fn send_skb(
    ctx: &TcContext,
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    hash: u32,
    label: Label,
) -> Result<i32, DropReason> {
    send_inner(ctx.skb.skb, config, node, &Inner::new(packet, hash, label)).unpack_skb()
}

#[inline(never)]
fn send_inner(skb: *mut __sk_buff, config: &Config, node: &NodeEntry, inner: &Inner) -> Packed {
    try_send_inner(&TcContext::new(skb), config, node, inner).pack()
}

#[inline(always)]
fn try_send_inner(
    ctx: &TcContext,
    config: &Config,
    node: &NodeEntry,
    inner: &Inner,
) -> Result<i32, DropReason> {
    let length = inner.length + overhead_to(node);
    if !is_segmented_later(ctx) && node.mtu != 0 && node.mtu < length {
        return Err(DropReason::TooBig);
    }
    if node.is_v4() {
        let outer = outer_v4(config, node, inner);
        make_room(ctx, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, outer)?;
        set_ethertype(ctx, inner.family, Family::V4)?;
    } else {
        let outer = outer_v6(config, node, inner);
        make_room(ctx, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, outer)?;
        set_ethertype(ctx, inner.family, Family::V6)?;
    }
    let uplink = if node.ifindex == 0 {
        config.uplink_ifindex
    } else {
        node.ifindex
    };
    // SAFETY: no parameters: the stack routes by the outer header just written.
    Ok(unsafe { bpf_redirect_neigh(uplink, ptr::null_mut(), 0, 0) } as i32)
}

/// Puts `outer` between an skb's Ethernet header and its IP header.
#[inline(always)]
fn make_room<T: OnWire>(ctx: &TcContext, family: u32, outer: T) -> Result<(), DropReason> {
    let flags = u64::from(family)
        | u64::from(BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
        | u64::from(BPF_F_ADJ_ROOM_ENCAP_L2_ETH)
        | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO)
        | (mem::size_of::<Ethernet>() as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    ctx.adjust_room(mem::size_of::<T>() as i32, BPF_ADJ_ROOM_MAC, flags)
        .map_err(|_| DropReason::EncapsulationFailed)?;
    let room: *mut T = ctx.header(NETWORK)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *room = outer };
    Ok(())
}

/// `BPF_ADJ_ROOM_ENCAP_L2_SHIFT` of `linux/bpf.h`.
const BPF_ADJ_ROOM_ENCAP_L2_SHIFT: u64 = 56;

/// Makes a frame's Ethernet header announce `new`, where it announced `old`.
#[inline(always)]
pub fn set_ethertype(ctx: &TcContext, old: Family, new: Family) -> Result<(), DropReason> {
    if old == new {
        return Ok(());
    }
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { (*ethernet).ethertype_be = new.ethertype_be() };
    Ok(())
}

#[inline(always)]
fn outer_v4(config: &Config, node: &NodeEntry, inner: &Inner) -> OuterV4 {
    let total_length_be = ((inner.length + OVERHEAD_V4 as u32) as u16).to_be();
    let varying = u64::from(u16::from_ne_bytes([0, inner.dscp_ecn])) + u64::from(total_length_be);
    OuterV4 {
        ip: Ipv4 {
            version_and_length: Ipv4::PLAIN,
            dscp_ecn: inner.dscp_ecn,
            total_length_be,
            identification: 0,
            fragment_be: Ipv4::DONT_FRAGMENT_BE,
            ttl: TTL,
            protocol: protocol::UDP,
            checksum: !checksum::fold(u64::from(node.header_sum) + varying),
            source: config.node_address.v4_word(),
            destination: node.address.v4_word(),
        },
        tunnel: tunnel(config, inner),
    }
}

#[inline(always)]
fn outer_v6(config: &Config, node: &NodeEntry, inner: &Inner) -> OuterV6 {
    OuterV6 {
        ip: Ipv6 {
            version_class_label_be: (6 << 28 | u32::from(inner.dscp_ecn) << 20).to_be(),
            payload_length_be: ((inner.length + mem::size_of::<Tunnel>() as u32) as u16).to_be(),
            next_header: protocol::UDP,
            hop_limit: TTL,
            source: config.node_address.words,
            destination: node.address.words,
        },
        tunnel: tunnel(config, inner),
    }
}

#[inline(always)]
fn tunnel(config: &Config, inner: &Inner) -> Tunnel {
    Tunnel {
        udp: Udp {
            // RFC 7348 §5: a hash of the inner flow, in the dynamic range, spreads flows over paths.
            source_be: (0xc000 | inner.hash as u16 & 0x3fff).to_be(),
            destination_be: config.vxlan_port_be,
            length_be: ((inner.length + mem::size_of::<Tunnel>() as u32) as u16).to_be(),
            // RFC 7348 §4.1, and RFC 6935 over IPv6: zero, the inner packet has its own.
            checksum: 0,
        },
        vxlan: Vxlan {
            flags_be: Vxlan::VNI_VALID_BE,
            vni_be: (inner.vpc << 8).to_be(),
        },
        inner: Ethernet {
            destination: inner.label.destination,
            source: inner.label.source,
            ethertype_be: inner.family.ethertype_be(),
        },
    }
}
