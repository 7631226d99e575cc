//! VXLAN over IPv4 (RFC 7348), as this node sends it to others.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_xdp_adjust_head};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem;
use core::ptr;
use fairlead_dataplane_common::{Config, DropReason, NodeEntry, checksum, mac, protocol};

use crate::frame::{Frame, OnWire};
use crate::header::{ETHERTYPE_IPV4_BE, Ethernet, Ipv4, NETWORK, Outer, Udp, Vxlan};
use crate::parse::Packet;

/// Bytes that encapsulation adds.
pub const OVERHEAD: usize = protocol::VXLAN_OVERHEAD_V4 as usize;
const _: () = assert!(mem::size_of::<Outer>() == OVERHEAD);

/// A whole frame's headers: what XDP writes, Ethernet being its own work too.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct OuterFrame {
    ethernet: Ethernet,
    outer: Outer,
}

// SAFETY: packed to alignment 2, made of headers only.
unsafe impl OnWire for OuterFrame {}

/// Encapsulates a frame in XDP for a node whose neighbour is resolved. The frame leaves as it came:
/// from the address it was sent to.
#[inline(always)]
pub fn push_xdp(
    ctx: &XdpContext,
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    hash: u32,
    inner_destination: [u8; 6],
) -> Result<(), DropReason> {
    let ethernet: *mut Ethernet = ctx.header(0)?;
    // SAFETY: in bounds, as `header` has checked.
    let own_mac = unsafe { (*ethernet).destination };
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(OVERHEAD as i32)) } != 0 {
        return Err(DropReason::EncapsulationFailed);
    }
    let frame: *mut OuterFrame = ctx.header(0)?;
    let headers = OuterFrame {
        ethernet: Ethernet {
            destination: node.mac,
            source: own_mac,
            ethertype_be: ETHERTYPE_IPV4_BE,
        },
        outer: outer(config, node, packet, hash, inner_destination),
    };
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *frame = headers };
    Ok(())
}

/// Encapsulates an skb and sends it by the uplink towards the node; the stack resolves neighbours.
///
/// A packet the stack has not segmented yet stays so: each segment gets the outer headers.
#[inline(always)]
pub fn send_skb(
    ctx: &TcContext,
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    hash: u32,
    inner_destination: [u8; 6],
) -> Result<i32, DropReason> {
    let flags = u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
        | u64::from(BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
        | u64::from(BPF_F_ADJ_ROOM_ENCAP_L2_ETH)
        | u64::from(BPF_F_ADJ_ROOM_FIXED_GSO)
        | (mem::size_of::<Ethernet>() as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    ctx.adjust_room(OVERHEAD as i32, BPF_ADJ_ROOM_MAC, flags)
        .map_err(|_| DropReason::EncapsulationFailed)?;
    let room: *mut Outer = ctx.header(NETWORK)?;
    // SAFETY: in bounds, as `header` has checked.
    unsafe { *room = outer(config, node, packet, hash, inner_destination) };
    let uplink = if node.ifindex == 0 {
        config.uplink_ifindex
    } else {
        node.ifindex
    };
    // SAFETY: no parameters: the stack routes by the outer header just written.
    Ok(unsafe { bpf_redirect_neigh(uplink, ptr::null_mut(), 0, 0) } as i32)
}

/// `BPF_ADJ_ROOM_ENCAP_L2_SHIFT` of `linux/bpf.h`.
const BPF_ADJ_ROOM_ENCAP_L2_SHIFT: u64 = 56;

#[inline(always)]
fn outer(
    config: &Config,
    node: &NodeEntry,
    packet: &Packet,
    hash: u32,
    inner_destination: [u8; 6],
) -> Outer {
    let total_length_be = (packet.length + OVERHEAD as u16).to_be();
    let varying = u64::from(u16::from_ne_bytes([0, packet.dscp_ecn])) + u64::from(total_length_be);
    Outer {
        ip: Ipv4 {
            version_and_length: Ipv4::PLAIN,
            dscp_ecn: packet.dscp_ecn,
            total_length_be,
            identification: 0,
            fragment_be: Ipv4::DONT_FRAGMENT_BE,
            ttl: 64,
            protocol: protocol::UDP,
            checksum: !checksum::fold(u64::from(node.header_sum) + varying),
            source: config.node_address.v4_word(),
            destination: node.address.v4_word(),
        },
        udp: Udp {
            // RFC 7348 §5: a hash of the inner flow, in the dynamic range, spreads flows over paths.
            source_be: (0xc000 | hash as u16 & 0x3fff).to_be(),
            destination_be: config.vxlan_port_be,
            length_be: (packet.length + (OVERHEAD - mem::size_of::<Ipv4>()) as u16).to_be(),
            // RFC 7348 §4.1: zero, the inner packet has its own.
            checksum: 0,
        },
        vxlan: Vxlan {
            flags_be: Vxlan::VNI_VALID_BE,
            vni_be: (packet.flow.vpc << 8).to_be(),
        },
        inner: Ethernet {
            destination: inner_destination,
            source: mac::of_node(config.node_id),
            ethertype_be: ETHERTYPE_IPV4_BE,
        },
    }
}
